"""Puts a selected part of a tensor together from the pieces that have landed."""

import time
from collections.abc import Sequence
from typing import Final

import torch

from runai_model_streamer.pipeline.landing.tensors import Tensors, torch_shape
from runai_model_streamer.pipeline.plan.casts import as_cast
from runai_model_streamer.pipeline.plan.selection import Rows, Selected
from runai_model_streamer.pipeline.tally.load import Tally

CARRIERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> a dtype of that width that torch can copy. It cannot copy all dtypes."""


def largest_assembled(parts: Sequence[Selected], target: str | None) -> int:
    """Return the bytes of the largest tensor that `assembled` puts together; 0 if there is none.

    Args:
        parts: what the caller selected.
        target: the format's name of the dtype that pieces are cast to as they land; None to leave them.
    """
    made = [part.info if target is None else as_cast(part.info, target) for part in parts if part.rows]
    return max((info.nbytes for info in made), default=0)


def assembled(landed: Tensors, parts: Sequence[Selected], tally: Tally) -> Tensors:
    """Yield what the caller selected, made from what was read.

    A part is contiguous, in separate memory, with the device and dtype of its pieces. The pieces are released before
    the part is yielded.

    Args:
        landed: the tensors of all `reads` of `parts`; closed when this iterator is.
        parts: the selected parts, in the order in which their reads land.
        tally: counts the time.
    """
    try:
        for part in parts:
            # Keep no reference to what is yielded.
            if part.rows is None:
                yield next(landed)
            else:
                yield part.info.name, _assemble(landed, part, part.rows, tally)
        for _ in landed:
            raise AssertionError("more has landed than was planned")
    finally:
        landed.close()


def _assemble(landed: Tensors, part: Selected, rows: Rows, tally: Tally) -> torch.Tensor:
    piece = next(landed)[1]
    began = time.perf_counter()
    if len(part.reads) == 1:
        made = cut(piece, rows)
    else:
        made = _first(piece, rows)
        for row in range(1, rows.outer):
            # Release the piece now: the next one may need its memory.
            del piece
            tally.seconds.place += time.perf_counter() - began
            piece = next(landed)[1]
            began = time.perf_counter()
            add(piece, made, row)
    tally.seconds.place += time.perf_counter() - began
    return _shaped(made, part)


def cut(piece: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Cut a part out of all bytes from its first piece to its last."""
    # A tensor made in the caller's inference mode could never be trained.
    with torch.inference_mode(False), torch.no_grad():
        strided = piece.view(CARRIERS[piece.itemsize]).as_strided((rows.outer, rows.inner), (rows.stride, 1))
        return strided.clone(memory_format=torch.contiguous_format).view(piece.dtype)


def _first(piece: torch.Tensor, rows: Rows) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        made = torch.empty((rows.outer, rows.inner), dtype=piece.dtype, device=piece.device)
        add(piece, made, 0)
        return made


def add(piece: torch.Tensor, made: torch.Tensor, row: int) -> None:
    """Copy a piece to its row in a part."""
    with torch.inference_mode(False), torch.no_grad():
        carrier = CARRIERS[piece.itemsize]
        made[row].view(carrier).copy_(piece.view(carrier))


def _shaped(made: torch.Tensor, part: Selected) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return made.view(torch_shape(part.info))
