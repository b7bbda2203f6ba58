"""What is logged, where, and how sizes are written."""

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ConfigError
from runai_model_streamer.logs import configure_logging

PACKAGE = "runai_model_streamer"
LEVEL, TO_STDERR = "RUNAI_STREAMER_LOG_LEVEL", "RUNAI_STREAMER_LOG_TO_STDERR"


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger as it is before anybody has touched it; put back afterwards."""
    logger = logging.getLogger(PACKAGE)
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
    logger.propagate = True
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate


def log(message: str, level: int = logging.INFO) -> None:
    """As a module of the package does."""
    logging.getLogger(f"{PACKAGE}.streamer").log(level, message)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_the_hosts_level_counts_when_nothing_is_set(level: int, logger: logging.Logger) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(level)
    try:
        configure_logging(LoadConfig.from_environment())
        assert logger.level == logging.NOTSET
        streamer = logging.getLogger(f"{PACKAGE}.streamer")
        levels = logging.DEBUG, logging.INFO, logging.WARNING
        assert [each for each in levels if streamer.isEnabledFor(each)] == [each for each in levels if each >= level]
    finally:
        root.setLevel(before)


def test_info_goes_to_stderr_where_that_is_asked_for_and_no_longer_afterwards(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    log("a line")
    monkeypatch.delenv(TO_STDERR)
    configure_logging(LoadConfig.from_environment())
    log("another")
    assert "a line" in (printed := capsys.readouterr().err)
    assert "another" not in printed
    assert logger.level == logging.NOTSET


def test_a_level_of_the_host_stays_after_stderr(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    logger.setLevel(logging.ERROR)
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    monkeypatch.delenv(TO_STDERR)
    configure_logging(LoadConfig.from_environment())
    assert logger.level == logging.ERROR


def test_a_level_that_the_host_has_set_stays(logger: logging.Logger) -> None:
    logger.setLevel(logging.ERROR)
    configure_logging(LoadConfig.from_environment())
    assert logger.level == logging.ERROR


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "debug", " Info "])
def test_the_variable_sets_the_level(level: str, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL, level)
    configure_logging(LoadConfig.from_environment())
    assert logging.getLevelName(logger.level) == level.strip().upper()


def test_the_variable_wins_over_the_host(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    logger.setLevel(logging.ERROR)
    monkeypatch.setenv(LEVEL, "DEBUG")
    configure_logging(LoadConfig.from_environment())
    assert logger.level == logging.DEBUG


@pytest.mark.parametrize("level", ["LOUD", "10", "DEBUG INFO"])
def test_a_level_that_there_is_not_is_refused_with_variable_and_value(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL, level)
    with pytest.raises(ConfigError) as caught:
        configure_logging(LoadConfig.from_environment())
    remedy = "set it to DEBUG, INFO, WARNING or ERROR"
    assert str(caught.value) == f"{LEVEL}={level!r} cannot be used: {remedy}"


def test_a_level_that_there_is_not_changes_nothing(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL, "LOUD")
    monkeypatch.setenv(TO_STDERR, "1")
    with pytest.raises(ConfigError):
        configure_logging(LoadConfig.from_environment())
    assert (logger.level, logger.handlers, logger.propagate) == (logging.NOTSET, [], True)


@pytest.mark.parametrize("value", ["", "0", None])
def test_nothing_goes_to_stderr_unless_it_is_asked_for(
    value: str | None, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(TO_STDERR, value)
    configure_logging(LoadConfig.from_environment())
    assert (logger.handlers, logger.propagate) == ([], True)


def test_lines_go_to_stderr_with_time_and_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    log("a line")
    log("a worry", logging.WARNING)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "<time> ", line) for line in lines] == [
        "<time> [INFO] a line",
        "<time> [WARNING] a worry",
    ]


def test_a_line_goes_to_stderr_once_however_often_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TO_STDERR, "1")
    for _ in range(3):
        configure_logging(LoadConfig.from_environment())
    log("a line")
    assert capsys.readouterr().err.count("a line") == 1


def test_a_line_that_goes_to_stderr_does_not_go_to_the_hosts_handlers_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    log("a line")
    assert (caplog.messages, "a line" in capsys.readouterr().err) == ([], True)


def test_lines_go_back_to_the_hosts_handlers_when_the_variable_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    monkeypatch.delenv(TO_STDERR)
    configure_logging(LoadConfig.from_environment())
    log("a line", logging.WARNING)
    assert (caplog.messages, capsys.readouterr().err) == (["a line"], "")


def test_a_handler_of_the_hosts_on_our_logger_stays(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = logging.NullHandler()
    logger.addHandler(theirs)
    monkeypatch.setenv(TO_STDERR, "1")
    configure_logging(LoadConfig.from_environment())
    monkeypatch.delenv(TO_STDERR)
    configure_logging(LoadConfig.from_environment())
    assert logger.handlers == [theirs]


def test_lines_follow_a_stderr_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TO_STDERR, "1")
    former, present = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", former)
    configure_logging(LoadConfig.from_environment())
    monkeypatch.setattr(sys, "stderr", present)
    former.close()
    log("a line")
    assert present.getvalue().endswith("[INFO] a line\n")
