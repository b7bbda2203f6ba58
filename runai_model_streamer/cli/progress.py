"""A bar on stderr, while bytes move: where that is a terminal and rich is installed; else nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from runai_model_streamer.cli.output import shown, terminal

Advance: TypeAlias = Callable[[int], None]
"""Told how many bytes more have arrived; from any thread."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar for `total` bytes, gone when it closes."""
    console = terminal(sys.stderr)
    if console is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column
    from rich.text import Text

    # A path's end tells more than its beginning.
    width = max(console.width - 60, 12)
    name = shown(title)
    name = name if len(name) <= width else f"...{name[3 - width :]}"
    columns = (
        TextColumn("{task.fields[name]}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=total, name=Text(name).plain)
        yield lambda count: bar.update(task, advance=count)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, gone when it closes."""
    console = terminal(sys.stderr)
    if console is None:
        yield lambda _: None
        return
    from rich.text import Text

    with console.status("") as line:
        yield lambda text: line.update(Text(shown(text)))
