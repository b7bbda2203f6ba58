"""The machine's own limits, by plain threads round preadv(2) (which releases the GIL) and no loader at all.

- `raw-direct`: O_DIRECT reads into one aligned buffer a thread: what the disk gives.
- `preadv-loop`: two threads copy from the page cache round one buffer of huge pages that is already populated, as
  large as a loader's live slabs: what a loader that recycles its memory could reach.
- `two-buffers`: two threads copy from the page cache, each into one buffer as large as a read: the processor's cache
  holds what they write.
- `read-then-copy`: the same two threads fill that buffer, then copy it to memory that is populated too, and so on:
  what a loader could reach whose caller copies each tensor, which has to be there as a whole, into a parameter.
- `fresh-pages`: two threads read into huge-page memory that nothing has touched: what a loader whose caller keeps
  every tensor could reach.

Everything here is standard library: a limit runs in a bare process, through the same worker as the loaders.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
HUGE_PAGE = 2 * MIB
COPY_THREADS = 2

NAMES = ("raw-direct", "preadv-loop", "two-buffers", "read-then-copy", "fresh-pages")


@dataclass(frozen=True, slots=True)
class Shape:
    """How a limit reads: `direct_threads` for raw-direct, bytes a read, bytes of preadv-loop's buffer."""

    direct_threads: int = 16
    chunk: int = 2 * MIB
    loop_buffer: int = 128 * MIB


def huge_buffer(size: int) -> memoryview:
    """`size` bytes of private anonymous memory on a huge page's boundary, huge pages advised, nothing populated."""
    mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(mapping)) % HUGE_PAGE
    return memoryview(mapping)[start : start + size]


def _populate(buffer: memoryview) -> None:
    for offset in range(0, len(buffer), mmap.PAGESIZE):
        buffer[offset] = 1


def _read_all(
    files: Sequence[Path], chunk: int, threads: int, flags: int, target: Callable[[int, int], memoryview]
) -> None:
    """Read every byte: `target(thread, chunk index)` is where a chunk goes. Raises the first error of any thread."""
    descriptors = [os.open(path, os.O_RDONLY | flags) for path in files]
    pieces = [
        (descriptor, offset)
        for descriptor, path in zip(descriptors, files, strict=True)
        for offset in range(0, path.stat().st_size, chunk)
    ]
    turns = itertools.count()
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            while (turn := next(turns)) < len(pieces) and not errors:
                descriptor, offset = pieces[turn]
                # The last piece of a file is short; a direct read asks past the end, as it must for alignment.
                if not os.preadv(descriptor, [target(thread, turn)], offset):
                    raise OSError(f"nothing read at {offset}")
        except OSError as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    if errors:
        raise errors[0]


def prepare(name: str, files: Sequence[Path], shape: Shape) -> Callable[[], None]:
    """What to time for the limit `name`: memory that the limit takes as given is populated here."""
    chunk = shape.chunk
    if name == "raw-direct":
        own = [huge_buffer(chunk) for _ in range(shape.direct_threads)]
        for buffer in own:
            _populate(buffer)
        return lambda: _read_all(files, chunk, shape.direct_threads, os.O_DIRECT, lambda thread, _: own[thread])
    if name == "two-buffers":
        two = [huge_buffer(chunk) for _ in range(COPY_THREADS)]
        for buffer in two:
            _populate(buffer)
        return lambda: _read_all(files, chunk, COPY_THREADS, 0, lambda thread, _: two[thread])
    if name == "preadv-loop":
        ring = huge_buffer(shape.loop_buffer)
        _populate(ring)
        places = [ring[start : start + chunk] for start in range(0, len(ring) - chunk + 1, chunk)]
        return lambda: _read_all(files, chunk, COPY_THREADS, 0, lambda _, turn: places[turn % len(places)])
    if name == "read-then-copy":
        ring = huge_buffer(shape.loop_buffer)
        # Parameters are PyTorch's: small pages.
        copies = memoryview(mmap.mmap(-1, sum(path.stat().st_size for path in files), mmap.MAP_PRIVATE))
        _populate(ring)
        _populate(copies)
        return lambda: _read_then_copy(files, chunk, ring, copies)
    if name == "fresh-pages":
        return lambda: _read_into_fresh_pages(files, chunk)
    raise ValueError(f"no limit named {name!r}: {', '.join(NAMES)}")


def _read_into_fresh_pages(files: Sequence[Path], chunk: int) -> None:
    memory = huge_buffer(sum(-(-path.stat().st_size // chunk) for path in files) * chunk)
    _read_all(files, chunk, COPY_THREADS, 0, lambda _, turn: memory[turn * chunk : (turn + 1) * chunk])


def _read_then_copy(files: Sequence[Path], chunk: int, ring: memoryview, copies: memoryview) -> None:
    """File by file: fill the ring, wait for each other, copy it, wait for each other."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(ring))
    target = ctypes.addressof(ctypes.c_char.from_buffer(copies))
    waiting = threading.Barrier(COPY_THREADS, timeout=60)  # one that has failed is waited for no longer

    def work(thread: int) -> None:
        done = 0
        for path in files:
            with path.open("rb", buffering=0) as file:
                size = path.stat().st_size
                for start in range(0, size, len(ring)):
                    mine = range(thread * chunk, min(len(ring), size - start), COPY_THREADS * chunk)
                    lengths = [os.preadv(file.fileno(), [ring[at : at + chunk]], start + at) for at in mine]
                    waiting.wait()
                    for at, length in zip(mine, lengths, strict=True):
                        ctypes.memmove(target + done + start + at, address + at, length)
                    waiting.wait()
                done += size

    with ThreadPoolExecutor(COPY_THREADS) as pool:
        list(pool.map(work, range(COPY_THREADS)))
