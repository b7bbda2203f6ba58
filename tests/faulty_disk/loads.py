"""Loads on the faulty disk, in a process of their own: one JSON line for each, of what came of it.

    LD_PRELOAD=faulty_disk.so python -m tests.faulty_disk.loads TASKS.json FILE...

A task says what the disk does (`Task`).
"""

import ctypes
import dataclasses
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError
from tests.checkpoints import PATIENCE, join_ours, our_threads


class Fault(IntEnum):
    """As in faulty_disk.c."""

    INTERRUPTED = 1
    AGAIN = 2
    IO_ERROR = 3
    NO_MEMORY = 4
    SHORT = 5
    SHORT_ODD = 6
    END = 7
    HANG = 8


@dataclass(frozen=True, slots=True)
class Task:
    """One load.

    Attributes:
        seed: decides what is cached, the settings, and where faults are random which they are.
        every: a fault at one in so many reads; 0: one fault.
        fault: that one.
        at: which read it happens to.
    """

    seed: int
    every: int = 0
    fault: int = 0
    at: int = -1


@dataclass(slots=True)
class Outcome:
    """What came of a load: `error` is the type's name, with the text in `message`; "" where all bytes were right."""

    task: Task
    faults: int = 0
    reads: int = 0
    error: str = ""
    message: str = ""
    ours: bool = True
    wrong: list[str] = dataclasses.field(default_factory=list)
    """Tensors with other bytes than the file's."""
    missing: int = 0
    """Tensors of the file that were not given out."""
    left: list[str] = dataclasses.field(default_factory=list)
    """Threads and descriptors that are there afterwards and were not before."""


class Disk:
    """The library's controls."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.plan = library.faulty_disk_plan
        self.plan.argtypes = (ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        self.heal = library.faulty_disk_heal
        self.faults, self.reads, self.hung = (
            getattr(library, f"faulty_disk_{name}") for name in ("faults", "reads", "hung")
        )


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the folder's own
    return sorted(found)


def _prepare(random_: random.Random, files: Sequence[Path]) -> None:
    """Have some of the files in the page cache, and settings of any kind."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for _ in range(random_.choice((0, 1, 3, 100))):
                os.pread(fd, random_.choice((4096, 1 << 20)), random_.randrange(os.fstat(fd).st_size) & -4096)
        finally:
            os.close(fd)
    for name, values in (
        ("CONCURRENCY", ("1", "3", "16")),
        ("CHUNK_BYTESIZE", ("2097152", "")),
        ("MEMORY_LIMIT", ("-1", "0", "6000000")),
        ("DIRECT_IO", ("auto", "0", "1")),
    ):
        os.environ[f"RUNAI_STREAMER_{name}"] = random_.choice(values)


def run(task: Task, files: Sequence[Path], right: dict[str, bytes], disk: Disk) -> Outcome:
    """One load, and what came of it."""
    _prepare(random.Random(task.seed), files)
    outcome = Outcome(task)
    before = _descriptors()
    disk.plan(task.seed, task.every, task.fault, task.at)
    if task.fault == Fault.HANG:
        threading.Thread(target=_interrupt, args=(disk,), daemon=True).start()
    seen: set[str] = set()
    try:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(file) for file in files])
            for name, tensor in streamer.get_tensors():
                if not np.array_equal(
                    tensor.view(torch.uint8).numpy().reshape(-1), np.frombuffer(right[name], np.uint8)
                ):
                    outcome.wrong.append(name)
                seen.add(name)
    except BaseException as error:
        outcome.error, outcome.message = type(error).__name__, str(error)
        outcome.ours = isinstance(error, StreamerError | KeyboardInterrupt)
    outcome.faults, outcome.reads = disk.faults(), disk.reads()
    disk.heal()
    join_ours()
    outcome.missing = len(right) - len(seen)
    outcome.left = our_threads() + [each for each in _descriptors() if each not in before]
    return outcome


def _interrupt(disk: Disk) -> None:
    """Press Ctrl-C as soon as a read hangs; let it go on where the caller waits for it itself."""
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.002)):
        if disk.hung():
            break
        if waited.wait(0.002):
            return
    else:
        return
    signal.raise_signal(signal.SIGINT)
    waited.wait(1.0)
    disk.heal()  # a header is read by the caller's own thread, which no signal reaches while a read lasts


def main() -> None:
    """Run the tasks that the command line names."""
    tasks = [Task(**each) for each in json.loads(Path(sys.argv[1]).read_text())]
    files = [Path(name) for name in sys.argv[2:]]
    right: dict[str, bytes] = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(file) for file in files])
        for name, tensor in streamer.get_tensors():
            right[name] = tensor.numpy().tobytes()
    disk = Disk()
    for task in tasks:
        print(json.dumps(dataclasses.asdict(run(task, files, right, disk))), flush=True)


if __name__ == "__main__":
    main()
