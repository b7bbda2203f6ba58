"""Walks the chain of an exception, and releases the memory that its frames hold."""

import traceback
from collections.abc import Iterator
from types import FrameType

from runai_model_streamer.errors import StreamerError


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, its cause, the cause of that, and so on."""
    yield error
    deeper = error.__cause__ or error.__context__
    # Stop at one of ours: the caller was handling it when it called.
    if deeper is not None and not isinstance(deeper, StreamerError):
        yield from chain_of(deeper)


def release_frames(error: BaseException) -> None:
    """Clear the finished frames that an exception's tracebacks hold, and so their references to the caller's buffer.

    botocore's exceptions are in reference cycles: a slab would stay alive until the next garbage collection.
    """
    for each in chain_of(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            finished: FrameType | None = frame
            try:
                # The callers too: a function that got the exception as a return value is in no traceback.
                while finished is not None:
                    finished.clear()
                    finished = finished.f_back
            except RuntimeError:
                # This frame is still running, and so are its callers.
                pass
