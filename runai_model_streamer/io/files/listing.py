"""Lists local folders."""

import os
from collections.abc import Iterator

from runai_model_streamer.errors import ReadError, StreamerError
from runai_model_streamer.io.files.failures import translated
from runai_model_streamer.io.listing import Entry, Wanted


def list_folder(path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
    """Return the files in a local folder, sorted by name. Links are followed.

    Raises:
        NotFoundError: the folder does not exist, or a wanted file is a dangling symbolic link.
        NotDirectoryError: the path is a file.
        AccessDeniedError, ReadError: a folder cannot be read.
    """
    return sorted(_walk(path, "", wanted, recursive, ()), key=lambda entry: entry.name)


def _walk(
    folder: str, prefix: str, wanted: Wanted, recursive: bool, above: tuple[tuple[int, int], ...]
) -> Iterator[Entry]:
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise ReadError("is a symbolic link to a folder that it lies in", where=folder, remedy="remove the link")
        with os.scandir(folder) as found:
            children = list(found)
    except OSError as error:
        if isinstance(error, StreamerError):
            raise
        raise translated(error, folder, kind="folder") from error
    for child in children:
        # Join the name to the path as the user wrote it.
        path, name = os.path.join(folder, child.name), prefix + child.name
        if child.is_dir():
            if recursive:
                yield from _walk(path, f"{name}/", wanted, recursive, (*above, identity))
        elif wanted(name):
            try:
                status = os.stat(path)
            except OSError as error:
                raise translated(error, path) from error
            yield Entry(path, name, status.st_size, status.st_mtime_ns)
