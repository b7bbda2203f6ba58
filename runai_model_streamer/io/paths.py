"""From a path or URL to the source behind it."""

import logging
import os
import re
from collections.abc import Iterator
from typing import Protocol, TypeVar

from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from runai_model_streamer.origins import SourceKind

_log = logging.getLogger(__name__)

_T_co = TypeVar("_T_co", covariant=True)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_NOT_YET = {"gs": "Google Cloud Storage", "az": "Azure Blob Storage"}


class Several(Protocol[_T_co]):
    """A list, tuple or set. For type checkers, a `str` is none: it would be a collection of its characters."""

    def __contains__(self, value: object, /) -> bool:
        """Where a str takes only a str."""
        ...

    def __iter__(self) -> Iterator[_T_co]:
        """One after the other."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...


class Ordered(Several[_T_co], Protocol[_T_co]):
    """A list or tuple, and no `str`."""

    def __getitem__(self, index: int, /) -> _T_co:
        """The one at this place."""
        ...


def as_path(path: str | os.PathLike[str]) -> str:
    """`path` as text.

    Raises:
        ArgumentTypeError: neither a str nor an os.PathLike of one.
        ArgumentError: empty, or with characters that no path can have.
        UnsupportedError: a URL of a kind of storage that is not supported.
    """
    text: object = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a path is a str or os.PathLike, not {type(path).__name__}: {path!r}")
    if not text:
        raise ArgumentError("a path is empty", remedy="give a file's path or an s3://bucket/key URL")
    if "\0" in text or not _is_encodable(text):
        raise ArgumentError(f"a path has a character that no path can have: {text!r}")
    if text.startswith("s3:/") and not text.startswith("s3://"):
        raise ArgumentError(
            "a URL has two slashes, s3://bucket/key", where=text, remedy="pathlib drops one, so pass it as a str"
        )
    scheme = _SCHEME.match(text)
    if scheme and scheme[1] != "s3":
        service = _NOT_YET.get(scheme[1].lower())
        what = f"{service} is not supported yet" if service else f"{scheme[1]}:// URLs are not supported"
        raise UnsupportedError(what, where=text, remedy="give a local path or an s3://bucket/key URL")
    return text


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    """`text`, which may have a path in it, as UTF-8 can have it: names of files may be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_object(path: str) -> bool:
    """Whether a path is an object's URL rather than a local file's."""
    return path.startswith("s3://")


def kind_of(path: str) -> SourceKind:
    """What kind of source `Storage.open` gives for a path."""
    return SourceKind.OBJECT if is_object(path) else SourceKind.FILE
