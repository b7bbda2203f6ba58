"""Reads the index of a checkpoint in shards, which names its files, as transformers and others write it."""

from collections.abc import Collection
from typing import Final, NamedTuple

import orjson

_SUFFIX: Final = ".safetensors.index.json"
USUAL_INDEX: Final = f"model{_SUFFIX}"


class Shards(NamedTuple):
    """A folder's safetensors files, compared with its index."""

    files: list[str]
    """Names of the files to load, sorted."""
    missing: list[str]
    """Files that the index names and the folder does not have."""
    left_out: list[str]
    """Files that a complete index does not name. Most often they hold the same tensors again."""


def is_index(name: str) -> bool:
    """Whether a file of this name is an index of shards."""
    return name.endswith(_SUFFIX) and not name.startswith(".") and "/" not in name


def choose_index(names: Collection[str]) -> str | None:
    """Return the usual index, else the only one. None if there is none, or several with other names."""
    if USUAL_INDEX in names:
        return USUAL_INDEX
    return next(iter(names)) if len(names) == 1 else None


def parse_index(text: bytes) -> frozenset[str]:
    """Return the names of the files in an index.

    Raises:
        ValueError: not an index, or it names files in other folders.
    """
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    tensors = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError("no `weight_map` with tensors in it")
    names = frozenset(tensors.values())
    for name in names:
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{name!r} is not a safetensors file of this folder")
    return names


def compare(index: Collection[str] | None, there: Collection[str]) -> Shards:
    """Compare the files of a folder (`there`) with those of its index; None for no index."""
    if index is None:
        return Shards(sorted(there), [], [])
    missing = sorted(set(index) - set(there))
    if missing:
        # One of the other files may replace a missing one, so leave none out.
        return Shards(sorted(there), missing, [])
    return Shards(sorted(index), [], sorted(set(there) - set(index)))
