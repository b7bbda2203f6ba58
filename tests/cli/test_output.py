"""Lines and tables, piped and in a terminal."""

import io
import os
import pty
import re
import sys
import termios
from collections.abc import Callable

import pytest

from runai_model_streamer.cli import output
from runai_model_streamer.cli.output import (
    Column,
    counted,
    folded,
    named_by,
    shown,
    write_error,
    write_line,
    write_pairs,
    write_table,
)
from runai_model_streamer.cli.progress import progress

LONG = "/models/" + "long-folder/" * 12 + "model.safetensors"
COLUMNS = (Column("size", right=True), Column("status"), Column("file"))


def table() -> None:
    write_table(COLUMNS, [("1 B", "ok", LONG), ("20 B", "error", "[red]b")])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain, ünï", "plain, ünï"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\t", "a\\nb\\t"),
        ("\udcff", "\\udcff"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_names_cannot_write_to_the_terminal(text: str, wanted: str) -> None:
    assert shown(text) == wanted


def test_things_are_counted() -> None:
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_a_piped_table_is_plain_and_nothing_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    table()
    assert capsys.readouterr().out.splitlines() == [
        "SIZE  STATUS  FILE",
        f" 1 B  ok      {LONG}",
        "20 B  error   [red]b",
    ]


def test_pairs_have_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs([("a", "1"), ("long", "2")])
    assert capsys.readouterr().out == "a     1\nlong  2\n"


def test_what_the_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.prepare_stdout()
    write_line("größe")
    sys.stdout.flush()
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"


def in_terminal(write: Callable[[], None], columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal of so many columns is sent."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (40, columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with open(side, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        write()
    sent = b""
    try:
        while part := os.read(main, 65536):
            sent += part
    except OSError:  # Linux ends what nobody writes to any more so
        pass
    os.close(main)
    return sent.decode().replace("\r\n", "\n")


def test_in_a_terminal_there_are_colours_and_long_names_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = in_terminal(table, 80, monkeypatch)
    assert "\x1b[32mok" in sent
    assert "[red]b" in sent
    plain = "".join(part.partition("m")[2] for part in ("m" + sent).split("\x1b["))
    lines = plain.splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line[14:].strip() for line in lines[1:4]).startswith(LONG[:100])
    assert "…" not in plain


def test_an_error_folds_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = in_terminal(lambda: write_error("no connection to the store, and " * 3 + LONG), 40, monkeypatch)
    lines = sent.splitlines()
    assert lines[0] == "error: no connection to the store, and"
    assert lines[1].startswith("       no connection")
    assert lines[-1].strip() == LONG  # whole, to be copied


def test_a_piped_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_error("word " * 100 + "end")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one two three", ["one two", "three"]),
        ("130  ended by", ["130  ended", "     by"]),
        ("  a  b c d e f g", ["  a  b c d e", "     f g"]),
        ("", [""]),
    ],
)
def test_a_line_is_folded_below_its_second_column(text: str, wanted: list[str]) -> None:
    assert folded(text, 12).split("\n") == wanted


def test_an_option_is_named_in_place_of_its_variable() -> None:
    with named_by({"RUNAI_STREAMER_MEMORY_LIMIT": "--limit"}):
        assert shown("more than RUNAI_STREAMER_MEMORY_LIMIT=1") == "more than --limit=1"
    assert shown("RUNAI_STREAMER_MEMORY_LIMIT") == "RUNAI_STREAMER_MEMORY_LIMIT"


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "\x1b" not in in_terminal(table, 80, monkeypatch)


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        table()

    assert "\x1b[32m" not in in_terminal(write, 80, monkeypatch)


@pytest.mark.parametrize("columns", [80, 170])
def test_a_bar_of_a_terminal_shows_all_its_figures(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        with progress("Pulling", "s3://" + LONG, 1_480_000_000) as advance:
            advance(740_000_000)

    sent = in_terminal(write, columns, monkeypatch)
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", sent).replace("\r", "\n").strip().splitlines()[-1]
    assert re.fullmatch(r"Pulling \.\.\..*tensors ━+[╸╺]?━+  50% 0\.74/1\.48 GB +[\d.]+ [GTP]B/s  0:00 left", last), (
        last
    )
    assert len(last) <= columns
