"""`ObjectStorageModel`: a folder that the processes of a node fill together, once."""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from runai_model_streamer.errors import ArgumentError, WriteError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.listing import Entry, Patterns
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.mirror.destination import COMPLETE, Destination
from runai_model_streamer.mirror.locks import locked
from runai_model_streamer.mirror.pull import pull

_Pulls: TypeAlias = dict[Patterns, list[Entry]]


class ObjectStorageModel:
    """The files of a model in object storage, in a local folder, for all processes of this machine.

    ```python
    with ObjectStorageModel("s3://bucket/model", "/var/cache/model") as model:
        model.pull_files(allow_pattern=["*.json"])
        model.pull_files(ignore_pattern=["*.safetensors"])
    use(model.dir)
    ```

    Of processes that pull at the same time one downloads, and the others wait and find the files there. When the
    `with` block ends without an error, a file `.runai_complete` in the folder says what was pulled: from then on the
    same pulls only look whether all of it is still there, and ask the store nothing; of one that found nothing it says
    nothing. To have files anew, delete the folder.

    The lock is the file `dst` + `.lock`, beside the folder. It is held during a pull and not longer, by a process that
    is alive. Nothing is ever deleted but what a killed pull has left unfinished.

    Args:
        model_path: `s3://bucket/prefix`, or a local folder.
        dst: the folder for the files, made with the first pull.
        s3_credentials: for object storage, instead of what the environment and boto3's own chain know.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedError: not paths.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        dst: str | os.PathLike[str],
        s3_credentials: S3Credentials | None = None,
    ) -> None:
        self._model_path = as_path(model_path).rstrip("/") + "/"
        self.dir = as_path(dst)
        """The local folder."""
        self._credentials = s3_credentials
        self._lock_path = os.path.realpath(self.dir) + ".lock"
        self._pulled: _Pulls = {}

    def pull_files(
        self, allow_pattern: Collection[str] | None = None, ignore_pattern: Collection[str] | None = None
    ) -> None:
        """Have these files in the folder; see `pull_files`. Waits while another process pulls into it.

        Raises:
            ArgumentError: the folder has the files of another model.
            StreamerError: what the function `pull_files` says.
        """
        patterns = Patterns.of(allow_pattern, ignore_pattern)
        with self._alone():
            entries = self._complete().get(patterns)
            if not entries or not self._has(entries):
                with open_storage(self._credentials) as (storage, config):
                    entries = pull(storage, self._model_path, self.dir, patterns, config)
        if entries:  # else what comes into the store later would be held to be there for ever
            self._pulled[patterns] = entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say in the folder what has been pulled, unless there was an error."""
        pulled, self._pulled = self._pulled, {}
        if kind is None and pulled:
            with self._alone():
                complete = self._complete()
                if any(complete.get(patterns) != entries for patterns, entries in pulled.items()):
                    self._write(complete | pulled)

    def _has(self, entries: list[Entry]) -> bool:
        with Destination(self.dir) as destination:
            return all(map(destination.has, entries))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            os.makedirs(os.path.dirname(self._lock_path), exist_ok=True)
            lock = _open_lock(self._lock_path)
        except OSError as error:
            raise WriteError(
                f"cannot be made, and with it processes take turns: {error.strerror}",
                where=self._lock_path,
                errno=error.errno,
                remedy="choose a folder beside which this user may write, or call pull_files",
            ) from error
        try:
            with locked(lock, self.dir):
                yield
        finally:
            os.close(lock)

    def _complete(self) -> _Pulls:
        """What the folder says has been pulled."""
        try:
            with open(os.path.join(self.dir, COMPLETE), "rb") as file:
                said = json.load(file)
            model_path = said["model_path"]
            pulls = {
                Patterns.of(pull["allow"], pull["ignore"]): [Entry(*entry) for entry in pull["files"]]
                for pull in said["pulls"]
            }
        except (OSError, ValueError, KeyError, TypeError):
            # None yet; or it is the original streamer's, which says nothing.
            return {}
        if model_path != self._model_path:
            raise ArgumentError(
                f"has the files of {model_path}, not of {self._model_path}",
                where=self.dir,
                remedy="delete it, or choose another folder",
            )
        return pulls

    def _write(self, pulls: _Pulls) -> None:
        said = [
            {"allow": patterns.allow, "ignore": patterns.ignore, "files": entries}
            for patterns, entries in pulls.items()
        ]
        # ASCII: the names of local files may be no Unicode at all.
        data = json.dumps({"model_path": self._model_path, "pulls": said}).encode()
        with Destination(self.dir) as destination:
            destination.put(COMPLETE, data)


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        # Another user's: what that user has pulled can be used all the same.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
