"""Finds the safetensors files that PATH means."""

import logging
import os
from collections.abc import Iterable
from typing import NamedTuple

from runai_model_streamer.checkpoint.index import is_index
from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.files import find_model, open_storage
from runai_model_streamer.io.paths import as_path, divide, is_object, is_pattern

_log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"


class Targets(NamedTuple):
    """The files that the arguments PATH... mean."""

    files: list[str]
    missing: list[NotFoundError]
    """An error for each shard that an index names and that does not exist."""


def find_files(paths: Iterable[str]) -> list[str]:
    """Return the given files, and those that folders, prefixes, indices and patterns mean, without subfolders.

    Warnings in the log name shards of an index that are missing, and files that the index does not name.

    Raises:
        NotFoundError: a folder does not exist, or has no safetensors file.
        StreamerError: the errors of `list_safetensors`.
    """
    targets = find_targets(paths)
    for each in targets.missing:
        _log.warning("%s", each)
    return targets.files


def find_targets(paths: Iterable[str]) -> Targets:
    """Find files like `find_files`, but with an error for each missing shard instead of a warning."""
    targets = Targets([], [])
    for path in map(as_path, paths):
        files, missing = _targets_of(path)
        targets.files.extend(files)
        targets.missing.extend(missing)
    return targets


def _targets_of(path: str) -> Targets:
    folder, name = divide(path)
    if not is_index(name):
        folder = path
        if is_pattern(path):
            return Targets(find_model(path).files, [])
        if name.endswith(_SUFFIX) if is_object(path) else not os.path.isdir(path):
            return Targets([path], [])
    try:
        model = find_model(path)
    except NotFoundError:
        if is_object(path) and not path.endswith("/") and _is_there(path):
            return Targets([path], [])
        raise
    if model.left_out:
        _log.warning("%s: %s", folder, model.left_out_text)
    if not model.files:
        raise NotFoundError("has no safetensors file (folders below it are not looked into)", where=folder)
    missing = [
        NotFoundError(f"is not there, and {model.named_by} names it", where=f"{folder.rstrip('/')}/{name}")
        for name in model.missing
    ]
    return Targets(model.files, missing)


def _is_there(url: str) -> bool:
    """Return whether an object of this name exists, with any content."""
    with open_storage(None) as (storage, _):
        try:
            if not storage.key_of(url):
                return False
            storage.open(url).close()
        except NotFoundError:
            return False
    return True
