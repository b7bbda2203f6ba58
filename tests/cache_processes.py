"""Processes that load one object through the node's cache: many at once, and killed at any moment.

    python -m tests.cache_processes --kills 100        # 100 loads, killed at random moments, then one that is not
    python -m tests.cache_processes --together 8       # 8 loads at once, with an empty cache

The store is a server on 127.0.0.1 that counts what it sends. Each load compares all of its bytes.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from runai_model_streamer.config import CacheConfig, LoadConfig
from runai_model_streamer.io.cache.files import find_entries
from runai_model_streamer.io.cache.journal import Kind, read_about, read_records
from runai_model_streamer.io.cache.names import FOLDER, JOURNAL
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.ranges import ByteRange, split
from tests.servers import FaultServer

SIZE: Final = (24 << 20) + 12_345
_READ: Final = (2 << 20) + 1
"""Bytes of a read. All reads together are what a load writes in any case, however slow the disk is."""
_THREADS: Final = 6


class Loaded(NamedTuple):
    """What a load found."""

    digest: str
    read: int
    """Bytes from the cache."""
    written: int
    damaged: int


def load(url: str, folder: str) -> Loaded:
    """Read all of an object in several threads, in this process."""
    storage = Storage(LoadConfig(cache=CacheConfig(folder, 1 << 30)), None, shared=False)
    with closing(storage), closing(storage.open(url)) as source:
        whole = memoryview(bytearray(source.size))
        spans = list(split(ByteRange(0, source.size), _READ))
        turn = threading.Lock()

        def work() -> None:
            while True:
                with turn:
                    if not spans:
                        return
                    span = spans.pop(0)
                source.read_into(span.start, whole[span.start : span.end])

        threads = [threading.Thread(target=work) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        source.close()
        counts = storage.cached
        assert counts is not None
        return Loaded(hashlib.sha256(whole).hexdigest(), counts.bytes_read, counts.bytes_written, counts.bytes_damaged)


def start(url: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a process that loads the object."""
    command = [sys.executable, "-m", "tests.cache_processes", "--load", url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def finish(process: "subprocess.Popen[str]") -> Loaded:
    """Wait for a load to end, and return what it found."""
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, process.returncode
    return Loaded(*json.loads(said))


def held(folder: Path) -> int:
    """Bytes that the journals of a cache say that it has."""
    total = 0
    for entry in find_entries(f"{folder}/{FOLDER}"):
        with open(entry.stem + JOURNAL, "rb") as journal:
            found = read_about(journal.fileno())
            assert found is not None
            records = read_records(journal.fileno(), found[1])[0]
            total += sum(record.second - record.first for record in records if record.kind == Kind.HELD)
    return total


def together(count: int, folder: Path) -> tuple[Sequence[Loaded], int, str]:
    """Load with this many processes at once. Return what they found, the bytes sent, and the right digest."""
    data = random.Random(1).randbytes(SIZE)
    with FaultServer() as server:
        server.put("models", "model", data)
        processes = [start(f"{server.endpoint}/models/model", folder) for _ in range(count)]
        found = [finish(each) for each in processes]
        return found, server.bytes_served, hashlib.sha256(data).hexdigest()


def killed(count: int, folder: Path, seed: int, longest: float) -> None:
    """Kill loads at random moments, each up to `longest` seconds after it began to read. Then load to the end."""
    choice, data = random.Random(seed), random.Random(2).randbytes(SIZE)
    with FaultServer() as server:
        server.put("models", "model", data)
        url = f"{server.endpoint}/models/model"
        for number in range(count):
            served = server.bytes_served
            process = start(url, folder)
            while server.bytes_served == served and process.poll() is None:
                time.sleep(0.001)
            time.sleep(choice.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            print(f"killed {number + 1}: the cache has {held(folder)} of {SIZE} bytes", flush=True)
            if held(folder) == SIZE:
                for path in (folder / FOLDER).iterdir():
                    path.unlink()
        there, served = held(folder), server.bytes_served
        found = finish(start(url, folder))
        sent = server.bytes_served - served
        probe = 1 if there else 0
        print(f"then loaded: {found}, {sent} bytes sent, {SIZE - there} were missing")
        assert found.digest == hashlib.sha256(data).hexdigest(), "wrong bytes"
        assert found.damaged == 0, "a piece that was there was not right"
        assert sent == SIZE - there + probe, "more was fetched than was missing"


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", nargs=2, metavar=("URL", "FOLDER"))
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--together", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=0.2, help="seconds after its first byte that a load lives")
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load(*given.load)))
    if given.together:
        with tempfile.TemporaryDirectory(prefix="runai-cache-") as folder:
            found, served, digest = together(given.together, Path(folder))
        print(f"{served} bytes sent for {SIZE}; right: {[each.digest == digest for each in found]}")
    if given.kills:
        with tempfile.TemporaryDirectory(prefix="runai-cache-") as folder:
            killed(given.kills, Path(folder), given.seed, given.longest)


if __name__ == "__main__":
    main()
