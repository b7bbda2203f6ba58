"""Plans reads of an object of which a part is on the node's disk. Pure: no I/O."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.ranges import ByteRange

OWN_BYTES: Final = 1 << 20
"""Bytes of a local range from which on it has reads of its own. A reader then waits for the disk, or for the store, and
others for the other. A shorter one is read by who fetches what is beside it."""


def with_local(
    file: PlannedFile, local: Sequence[ByteRange] | None, chunk_for: Callable[[SourceKind], int]
) -> PlannedFile:
    """Return how to read an object of which ranges are local.

    If all that is wanted is local, it is read as a file is. Else reads are cut where long local ranges begin and end.

    Args:
        file: the object, as it is read from the store.
        local: its ranges that are on the node's disk, in order, apart from each other; None if none are kept there.
        chunk_for: returns the bytes of a read, for a kind of source.
    """
    if local is None or file.kind is SourceKind.FILE:
        return file
    if local and _has_all(local, file.tensors):
        return file._replace(kind=SourceKind.FILE, chunk=chunk_for(SourceKind.FILE))
    cuts = sorted({end for span in local if span.size >= OWN_BYTES for end in span})
    return file._replace(cuts=tuple(cuts), paged=True)


def _has_all(local: Sequence[ByteRange], tensors: Iterable[TensorInfo]) -> bool:
    starts = [span.start for span in local]
    for tensor in tensors:
        if tensor.end > tensor.start:
            index = bisect_right(starts, tensor.start) - 1
            if index < 0 or local[index].end < tensor.end:
                return False
    return True
