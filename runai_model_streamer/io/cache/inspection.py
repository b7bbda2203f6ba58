"""What is in a cache, for people: lists it, and compares all of it with its checksums."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from runai_model_streamer.config import DirectIO
from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.io.cache.entry import Compute
from runai_model_streamer.io.cache.extents import Piece
from runai_model_streamer.io.cache.files import Found, describe_entry, find_entries, open_entry, promised
from runai_model_streamer.io.cache.journal import About, boot_id
from runai_model_streamer.io.cache.names import FOLDER
from runai_model_streamer.io.cache.space import shrink


class Kept(NamedTuple):
    """One version of an object in a cache."""

    found: Found
    about: About
    held_bytes: int
    """Bytes of the object that are there."""
    used: bool
    """Whether a load uses it now."""


class Compared(NamedTuple):
    """What came of comparing one version of an object."""

    about: About
    bytes: int
    """Bytes compared."""
    damaged: tuple[Piece, ...]
    """Pieces that did not have their checksum. They are no longer in the cache."""


def folder_of(user_folder: str) -> str | None:
    """Return the folder of a cache's own in the user's one; None if it has not been used yet.

    Raises:
        NotFoundError: the user's folder is not there.
    """
    if not os.path.isdir(user_folder):
        raise NotFoundError("no such folder", where=user_folder)
    folder = f"{user_folder}/{FOLDER}"
    return folder if os.path.isdir(folder) else None


def list_cache(user_folder: str) -> Iterator[Kept]:
    """Yield what is in a cache, the object that was used last first.

    Raises:
        NotFoundError: the folder is not there.
        OSError: it cannot be read.
    """
    folder = folder_of(user_folder)
    for found in find_entries(folder) if folder else ():
        described = describe_entry(found.stem)
        if described is not None:
            yield Kept(found, *described, promised(found.stem) is not None)


def verify_cache(user_folder: str, compute: Compute, compared: Callable[[int], None]) -> Iterator[Compared]:
    """Read all that is in a cache, and compare it with its checksums. Yield each version of an object.

    Damaged pieces are removed, so that the next load fetches them. What is right need not be compared again in this
    boot.

    Args:
        user_folder: the user's folder.
        compute: computes checksums.
        compared: called with the number of bytes of each piece.

    Raises:
        NotFoundError: the folder is not there.
        OSError: it cannot be read.
    """
    folder = folder_of(user_folder)
    for found in find_entries(folder) if folder else ():
        entry = open_entry(found.stem, None, DirectIO.NEVER, compute, boot_id())
        if entry is None:
            continue
        try:
            entry.doubt_all()
            damaged = []
            for piece in entry.pieces():
                view = memoryview(bytearray(piece.end - piece.start))
                entry.read(piece.start, view)
                os.posix_fadvise(entry.fd, piece.start, len(view), os.POSIX_FADV_DONTNEED)
                if not entry.compare(piece, view):
                    damaged.append(piece)
                compared(len(view))
            total = entry.bytes + sum(piece.end - piece.start for piece in damaged)
            yield Compared(entry.about, total, tuple(damaged))
        finally:
            entry.close()


def prune_cache(user_folder: str, limit: int, before_ns: int | None) -> list[Found]:
    """Remove what was used longest ago, and is not used now; see `space.shrink`.

    Raises:
        NotFoundError: the folder is not there.
        OSError: files cannot be removed.
    """
    folder = folder_of(user_folder)
    return shrink(folder, limit, before_ns) if folder else []
