"""Shows a load's progress: by a callback, or as a bar in a terminal or a notebook."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from runai_model_streamer.errors import ArgumentTypeError
from runai_model_streamer.settings.units import rate_text

_REDRAW: Final = 0.1
"""The least seconds between two updates of a bar. An update takes 1 to 2 ms."""

_UNKNOWN: Final = 100 * 3600
"""A bar shows no time left that is as long as this, in seconds."""

_WAITING: Final = "waiting for the first tensors"
"""A bar's text until they are there."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of a load that the caller has received so far, counted by group."""

    bytes: int
    """Bytes of tensors, as stored in the files."""
    total_bytes: int
    tensors: int
    """Tensors; for `FileStreamer`, ranges."""
    total_tensors: int
    seconds: float
    """Seconds since the call that started the load."""

    @property
    def gb_per_second(self) -> float:
        """Average speed since the start of the load, in 10**9 bytes per second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


Watch: TypeAlias = bool | Callable[[Progress], object]
"""True for a bar, False for nothing, or a function to call."""


class Display(Protocol):
    """Shows progress."""

    def start(self) -> None:
        """Start, when the caller begins to take tensors."""
        ...

    def show(self, progress: Progress) -> None:
        """Show the progress, after each group and at the end."""
        ...

    def stop(self) -> None:
        """Stop, however the load ended. Idempotent."""
        ...


class _Callback:
    """Calls the caller's function."""

    def __init__(self, call: Callable[[Progress], object]) -> None:
        self._call = call

    def start(self) -> None:
        pass

    def show(self, progress: Progress) -> None:
        self._call(progress)

    def stop(self) -> None:
        pass


class _Bar:
    """A bar that updates at most ten times a second, and whose failures never end a load."""

    def __init__(self) -> None:
        self._drawn = -_REDRAW
        self._open = False

    def start(self) -> None:
        with contextlib.suppress(OSError):
            self._begin()
            self._open = True

    def show(self, progress: Progress) -> None:
        done = progress.tensors == progress.total_tensors
        if self._open and (done or progress.seconds - self._drawn >= _REDRAW):
            self._drawn = progress.seconds
            with contextlib.suppress(OSError):  # the terminal is gone
                self._draw(progress)

    def stop(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):
                self._end()

    def _begin(self) -> None:
        raise NotImplementedError

    def _draw(self, progress: Progress) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


class _TerminalBar(_Bar):
    """A bar on stderr, drawn by rich. Other output appears above it.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Live

        columns = (TextColumn("Loading"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"))
        # rich must not redirect a stdout that goes to a file or a pipe.
        redirect = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live(
            *columns, console=Console(stderr=True), auto_refresh=False, expand=True, redirect_stdout=redirect
        )
        self._task = self._live.add_task("", total=1.0, text=_WAITING)

    def _begin(self) -> None:
        self._live.start()

    def _draw(self, progress: Progress) -> None:
        self._live.update(self._task, completed=_fraction(progress), text=summary(progress), refresh=True)

    def _end(self) -> None:
        self._live.stop()


class _TerminalText(_Bar):
    """A line of text on stderr that overwrites itself. Other output continues behind it."""

    def _begin(self) -> None:
        pass

    def _draw(self, progress: Progress) -> None:
        _to_stderr(f"\rLoading {summary(progress)}")

    def _end(self) -> None:
        if self._drawn >= 0.0:
            _to_stderr("\n")


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(ValueError):  # stderr is closed
            sys.stderr.write(text)
            sys.stderr.flush()


class _NotebookBar(_Bar):
    """An HTML element that each update replaces."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def _begin(self) -> None:
        from IPython import display

        show: Callable[..., Any] = display.display
        self._handle = show(_bundle(0.0, _WAITING), raw=True, display_id=True)

    def _draw(self, progress: Progress) -> None:
        self._handle.update(_bundle(_fraction(progress), summary(progress)), raw=True)

    def _end(self) -> None:
        pass


def display_of(progress: Watch) -> Display | None:
    """Return the display of a load's progress, or None.

    True gives None too, unless stderr is a terminal or the process is a notebook's.

    Raises:
        ArgumentTypeError: `progress` is neither a bool nor callable.
    """
    if progress is False:
        return None
    if progress is True:
        if _in_notebook():
            return _NotebookBar()
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        try:
            return _TerminalBar()
        except ImportError:
            return _TerminalText()
    if not callable(progress):
        raise ArgumentTypeError(f"progress is True, False or a function to call, not {progress!r}")
    return _Callback(progress)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")  # missing for IPython in a terminal


def _fraction(progress: Progress) -> float:
    if progress.total_bytes:
        return progress.bytes / progress.total_bytes
    return progress.tensors / progress.total_tensors if progress.total_tensors else 1.0


def summary(progress: Progress) -> str:
    """Return a bar's text: `62% 2.67/4.31 GB 1.24 GB/s 0:01 left 141/226 tensors`."""
    count = str(progress.total_tensors)
    # A constant length keeps the length of the bar constant.
    tensors = f"{progress.tensors:{len(count)}}/{count} tensors"
    amount = amount_text(progress.bytes, progress.total_bytes, progress.seconds)
    return f"{_fraction(progress):4.0%} {amount} {tensors}"


def amount_text(done: int, total: int, seconds: float) -> str:
    """Return the bytes, the average speed and the time left: `2.67/4.31 GB 1.24 GB/s 0:01 left`."""
    size, unit = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    whole = f"{total / size:.2f}"
    rate = f"{rate_text(done, seconds):>9}"
    return f"{done / size:>{len(whole)}.2f}/{whole} {unit} {rate} {_left(done, total, seconds):>5} left"


def _left(done: int, total: int, seconds: float) -> str:
    """Return the time until the end, at the average speed so far. A hundred hours or more say nothing yet."""
    if not total:
        return "0:00"
    left = round(seconds * (total / done - 1)) if done else _UNKNOWN
    if left >= _UNKNOWN:
        return "-:--"
    minutes, left = divmod(left, 60)
    return f"{minutes}:{left:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{left:02}"


def _bundle(fraction: float, text: str) -> dict[str, str]:
    bar = f'<progress value="{fraction:.4f}" max="1" style="width: 40%"></progress>'
    return {"text/html": f"<div>Loading {bar} {text}</div>", "text/plain": f"Loading {text}"}
