"""`progress=`: what a callback is told, and when there is a bar."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer import FileChunks, FileStreamer, Progress, SafetensorsStreamer
from runai_model_streamer.errors import ArgumentTypeError, NotFoundError
from runai_model_streamer.report.progress import summary
from tests.checkpoints import numbered, our_threads, stored, write

ROOT = Path(__file__).parents[1]
SIZES = [5_000_000] * 12
"""Some groups of three tensors."""
ALL = sum(SIZES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "m.safetensors", numbered(SIZES))


# A callback.


def test_it_is_called_for_each_group_and_at_the_end(file: Path) -> None:
    told: list[Progress] = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=told.append)
        assert told == []
        for given, _ in enumerate(streamer.get_tensors()):
            assert not told or told[-1].tensors == given - given % told[0].tensors
    assert [each.tensors for each in told] == [3, 6, 9, 12]
    assert [each.bytes for each in told] == [each.tensors * SIZES[0] for each in told]
    assert {(each.total_bytes, each.total_tensors) for each in told} == {(ALL, len(SIZES))}
    seconds = [each.seconds for each in told]
    assert seconds == sorted(seconds)
    assert told[-1].gb_per_second == pytest.approx(ALL / seconds[-1] / 1e9)


def test_it_is_called_in_the_callers_thread(file: Path) -> None:
    threads: set[int] = set()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=lambda _: threads.add(threading.get_ident()))
        for _ in streamer.get_tensors():
            pass
    assert threads == {threading.get_ident()}


def test_a_load_without_tensors_tells_its_end() -> None:
    told: list[Progress] = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([], progress=told.append)
        assert list(streamer.get_tensors()) == []
    assert [(each.bytes, each.total_bytes, each.tensors, each.total_tensors) for each in told] == [(0, 0, 0, 0)]


def test_an_iterator_that_is_dropped_tells_no_end(file: Path) -> None:
    told: list[Progress] = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=told.append)
        tensors = streamer.get_tensors()
        for _ in range(4):
            next(tensors)
    assert [each.tensors for each in told] == [3]


def test_what_it_raises_reaches_the_caller_and_ends_the_load(file: Path) -> None:
    def fail(_: Progress) -> None:
        raise ZeroDivisionError("mine")

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=fail)
        tensors = streamer.get_tensors()
        with pytest.raises(ZeroDivisionError, match="mine"):
            for _ in tensors:
                pass
        assert our_threads() == []
        assert (streamer.report.outcome, streamer.report.error) == ("failed", "ZeroDivisionError: mine")
        with pytest.raises(StopIteration):
            next(tensors)
        streamer.stream_file(file)
        assert len(list(streamer.get_tensors())) == len(SIZES)


def test_parts_and_ranges_are_counted_as_they_are_given_out(tmp_path: Path) -> None:
    told: list[Progress] = []
    path = write(tmp_path / "m", {f"w{index}": stored("F32", (300, 50_000), index) for index in range(2)})
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, select={"w0": (1, 0, 1000), "w1": (1, 0, 1000)}, progress=told.append)
        for _ in streamer.get_tensors():
            pass
    assert (told[-1].tensors, told[-1].bytes) == (2, 2 * 300 * 1000 * 4)
    with FileStreamer() as ranges:
        ranges.stream_files([FileChunks(0, str(path), [5, 0], [7, 3])], progress=told.append)
        for _ in ranges.get_chunks():
            pass
    assert (told[-1].tensors, told[-1].total_tensors, told[-1].bytes) == (2, 2, 10)


@pytest.mark.parametrize("progress", [1, "yes", None])
def test_what_cannot_be_called_is_refused_before_anything_is_opened(progress: Any, tmp_path: Path) -> None:
    with SafetensorsStreamer() as streamer, pytest.raises(ArgumentTypeError, match="True, False or a function"):
        streamer.stream_file(tmp_path / "missing", progress=progress)


# A bar.


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes stderr a terminal; called in the test, since pytest puts its own there before that."""
    pytest.importorskip("rich")
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "25"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def begin() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return begin


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def visible(text: str) -> list[str]:
    """The lines that a bar has drawn, one after the other, without what moves the cursor."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


def test_nothing_is_drawn_where_stderr_is_no_terminal(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # nor is it needed
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        assert len(list(streamer.get_tensors())) == len(SIZES)
    assert capsys.readouterr() == ("", "")


def test_a_bar_ends_full_and_in_a_line_of_80_columns(file: Path, terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        for _ in streamer.get_tensors():
            pass
    first, *_, last = visible(screen.getvalue())
    assert re.fullmatch(r"Loading ━+ waiting for the first tensors", first.rstrip())
    assert re.fullmatch(r"Loading ━+ 100% 60\.00/60\.00 MB +[\d.]+ [GM]B/s  0:00 left 12/12 tensors", last.rstrip()), (
        last
    )
    assert len(last) <= 80
    assert screen.getvalue().endswith(f"\n{SHOW}")


def _break(streamer: SafetensorsStreamer) -> None:
    for _ in streamer.get_tensors():
        break


def _raise(streamer: SafetensorsStreamer) -> None:
    for _ in streamer.get_tensors():
        raise ZeroDivisionError


def _leave(streamer: SafetensorsStreamer) -> None:
    tensors = streamer.get_tensors()
    next(tensors)
    streamer.close()


@pytest.mark.parametrize("end", [_break, _raise, _leave])
def test_a_bar_leaves_the_terminal_as_it_was(
    end: Callable[[SafetensorsStreamer], None], file: Path, terminal: Callable[[], Terminal]
) -> None:
    before, screen = sys.stdout, terminal()
    try:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(file, progress=True)
            end(streamer)
    except ZeroDivisionError:
        pass
    written = screen.getvalue()
    assert written.count(HIDE) == written.count(SHOW) == 1
    assert written.index(HIDE) < written.index(SHOW)
    assert sys.stderr is screen
    assert sys.stdout is before


def test_a_bar_is_not_begun_by_a_load_that_does_not_start(terminal: Callable[[], Terminal], tmp_path: Path) -> None:
    screen = terminal()
    with SafetensorsStreamer() as streamer, pytest.raises(NotFoundError):
        streamer.stream_file(tmp_path / "missing", progress=True)
    assert screen.getvalue() == ""


@pytest.fixture
def plain_terminal(terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """One of a Python without rich."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    return terminal


def test_without_rich_a_bar_is_a_line_of_text(file: Path, plain_terminal: Callable[[], Terminal]) -> None:
    screen = plain_terminal()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        for _ in streamer.get_tensors():
            pass
    written = screen.getvalue()
    last = written.split("\r")[-1]
    assert re.fullmatch(r"Loading 100% 60\.00/60\.00 MB +[\d.]+ [GM]B/s  0:00 left 12/12 tensors\n", last), last
    assert written.count("\n") == 1
    assert "\x1b" not in written


def test_a_line_of_text_ends_with_a_load_that_does_not_come_to_its_end(
    file: Path, plain_terminal: Callable[[], Terminal]
) -> None:
    screen = plain_terminal()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        for _ in streamer.get_tensors():
            if screen.getvalue():
                break
    assert re.fullmatch(r"\rLoading .* tensors\n", screen.getvalue())


def test_nothing_is_written_for_a_load_that_ends_before_its_first_group(
    file: Path, plain_terminal: Callable[[], Terminal]
) -> None:
    screen = plain_terminal()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        _break(streamer)
    assert screen.getvalue() == ""


def test_a_stderr_that_is_closed_meanwhile_ends_no_load(file: Path, plain_terminal: Callable[[], Terminal]) -> None:
    screen = plain_terminal()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        tensors = streamer.get_tensors()
        next(tensors)
        screen.close()
        assert len(list(tensors)) == len(SIZES) - 1


class Notebook:
    """What IPython's displays need, in place of a browser."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> "Notebook":
        self.update(bundle, raw=raw)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        self.shown.append(bundle)


def test_a_notebook_has_a_bar_of_its_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython")
    notebook = Notebook()
    monkeypatch.setattr("IPython.get_ipython", type("Shell", (), {"kernel": None}))
    monkeypatch.setattr("IPython.display.display", notebook.display)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(file, progress=True)
        for _ in streamer.get_tensors():
            pass
    assert "<progress" in notebook.shown[0]["text/html"]
    assert notebook.shown[0]["text/plain"] == "Loading waiting for the first tensors"
    assert "100% 60.00/60.00 MB" in notebook.shown[-1]["text/plain"]


_PIPED = """
import sys
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1], progress=True)
    for name, tensor in streamer.get_tensors():
        print(name)
"""


def test_what_the_caller_prints_goes_where_it_sent_it(file: Path) -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    try:
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", _PIPED, str(file)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            check=True,
            env=environment,
            cwd=ROOT,
        )
        drawn = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout.split() == [f"t{index}" for index in range(len(SIZES))]
    assert "12/12 tensors" in drawn


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4_310_000_000, " 50% 2.15/4.31 GB 1.08 GB/s  0:02 left 1/2 tensors"),
        (20_000_000, " 50% 10.00/20.00 MB 5.00 MB/s  0:02 left 1/2 tensors"),
        (0, " 50% 0.00/0.00 MB 0 bytes/s  0:00 left 1/2 tensors"),
    ],
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert summary(Progress(size // 2, size, 1, 2, 2.0)) == text


@pytest.mark.parametrize(
    ("size", "seconds", "text"),
    [
        (0, 3.0, "-:--"),
        (9, 1.0, "-:--"),
        (10**9, 0.5, "0:02"),
        (10**9, 31.0, "1:33"),
        (2 * 10**9, 7322.0, "2:02:02"),
        (4 * 10**9, 9.0, "0:00"),
    ],
)
def test_it_says_how_long_it_will_take(size: int, seconds: float, text: str) -> None:
    assert f" {text} left " in summary(Progress(size, 4 * 10**9, 1, 4, seconds))
