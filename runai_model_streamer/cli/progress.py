"""A progress bar on stderr, if that is a terminal and rich is installed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from runai_model_streamer.cli.output import shown, terminal

Advance: TypeAlias = Callable[[int], None]
"""Advances the bar by a number of bytes. Any thread may call it."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show a bar for `total` bytes, and remove it at the end of the context."""
    console = terminal(sys.stderr)
    if console is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column
    from rich.text import Text

    # The end of a path says more than its beginning.
    width = max(console.width - 60, 12)
    name = shown(title)
    name = name if len(name) <= width else f"...{name[3 - width :]}"
    columns = (
        TextColumn("{task.fields[name]}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=total, name=Text(name).plain)
        yield lambda count: bar.update(task, advance=count)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Show a line with the current activity, and remove it at the end of the context."""
    console = terminal(sys.stderr)
    if console is None:
        yield lambda _: None
        return
    from rich.text import Text

    with console.status("") as line:
        yield lambda text: line.update(Text(shown(text)))
