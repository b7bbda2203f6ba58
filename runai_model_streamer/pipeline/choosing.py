"""Finds what a request asks of the files that are open."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from runai_model_streamer.checkpoint.header import Opened
from runai_model_streamer.checkpoint.tensor_info import TensorInfo, nbytes_of
from runai_model_streamer.pipeline.landing.tensors import check_dtypes
from runai_model_streamer.pipeline.plan.request import named
from runai_model_streamer.pipeline.plan.selection import Select, Selected, select_parts

_log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """What a request comes to, for each file."""

    tensors: list[list[TensorInfo]]
    """What the caller gets."""
    read: list[list[TensorInfo]]
    """What is read for that."""
    parts: list[Selected] | None
    """How the first is made of the second; None if both are the same."""


def choose(
    paths: Sequence[str], opened: Sequence[Opened], names: frozenset[str] | None, select: Select | None
) -> Chosen:
    """Find the tensors that the caller wants, and what has to be read for them.

    Args:
        paths: the files.
        opened: the same, with their headers.
        names: the only tensors that are wanted; None: all.
        select: the part of each tensor that is wanted; None: all of it.

    Raises:
        StreamerError: a name or a part is in none of the files, or torch cannot hold a tensor.
    """
    wanted = [list(header.tensors) for _, header in opened] if names is None else named(paths, opened, names)
    if select is None:
        for path, tensors in zip(paths, wanted, strict=True):
            check_dtypes(path, tensors)
        return Chosen(wanted, wanted, None)
    selected = select_parts(paths, wanted, [source.kind for source, _ in opened], select, check_dtypes)
    return Chosen(
        [[part.info for part in parts] for parts in selected],
        [[piece for part in parts for piece in part.reads] for parts in selected],
        [part for parts in selected for part in parts],
    )


def skip_verification(opened: Sequence[Opened], read: Sequence[Sequence[TensorInfo]]) -> None:
    """Skip the checksum of an object that is read in part: it is one of the whole object."""
    partial_reads = 0
    for (source, header), tensors in zip(opened, read, strict=True):
        if source.verified_by is not None and (
            len(tensors) < len(header.tensors) or nbytes_of(tensors) < nbytes_of(header.tensors)
        ):
            source.skip_verification()
            partial_reads += 1
    if partial_reads:
        _log.warning(
            "RUNAI_STREAMER_VERIFY: %d of %d files are not verified: tensor_names or select leaves out some of their "
            "tensors, and a store's checksum is one of the whole object",
            partial_reads,
            len(opened),
        )
