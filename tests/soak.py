"""500 loads, half of them abandoned or failed: what is left of threads, file descriptors and memory.

    python -m tests.soak [LOADS]

Prints the figures at the start, on the way and at the end, and exits with 1 if a thread or a descriptor is left, or
if memory has grown by more than 16 MiB.
"""

import gc
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from runai_model_streamer import SafetensorsStreamer, StreamerError
from tests.checkpoints import join_ours, numbered, write

WARM_UP = 20
"""Loads before the first figures: what is allocated once is no leak."""
SIZES = [3_000_000, 10, 2_000_000, 0, 4_000_000, 100_000]
GROWTH = 16 << 20


class Figures(NamedTuple):
    threads: int
    descriptors: int
    rss: int

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.descriptors} file descriptors, RSS {self.rss / (1 << 20):.1f} MiB"


def measure() -> Figures:
    join_ours()
    with open("/proc/self/status") as status:
        rss = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    return Figures(threading.active_count(), len(os.listdir("/proc/self/fd")), rss)


def load(number: int, folder: Path) -> str:
    """Stream once; what became of it."""
    good = folder / "good"
    limit = ("-1", "0", "6000000")[number // 4 % 3]
    os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = limit
    with SafetensorsStreamer() as streamer:
        if number % 4 == 1:
            # The limit keeps the readers from the second file until most of the first has been given out.
            os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = "0"
            bad = write(folder / "bad", numbered(SIZES))
            streamer.stream_files([good, bad])
            tensors = streamer.get_tensors()
            next(tensors)
            os.truncate(bad, 1_000_000)
            try:
                for _ in tensors:
                    pass
            except StreamerError:
                return "failed"
            raise AssertionError("the truncated file was streamed")
        streamer.stream_files([good, good])
        if number % 4 == 3:
            for count, _ in enumerate(streamer.get_tensors()):
                if count == number % 7:
                    return "abandoned"
        assert sum(1 for _ in streamer.get_tensors()) == 2 * len(SIZES)
        return "finished"


def main(loads: int) -> int:
    ends: dict[str, int] = {}
    # Memory has to come back by reference counts, with the collector's help or without it.
    gc.disable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "good", numbered(SIZES))
        for number in range(WARM_UP):
            load(number, folder)
        start = measure()
        print(f"start:           {start}")
        highest = start.rss
        for number in range(loads):
            end = load(number, folder)
            ends[end] = ends.get(end, 0) + 1
            highest = max(highest, measure().rss)
            if (number + 1) % 100 == 0:
                print(f"after {number + 1:4} loads: {measure()}")
        last = measure()
    print(f"end:             {last}; highest RSS after a load {highest / (1 << 20):.1f} MiB")
    print("loads:           " + ", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    kept = last[:2] == start[:2] and last.rss - start.rss < GROWTH
    print("nothing is left" if kept else "SOMETHING IS LEFT")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
