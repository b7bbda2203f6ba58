"""A progress bar on stderr, if that is a terminal and rich is installed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from runai_model_streamer.cli.output import shown, terminal
from runai_model_streamer.report.progress import amount_text

Advance: TypeAlias = Callable[[int], None]
"""Advances the bar by a number of bytes. Any thread may call it."""

_FIGURES: Final = 58
"""Columns of a bar's figures, with a bar of 14."""


@contextmanager
def progress(verb: str, path: str, total: int) -> Iterator[Advance]:
    """Show a bar for `total` bytes of a path, with the figures of a load's bar. Remove it at the end of the context."""
    console = terminal(sys.stderr)
    if console is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not task.completed:
                return Text("waiting for the first bytes")
            return Text(f"{task.percentage:3.0f}% {amount_text(int(task.completed), total, task.elapsed or 0.0)}")

    # The end of a path says more than its beginning.
    width = max(console.width - _FIGURES - len(verb), 12)
    name = shown(path)
    name = name if len(name) <= width else f"...{name[3 - width :]}"
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        Figures(table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(f"{verb} {name}", total=total)
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
