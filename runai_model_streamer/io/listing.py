"""Entries of a folder or key prefix, and patterns that choose among them."""

import hashlib
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from runai_model_streamer.errors import (
    ArgumentTypeError,
)
from runai_model_streamer.io.paths import Several


class Entry(NamedTuple):
    """One file or object."""

    path: str
    """Path or URL, as `Storage.open` takes it."""
    name: str
    """Path below the listed folder, with slashes: `tokenizer/vocab.json`."""
    size: int
    """Size in bytes."""
    modified_ns: int
    """Nanoseconds since 1970, the same for the same content. An object's microseconds come from its ETag."""


_SECOND: Final = 10**9
_MICROSECOND: Final = 1000


def modified_ns(seconds: int, etag: str) -> int:
    """Return an object's `Entry.modified_ns`.

    Stores give whole seconds, and an object can be written twice in one. So the microseconds, which nearly all file
    systems keep, come from the ETag.
    """
    digest = hashlib.sha256(etag.encode()).digest()
    return seconds * _SECOND + int.from_bytes(digest[:8]) % (_SECOND // _MICROSECOND) * _MICROSECOND


Wanted = Callable[[str], bool]
"""Returns whether an entry of this name belongs in a listing. Others are not examined further."""


class Patterns(NamedTuple):
    """Shell-style patterns that choose names. `*` and `?` match slashes too, and case matters.

    A name is chosen if it matches one of `allow` (or that is None) and none of `ignore`.
    """

    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, allow: Several[str] | None, ignore: Several[str] | None) -> "Patterns":
        """Return the patterns for a call's arguments. None means no restriction; an empty `allow` chooses nothing.

        Raises:
            ArgumentTypeError: an argument is not a list of str.
        """
        return cls(
            None if allow is None else _checked("allow_pattern", allow),
            () if ignore is None else _checked("ignore_pattern", ignore),
        )

    def chooses(self, name: str, before: str = "") -> bool:
        """Return whether the patterns choose a file of this name below the listed folder.

        A pattern may match that name, or the full name with `before` in front. The original matches only full names.
        """

        def matches(pattern: str) -> bool:
            return fnmatchcase(name, pattern) or fnmatchcase(before + name, pattern)

        return (self.allow is None or any(map(matches, self.allow))) and not any(map(matches, self.ignore))


def _checked(argument: str, patterns: Collection[str]) -> tuple[str, ...]:
    # A str would count as patterns of one letter each, and a `*` in it would match everything.
    if isinstance(patterns, str | bytes) or not isinstance(patterns, Collection):
        raise ArgumentTypeError(f'{argument} is a list of patterns, such as ["*.json"], not {patterns!r}')
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ArgumentTypeError(f"{argument} holds {pattern!r}, which is not a str")
    return tuple(patterns)
