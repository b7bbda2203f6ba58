"""What lies in a folder, or under a prefix of keys."""

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import NamedTuple

from runai_model_streamer.errors import (
    ArgumentTypeError,
)
from runai_model_streamer.io.paths import Several


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
    def of(cls, allow: Several[str] | None, ignore: Several[str] | None) -> "Patterns":
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
