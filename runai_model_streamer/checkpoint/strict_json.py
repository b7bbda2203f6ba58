"""Parses a header's JSON strictly: an object that every parser reads alike, or an error.

orjson is fast but lenient: of two equal keys it keeps the last. `count_strings` shows whether that happened.
"""

import json
import re
import sys
from reprlib import Repr
from typing import Any, Final

import numpy as np
import orjson

from runai_model_streamer.errors import HeaderError

AGAIN: Final = "the file is damaged, or its writer broke the format: download it again, or write it again"

_MAX_NESTING: Final = 127  # the limit of safetensors' own parser

_REPR: Final = Repr()
_REPR.maxstring, _REPR.maxlist, _REPR.maxdict = 96, 8, 4
short: Final = _REPR.repr
"""A `repr` of bounded length: a name or value of a hostile header may be megabytes long."""


def parse(path: str, raw: bytearray) -> dict[str, Any]:
    """Parse the object in `raw`. Of a key that occurs twice, the last value is kept.

    Raises:
        HeaderError: `raw` is not UTF-8, not JSON, or does not start with an object.
    """
    if raw[0] != ord("{"):
        what = f"starts with {bytes(raw[:16])!r}" if any(raw) else "is all zeros, as an unfinished download leaves it"
        raise HeaderError(
            f"is not a safetensors file, or damaged: its header {what}, and should start with '{{'",
            where=path,
            remedy="download or copy it again",
            lead=" ",
        )
    parsed: dict[str, Any]
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError as fault:
            raise HeaderError(
                f"the header is not UTF-8: byte {raw[fault.start]:#04x} at {fault.start}", where=path, remedy=AGAIN
            ) from None
        raise HeaderError(f"the header is not JSON: {error}", where=path, remedy=AGAIN) from None
    # orjson reads -0 as the integer 0. The format's own reader, like Python's, takes it for a float.
    if b"-" in raw and re.search(rb"[\[,\s]-0", raw):
        parsed = parse_every_key(path, raw)
    return parsed


def parse_every_key(path: str, raw: bytearray) -> dict[str, Any]:
    """Parse the object in `raw` with Python's own parser, which shows every key. Slow.

    `parse` has found that `raw` is JSON.

    Raises:
        HeaderError: a key occurs twice in one object, or the nesting is too deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise HeaderError(f"the header has the key {short(key)} twice in one object", where=path, remedy=AGAIN)
            found[key] = value
        return found

    def number(text: str) -> float:
        return -0.0 if text == "-0" else int(text)  # at most 309 digits: orjson refuses more than a double can hold

    depth = 0
    parsed: dict[str, Any] = {}
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=unique, parse_int=number)
    except RecursionError:
        depth = sys.maxsize
    else:
        level: list[Any] = [parsed]
        while level:
            level = [
                below
                for node in level
                for below in (node.values() if isinstance(node, dict) else node)
                if isinstance(below, dict | list)
            ]
            depth += 1
    if depth > _MAX_NESTING:
        raise HeaderError(f"the header is nested more than {_MAX_NESTING} levels deep", where=path, remedy=AGAIN)
    return parsed


def count_strings(raw: bytearray) -> int:
    """Count the strings in the JSON in `raw`, keys included."""
    quotes = np.count_nonzero(np.frombuffer(raw, np.uint8) == ord('"'))  # bytes.count takes three times as long
    if b"\\" in raw:
        quotes -= raw.replace(rb"\\", b"").count(rb"\"")  # escaped quotes inside strings
    return int(quotes) // 2
