"""Streamers whose loads are made of other parts than usual."""

from typing import TypeVar, cast

from runai_model_streamer.base_streamer import Streamer
from runai_model_streamer.pipeline.parts import Parts

_S = TypeVar("_S", bound=Streamer)


def streamer_of(kind: type[_S], parts: Parts) -> _S:
    """Make a streamer of this kind, whose loads are made of `parts`."""
    return cast(_S, type(kind.__name__, (kind,), {"_parts": parts})())
