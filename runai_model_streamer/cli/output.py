"""What the command prints: lines, tables and JSON to stdout; errors, and what is passing, to stderr.

Without rich, and wherever stdout is no terminal, tables are plain text: no colour, no control character, nothing cut
off. In a terminal with rich they have colours, and fold long names in the column that they stand in.
"""

import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.logs import size_text

if TYPE_CHECKING:
    from rich.console import Console

_GAP: Final = "  "
_MAX_COLOURED: Final = 2000
"""Rows; rich takes a second for every few thousand."""

_STYLES: Final[Mapping[str, str]] = {
    "ok": "green",
    "warning": "yellow",
    "error": "bold red",
    "FAILED": "bold red",
    "set now": "cyan",
    "best": "bold green",
    "set now, best": "bold green",
}
"""Words of a table that have a colour of their own."""


class Column(NamedTuple):
    """A column of a table. The last one is the place for names and sentences: nothing is aligned behind it."""

    title: str
    right: bool = False


def prepare_stdout() -> None:
    """What the terminal's encoding has no character for is written as an escape, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(text: str) -> str:
    """`text` without what would move a terminal's cursor or change its colours: names come from files."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def size(count: float) -> str:
    """Bytes as people read them."""
    return size_text(count)


def rate(count: float, seconds: float) -> str:
    """Bytes per second as people read them, in powers of 1000, as the library's report has them."""
    per_second = count / seconds if seconds > 0 else 0.0
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if per_second >= scale:
            return f"{per_second / scale:.3g} {unit}/s"
    return f"{per_second / 1e3:.3g} kB/s"


def counted(count: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def write_json(document: Mapping[str, Any]) -> None:
    """The one document of a call with --json."""
    # ASCII: names of files may be no Unicode at all.
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def described(error: StreamerError) -> dict[str, Any]:
    """An error as JSON has it: the whole message, and each of its parts, null where there is none."""
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
    """A line to stdout."""
    sys.stdout.write(shown(text) + "\n")


def write_error(text: str) -> None:
    """A line to stderr."""
    sys.stderr.write(f"error: {shown(text)}\n")


def write_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table, its columns as wide as they need to be."""
    cells = [[shown(cell) for cell in row] for row in rows]
    console = terminal(sys.stdout)
    if console is None or len(cells) > _MAX_COLOURED:
        sys.stdout.write(_plain(columns, cells))
    else:
        _print_rich(console, columns, cells)


def write_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """What things are, each on its line behind its name."""
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
    """The console of rich on this stream, if that is a terminal and rich is installed."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console
