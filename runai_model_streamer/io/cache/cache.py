"""The node's cache, as one load uses it."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from runai_model_streamer.config import CacheConfig, DirectIO
from runai_model_streamer.errors import MissingDependencyError, StorageUnreachableError
from runai_model_streamer.io.cache import locks
from runai_model_streamer.io.cache.entry import Compute
from runai_model_streamer.io.cache.entry import Entry as CacheEntry
from runai_model_streamer.io.cache.files import about_of, find_entries, holds_beginning, open_entry
from runai_model_streamer.io.cache.journal import About, boot_id
from runai_model_streamer.io.cache.names import FOLDER, LOCKS, hash_of, name_of, shown
from runai_model_streamer.io.cache.offline import VARIABLE, OfflineObject
from runai_model_streamer.io.cache.policy import USUAL, CachePolicy
from runai_model_streamer.io.cache.source import CachedSource
from runai_model_streamer.io.cache.space import make_room
from runai_model_streamer.io.cache.trouble import Trouble
from runai_model_streamer.io.cache.writer import Writer
from runai_model_streamer.io.cache_counts import CacheCounts, Counter
from runai_model_streamer.io.checksums import crc64
from runai_model_streamer.io.files.requests import RequestSizes
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.source import Source

_log = logging.getLogger(__name__)

_SPACE: Final = 1 << 61
"""Byte of the file of locks that is locked while room is made. The bytes before it are those of URLs."""

PROBE_BYTES: Final = 1
"""Bytes that are fetched when an object is opened whose first bytes the cache has: the store says whether it may be
read, and which version it is."""


class NodeCache:
    """Opens objects through the cache. Thread safe. If the cache cannot be used, objects are opened as without it.

    Args:
        config: where it is.
        direct: whether files are read and written past the page cache.
        shared: whether other processes of this node load the same objects.
        as_files: whether objects of which all is there may count as files; see `CachedSource`.
        policy: how to write and to wait.
        compute: makes what computes checksums.
        requests: set how many bytes one direct read asks for; None for each file by itself.
    """

    def __init__(
        self,
        config: CacheConfig,
        direct: DirectIO = DirectIO.AUTO,
        *,
        shared: bool = False,
        as_files: bool = True,
        policy: CachePolicy = USUAL,
        compute: Callable[[], Compute] = crc64,
        requests: RequestSizes | None = None,
    ) -> None:
        self.offline = config.offline
        """Whether no store is asked."""
        self._user_folder = config.folder or ""
        self._folder = f"{self._user_folder}/{FOLDER}"
        self._size = config.size
        self._direct, self._shared, self._as_files, self._policy = direct, shared, as_files, policy
        self._requests = requests
        self._make_compute = compute
        self._compute: Compute | None = None
        self._counter = Counter()
        self._trouble = Trouble(self._user_folder)
        self._writer = Writer(policy, self._counter, self._trouble)
        self._preparing = threading.Lock()
        self._stopped = threading.Event()
        self._expected: set[str] = set()

    @property
    def counts(self) -> CacheCounts:
        """What the load did with the cache so far."""
        return self._counter.counts

    def expect(self, identities: Iterable[str]) -> None:
        """Note the objects that will be opened, so that room for one is not made at the expense of another."""
        self._expected.update(map(hash_of, identities))

    def open(self, identity: str, open_it: Callable[[int | None], Source], endpoint: Callable[[], str] = str) -> Source:
        """Open an object.

        Args:
            identity: what tells it from other objects of its store: its URL.
            open_it: opens the store's object. It is given the number of bytes to fetch with that; None for the usual.
            endpoint: returns what tells its store from others, once the object is open.

        Raises:
            StreamerError: raised by `open_it`.
        """
        if not self._is_usable():
            return open_it(None)
        url = hash_of(identity)
        if self._has_beginning(url):
            return self._begun(identity, open_it(PROBE_BYTES), endpoint)
        # One process fetches the first bytes of an object.
        with self._alone(int(url[:15], 16)):
            opened = open_it(PROBE_BYTES if self._has_beginning(url) else None)
            return self._begun(identity, opened, endpoint)

    def _begun(self, identity: str, source: Source, endpoint: Callable[[], str]) -> Source:
        """Wrap an object, and write its first bytes to the cache unless they are there: others wait for them."""
        try:
            source = self.wrap(identity, source, endpoint())
            if isinstance(source, CachedSource):
                source.write_beginning(self._policy.beginning)
        except BaseException:
            source.close()
            raise
        return source

    def wrap(self, identity: str, source: Source, endpoint: str = "") -> Source:
        """Return the store's object as it is read through the cache, or the object itself if it cannot be."""
        version = source.version
        if not source.size or not self._is_usable():
            return source
        if version is None or version.startswith("W/"):
            _log.info("%s: not cached: the store does not say which version it is (no strong ETag)", source.path)
            return source
        try:
            entry = self._entry(identity, About(shown(identity), version, source.size, shown(endpoint)))
            if entry is None:
                self._trouble.no_room(source.path, sized=self._size is not None)
            return source if entry is None else self._cached(source, entry)
        except OSError as error:
            self._trouble.cannot_write(error)
            return source

    def open_offline(self, identity: str, path: str, endpoint: str | None = None) -> Source:
        """Open the version of an object that was used last, without a request.

        Args:
            identity: the object's URL.
            path: the same, for messages.
            endpoint: of its store, as for `open`; None for any.

        Raises:
            StorageUnreachableError: the cache has none of it, or cannot be used.
        """
        if self._is_usable():
            with contextlib.suppress(OSError):
                for found in find_entries(self._folder, hash_of(identity)):
                    entry = self._open_entry(found.stem, None)
                    if entry is None:
                        continue
                    if _is_of(entry.about, endpoint):
                        return self._cached(OfflineObject(path, entry.about), entry)
                    entry.close()
        raise self._unreachable("is not in the node's cache", path)

    def entries(
        self, folder: str, path: str, wanted: Wanted, endpoint: str | None = None, *, recursive: bool
    ) -> list[Entry]:
        """List the wanted objects of a folder of which the cache has something, sorted by name.

        Raises:
            StorageUnreachableError: it has none, or cannot be used.
        """
        before = f"{shown(folder).rstrip('/')}/"
        found: dict[str, Entry] = {}
        if self._is_usable():
            with contextlib.suppress(OSError):
                for each in find_entries(self._folder):
                    about = about_of(each.stem)
                    if about is not None and about.url.startswith(before) and _is_of(about, endpoint):
                        name = about.url.removeprefix(before)
                        if (recursive or "/" not in name) and wanted(name):
                            found.setdefault(name, Entry(about.url, name, about.size, 0))
        if not found:
            raise self._unreachable("has nothing in the node's cache", path)
        return [found[name] for name in sorted(found)]

    def _unreachable(self, problem: str, path: str) -> StorageUnreachableError:
        if self._compute is None:
            problem = f"the node's cache cannot be used: {self._trouble.why}"
        return StorageUnreachableError(
            f"{problem}, and {VARIABLE} is set",
            where=path,
            remedy=f"load it once where the store can be reached, or unset {VARIABLE}",
        )

    def _cached(self, source: Source, entry: CacheEntry) -> CachedSource:
        try:
            return CachedSource(
                source,
                entry,
                self._writer,
                self._counter,
                self._trouble,
                self._policy,
                self._direct,
                self._requests,
                shared=self._shared,
                as_file=self._as_files,
            )
        except BaseException:
            entry.close()
            raise

    def _entry(self, identity: str, about: About) -> CacheEntry | None:
        """Open the entry of a version, and make it if there is room for it."""
        stem = f"{self._folder}/{name_of(identity, about.version, about.size, about.endpoint).stem}"
        entry, room = self._open_entry(stem, None), 0
        if entry is not None and (entry.complete or not entry.writable):
            return entry
        try:
            with self._alone(_SPACE):
                room = make_room(self._folder, stem, about.size, self._size, self._expected)
                if entry is None and room >= min(about.size, self._policy.piece):
                    entry = self._open_entry(stem, about)
            if entry is not None and room < about.size:
                entry.keep(max(room - entry.bytes, 0))
        except BaseException:
            if entry is not None:
                entry.close()
            raise
        return entry

    def _open_entry(self, stem: str, about: About | None) -> CacheEntry | None:
        assert self._compute is not None
        return open_entry(stem, about, self._direct, self._compute, boot_id())

    def _has_beginning(self, url: str) -> bool:
        try:
            newest = next(iter(find_entries(self._folder, url)), None)
            return newest is not None and holds_beginning(newest.stem, self._policy.beginning)
        except OSError:
            return False

    @contextmanager
    def _alone(self, byte: int) -> Iterator[None]:
        """Hold a lock of the folder. Go on without it if another process has it for too long, or there are none."""
        fd = -1
        try:
            with contextlib.suppress(OSError):
                fd = os.open(f"{self._folder}/{LOCKS}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                pause, given_up = self._policy.first_pause, time.monotonic() + self._policy.patience
                while not locks.lock(fd, byte, 1) and time.monotonic() < given_up and not self._stopped.wait(pause):
                    pause = min(2 * pause, self._policy.longest_pause)
            yield
        finally:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    locks.unlock(fd, byte, 1)
                os.close(fd)

    def _is_usable(self) -> bool:
        """Return whether the cache can be used; look once."""
        with self._preparing:
            if self._compute is None and self._trouble.why is None:
                self._prepare()
            return self._compute is not None

    def _prepare(self) -> None:
        try:
            compute = self._make_compute()
            if not os.path.isdir(self._user_folder):
                self._trouble.report("there is no such folder: create it")
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            status = os.lstat(self._folder)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                self._trouble.report(f"{FOLDER} in it belongs to another user, or others may write to it")
                return
        except MissingDependencyError as error:
            self._trouble.report(f"{error}")
        except OSError as error:
            self._trouble.cannot_write(error)
        else:
            self._compute = compute

    def interrupt(self) -> None:
        """End waits for other processes. Idempotent. Any thread may call it."""
        self._stopped.set()


def _is_of(about: About, endpoint: str | None) -> bool:
    return endpoint is None or about.endpoint == shown(endpoint)
