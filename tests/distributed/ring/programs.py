"""Programs for `tests.distributed_ranks`: what ranks share through memory, and in which groups."""

import ctypes
import hashlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer, TensorShard, TensorSlice
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.origins import Origin
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import raw
from tests.distributed_ranks import PATIENCE, Outcome, Ranks, be_on, counted_reads, setting

PLANS: Final = 20
DEVICE_PLANS: Final = 8


def cached(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Files that have just been written are in the page cache."""
    source = FileSource(me.path("large.safetensors"))
    known = source.origin(0, source.size) is Origin.PAGE_CACHE
    source.close()
    with setting(RUNAI_STREAMER_DIRECT_IO="auto"), counted_reads() as counted:
        yield "warm", me.stream("large.safetensors") | {"read": counted, "known": known}


def in_groups(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Two stages of a pipeline load different files at different moments, then one of them a draft model."""
    stages = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    draft, across = dist.new_group([3, 2]), dist.new_group([1, 2])
    mine = stages[me.rank // 2]
    first = me.folder / "first stage is done"
    if me.rank >= 2:
        while not first.exists():  # the first stage waits for none of the second
            time.sleep(0.01)
    yield "stage", me.stream("columns.safetensors" if me.rank >= 2 else "large.safetensors", group=mine)
    if me.rank == 0:
        first.touch()
    if me.rank >= 2:
        yield "draft", me.stream("odd.safetensors", group=draft)
    if me.rank in (1, 2):
        yield "across", me.stream("small.safetensors", "large.safetensors", group=across)
    if me.rank == 0:
        yield "not mine", me.stream("small.safetensors", group=stages[1])
    yield "alone", me.stream("small.safetensors", group=[dist.new_group([rank]) for rank in range(4)][me.rank])
    yield "again", me.stream("odd.safetensors", group=mine)
    yield "at once", _at_once(me, mine)
    yield "all", me.stream("large.safetensors")


def fan_out(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Ranks without memory in common send each other what they read."""
    for name in ("sockets", "memory"):
        with setting(RUNAI_STREAMER_DIST_FANOUT=name), counted_reads() as counted:
            yield name, me.stream("large.safetensors", "odd.safetensors") | {"read": counted}
    with setting(RUNAI_STREAMER_DIST_FANOUT="device"):
        yield "no backend", me.stream("large.safetensors")
    with setting(RUNAI_STREAMER_DIST_FANOUT="device" if me.rank == 1 else "memory"):
        yield "not all", me.stream("large.safetensors")
    with _no_memory(me.rank == 1):
        yield "falls back", me.stream("large.safetensors")
        yield "falls back again", me.stream("odd.safetensors")
        with setting(RUNAI_STREAMER_DIST_FANOUT="memory"):
            yield "must not", me.stream("large.safetensors")
        with setting(RUNAI_STREAMER_DIST_FANOUT="device"):
            yield "cannot connect", me.stream("large.safetensors")
    yield "afterwards", me.stream("large.safetensors")


def _at_once(me: Ranks, mine: Any) -> Outcome:
    """Two loads at once in each process, one of its stage and one of all ranks, tensor by tensor in turns."""
    with me.watched() as outcome, SafetensorsStreamer() as first, SafetensorsStreamer() as second:
        first.stream_files([me.path("large.safetensors")], is_distributed=True, group=mine)
        second.stream_files([me.path("large.safetensors")], is_distributed=True)
        for (name, one), (_, two) in zip(first.get_tensors(), second.get_tensors(), strict=True):
            assert raw(one) == raw(two)
            outcome["tensors"].append([name, "", [], hashlib.sha256(raw(one)).hexdigest()])
    return outcome


class _no_memory:  # noqa: N801 - a context manager
    """Files of more than a page cannot be made, nor can shared memory."""

    def __init__(self, really: bool) -> None:
        self._really = really

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._really:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


HEADROOMS: Final = (1, 4, 12, 24, 40, 100)
"""MiB of addresses that rank 1 may still take when ranks begin to share memory."""


def short_of_memory(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Rank 1 gets few addresses more, so that it can map nothing, or not all; then no rank has room in /dev/shm."""
    me.ready()
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def few(headroom: int) -> bool:
        if me.rank == 1:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE + (headroom << 20), limits[1]))
        return True

    for headroom in HEADROOMS:
        # What is to be selected is asked for when the ranks have met.
        outcome = me.stream("large.safetensors", select=lambda _, headroom=headroom: few(headroom))
        resource.setrlimit(resource.RLIMIT_AS, limits)
        yield f"{headroom} MiB", outcome
    yield "afterwards", me.stream("large.safetensors")
    if _small_shared_memory():
        yield "small /dev/shm", me.stream("large.safetensors")


def _small_shared_memory() -> bool:
    """Let this process have a /dev/shm of one page. Return whether it may."""
    libc, own_mounts, private = ctypes.CDLL(None), 0x20000, 0x44000
    return not (
        libc.unshare(own_mounts)
        or libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None)
        or libc.mount(b"none", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"size=4k")
    )


def paces(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Ranks of very different pace, through a ring of two slots for each."""

    def slow(index: int) -> None:
        time.sleep(float(os.environ.get("PACE", "0.05")) * me.rank * (index % 3))

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "least memory", me.stream("large.safetensors", each=slow)
    limit = 4 * 3_000_000 + 6_000_000
    with setting(RUNAI_STREAMER_MEMORY_LIMIT=str(limit)):
        yield "limited", me.stream("large.safetensors", each=slow)
    yield "unlimited", me.stream("large.safetensors", each=slow)


def nodes_in_one(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Three nodes, of one, two and three ranks, and one read for all of them."""
    be_on(f"node {(0, 1, 1, 2, 2, 2)[me.rank]}")
    with setting(RUNAI_STREAMER_DIST_GLOBAL="1"), counted_reads() as counted:
        yield "globally", me.stream("large.safetensors", "odd.safetensors") | {"read": counted}
        half = {name: TensorShard(0, me.rank % 2, 2) for name in (f"t{index}" for index in range(8))}
    with setting(RUNAI_STREAMER_DIST_GLOBAL="1", RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "halves", me.stream("large.safetensors", select=half)


def namespaces(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Ranks that cannot all connect with each other's sockets."""
    for name, variables in (("node", {}), ("all", {"RUNAI_STREAMER_DIST_GLOBAL": "1"})):
        with setting(**variables), counted_reads() as counted:
            yield name, me.stream("large.safetensors", "odd.safetensors") | {"read": counted}
    with setting(RUNAI_STREAMER_DIST_FANOUT="memory"):
        yield "memory", me.stream("large.safetensors")


def plans(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Random loads, each held against what the rank loads by itself."""
    yield from plans_of(me, PLANS)


def plans_of(me: Ranks, count: int, fan_out: str | None = None) -> Iterator[tuple[str, Outcome]]:
    """So many of them, all by one fan-out, or by any."""
    for seed in range(count):
        alike = random.Random(seed)
        names = alike.sample(["large", "odd", "columns", "small", "floats"], alike.randint(1, 4))
        paths = [me.path(f"{name}.safetensors") for name in names]
        variables = {
            "RUNAI_STREAMER_MEMORY_LIMIT": alike.choice(["-1", "0", str(8 * 7_000_000), str(200_000_000)]),
            "RUNAI_STREAMER_CHUNK_BYTESIZE": alike.choice(["", str(2 << 20), str(3_000_001)]),
            "RUNAI_STREAMER_DIRECT_IO": alike.choice(["0", "1", "auto"]),
            "RUNAI_STREAMER_DIST_FANOUT": alike.choice(["auto", "auto", "sockets"]) if fan_out is None else fan_out,
        }
        own = random.Random(seed * 100 + (me.rank if alike.random() < 0.7 else 0))
        wanted: dict[str, Any] = {"select": _selection(own)} if alike.random() < 0.7 else {}
        if find_spec("numba") and alike.random() < 0.4:
            wanted["dtype"] = torch.bfloat16
        with setting(**variables):
            shared = _loaded(paths, is_distributed=True, **wanted)
        with setting(RUNAI_STREAMER_DIST="0"):
            alone = _loaded(paths, **wanted)
        yield f"plan {seed}", {"equal": shared == alone, "tensors": len(shared)}


def _selection(random_of: random.Random) -> Callable[[str], Any]:
    """A part of each tensor that has something to choose from, the same whenever it is asked for."""
    salt = random_of.random()

    def part(name: str) -> Any:
        chosen = random.Random(f"{salt} {name}")
        if name.startswith("t") and name[1:].isdigit():
            start = chosen.randrange(3_000_000)
            return chosen.choice([True, False, TensorSlice(0, start, chosen.randint(start, 3_000_000))])
        if name == "columns":
            return chosen.choice([True, TensorShard(1, chosen.randrange(8), 8), TensorShard(0, chosen.randrange(3), 3)])
        return chosen.choice([True, True, None])

    return part


def _loaded(paths: list[str], **arguments: Any) -> list[tuple[str, str]]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **arguments)
        return [(name, hashlib.sha256(raw(tensor)).hexdigest()) for name, tensor in streamer.get_tensors()]


def between_devices(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Broadcasts on the tests' own backend pass on what each rank has read."""

    def raising(index: int) -> None:
        if me.rank == 2 and index == 1:
            raise ValueError("the caller's own trouble")

    def slow(index: int) -> None:
        time.sleep(0.05 * me.rank * (index % 3))

    with setting(RUNAI_STREAMER_DIST_FANOUT="device"):
        with counted_reads() as counted:
            yield "large", me.stream("large.safetensors", "odd.safetensors") | {"read": counted}
        with setting(RUNAI_STREAMER_DIRECT_IO="auto"), counted_reads() as counted:
            yield "warm", me.stream("large.safetensors") | {"read": counted}
        with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
            yield "least memory", me.stream("large.safetensors", each=slow)
            yield "raises", me.stream("large.safetensors", each=raising)
        half = {name: TensorShard(0, me.rank % 2, 2) for name in (f"t{index}" for index in range(8))}
        yield "halves", me.stream("large.safetensors", select=half)
        for name in ("one", "other"):
            be_on(f"node {me.rank % 2}")
            with setting(RUNAI_STREAMER_DIST_GLOBAL=str(int(name == "other"))), counted_reads() as counted:
                yield f"two nodes, {name}", me.stream("large.safetensors") | {"read": counted}
        yield from plans_of(me, DEVICE_PLANS, "device")


def stopped(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank is stopped in the middle, and goes on when the others have given it up."""

    def stop(index: int) -> None:
        if me.rank == 1 and index == 1:
            waker = os.fork()
            if not waker:
                me.await_end("stopped", (0, 2))
                os.kill(os.getppid(), signal.SIGCONT)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.waitpid(waker, 0)

    me.ready()
    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0", RUNAI_STREAMER_DIST_TIMEOUT=str(PATIENCE)):
        outcome = me.stream("large.safetensors", each=stop)
    me.ended("stopped")
    yield "stopped", outcome


_ALL: Final = (
    cached,
    in_groups,
    fan_out,
    short_of_memory,
    paces,
    namespaces,
    nodes_in_one,
    plans,
    between_devices,
    stopped,
)

PROGRAMS: Final = {program.__name__: program for program in _ALL}
