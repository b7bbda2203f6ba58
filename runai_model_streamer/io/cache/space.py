"""Keeps a cache within its size: makes room for an object by removing what was used longest ago.

What is used is never removed. An object that is used counts as if all of it were in the cache, since its users may be
writing. So the cache never exceeds its size, whoever writes to it, and nothing has to be counted while bytes move.
"""

import os
from collections.abc import Collection, Iterable
from typing import Final

from runai_model_streamer.io.cache.files import Found, find_entries, promised, remove_entry
from runai_model_streamer.ranges import PAGE, round_up

FREE: Final = 0.1
"""Part of the file system that is left free by a cache without a size."""


def limit_of(folder: str, size: int | None, entries: Iterable[Found]) -> int:
    """Return how many bytes a cache may have: its size, or else what leaves a part of the file system free."""
    system = os.statvfs(folder)
    free = system.f_bavail * system.f_frsize
    used = sum(each.disk_bytes for each in entries)
    return used + free - int(FREE * system.f_blocks * system.f_frsize) if size is None else min(size, used + free)


def make_room(folder: str, stem: str, wanted: int, size: int | None, kept: Collection[str] = ()) -> int:
    """Return how many bytes an entry may have, at most `wanted`. The caller holds the lock of the folder.

    Args:
        folder: of the cache.
        stem: path of the entry's files, without their ends; it may not be there yet.
        wanted: bytes of its object.
        size: bytes of the cache; None for what `limit_of` allows.
        kept: beginnings of the names of entries that are not removed: the load will use them.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = find_entries(folder)
    limit = limit_of(folder, size, entries)
    wanted_pages = round_up(wanted, PAGE)
    others = [each for each in entries if each.stem != stem]
    if sum(max(round_up(each.size, PAGE), each.disk_bytes) for each in others) + wanted_pages <= limit:
        return wanted
    taken = {each.stem: _taken(each) for each in others}
    total = sum(taken.values())
    for each in reversed(others):
        if total + wanted_pages <= limit:
            break
        if not os.path.basename(each.stem).startswith(tuple(kept)) and remove_entry(each.stem) is not None:
            total -= taken[each.stem]
    return wanted if total + wanted_pages <= limit else max(min(wanted, limit - total), 0)


def shrink(folder: str, limit: int, before_ns: int | None = None) -> list[Found]:
    """Remove what is not used, in the order of its last use, until the cache has at most `limit` bytes.

    Args:
        folder: of the cache.
        limit: in bytes.
        before_ns: what was used last before this time goes in any case; nanoseconds since 1970.

    Returns:
        What was removed.

    Raises:
        OSError: files cannot be removed.
    """
    entries = find_entries(folder)
    total = sum(each.disk_bytes for each in entries)
    removed = []
    for each in reversed(entries):
        if (total > limit or (before_ns is not None and each.used_ns < before_ns)) and (
            remove_entry(each.stem) is not None
        ):
            total -= each.disk_bytes
            removed.append(each)
    return removed


def _taken(entry: Found) -> int:
    held = promised(entry.stem)
    return entry.disk_bytes if held is None else max(round_up(held, PAGE), entry.disk_bytes)
