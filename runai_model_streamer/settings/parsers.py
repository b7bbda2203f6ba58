"""Parsers for the values of environment variables."""

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final, NamedTuple

from runai_model_streamer.io.secret import Secret

_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_LONGEST_WAIT: Final = 86400
"""Seconds: a day."""
_MIN_BANDWIDTH: Final = 64 << 10
"""Bytes per second. A smaller number most likely means megabytes."""

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B?)|B)?", re.IGNORECASE)
_SLURM_TASKS: Final = re.compile(r"(\d+)(?:\(x\d+\))?")
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_TOKEN: Final = re.compile(r"[!-~]+")
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")


class Parser(NamedTuple):
    """Parses the text of a variable, and describes valid texts."""

    read: Callable[[str], object]
    """Parses a text that is not empty. Raises ValueError if it is invalid."""
    expected: str
    """For an error message; follows "set it to"."""
    kind: str
    """For the documentation."""
    maximum: int | None = None
    """A larger number counts as this one, with a warning in the log."""


def parse_size(text: str) -> int:
    """Parse a size in bytes: `4194304`, `4096KiB`, `4Mi`, `4M` (powers of 1024) or `4MB` (powers of 1000).

    Raises:
        ValueError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number, unit, suffix = match.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    count = Fraction(number) * base ** (" KMGT".index(unit.upper()) if unit else 0)
    if not unit and count.denominator > 1:
        raise ValueError(text)
    return int(count)


def size(minimum: int) -> Parser:
    """Accept a number of bytes, at least `minimum`."""

    def read(text: str) -> int:
        return _at_least(minimum, parse_size(text))

    expected = f"a number of bytes, or a size such as 16MiB, 16Mi or 16MB, at least {minimum}"
    return Parser(read, expected, "size")


def memory_limit() -> Parser:
    """Accept a number of bytes, 0 or -1."""

    def read(text: str) -> int:
        return -1 if text == "-1" else parse_size(text)

    expected = "a number of bytes, or a size such as 4GiB, 4Gi or 4GB; to 0 for the least, or to -1 for no limit"
    return Parser(read, expected, "size, 0 or -1")


def bandwidth() -> Parser:
    """Accept a number of bytes per second. 0 means no bound, and gives None."""

    def read(text: str) -> int | None:
        value = parse_size(text)
        return _at_least(_MIN_BANDWIDTH, value) if value else None

    expected = f"a number of bytes per second, or a size such as 500MB, at least {_MIN_BANDWIDTH}, or to 0 for no bound"
    return Parser(read, expected, f"size per second, at least {_MIN_BANDWIDTH}")


def whole(minimum: int, maximum: int | None = None) -> Parser:
    """Accept a whole number, at least `minimum`. One above `maximum` counts as `maximum`."""

    def read(text: str) -> int:
        value = _at_least(minimum, int(text))
        return value if maximum is None else min(value, maximum)

    kind = f"number, at least {minimum}" if maximum is None else f"number, {minimum} to {maximum}"
    return Parser(read, f"a whole number, at least {minimum}", kind, maximum)


def slurm_tasks() -> Parser:
    """Accept the tasks of each node, as Slurm writes them: `8`, `8(x2)`, `8(x2),4`. The largest number counts."""

    def read(text: str) -> int | None:
        counts = [_SLURM_TASKS.fullmatch(each) for each in text.split(",")]
        # Ignore an invalid value: Slurm sets it, so the user could not correct it.
        return max(int(each[1]) for each in counts if each) if all(counts) else None

    return Parser(read, "what Slurm sets", "numbers, as in `8(x2),4`")


def seconds() -> Parser:
    """Accept a number of seconds."""

    def read(text: str) -> float:
        value = float(text)
        if not 0 < value <= _LONGEST_WAIT:
            raise ValueError(text)
        return value

    bounds = f"above 0, at most {_LONGEST_WAIT}"
    return Parser(read, f"a number of seconds {bounds}", f"seconds, {bounds}")


def flag() -> Parser:
    """Accept 0 or 1, and the usual words for them."""

    def read(text: str) -> bool:
        value = _FLAGS.get(text.lower())
        if value is None:
            raise ValueError(text)
        return value

    return Parser(read, "0 or 1", "flag")


def choice(*values: str) -> Parser:
    """Accept one of these words, in upper or lower case."""

    def read(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(text)
        return text.lower()

    expected = f"{', '.join(values[:-1])} or {values[-1]}"
    return Parser(read, expected, ", ".join(f"`{value}`" for value in values))


def former(value: str) -> Parser:
    """Accept this value of an original streamer's setting, and ignore any other."""
    return Parser(lambda text: value if text == value else None, value, f"`{value}`")


def log_level() -> Parser:
    """Accept the name of a level of `logging`, in upper or lower case."""

    def read(text: str) -> str:
        if text.upper() not in logging.getLevelNamesMapping():
            raise ValueError(text)
        return text.upper()

    names = ("DEBUG", "INFO", "WARNING", "ERROR")
    return Parser(read, f"{', '.join(names[:-1])} or {names[-1]}", ", ".join(f"`{name}`" for name in names))


def trace() -> Parser:
    """Accept a file's path, with placeholders for process and rank."""

    def read(text: str) -> str:
        unknown = set(_PLACEHOLDER.findall(text)) - {"{pid}", "{rank}"}
        if unknown or text.endswith("/") or "\0" in text:
            raise ValueError(text)
        return text

    expected = "a file's path; {pid} and {rank} in it are replaced by the process id and the rank"
    return Parser(read, expected, "a file's path")


def tokens() -> Parser:
    """Secrets by host: HOST=TOKEN, or HOST:PORT=TOKEN, with commas between several."""

    def read(text: str) -> tuple[tuple[str, Secret], ...]:
        found = _parse(text)
        if found is None:
            raise ValueError
        return found

    return Parser(read, "HOST=TOKEN, such as models.example.com=TOKEN", "`HOST=TOKEN`, with commas between several")


def _parse(text: str) -> tuple[tuple[str, Secret], ...] | None:
    """Hosts and tokens; None for what has another form. Raises nothing: tokens would be shown with the traceback."""
    parts = [(host.strip(), token.strip()) for host, _, token in (each.partition("=") for each in text.split(","))]
    if not all(_HOST.fullmatch(host) and _TOKEN.fullmatch(token) for host, token in parts):
        return None
    return tuple((host.lower(), Secret(token)) for host, token in parts)


def text(kind: str) -> Parser:
    """Accept any text."""
    return Parser(lambda given: given, kind, kind)


def _at_least(minimum: int, value: int) -> int:
    if value < minimum:
        raise ValueError(value)
    return value
