"""`ObjectStorageModel`: a local copy of a model that the processes of a node download once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from runai_model_streamer.errors import ArgumentError, WriteError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.listing import Entry, Patterns
from runai_model_streamer.io.paths import Several, as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.mirror.locks import locked
from runai_model_streamer.mirror.pull import pull
from runai_model_streamer.mirror.target import COMPLETE, TargetFolder
from runai_model_streamer.settings.streamer_config import StreamerConfig, checked

_Pulls: TypeAlias = dict[Patterns, list[Entry]]


class ObjectStorageModel:
    """A local copy of a model in object storage, for all processes of this machine.

    ```python
    with ObjectStorageModel("s3://bucket/model", "/var/cache/model") as model:
        model.pull_files(allow_pattern=["*.json"])
        model.pull_files(ignore_pattern=["*.safetensors"])
    use(model.dir)
    ```

    If several processes pull at the same time, one downloads; the others wait, and find the files. When the `with`
    block ends without an error, the file `.runai_complete` in the folder records what was pulled. The same pull then
    only checks that the files are still there, and sends no request. A pull that found no file is not recorded. To
    download again, delete the folder.

    The lock is the file `dst` + `.lock`, next to the folder. A process holds it during a pull only, and loses it when
    it ends. Only the unfinished files of killed pulls are deleted.

    Args:
        model_path: `s3://bucket/prefix`, or a local folder.
        dst: the folder for the files. The first pull creates it.
        s3_credentials: for object storage, instead of those that boto3 finds.
        config: settings that win over the environment's.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedError: a path cannot be used.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        dst: str | os.PathLike[str],
        s3_credentials: S3Credentials | None = None,
        *,
        config: StreamerConfig | None = None,
    ) -> None:
        model_path, dst = veiled(model_path), veiled(dst)
        self._model_path = veiled(as_path(model_path).rstrip("/") + "/")
        self.dir = as_path(dst)
        """The local folder."""
        self._credentials = s3_credentials
        self._given = checked(config)
        self._lock_path = os.path.realpath(self.dir) + ".lock"
        self._pulled: _Pulls = {}

    def pull_files(self, allow_pattern: Several[str] | None = None, ignore_pattern: Several[str] | None = None) -> None:
        """Copy these files to the folder, as the function `pull_files` does. Waits while another process pulls into it.

        Raises:
            ArgumentError: the folder has the files of another model.
            StreamerError: as for the function `pull_files`.
        """
        patterns = Patterns.of(allow_pattern, ignore_pattern)
        with self._locked():
            entries = self._recorded().get(patterns)
            if not entries or not self._has(entries):
                with open_storage(self._credentials, self._given) as (storage, settings):
                    entries = pull(storage, self._model_path, self.dir, patterns, settings)
        if entries:  # an empty record would hide files that are uploaded later
            self._pulled[patterns] = entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Record in the folder what was pulled, unless there was an error."""
        pulled, self._pulled = self._pulled, {}
        if kind is None and pulled:
            with self._locked():
                before = self._recorded()
                if any(before.get(patterns) != entries for patterns, entries in pulled.items()):
                    self._record(before | pulled)

    def _has(self, entries: list[Entry]) -> bool:
        with TargetFolder(self.dir) as destination:
            return all(map(destination.has, entries))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            os.makedirs(os.path.dirname(self._lock_path), exist_ok=True)
            lock = _open_lock(self._lock_path)
        except OSError as error:
            raise WriteError(
                f"cannot be made, and with it processes take turns: {error.strerror}",
                where=self._lock_path,
                errno=error.errno,
                remedy="choose a folder whose parent this user may write to, or call pull_files",
            ) from error
        try:
            with locked(lock, self.dir):
                yield
        finally:
            os.close(lock)

    def _recorded(self) -> _Pulls:
        """Read from the folder what was pulled before."""
        try:
            with open(os.path.join(self.dir, COMPLETE), "rb") as file:
                record = json.load(file)
            model_path = _text(record["model_path"])
            pulls = {
                Patterns.of(pull["allow"], pull["ignore"]): [_entry(*entry) for entry in pull["files"]]
                for pull in record["pulls"]
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # There is no record yet, it is damaged, or it is the original streamer's, which is empty.
            return {}
        if model_path != self._model_path:
            raise ArgumentError(
                f"has the files of {model_path}, not of {self._model_path}",
                where=self.dir,
                remedy="delete it, or choose another folder",
            )
        return pulls

    def _record(self, pulls: _Pulls) -> None:
        record = [
            {"allow": patterns.allow, "ignore": patterns.ignore, "files": entries}
            for patterns, entries in pulls.items()
        ]
        # ASCII, since the names of local files may not be Unicode.
        data = json.dumps({"model_path": self._model_path, "pulls": record}).encode()
        with TargetFolder(self.dir) as destination:
            destination.put(COMPLETE, data)


def _entry(path: object, name: object, size: object, modified_ns: object) -> Entry:
    return Entry(_text(path), _text(name), _number(size), _number(modified_ns))


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"{value!r} is not a text")
    return value


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a number")
    return value


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        # The lock is another user's. What that user pulled can be used all the same.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
