"""The events of one load, in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format: "Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Final, TypeAlias

import orjson

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.paths import as_unicode
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.pipeline.tally.reading import Reading

_log = logging.getLogger(__name__)

VARIABLE: Final = "RUNAI_STREAMER_TRACE"

SHORTEST: Final = 50e-6
"""Seconds: waits that are shorter are left out, since each read has one."""

_WAITS: Final = {
    "memory": "wait for memory",
    "turn": "wait for its turn",
    "rest": "rest: more readers than CPUs",
}

_Args: TypeAlias = dict[str, Any]


class Events:
    """One thread's, in seconds of `time.perf_counter`. Written by that thread alone."""

    __slots__ = ("found", "name", "thread")

    def __init__(self, name: str, thread: int) -> None:
        self.name = name
        self.thread = thread
        """Its native id."""
        self.found: list[tuple[str, str, float, float, _Args]] = []
        """Name, category, beginning, end, and what else is known."""

    def add(self, name: str, category: str, began: float, ended: float, args: _Args) -> None:
        """Something that began and ended in this thread."""
        self.found.append((name, category, began, ended, args))

    def wait(self, stage: str, began: float, ended: float) -> None:
        """A reader's wait."""
        if ended - began >= SHORTEST:
            self.add(_WAITS[stage], "wait", began, ended, {})

    def read(
        self, began: float, ended: float, group: int, step: Step, reading: Reading, extra_stage: str | None
    ) -> None:
        """A reader's read, and what lay before and behind it."""
        args: _Args = {"origin": reading.origin.value, "file": step.file, "offset": step.offset, "bytes": step.length}
        args["group"] = group
        if reading.began is None:
            # Piece by piece, with what is done to each in between.
            seconds = ended - began - reading.seconds
            args |= {"read_ms": round(reading.seconds * 1e3, 3), f"{extra_stage}_ms": round(seconds * 1e3, 3)}
            self.add(f"read and {extra_stage}", "read", began, ended, args)
            return
        done = reading.began + reading.seconds
        if extra_stage == "copy":
            if reading.began - began >= SHORTEST:
                self.add("wait for a slot", "wait", began, reading.began, {"group": group})
            if ended - done >= SHORTEST:
                self.add("queue copies", "copy", done, ended, {"group": group})
        self.add("read", "read", reading.began, done, args)

    def caller(self, name: str, began: float, ended: float, group: Group | None) -> None:
        """Something of the caller's thread."""
        if group is not None:
            count = sum(len(part.tensors) for part in group.parts)
            args = {
                "group": group.index,
                "tensors": count,
                "bytes": group.payload,
                "first tensor": group.first_name,
            }
            self.add(name, "caller", began, ended, args)
        elif ended - began >= SHORTEST:
            self.add(name, "caller", began, ended, {})


class Trace:
    """The events of one load, and the file for them.

    Args:
        path: the file; see `trace_path`. It is made, or emptied, here.
        label: of the process.

    Raises:
        ConfigError: it cannot be written to.
    """

    def __init__(self, path: str, label: str) -> None:
        self._path = os.path.abspath(path)
        self._label = label
        self._threads: list[Events] = []
        self._written = False
        try:
            with open(self._path, "wb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"{VARIABLE}: {path} cannot be written: {error.strerror or error}",
                where=path,
                lead=None,
                remedy="name a file in a folder that is there and that this user may write to, or leave the variable "
                "out",
            ) from error

    def thread(self, name: str, thread: int) -> Events:
        """The events of one more thread. From that thread."""
        events = Events(name, thread)
        self._threads.append(events)
        return events

    def write(self, paths: Sequence[str]) -> None:
        """Write the file, once. One that cannot be written is said in the log, and no error: the load is whole.

        Args:
            paths: of the files, by their number in the plan.
        """
        if self._written:
            return
        self._written = True
        try:
            document = {"traceEvents": list(self._events(paths)), "displayTimeUnit": "ms"}
            with open(self._path, "wb") as file:
                file.write(orjson.dumps(document))
            for events in self._threads:
                events.found.clear()
        except Exception as error:
            why = getattr(error, "strerror", None) or error
            _log.warning("%s: no trace of the load in %s: %s", VARIABLE, self._path, why)
        else:
            _log.info("Trace of the load: %s (opens in ui.perfetto.dev)", self._path)

    def _events(self, paths: Sequence[str]) -> Iterator[_Args]:
        process = os.getpid()
        yield _named("process_name", process, 0, self._label)
        for order, events in enumerate(self._threads):
            yield _named("thread_name", process, events.thread, events.name)
            sort = {"name": "thread_sort_index", "ph": "M", "pid": process, "tid": events.thread}
            yield sort | {"args": {"sort_index": order}}
            # A copy: a reader that hangs may go on writing.
            for name, category, began, ended, args in list(events.found):
                shown = args | {"file": as_unicode(paths[args["file"]])} if "file" in args else args
                event = {"name": name, "cat": category, "ph": "X", "pid": process, "tid": events.thread, "args": shown}
                yield event | {"ts": round(began * 1e6, 3), "dur": round((ended - began) * 1e6, 3)}


def _named(what: str, process: int, thread: int, name: str) -> _Args:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def trace_path(text: str, rank: int | None, several: bool) -> str:
    """The file for this process's trace.

    `{pid}` and `{rank}` stand for the process and its rank. Where several processes load and neither is there, they
    would overwrite each other's: then the rank, or without one the process, is put before the suffix.

    Args:
        text: `RUNAI_STREAMER_TRACE`.
        rank: in torch's default process group; None: there is none, or no other rank.
        several: other processes of this node load, too.
    """
    if "{pid}" not in text and "{rank}" not in text and (several or rank is not None):
        path = PurePath(text)
        mark = "{pid}" if rank is None else "rank{rank}"
        text = str(path.with_name(f"{path.stem}.{mark}{path.suffix}"))
    return text.replace("{pid}", str(os.getpid())).replace("{rank}", str(rank or 0))
