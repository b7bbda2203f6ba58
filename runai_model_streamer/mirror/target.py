"""The folder that files are pulled into. A file appears only once it is complete, and never outside the folder."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import TracebackType
from typing import Final, Self

from runai_model_streamer.errors import UnsafeNameError, WriteDeniedError, WriteError
from runai_model_streamer.io.listing import Entry

COMPLETE: Final = ".runai_complete"
"""Name of the file that records what has been pulled; see `ObjectStorageModel`. It is never pulled itself."""

_PART_PREFIX: Final = ".runai-"
_PART_SUFFIX: Final = ".part"

_GRANULARITIES: Final = (1, 100, 1_000, 1_000_000, 1_000_000_000)
"""Time resolutions of file systems, in nanoseconds: ext4 and xfs 1, NTFS 100, some network ones a whole second."""


def file_name(name: str) -> str:
    """Return the file's name for an object's name: without leading and repeated slashes."""
    return "/".join(filter(None, name.split("/")))


def as_files(path: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with the names of their files, which can all exist in one folder.

    Args:
        path: the folder or prefix that was listed, for messages.
        entries: the listed files.

    Raises:
        UnsafeNameError: a name cannot be a file's, two would be the same file, or a file would also be a folder.
    """
    files: dict[str, Entry] = {}
    for entry in entries:
        name = file_name(entry.name)
        if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            raise UnsafeNameError(
                f"{entry.name!r} cannot be the name of a file under the folder that it is pulled into",
                where=entry.path,
                remedy="leave it out with ignore_pattern",
            )
        other = files.setdefault(name, entry)
        if other is not entry:
            raise UnsafeNameError(
                f"would be the same file as {other.path}, {name}",
                where=entry.path,
                remedy="leave one of them out with ignore_pattern",
            )
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name, entry in files.items():
        if name in folders:
            raise UnsafeNameError(
                f"is an object, and {path} has others under {name}/",
                where=entry.path,
                remedy="a file system can have only one of them, so leave one out with ignore_pattern",
            )
    return [entry._replace(name=name) for name, entry in files.items()]


class TargetFolder:
    """A folder to write to, created if missing. All below is opened from its descriptor, and no link is followed.

    Raises:
        WriteError: it cannot be created or opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._changed: set[str] = set()
        with self._translated("."):
            os.makedirs(path, exist_ok=True)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def has(self, entry: Entry) -> bool:
        """Return whether the file exists with the entry's size and time."""
        try:
            with self._folder(entry.name, make=False) as (folder, base):
                found = os.stat(base, dir_fd=folder, follow_symlinks=False)
        except OSError:
            # It is missing, or something else has its name: `create` reports that.
            return False
        kept = found.st_mtime_ns
        return (
            stat.S_ISREG(found.st_mode)
            and found.st_size == entry.size
            and any(kept == entry.modified_ns - entry.modified_ns % unit for unit in _GRANULARITIES)
        )

    def create(self, name: str, size: int) -> "PartialFile":
        """Begin a file, under another name in the same folder.

        Raises:
            WriteError: it cannot be created.
        """
        with self._translated(name), self._folder(name, make=True) as (folder, _):
            part = f"{_PART_PREFIX}{os.urandom(8).hex()}{_PART_SUFFIX}"
            # 0o666 leaves the permissions to the umask, since other users may read pulled files.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            return PartialFile(self, name, part, os.open(part, flags, 0o666, dir_fd=folder), size)

    def put(self, name: str, data: bytes) -> None:
        """Write a small file, and flush it to the disk.

        Raises:
            WriteError: it cannot be written.
        """
        part = self.create(name, len(data))
        try:
            part.write(0, memoryview(data))
            part.finish(time.time_ns())
            self.sync()
        finally:
            part.discard()
            part.close()

    def sweep(self, names: Iterable[str]) -> None:
        """Remove parts that killed processes left next to these files. No other process may write to the folder."""
        for parent in {str(PurePosixPath(name).parent) for name in names}:
            with contextlib.suppress(OSError), self._folder(f"{parent}/x", make=False) as (folder, _):
                for left in os.listdir(folder):
                    if left.startswith(_PART_PREFIX) and left.endswith(_PART_SUFFIX):
                        os.unlink(left, dir_fd=folder)

    def sync(self) -> None:
        """Flush the names of all finished files to the disk.

        Raises:
            WriteError: that failed.
        """
        above = {str(parent) for folder in self._changed for parent in PurePosixPath(folder).parents}
        for changed in self._changed | above:
            with self._translated(changed), self._folder(f"{changed}/x", make=False) as (folder, _):
                try:
                    os.fsync(folder)
                except OSError as error:
                    # Some network file systems cannot sync folders.
                    if error.errno != errno.EINVAL:
                        raise
        self._changed.clear()

    @contextmanager
    def _folder(self, name: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the folder that the file is in, and the file's own name."""
        *parents, base = PurePosixPath(name).parts
        folder = os.dup(self.fd)
        try:
            for parent in parents:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(parent, dir_fd=folder)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
                deeper = os.open(parent, flags, dir_fd=folder)
                os.close(folder)
                folder = deeper
            yield folder, base
        finally:
            os.close(folder)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.translated(error, name) from error

    def translated(self, error: OSError, name: str) -> WriteError:
        """Return the `WriteError` for a failure to write the file `name`."""
        path = os.path.normpath(os.path.join(self.path, name))
        kind: type[WriteError] = WriteError
        remedy, sep = "", "; "
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                problem = "no space left on its disk, or in its quota"
                remedy, sep = "free some, or pull into another folder", ": "
            case errno.EACCES | errno.EPERM | errno.EROFS:
                kind, problem = WriteDeniedError, "this user may not write here"
                remedy = "check the folder's permissions"
            case errno.EISDIR | errno.ENOTEMPTY:
                problem, remedy = "is a folder, where a file is to be", "remove it, or pull into another folder"
            case errno.ELOOP | errno.ENOTDIR | errno.EEXIST:
                problem = (
                    "a part of this path is a file, or a symbolic link, where a folder is to be (links are not "
                    "followed)"
                )
                remedy = "remove it, or pull into another folder"
            case errno.ENAMETOOLONG:
                problem, remedy = "the name is longer than its file system allows", "leave it out with ignore_pattern"
            case errno.ENOENT if os.path.isdir(os.path.dirname(path)):
                # /proc and /sys give this error.
                problem, remedy = "cannot be made: its file system takes no new files", "pull into another folder"
            case errno.ENOENT:
                problem, remedy = "the folder was removed while files were pulled into it", "pull again"
            case _:
                problem = f"cannot be written: {error.strerror or error}"
        return kind(problem, where=path, remedy=remedy, sep=sep, errno=error.errno)

    def rename(self, part: str, name: str) -> None:
        """Give a finished file its name."""
        with self._folder(name, make=False) as (folder, base):
            os.replace(part, base, src_dir_fd=folder, dst_dir_fd=folder)
        self._changed.add(str(PurePosixPath(name).parent))

    def unlink(self, part: str, name: str) -> None:
        """Remove an unfinished file, if it is there."""
        with contextlib.suppress(OSError), self._folder(name, make=False) as (folder, _):
            os.unlink(part, dir_fd=folder)


class PartialFile:
    """A file that is being written, by one or more threads. `TargetFolder.create` returns it.

    It has a temporary name until `finish`. The caller of `create` calls `finish` or `discard`, and then `close`.
    """

    def __init__(self, destination: TargetFolder, name: str, part: str, fd: int, size: int) -> None:
        self._destination = destination
        self._name = name
        self._part = part
        self._fd = fd
        self._size = size

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes from `offset` on.

        Raises:
            WriteError: that failed.
        """
        try:
            while data:
                written = os.pwrite(self._fd, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise self._destination.translated(error, self._name) from error

    def finish(self, modified_ns: int) -> None:
        """Set the complete file's time and name, and flush it to the disk.

        Raises:
            WriteError: that failed, or the file does not have the expected size.
        """
        try:
            size = os.fstat(self._fd).st_size
            os.utime(self._fd, ns=(modified_ns, modified_ns))
            os.fsync(self._fd)
            if size == self._size:
                self._destination.rename(self._part, self._name)
        except OSError as error:
            raise self._destination.translated(error, self._name) from error
        if size != self._size:
            path = f"{self._destination.path}/{self._name}"
            raise WriteError(
                f"has {size} bytes instead of {self._size}; another program writes to this folder", where=path
            )

    def discard(self) -> None:
        """Remove the file. Bytes that threads still write to it are lost."""
        self._destination.unlink(self._part, self._name)

    def close(self) -> None:
        """Close the descriptor. No thread may be writing. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        # A thread that hung in a read when its pull ended keeps the file until the thread ends.
        self.close()
