"""Finds the tensors that a request names."""

from collections.abc import Collection, Sequence

from runai_model_streamer.checkpoint.header import Opened
from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
)
from runai_model_streamer.io.paths import Several
from runai_model_streamer.io.secret import without_secrets


def checked_names(names: Several[str] | None) -> frozenset[str] | None:
    """Check the names of a request. None asks for all tensors.

    Raises:
        ArgumentError: the collection is empty.
        ArgumentTypeError: it is not a collection of str.
    """
    if names is None:
        return None
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        raise ArgumentTypeError(f"tensor_names is a list or set of names, not {type(names).__name__}: {names!r}")
    if not names:
        raise ArgumentError("tensor_names is empty", remedy="give the names to read, or None for all tensors", sep=": ")
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"tensor_names holds {name!r}, which is not a str")
    return frozenset(names)


def named(paths: Sequence[str], opened: Sequence[Opened], names: frozenset[str]) -> list[list[TensorInfo]]:
    """Pick the named tensors of each file, in file order.

    Raises:
        ArgumentError: a name is in none of the files, or in several.
    """
    wanted = [[tensor for tensor in header.tensors if tensor.name in names] for _, header in opened]
    places = places_of(paths, wanted)
    unknown = sorted(names - places.keys())
    if unknown:
        only = paths[0] if len(paths) == 1 else None
        place = without_secrets(only) if only else f"any of the {len(paths)} files"
        raise ArgumentError(
            f"tensor_names has names that are not in {place}: {listed(unknown)}",
            where=only,
            tensor=unknown[0],
            lead=None,
        )
    twice = [name for name, found in sorted(places.items()) if len(found) > 1]
    if twice:
        listing = "; ".join(f"{name!r} in {' and '.join(places[name])}" for name in twice[:10])
        raise ArgumentError(f"tensor_names has names that are in more than one file: {listing}", tensor=twice[0])
    return wanted


def places_of(paths: Sequence[str], tensors: Sequence[Sequence[TensorInfo]]) -> dict[str, list[str]]:
    """Return the files that have a tensor of each name, as messages show them, in file order.

    Args:
        paths: the files.
        tensors: of each file.
    """
    places: dict[str, list[str]] = {}
    for path, infos in zip(paths, tensors, strict=True):
        shown = without_secrets(path)
        for info in infos:
            places.setdefault(info.name, []).append(shown)
    return places


def listed(names: Sequence[str]) -> str:
    """Join the first ten names for a message, and count the rest."""
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
