"""One load from object storage in a process of its own; loaders.py describes the worker's talk with its parent.

The job's `files` are the local copies of what its `urls` name: bytes are compared with them. Credentials, certificate
and settings come by the environment. A job with `heartbeat` has a thread beside the load that sleeps for a
millisecond over and over, and notes how much longer each sleep was: what another thread of the caller's would see.
"""

from __future__ import annotations

import importlib
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.loaders import OPENERS, Check, Prepared, load_and_drop
from benchmarks.span import Span

PERIOD_S = 0.001

Piece = tuple[str, int, int]
"""An object's URL, the first byte of a range of it, and its length."""


class Heartbeat:
    """The thread that wants to wake every millisecond, for the length of a `with` block."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _beat(self) -> None:
        while not self._stopping:
            before = time.perf_counter()
            time.sleep(PERIOD_S)
            self._late.append(time.perf_counter() - before - PERIOD_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    def found(self) -> dict[str, float]:
        """Milliseconds: the longest that it was held up, and the median."""
        return {"held_ms": max(self._late) * 1e3, "median_ms": statistics.median(self._late) * 1e3}


def prepare(job: dict[str, Any]) -> Prepared:
    """Import the loader and load one small object; then wait for the word."""
    started = time.perf_counter()
    loader = job["loader"]
    if loader.startswith("curl"):
        return {}, lambda: _run_curl(job)
    if loader == "obstore":
        work = _obstore(job)
        return {"import_s": time.perf_counter() - started}, lambda: _run_ranges(work)
    importlib.import_module("torch")
    if loader == "idle":
        return {}, _idle
    load_and_drop(OPENERS["runai"](), job["tiny"])
    return {"import_s": time.perf_counter() - started}, lambda: _load(job)


def _idle() -> dict[str, Any]:
    span = Span()
    with Heartbeat() as heartbeat:
        sys.stdin.readline()
    return span.end() | heartbeat.found()


def _load(job: dict[str, Any]) -> dict[str, Any]:
    if not job["heartbeat"]:
        return _stream(job)
    with Heartbeat() as heartbeat:
        result = _stream(job)
    return result | heartbeat.found()


def _stream(job: dict[str, Any]) -> dict[str, Any]:
    check = Check(job["files"]) if job["check"] else None
    stream = OPENERS["runai"]()
    span = Span()
    with stream(job["urls"]) as tensors:
        for name, tensor in tensors:
            if span.first_s is None:
                span.first_s = time.perf_counter() - span.start
            if check is not None:
                check.see(name, tensor)
        result = span.end()
    if check is not None:
        result["checked"] = check.finish()
    return result


def _pieces(job: dict[str, Any]) -> Iterator[Piece]:
    for url, path in zip(job["urls"], job["files"], strict=True):
        size, chunk = Path(path).stat().st_size, job["chunk"]
        for start in range(0, size, chunk):
            yield url, start, min(chunk, size - start)


def _run_ranges(work: Callable[[], None]) -> dict[str, Any]:
    span = Span()
    work()
    return span.end()


def _obstore(job: dict[str, Any]) -> Callable[[], None]:
    obstore = importlib.import_module("obstore")
    url = urlsplit(job["tiny"])
    # The bucket, credentials and the certificate's authority are in the environment, where its makers look too.
    store = obstore.store.S3Store(
        url.netloc,
        endpoint=job["endpoint"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "http1_only": True},
    )
    obstore.get(store, url.path.removeprefix("/")).bytes()
    pieces = list(_pieces(job))

    def work() -> None:
        turns = itertools.count()
        errors: list[Exception] = []

        def read() -> None:
            try:
                while (turn := next(turns)) < len(pieces) and not errors:
                    where, start, length = pieces[turn]
                    got = obstore.get_range(store, urlsplit(where).path.removeprefix("/"), start=start, length=length)
                    if len(got) != length:
                        raise AssertionError(f"{len(got)} bytes instead of {length}")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(job["connections"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    return work


def _run_curl(job: dict[str, Any]) -> dict[str, Any]:
    pieces, connections = list(_pieces(job)), job["connections"]
    shares = [pieces] if job["loader"] == "curl" else [pieces[n::connections] for n in range(connections)]
    command = ["curl", "--silent", "--show-error", "--fail", "--http1.1"]
    if len(shares) == 1:
        command += ["--parallel", "--parallel-max", str(connections)]
    with tempfile.TemporaryDirectory(prefix="s3-bench-curl-") as folder:
        lists = []
        for number, share in enumerate(shares):
            lists.append(Path(folder) / str(number))
            lists[-1].write_text(_curl_list(share, job["endpoint"]))
        before = _children_cpu_s()
        started = time.perf_counter()
        running = [subprocess.Popen([*command, "--config", each]) for each in lists]
        statuses = [process.wait() for process in running]
        seconds = time.perf_counter() - started
    if any(statuses):
        raise RuntimeError(f"curl ended with status {max(statuses)}")
    return {"seconds": seconds, "cpu_s": _children_cpu_s() - before, "first_s": None, "peak_mib": None}


def _curl_list(share: Sequence[Piece], endpoint: str) -> str:
    # What holds for one transfer is forgotten at `next`.
    authority = os.environ["CURL_CA_BUNDLE"]
    return "next\n".join(
        f'url = "{endpoint}/{url.removeprefix("s3://")}"\nrange = {start}-{start + length - 1}\n'
        f'output = /dev/null\ncacert = "{authority}"\nfail\nhttp1.1\n'
        for url, start, length in share
    )


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
