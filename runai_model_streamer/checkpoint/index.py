"""The index of a checkpoint in shards: which files it has, as transformers and its kin write it."""

from collections.abc import Collection
from typing import Final, NamedTuple

import orjson

_SUFFIX: Final = ".safetensors.index.json"
_USUAL: Final = f"model{_SUFFIX}"


class Shards(NamedTuple):
    """A folder's safetensors files, held against its index."""

    files: list[str]
    """Names of the files to load, sorted."""
    missing: list[str]
    """Named by the index, and not there."""
    left_out: list[str]
    """There, and not named by an index whose files are all there: the same tensors once more, most often."""


def is_index(name: str) -> bool:
    """Whether a file of this name says which shards a checkpoint has."""
    return name.endswith(_SUFFIX) and not name.startswith(".") and "/" not in name


def choose_index(names: Collection[str]) -> str | None:
    """The usual index, or the only one; None if there is none, or several and none is the usual one."""
    if _USUAL in names:
        return _USUAL
    return next(iter(names)) if len(names) == 1 else None


def parse_index(text: bytes) -> frozenset[str]:
    """The names of the files that an index has tensors in.

    Raises:
        ValueError: it is no index, or names files in other folders, of which nothing is known.
    """
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error})") from error
    tensors = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError("no `weight_map` with tensors in it")
    names = frozenset(tensors.values())
    for name in names:
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{name!r} is no safetensors file of this folder")
    return names


def compare(index: Collection[str] | None, there: Collection[str]) -> Shards:
    """The files that are there, and those that should be. None: there is no index."""
    if index is None:
        return Shards(sorted(there), [], [])
    missing = sorted(set(index) - set(there))
    if missing:
        # Which of the others take their place cannot be told.
        return Shards(sorted(there), missing, [])
    return Shards(sorted(index), [], sorted(set(there) - set(index)))
