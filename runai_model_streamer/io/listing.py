"""What lies in a folder, or under a prefix of keys."""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentTypeError,
    NotDirectoryError,
    NotFoundError,
    ReadError,
    StreamerError,
)


class Entry(NamedTuple):
    """One file or object."""

    path: str
    """Path or URL, as `Storage.open` takes it."""
    name: str
    """From the folder that was listed on, with slashes: `tokenizer/vocab.json`."""
    size: int
    """Bytes."""
    modified_ns: int
    """Nanoseconds since 1970. The same for the same content: of an object, the microseconds stand for its ETag."""


Wanted = Callable[[str], bool]
"""Whether an entry of this name belongs into a listing. The others are not looked at any further."""


class Patterns(NamedTuple):
    """Names chosen as by a shell, where `*` and `?` match slashes too and letters have their case.

    A name is chosen if it matches one of `allow` (or that is None) and none of `ignore`.
    """

    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, allow: Collection[str] | None, ignore: Collection[str] | None) -> "Patterns":
        """From the arguments of a call, where None leaves everything as it is, and nothing is allowed by an empty list.

        Raises:
            ArgumentTypeError: not lists of str.
        """
        return cls(
            None if allow is None else _checked("allow_pattern", allow),
            () if ignore is None else _checked("ignore_pattern", ignore),
        )

    def chooses(self, name: str, before: str = "") -> bool:
        """Whether a file of this name, from the listed folder on, is wanted.

        A pattern may match that name, or the whole one, with `before` in front of it: the original knows only those.
        """

        def matches(pattern: str) -> bool:
            return fnmatchcase(name, pattern) or fnmatchcase(before + name, pattern)

        return (self.allow is None or any(map(matches, self.allow))) and not any(map(matches, self.ignore))


def _checked(argument: str, patterns: Collection[str]) -> tuple[str, ...]:
    # Taken as a list, a str would be patterns of one letter each, and its `*` would match everything.
    if isinstance(patterns, str | bytes) or not isinstance(patterns, Collection):
        raise ArgumentTypeError(f'{argument} is a list of patterns, such as ["*.json"], not {patterns!r}')
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ArgumentTypeError(f"{argument} holds {pattern!r}, which is no str")
    return tuple(patterns)


def list_folder(path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
    """The files in a local folder, sorted by name; links are followed.

    Raises:
        NotFoundError: there is no such folder, or a wanted file is a symbolic link to nothing.
        NotDirectoryError: it is a file.
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
            raise ReadError(f"{folder}: is a symbolic link to a folder that it lies in; remove the link")
        with os.scandir(folder) as found:
            children = list(found)
    except OSError as error:
        if isinstance(error, StreamerError):
            raise
        raise _translated(error, folder) from error
    for child in children:
        # Joined by hand: what the user wrote, with one slash behind it.
        path, name = os.path.join(folder, child.name), prefix + child.name
        if child.is_dir():
            if recursive:
                yield from _walk(path, f"{name}/", wanted, recursive, (*above, identity))
        elif wanted(name):
            try:
                status = os.stat(path)
            except OSError as error:
                raise _translated(error, path) from error
            yield Entry(path, name, status.st_size, status.st_mtime_ns)


def _translated(error: OSError, path: str) -> StreamerError:
    match error.errno:
        case errno.ENOENT if os.path.islink(path):
            return NotFoundError(f"{path}: is a symbolic link to {os.readlink(path)}, which is not there")
        case errno.ENOENT:
            return NotFoundError(f"{path}: no such folder")
        case errno.ENOTDIR:
            return NotDirectoryError(f"{path}: is a file, not a folder; stream_file takes it as it is")
        case errno.EACCES | errno.EPERM:
            return AccessDeniedError(f"{path}: this user may not read it; check its permissions")
        case _:
            return ReadError(f"{path}: cannot be read: {error.strerror or error}")
