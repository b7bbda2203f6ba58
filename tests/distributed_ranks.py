"""Ranks of a distributed load, for tests: `python -m tests.distributed_ranks FOLDER RANKS PROGRAM`.

Forks so many processes, which meet over gloo and run one of the programs below; each writes what it saw to
FOLDER/RANK.json. A program is a list of scenarios, one after the other in the same processes.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.distributed import groups
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.posix import FileSource
from runai_model_streamer.io.source import Origin
from tests.checkpoints import our_threads, raw

Outcome = dict[str, Any]

KILLED: Final = 1
"""Rank that dies in the program "killed"."""


class Ranks:
    """One rank: its number, its folder, and what it has seen."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.lines: list[str] = []

    def stream(self, *names: str, each: Callable[[int], None] = lambda _: None, **arguments: Any) -> Outcome:
        """Stream files of the folder, or objects; what came, or the error."""
        paths = [name if "://" in name or name.startswith("./") else str(self.folder / name) for name in names]
        self.lines.clear()
        made: list[list[Any]] = []
        outcome: Outcome = {"tensors": made}
        started = time.monotonic()
        try:
            with SafetensorsStreamer() as streamer:
                streamer.stream_files(paths, is_distributed=True, **arguments)
                outcome["files"] = len(streamer.files_to_tensors_metadata)
                for index, (name, tensor) in enumerate(streamer.get_tensors()):
                    made.append([name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw(tensor)).hexdigest()])
                    each(index)
                assert streamer.report is not None
                outcome["report"] = streamer.report.as_dict()
        except (StreamerError, ValueError) as error:
            outcome |= {"error": type(error).__name__, "text": str(error), "ranks": getattr(error, "ranks", None)}
        outcome |= {"seconds": time.monotonic() - started, "lines": list(self.lines), "threads": our_threads()}
        return outcome


@contextlib.contextmanager
def setting(**variables: str) -> Iterator[None]:
    """Environment variables, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def equal(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """All ranks get all tensors."""
    yield "one file", me.stream("large.safetensors")
    yield "objects", me.stream("s3://bucket/a.safetensors", "s3://bucket/b.safetensors", "s3://bucket/c.safetensors")
    yield "odd", me.stream("odd.safetensors", "none.safetensors", "small.safetensors")
    yield "no files", me.stream()
    yield "names", me.stream("large.safetensors", "odd.safetensors", tensor_names=["t3", "byte", "t1"])
    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "least memory", me.stream("large.safetensors")
    with setting(RUNAI_STREAMER_DIST="0"):
        yield "switched off", me.stream("small.safetensors")


def failing(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Loads that end early on one rank end on all, and the next one works."""

    def raising(index: int) -> None:
        if me.rank == 2 and index == 1:
            raise ValueError("the caller's own trouble")

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "raises", me.stream("large.safetensors", each=raising)
        yield "leaves", _left_by(me, 1)
    yield "another file", me.stream("shared.safetensors" if me.rank != 3 else "other.safetensors")
    with contextlib.chdir(me.folder / f"sized-{me.rank == 3}"):
        yield "another size", me.stream("./model.safetensors")
    with setting(RUNAI_STREAMER_MEMORY_LIMIT=str(100_000_000 + (me.rank == 2))):
        yield "another limit", me.stream("small.safetensors")
    yield "missing", me.stream("small.safetensors", *(["missing.safetensors"] if me.rank == 0 else ["odd.safetensors"]))
    with _broken_reads(me.rank == 1):
        yield "broken", me.stream("large.safetensors")
    yield "damaged", me.stream("small.safetensors", "damaged.safetensors")
    with setting(RUNAI_STREAMER_MEMORY_LIMIT=str(4 * 3_000_000)):
        yield "limit divided", me.stream("large.safetensors")
    with setting(RUNAI_STREAMER_MEMORY_LIMIT=str(4 * 3_000_000 - 1)):
        yield "limit too low", me.stream("large.safetensors")
    yield "afterwards", me.stream("large.safetensors")


def _left_by(me: Ranks, rank: int) -> Outcome:
    """One rank closes its streamer after its first tensor."""
    if me.rank != rank:
        return me.stream("large.safetensors")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([me.folder / "large.safetensors"], is_distributed=True)
        for _ in streamer.get_tensors():
            break
    return {"tensors": [], "threads": our_threads()}


@contextlib.contextmanager
def _broken_reads(broken: bool) -> Iterator[None]:
    """Local files are cut short while they are read."""
    real = FileSource._read  # noqa: SLF001

    def truncated(self: FileSource, fd: int, offset: int, buffer: memoryview) -> None:
        if offset > 1_000_000:
            raise OSError(5, "the disk is on fire")
        real(self, fd, offset, buffer)

    if broken:
        FileSource._read = truncated  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        FileSource._read = real  # type: ignore[method-assign]  # noqa: SLF001


def nodes(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Two nodes of two ranks and three, and one that has a single rank."""
    groups.node_name = lambda: f"node {min(me.rank // 2, 1)}"
    with _counted_reads() as counted:
        yield "by node", me.stream("large.safetensors") | {"read": counted}
    with setting(RUNAI_STREAMER_DIST_GLOBAL="1"), _counted_reads() as counted:
        yield "globally", me.stream("large.safetensors") | {"read": counted}
    groups.node_name = lambda: f"node {me.rank > 0}"
    with _counted_reads() as counted:
        yield "alone", me.stream("large.safetensors") | {"read": counted}


@contextlib.contextmanager
def _counted_reads() -> Iterator[list[int]]:
    """Bytes of each read of a local file."""
    real = FileSource.read_into
    counted: list[int] = []

    def counting(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        counted.append(len(buffer))
        return real(self, offset, buffer)

    FileSource.read_into = counting  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        FileSource.read_into = real  # type: ignore[method-assign]


def killed(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank dies between two tensors."""

    def dying(index: int) -> None:
        if me.rank == KILLED and index == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "killed", me.stream("large.safetensors", each=dying)


def standing(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank stands still for longer than the others' patience; one never comes."""

    def still(index: int) -> None:
        if me.rank == 0 and index == 1:
            time.sleep(6)

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0", RUNAI_STREAMER_DIST_TIMEOUT="2"):
        yield "stands still", me.stream("large.safetensors", each=still)
        if me.rank != 1:
            yield "never comes", me.stream("large.safetensors")


PROGRAMS: Final = {program.__name__: program for program in (equal, failing, nodes, killed, standing)}


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _run(folder: Path, rank: int, count: int, program: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    me = Ranks(folder, rank)
    logging.getLogger("runai_model_streamer").addHandler(_Lines(me.lines))
    outcomes = {}
    for name, outcome in PROGRAMS[program](me):
        outcomes[name] = outcome
        (folder / f"{rank}.json").write_text(json.dumps(outcomes))


def main() -> None:
    folder, count, program = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            status = 1
            try:
                _run(folder, rank, count, program)
                status = 0
            finally:
                sys.stdout.flush()
                if status:
                    traceback.print_exc()
                os._exit(status)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main()
