"""Opens and lists files of models on the Hugging Face Hub."""

import threading

from typing_extensions import override

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import NotFoundError, StorageUnreachableError
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Version
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.hub.access import HubAccess, make_hub_access
from runai_model_streamer.io.hub.errors import explain_hub
from runai_model_streamer.io.hub.location import HubLocation
from runai_model_streamer.io.hub.snapshot import Snapshot, cached_snapshot, fetch_snapshot
from runai_model_streamer.io.listing import Entry, Wanted, modified_ns
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.secret import Link
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.base import HttpStore
from runai_model_streamer.io.web.refusal import RefusedError
from runai_model_streamer.io.web.remote import Access, WebObject


class HubStore(HttpStore[HubAccess]):
    """Files named hf://org/model[@revision]/file. A revision is resolved to its commit once for each load.

    Args:
        config: the settings.
        setup: times imports and connecting.
    """

    def __init__(self, config: LoadConfig, setup: SetupClock | None = None) -> None:
        super().__init__(make_hub_access, config, setup)
        self._offline = config.hub.offline
        self._endpoint = (config.hub.endpoint or "").rstrip("/")
        self._asking = threading.Lock()
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        """Repository and revision -> its files."""

    @override
    def remote(self, path: str) -> "HubObject":
        """Return the file at the commit of its revision, which the Hub is asked for.

        Raises:
            StreamerError: as `open`.
        """
        location = HubLocation.of_file(path)
        commit = location.revision if location.is_commit else self.snapshot(path, location).commit
        return HubObject(self, path, location, commit, self.access().endpoint)

    @override
    def local(self, path: str) -> str | None:
        """Return the path of the file in huggingface_hub's cache; see `ObjectStore.local`.

        Raises:
            StorageUnreachableError: HF_HUB_OFFLINE is set, and the file is not there.
        """
        location = HubLocation.of_file(path)
        access = self.access()
        revision = location.revision
        if not self._offline and not location.is_commit:
            revision = self.snapshot(path, location).commit
        found = access.cached(location.repo, revision, location.name)
        if found is None and self._offline:
            raise _offline(path, location, access.cache)
        return found

    @override
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """List the wanted files of a repository or of a folder in it. Their URLs have the commit."""
        location = HubLocation.of_folder(path)
        snapshot = self.snapshot(path, location)
        below = {
            name.removeprefix(location.name): file
            for name, file in snapshot.files.items()
            if name.startswith(location.name)
        }
        if not below:
            raise NotFoundError(
                f"{location.repo} has no folder {location.name!r} at {location.revision}",
                where=path,
                remedy="check it; case counts (if it is a file, stream_file takes it)",
            )
        return [
            Entry(
                location.url_at(snapshot.commit, location.name + name),
                name,
                file.size,
                modified_ns(0, file.identity),
            )
            for name, file in sorted(below.items())
            if (recursive or "/" not in name) and wanted(name)
        ]

    @override
    def key_of(self, path: str) -> str:
        """Return the path of a folder in its repository."""
        return HubLocation.of_folder(path).name

    def snapshot(self, path: str, location: HubLocation) -> Snapshot:
        """Return the repository at the commit of its revision. The Hub is asked once for each revision.

        Raises:
            StreamerError: as `open`.
        """
        key = location.repo, location.revision
        with self._asking:
            found = self._snapshots.get(key)
            if found is None:
                found = self._cached(path, location) if self._offline else self._fetched(path, location)
                self._snapshots[key] = self._snapshots[location.repo, found.commit] = found
        return found

    def _cached(self, path: str, location: HubLocation) -> Snapshot:
        access = self.access()
        found = cached_snapshot(access, location)
        if found is None:
            raise _offline(path, location, access.cache)
        return found

    def _fetched(self, path: str, location: HubLocation) -> Snapshot:
        found: list[Snapshot] = []
        flights = self.flights()
        try:
            self.retry(
                flights, path, None, lambda access, _: found.append(fetch_snapshot(access, location, self._timeout))
            )
        finally:
            self.forget(flights)
        return found[-1]

    @override
    def known_endpoint(self, path: str) -> str:
        return self._endpoint

    @override
    def url(self, path: str, access: HubAccess | None) -> str:
        return "" if access is None else access.endpoint

    @override
    def explain(self, refused: RefusedError, path: str, access: HubAccess | None) -> Explanation | None:
        return explain_hub(refused, HubLocation.of(path), self.url(path, access))


class HubObject(WebObject):
    """A file at a commit: the Hub redirects to its CDN, with a link that runs out; see `WebObject`."""

    def __init__(self, store: HubStore, path: str, location: HubLocation, commit: str, endpoint: str) -> None:
        super().__init__(Link(location.web_url(endpoint, commit)))
        self._store = store
        self._path = path
        self._location = location._replace(revision=commit)

    @override
    def checksum(self, access: Access, flight: Flight, version: Version) -> Checksum | None:
        """Return the SHA-256 that the Hub has of a large file."""
        file = self._store.snapshot(self._path, self._location).files.get(self._location.name)
        return None if file is None or file.sha256 is None else Checksum("SHA256", file.sha256)


def _offline(path: str, location: HubLocation, cache: str) -> StorageUnreachableError:
    return StorageUnreachableError(
        f"is not in the cache of huggingface_hub ({cache}), and HF_HUB_OFFLINE is set",
        where=path,
        remedy=f"run `hf download {location.repo}` where there is a network, or unset HF_HUB_OFFLINE",
    )
