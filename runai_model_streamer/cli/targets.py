"""Which safetensors files PATH means."""

import os
from collections.abc import Iterable

from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.files import list_safetensors, open_storage
from runai_model_streamer.io.paths import as_path, is_object

_SUFFIX = ".safetensors"


def find_files(paths: Iterable[str]) -> list[str]:
    """The files themselves, and of folders and prefixes the safetensors files in them (not in folders below).

    Raises:
        NotFoundError: there is no such folder, or no safetensors file in it.
        StreamerError: what `list_safetensors` says.
    """
    return [file for path in paths for file in _files_of(as_path(path))]


def _files_of(path: str) -> list[str]:
    if not is_object(path):
        if not os.path.isdir(path):
            return [path]
    elif path.endswith(_SUFFIX):
        return [path]
    try:
        found = list_safetensors(path)
    except NotFoundError:
        if is_object(path) and not path.endswith("/") and _is_there(path):
            return [path]
        raise
    if not found:
        raise NotFoundError("has no safetensors file (folders below it are not looked into)", where=path)
    return found


def _is_there(url: str) -> bool:
    """Whether there is an object of this name, whatever it holds."""
    _, _, key = url.removeprefix("s3://").partition("/")
    if not key:
        return False
    with open_storage(None) as (storage, _):
        try:
            storage.open(url).close()
        except NotFoundError:
            return False
    return True
