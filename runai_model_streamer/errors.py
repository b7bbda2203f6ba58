"""Every exception the package raises, and the parts that it is made of.

All derive from `StreamerError`, and each also from the built-in that existing code already catches
(`ValueError`, `FileNotFoundError`, `PermissionError`, `TimeoutError`, `MemoryError` ...). A message says what
happened, where (path, byte range, tensor) and what to do. None contains a secret.

A failed read is a `ValueError`, too, and so is an argument of the wrong type: the original streamer raises nothing
else, and code written for it catches that.
"""

import os
from collections.abc import Sequence
from errno import EACCES, EISDIR, ENOENT, ENOTDIR, ETIMEDOUT
from typing import Any, ClassVar, NamedTuple

from runai_model_streamer.io.secret import without_secrets
from runai_model_streamer.ranges import ByteRange


class Where(NamedTuple):
    """The place of an error: a file, folder, object or bucket, and the bytes of it, where they are known."""

    path: str
    span: ByteRange | None = None


class StreamerError(Exception):
    """Base of every error of this package.

    `str()` puts the parts together: `path: problem; remedy`. Errors can be copied and pickled, with all their parts.

    Args:
        problem: what happened. A whole message will do, for code that has no parts.
        where: the path, or the path with a byte range. `str()` shows the path; a problem that concerns the range
            names it.
        remedy: what to do about it.
        tensor: name of the tensor that could not be loaded. A problem that concerns the tensor names it.
        lead: text between the path and the problem; None if the problem names the path itself.
        sep: text between the problem and the remedy.
        errno: of the system call that failed. Errors that are an `OSError` keep it, and have the path as `filename`.
    """

    _ERRNO: ClassVar[int | None] = None
    """What `errno` is where the caller gives none."""

    problem: str = ""
    """What happened, without the path and the remedy."""
    where: Where | None = None
    """`where.path`, and `where.span` if the error is one of a byte range."""
    remedy: str = ""
    """What to do; "" where there is nothing to say."""
    tensor: str | None = None
    """Name of the tensor that could not be loaded."""
    _lead: str | None = ": "
    _sep: str = "; "
    _reading: str = ""

    def __init__(
        self,
        problem: object = "",
        *,
        where: Where | str | os.PathLike[str] | None = None,
        remedy: str = "",
        tensor: str | None = None,
        lead: str | None = ": ",
        sep: str = "; ",
        errno: int | None = None,
    ) -> None:
        self.problem = str(problem)
        if where is not None and not isinstance(where, Where):
            where = Where(os.fspath(where))
        self.where = None if where is None else where._replace(path=without_secrets(where.path))
        self.remedy = remedy
        self.tensor = tensor
        self._lead = lead
        self._sep = sep
        super().__init__(str(self))
        system: Any = self
        if isinstance(system, OSError):
            number = self._ERRNO if errno is None else errno
            if number is not None:
                system.errno, system.strerror = number, os.strerror(number)
            if self.where is not None:
                system.filename = self.where.path

    @property
    def summary(self) -> str:
        """The message without the remedy: `path: problem`."""
        if self.where is None or self._lead is None:
            return self.problem
        return f"{self.where.path}{self._lead}{self.problem}"

    def __str__(self) -> str:
        if not self.problem:
            return super().__str__()  # a class of the caller's that does not call __init__
        return f"{self.summary}{self._sep if self.remedy else ''}{self.remedy}{self._reading}"

    def while_reading(self, tensors: Sequence[str]) -> None:
        """Add the names of the tensors that the failed read was for, one at least."""
        self.tensor = tensors[0]
        more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
        self._reading = f" (while reading tensor {tensors[0]!r}{more})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Python calls the class with `args`, which has no keyword, and restores `__dict__`, which has no errno.
        state = dict(self.__dict__)
        for name in ("args", "errno", "strerror", "filename", "name", "path"):
            if (value := getattr(self, name, None)) is not None:
                state[name] = value
        return type(self), self.args, state


class ConfigError(StreamerError, ValueError):
    """An environment variable holds a value that cannot be used."""


class ArgumentError(StreamerError, ValueError):
    """An argument of a call cannot be used: an unknown tensor name, an empty path, an unknown device."""


class ArgumentTypeError(StreamerError, TypeError, ValueError):
    """An argument of a call has the wrong type."""


class StateError(StreamerError, RuntimeError):
    """The call does not fit the streamer's state: it is closed, has nothing to stream, or is used after a fork."""


class DeviceError(StreamerError, RuntimeError):
    """This machine, or the installed torch, does not have the device."""


class DistributedError(StreamerError, RuntimeError):
    """Another rank ended a distributed load. The message names that rank, and has its error."""

    def __init__(self, problem: object = "", ranks: tuple[int, ...] = (), **parts: Any) -> None:
        super().__init__(problem, **parts)
        self.ranks = ranks
        """Ranks of the default process group that failed, or that differ."""


class GdsUnavailableError(StreamerError, RuntimeError):
    """`RUNAI_STREAMER_GDS=1`, but GPUDirect Storage cannot read this file. The message says why."""


class PinnedUnavailableError(StreamerError, RuntimeError):
    """`RUNAI_STREAMER_PINNED=1`, but torch cannot page-lock memory in this process. The message says why."""


class CudaError(StreamerError, RuntimeError):
    """A call of the CUDA driver failed. The message has its name, and the driver's name of the error."""


class UnsupportedError(StreamerError, NotImplementedError):
    """This version does not do this. The message says what to use instead."""


class MissingDependencyError(StreamerError, ImportError):
    """An optional dependency is not installed. The remedy is the pip line."""


class HeaderError(StreamerError, ValueError):
    """A safetensors header, or the size of a file, does not follow the format."""


class UnsupportedDtypeError(StreamerError, ValueError):
    """The installed torch has no dtype for a tensor of the file."""


class RunaiStreamerMemoryLimitException(StreamerError, MemoryError):  # noqa: N818 - the documented name
    """`RUNAI_STREAMER_MEMORY_LIMIT` is less than the largest tensor or, on a GPU, than two pages of staging memory."""


class OutOfMemoryError(StreamerError, MemoryError):
    """The operating system or the GPU refused memory for a tensor."""


class ReadError(StreamerError, OSError, ValueError):
    """A file or an object could not be read."""


class TruncatedError(ReadError, EOFError):
    """A file or object ended before the bytes its header promised."""


class SourceChangedError(ReadError):
    """A file or object was written to while it was being streamed."""


class ChecksumError(ReadError):
    """The bytes of an object do not match the checksum of its store (`RUNAI_STREAMER_VERIFY`)."""


class NotFoundError(ReadError, FileNotFoundError):
    """There is no file, object or bucket of this name."""

    _ERRNO = ENOENT


class IsDirectoryError(ReadError, IsADirectoryError):
    """The path is a folder, or a prefix of keys, not a file."""

    _ERRNO = EISDIR


class NotDirectoryError(ReadError, NotADirectoryError):
    """The path is a file, not a folder."""

    _ERRNO = ENOTDIR


class UnsafeNameError(ReadError):
    """A key cannot be the name of a file in the folder, or two keys would be the same file."""


class AccessDeniedError(ReadError, PermissionError):
    """This user may not read the file or the object."""

    _ERRNO = EACCES


class CredentialsError(AccessDeniedError):
    """No credentials were found, or the object storage does not accept them."""


class StorageUnreachableError(ReadError, ConnectionError):
    """No connection to the object storage: unknown host, connection refused, or a certificate that is not trusted."""


class StorageTimeoutError(ReadError, TimeoutError):
    """The object storage sent nothing for longer than the timeout."""

    _ERRNO = ETIMEDOUT


class InterruptedReadError(ReadError):
    """A read ended early because the streamer is closing. It never reaches the caller."""


class WriteError(StreamerError, OSError):
    """A pulled file could not be written. `errno` says why (`ENOSPC`: the disk is full)."""


class WriteDeniedError(WriteError, PermissionError):
    """This user may not write to the folder that files are pulled into."""

    _ERRNO = EACCES
