"""Prints the command's output: lines, tables and JSON to stdout; errors and progress to stderr.

Without rich, or if stdout is not a terminal, tables are plain text: no colours, no control characters, nothing cut off.
In a terminal with rich they have colours, and fold long names within their column; errors fold between words.
"""

import io
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.secret import without_queries

if TYPE_CHECKING:
    from rich.console import Console

_GAP: Final = "  "
_MAX_COLOURED: Final = 2000
"""The most rows to print with rich, which takes a second for every few thousand."""

_STYLES: Final[Mapping[str, str]] = {
    "ok": "green",
    "warning": "yellow",
    "error": "bold red",
    "FAILED": "bold red",
    "set now": "cyan",
    "best": "bold green",
    "set now, best": "bold green",
}
"""Styles of words in tables."""


_options: Final[dict[str, str]] = {}
"""Options of this call, by the variables that they set; see `named_by`."""


class Column(NamedTuple):
    """A column of a table. Long names and sentences go in the last one, where they need no padding."""

    title: str
    right: bool = False


def prepare_stdout() -> None:
    """Print characters that the terminal's encoding lacks as escapes, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(text: str) -> str:
    """Return `text` with control characters escaped, and without the queries of web URLs, which may sign them.

    Names come from files, and could control the terminal. Variables that an option has set are named by the option.
    """
    text = without_queries(text)
    for variable, option in _options.items():
        text = text.replace(variable, option)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@contextmanager
def named_by(options: Mapping[str, str]) -> Iterator[None]:
    """Print the names of options in place of the variables that they have set, while the context is open."""
    _options.update(options)
    try:
        yield
    finally:
        _options.clear()


def folded(text: str, width: int) -> str:
    """Return a line folded between words. What follows a first column, such as `error: `, stays in its place."""
    first = re.match(r" *\S+: |\s*\S+ {2,}|\s*", text)
    indent = " " * (first.end() if first and first.end() < width // 2 else 0)
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def counted(count: int, thing: str) -> str:
    """Return a count with its noun: `1 file`, `2 files`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def write_json(document: Mapping[str, Any]) -> None:
    """Print the document of a call with --json."""
    # ASCII, since file names may not be valid Unicode.
    sys.stdout.write(without_queries(json.dumps(document, indent=2)) + "\n")


def described(error: StreamerError) -> dict[str, Any]:
    """Return an error for JSON: the whole message, and each of its parts, or null."""
    path, span = error.where or (None, None)
    return {
        "type": type(error).__name__,
        "message": str(error),
        "problem": error.problem,
        "path": path,
        "bytes": span and list(span),
        "tensor": error.tensor,
        "remedy": error.remedy or None,
    }


def write_line(text: str = "") -> None:
    """Print a line to stdout."""
    sys.stdout.write(shown(text) + "\n")


def write_error(text: str) -> None:
    """Print an error to stderr."""
    write_message("error", text)


def write_message(level: str, text: str) -> None:
    """Print an error or a warning to stderr."""
    text = f"{level}: {shown(text)}"
    console = terminal(sys.stderr)
    sys.stderr.write((text if console is None else folded(text, console.width)) + "\n")


def write_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with columns as wide as needed."""
    cells = [[shown(cell) for cell in row] for row in rows]
    console = terminal(sys.stdout)
    if console is None or len(cells) > _MAX_COLOURED:
        sys.stdout.write(_plain(columns, cells))
    else:
        _print_rich(console, columns, cells)


def write_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair on each line."""
    write_table((Column(""), Column("")), pairs)


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    lines = [*([[column.title.upper() for column in columns]] if _has_titles(columns) else []), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = ""
    for line in lines:
        padded = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, width, cell in zip(columns, widths, line, strict=True)
        ]
        text += _GAP.join(padded).rstrip() + "\n"
    return text


def _has_titles(columns: Sequence[Column]) -> bool:
    return any(column.title for column in columns)


def _print_rich(console: "Console", columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, len(_GAP), 0, 0),
        header_style="bold",
        show_header=_has_titles(columns),
    )
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(
            Text(column.title.upper()),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not last,
        )
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def terminal(stream: TextIO) -> "Console | None":
    """Return a rich console for the stream, or None if it is not a terminal or rich is not installed."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console
