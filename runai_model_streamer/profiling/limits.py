"""Measures what the machine itself gives: plain reads by threads that keep nothing of what they read."""

import http.client
import itertools
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from runai_model_streamer.errors import ArgumentError, StreamerError
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.profiling.caches import evict, warm
from runai_model_streamer.profiling.measuring import Cache, Files, Path, paths_of
from runai_model_streamer.profiling.s3server import S3Server

_BLOCK: Final = 2 << 20
"""Bytes of one read of a file: its buffer stays in the CPU's cache."""

_RANGE: Final = 8 << 20
"""Bytes of one request."""

_THREADS: Final = 16
"""Reads in flight at once, where they wait."""


def measure_limit(source: Files, *, cache: Cache = "warm", threads: int | None = None, runs: int = 3) -> float:
    """Return the speed of plain reads of these files in GB/s, the fastest of `runs`. No loader can be much faster.

    Args:
        source: local files, or a server, whose objects are then read over HTTP.
        cache: as in `measure`. "warm" reads through the page cache, "cold" past it (O_DIRECT) where that is possible.
        threads: reads in flight at once; None for as many as CPUs from the page cache, else 16.
        runs: how often everything is read.

    Raises:
        ArgumentError: there is nothing to read, or it lies in a store that this cannot read.
        StreamerError: a request failed, or `evict` cannot evict a file.
        OSError: a file cannot be read.
    """
    paths, local = paths_of(source)
    if not local or runs < 1:
        raise ArgumentError(
            "only local files and the objects of an S3Server have a limit that can be measured",
            where=os.fspath(paths[0]) if paths else None,
            remedy="give at least one of them, and one run",
        )
    sizes = [os.path.getsize(path) for path in local]
    rates = []
    for _ in range(runs):
        (evict if cache == "cold" else warm)(local)
        started = time.perf_counter()
        if isinstance(source, S3Server):
            _read_objects(source, sizes, threads or _THREADS)
        else:
            cpus = len(os.sched_getaffinity(0))
            _read_files(local, sizes, threads or (_THREADS if cache == "cold" else cpus), direct=cache == "cold")
        rates.append(sum(sizes) / (time.perf_counter() - started) / 1e9)
    return max(rates)


def _read_files(paths: Sequence[Path], sizes: Sequence[int], threads: int, *, direct: bool) -> None:
    opened = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if direct and file_systems.name(opened[-1]) in file_systems.DIRECT:
                os.close(opened.pop())
                opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT))

        def work(thread: int) -> None:
            with mmap.mmap(-1, _BLOCK) as buffer:
                for file, offset in itertools.islice(_pieces(sizes, _BLOCK), thread, None, threads):
                    os.preadv(opened[file], [buffer], offset)

        _run(work, threads)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _read_objects(server: S3Server, sizes: Sequence[int], threads: int) -> None:
    host = urlsplit(server.endpoint).netloc
    targets = [url.removeprefix("s3:/") for url in server.urls]

    def work(thread: int) -> None:
        connection = http.client.HTTPConnection(host)
        buffer = memoryview(bytearray(_RANGE))
        try:
            for file, offset in itertools.islice(_pieces(sizes, _RANGE), thread, None, threads):
                end = min(offset + _RANGE, sizes[file])
                connection.request("GET", targets[file], headers={"Range": f"bytes={offset}-{end - 1}"})
                answer = connection.getresponse()
                landed = 0
                while landed < end - offset and (count := answer.readinto(buffer[landed:])):
                    landed += count
                if landed < end - offset:
                    raise StreamerError(f"{server.urls[file]}: HTTP status {answer.status}, {landed} bytes of a range")
                answer.read()
        finally:
            connection.close()

    _run(work, threads)


def _pieces(sizes: Sequence[int], length: int) -> itertools.chain[tuple[int, int]]:
    """The file and offset of each read, in order."""
    return itertools.chain.from_iterable(
        ((file, offset) for offset in range(0, size, length)) for file, size in enumerate(sizes)
    )


def _run(work: Callable[[int], None], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
