"""Reads traces of loads, for plots."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson

from runai_model_streamer.errors import ArgumentError

T = TypeVar("T")


def parse_trace(trace: str | os.PathLike[str], parse: Callable[[list[dict[str, Any]]], T]) -> T:
    """Return what `parse` makes of the entries of a file written by RUNAI_STREAMER_TRACE.

    Raises:
        ArgumentError: the file is not a trace.
        OSError: the file cannot be read.
    """
    try:
        return parse(orjson.loads(Path(trace).read_bytes())["traceEvents"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"is not a trace ({error})", where=os.fspath(trace), remedy="RUNAI_STREAMER_TRACE writes one"
        ) from error
