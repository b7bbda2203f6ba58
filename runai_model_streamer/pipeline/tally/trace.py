"""The events of one load in Chrome's trace format. Perfetto (ui.perfetto.dev) and chrome://tracing open it.

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
"""Shortest wait in a trace, in seconds. Every read has a shorter one."""

_WAITS: Final = {
    "memory": "wait for memory",
    "turn": "wait for its turn",
    "rest": "rest: more readers than CPUs",
}

_Args: TypeAlias = dict[str, Any]


class Events:
    """The events of one thread, in seconds of `time.perf_counter`. Only that thread writes them."""

    __slots__ = ("found", "name", "thread")

    def __init__(self, name: str, thread: int) -> None:
        self.name = name
        self.thread = thread
        """The thread's native id."""
        self.found: list[tuple[str, str, float, float, _Args]] = []
        """Name, category, start, end and arguments of each event."""

    def add(self, name: str, category: str, began: float, ended: float, args: _Args) -> None:
        """Add an event of this thread."""
        self.found.append((name, category, began, ended, args))

    def wait(self, stage: str, began: float, ended: float) -> None:
        """Add a reader's wait."""
        if ended - began >= SHORTEST:
            self.add(_WAITS[stage], "wait", began, ended, {})

    def read(
        self, began: float, ended: float, group: int, step: Step, reading: Reading, extra_stage: str | None
    ) -> None:
        """Add a reader's read, and the stages before and after it."""
        args: _Args = {"origin": reading.origin.value, "file": step.file, "offset": step.offset, "bytes": step.length}
        args["group"] = group
        if reading.began is None:
            # Several reads, with `extra_stage` between them.
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
        """Add an event of the caller's thread."""
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
        path: the file; see `trace_path`. It is created or emptied at once.
        label: the name of the process in the trace.

    Raises:
        ConfigError: the file cannot be written.
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
        """Return the events of one more thread. That thread calls it."""
        events = Events(name, thread)
        self._threads.append(events)
        return events

    def write(self, paths: Sequence[str]) -> None:
        """Write the file, once. A failure is only logged, since the load itself succeeded.

        Args:
            paths: the files' paths, by their number in the plan.
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
            # A copy: a reader that hangs may still write.
            for name, category, began, ended, args in list(events.found):
                shown = args | {"file": as_unicode(paths[args["file"]])} if "file" in args else args
                event = {"name": name, "cat": category, "ph": "X", "pid": process, "tid": events.thread, "args": shown}
                yield event | {"ts": round(began * 1e6, 3), "dur": round((ended - began) * 1e6, 3)}


def _named(what: str, process: int, thread: int, name: str) -> _Args:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def trace_path(text: str, rank: int | None, several: bool) -> str:
    """Return the path of this process's trace.

    `{pid}` and `{rank}` become the process id and its rank. If several processes load and the text has neither,
    the rank (or else the process id) is put before the suffix, so that they do not overwrite each other's file.

    Args:
        text: `RUNAI_STREAMER_TRACE`.
        rank: in torch's default process group; None without a group or another rank.
        several: whether other processes of this node load too.
    """
    if "{pid}" not in text and "{rank}" not in text and (several or rank is not None):
        path = PurePath(text)
        mark = "{pid}" if rank is None else "rank{rank}"
        text = str(path.with_name(f"{path.stem}.{mark}{path.suffix}"))
    return text.replace("{pid}", str(os.getpid())).replace("{rank}", str(rank or 0))
