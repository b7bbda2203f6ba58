"""Opens and lists one load's files and objects, in any kind of storage."""

import logging
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.azure.location import is_blob_url
from runai_model_streamer.io.azure.store import AzureStore
from runai_model_streamer.io.bandwidth import Bandwidth, PacedSource
from runai_model_streamer.io.cache.cache import NodeCache
from runai_model_streamer.io.cache_counts import CacheCounts
from runai_model_streamer.io.checksums import VerifiedSource
from runai_model_streamer.io.files.listing import list_folder
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.files.requests import RequestSize, RequestSizes
from runai_model_streamer.io.gcs.store import GcsStore
from runai_model_streamer.io.hub.store import HubStore
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.source import PREFIX_BYTES, ObjectSource
from runai_model_streamer.io.objects.store import ObjectStore
from runai_model_streamer.io.paths import is_object, scheme_of
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.store import S3Store
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.source import LocalCopy, Source
from runai_model_streamer.io.web.store import WebStore
from runai_model_streamer.origins import SourceKind

_log = logging.getLogger(__name__)

_Store: TypeAlias = ObjectStore[Any]


class Storage:
    """Opens the sources of one load. They share one client for object storage.

    Args:
        shared: whether other processes of this node load the same files.
        alike: whether several processes plan the same reads, so that an object is no file to them, even if all of it is
            cached.
    """

    def __init__(
        self, config: LoadConfig, credentials: S3Credentials | None, *, shared: bool, alike: bool = False
    ) -> None:
        config = replace(config, s3=replace(config.s3, second_answers=config.second_answers))
        self._config = config
        self._shared = shared
        self.setup = SetupClock()
        """Times the load's set-up."""
        connections = config.max_concurrency_for(SourceKind.OBJECT)
        # A copy: the caller may change the object for another call while this load still renews its credentials.
        self._stores: Mapping[str, _Store] = {
            "s3": S3Store(config.s3, copy(credentials), connections, self.setup),
            "gs": GcsStore(config, self.setup),
            "az": AzureStore(config, self.setup),
            "https": WebStore(config, self.setup),
            "hf": HubStore(config, self.setup),
        }
        self.requests = RequestSizes(RequestSize)
        """How much one direct read asks each disk for."""
        self._bandwidth = Bandwidth(config.max_bandwidth) if config.max_bandwidth else None
        self._cache: NodeCache | None = None
        if config.cache.folder:
            # Reads of files meet in pages, which are read twice: a checksum of the whole needs each byte once.
            as_files = not (alike or config.verify)
            self._cache = NodeCache(
                config.cache, config.direct_io, shared=shared, as_files=as_files, requests=self.requests
            )

    def open(self, path: str) -> Source:
        """Open the source behind a path.

        With `verify`, an object's bytes are compared with the store's checksum, which takes one more request. An object
        without a checksum is read unverified, with a warning.

        Raises:
            ReadError: it does not exist or is not readable.
            MissingDependencyError: a library needed to read or verify it is not installed.
        """
        if not is_object(path):
            return self._paced(self._file(path), 0)
        store = self._store_of(path)
        if self._cache is not None and self._cache.offline:
            return self._paced(self._cache.open_offline(path, store.shown(path), store.known_endpoint(path)), 0)
        local = self._local_copy(store, path)
        if local is not None:
            return local
        opened: list[ObjectSource[Any]] = []

        def open_it(beginning: int | None) -> Source:
            opened.append(store.open(path, beginning=beginning or PREFIX_BYTES))
            return opened[-1]

        endpoint = partial(store.endpoint, path)
        source = open_it(None) if self._cache is None else self._cache.open(path, open_it, endpoint)
        if not self._config.verify:
            return self._paced(source, PREFIX_BYTES)
        try:
            checksum = opened[-1].checksum()
            if checksum is not None:
                return VerifiedSource(self._paced(source, PREFIX_BYTES), checksum)
        except BaseException:
            source.close()
            raise
        _log.warning("%s: not verified: the store has no checksum of the whole object%s", source.path, store.upload)
        return self._paced(source, PREFIX_BYTES)

    def expect(self, paths: Iterable[str]) -> None:
        """Note the paths that will be opened, which the node's cache keeps room for."""
        if self._cache is not None:
            self._cache.expect(filter(is_object, paths))

    def key_of(self, path: str) -> str:
        """Return the full name of a prefix of objects, which patterns see too; "" for a local folder.

        Raises:
            ArgumentError: the URL does not name a folder.
        """
        return self._store_of(path).key_of(path) if is_object(path) else ""

    def _store_of(self, path: str) -> _Store:
        if is_blob_url(path):
            return self._stores["az"]
        scheme = scheme_of(path)
        return self._stores["https" if scheme == "http" else scheme]

    def _local_copy(self, store: _Store, path: str) -> Source | None:
        local = store.local(path)
        if local is None:
            return None
        return self._paced(LocalCopy(self._file(local), store.shown(path)), 0)

    def _file(self, path: str) -> FileSource:
        return FileSource(path, self._config.direct_io, shared=self._shared, requests=self.requests)

    def _paced(self, source: Source, ahead: int) -> Source:
        return source if self._bandwidth is None else PacedSource(source, self._bandwidth, ahead)

    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """List the wanted files of a local folder, or the wanted objects under a prefix, sorted by name.

        Raises:
            NotFoundError: the folder or bucket does not exist, or no key has the prefix.
            ReadError: it is not readable, or not a folder.
        """
        if is_object(path):
            store = self._store_of(path)
            if self._cache is not None and self._cache.offline:
                known = store.known_endpoint(path)
                return self._cache.entries(path, store.shown(path), wanted, known, recursive=recursive)
            return store.entries(path, wanted, recursive=recursive)
        return list_folder(path, wanted, recursive=recursive)

    def open_known(self, path: str, size: int, version: str | None) -> Source:
        """Open a path like `open`, without a request for an object: another process knows its size and version.

        A read of an object that has changed since then fails.
        """
        if not is_object(path):
            return self.open(path)
        store = self._store_of(path)
        if self._cache is not None and self._cache.offline:
            return self.open(path)
        local = self._local_copy(store, path)
        if local is not None:
            return local
        if self._cache is None:
            return self._paced(store.open(path, (size, version)), 0)
        endpoint = store.endpoint(path)
        return self._paced(self._cache.wrap(path, store.open(path, (size, version)), endpoint), 0)

    @property
    def retries(self) -> int:
        """Number of requests to object storage that were repeated."""
        return sum(store.retries for store in self._stores.values())

    @property
    def refusals(self) -> int:
        """Number of requests that object storage refused for their number, or did not answer in time."""
        return sum(store.rates.refusals for store in self._stores.values())

    @property
    def cached(self) -> CacheCounts | None:
        """What the load did with the node's cache so far; None if there is none."""
        return None if self._cache is None else self._cache.counts

    @property
    def transport(self) -> str | None:
        """The library that reads objects; None if no object was read."""
        return next(filter(None, (store.transport for store in self._stores.values())), None)

    def interrupt(self) -> None:
        """Make current and later requests end soon. Idempotent. Any thread may call it."""
        if self._bandwidth is not None:
            self._bandwidth.stop()
        if self._cache is not None:
            self._cache.interrupt()
        for store in self._stores.values():
            store.interrupt()

    def reader_left(self, error: BaseException | None) -> None:
        """Note that a reader thread ends early, because of an error or because the load has ended."""

    def close(self) -> None:
        """Close the connections. Idempotent."""
        for store in self._stores.values():
            store.close()
