"""Every exception the package raises.

All derive from `StreamerError`, and each also from the built-in that existing code already catches
(`ValueError`, `FileNotFoundError`, `PermissionError`, `TimeoutError`, `MemoryError` ...). A message says what
happened, where (path, byte range, tensor) and what to do; none ever contains a secret.

What goes wrong in reading is a `ValueError`, too, and so is an argument of the wrong type: the original has nothing
else, and code written for it catches that.
"""


class StreamerError(Exception):
    """Base of every error of this package."""


class ConfigError(StreamerError, ValueError):
    """An environment variable holds a value that cannot be used."""


class ArgumentError(StreamerError, ValueError):
    """An argument of a call cannot be used: an unknown tensor name, an empty path, an unknown device."""


class ArgumentTypeError(StreamerError, TypeError, ValueError):
    """An argument of a call has the wrong type."""


class StateError(StreamerError, RuntimeError):
    """A call that does not fit the streamer's state: closed, nothing to stream, used after a fork."""


class DeviceError(StreamerError, RuntimeError):
    """This machine, or this torch, does not have the device."""


class DistributedError(StreamerError, RuntimeError):
    """Distributed streaming ended on this rank because of another; the message names it and carries what it said."""

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message, ranks)
        self.ranks = ranks
        """Whose fault it is: ranks of the default process group."""

    def __str__(self) -> str:
        return str(self.args[0])


class GdsUnavailableError(StreamerError, RuntimeError):
    """`RUNAI_STREAMER_GDS=1`, but GPUDirect Storage cannot read this file; the message says why."""


class PinnedUnavailableError(StreamerError, RuntimeError):
    """`RUNAI_STREAMER_PINNED=1`, but torch cannot page-lock memory in this process; the message says why."""


class CudaError(StreamerError, RuntimeError):
    """A call of the CUDA driver failed; the message names the call and the driver's name of the error."""


class UnsupportedError(StreamerError, NotImplementedError):
    """Something that this version does not do; the message says what to use instead."""


class MissingDependencyError(StreamerError, ImportError):
    """An optional dependency is not installed; the message carries the pip line."""


class HeaderError(StreamerError, ValueError):
    """A safetensors header, or a file's size, that does not follow the format."""


class UnsupportedDtypeError(StreamerError, ValueError):
    """A dtype of the format that the installed torch cannot hold."""


class RunaiStreamerMemoryLimitException(StreamerError, MemoryError):  # noqa: N818 - the documented name
    """`RUNAI_STREAMER_MEMORY_LIMIT` is smaller than the largest tensor, or, on a GPU, than two pages to stage in."""


class OutOfMemoryError(StreamerError, MemoryError):
    """The operating system, or the GPU, refused memory for a tensor."""


class ReadError(StreamerError, OSError, ValueError):
    """Bytes could not be read from a file or an object."""


class TruncatedError(ReadError, EOFError):
    """A file or object ended before the bytes its header promised."""


class SourceChangedError(ReadError):
    """A file or object was written to while it was being streamed."""


class ChecksumError(ReadError):
    """An object's bytes do not have the checksum that its store has of them (RUNAI_STREAMER_VERIFY)."""


class NotFoundError(ReadError, FileNotFoundError):
    """No file, object or bucket of this name."""


class IsDirectoryError(ReadError, IsADirectoryError):
    """A folder, or a prefix of keys, where a file was expected."""


class NotDirectoryError(ReadError, NotADirectoryError):
    """A file where a folder was expected."""


class UnsafeNameError(ReadError):
    """A key that cannot be the name of a file of its own in the folder that it is pulled into."""


class AccessDeniedError(ReadError, PermissionError):
    """The file's or the bucket's owner does not let this user read."""


class CredentialsError(AccessDeniedError):
    """No credentials, or credentials that the object storage does not accept."""


class StorageUnreachableError(ReadError, ConnectionError):
    """No connection to the object storage: name not found, refused, or TLS not trusted."""


class StorageTimeoutError(ReadError, TimeoutError):
    """The object storage did not answer, or stopped sending, for longer than the timeout."""


class InterruptedReadError(ReadError):
    """A read was cut short because the streamer is closing. Never reaches the caller."""


class WriteError(StreamerError, OSError):
    """A pulled file could not be written; `errno` says why (`ENOSPC`: the disk is full)."""


class WriteDeniedError(WriteError, PermissionError):
    """This user may not write to the folder that files are pulled into."""
