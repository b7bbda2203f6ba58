"""Ranks of a distributed load, for tests: `python -m tests.distributed_ranks FOLDER RANKS PROGRAM`.

Forks so many processes, which meet over gloo and run one of the programs below; each writes what it saw to
FOLDER/RANK.json. A program is a list of scenarios, one after the other in the same processes.
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist

from runai_model_streamer import DistributedStreamer, FileChunks, SafetensorsStreamer, TensorShard
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.distributed.ranks import groups
from runai_model_streamer.distributed.ranks.channel import Channel, meeting, part_of
from runai_model_streamer.distributed.ranks.notices import Reason
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ranks.roll_call import RollCall
from runai_model_streamer.errors import DistributedError, StreamerError
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.feed import Feed
from runai_model_streamer.settings.environment import environment
from tests.checkpoints import join_ours, our_threads, raw
from tests.cuda_emulator import Emulator
from tests.distributed.device import backend
from tests.pinned_memory import pinned_memory
from tests.pipeline.cuda.world import Code, CtypesApi, World

Outcome = dict[str, Any]

RAW_BYTES: Final = 9_000_017
RAW_RANGES: Final = (
    [(RAW_BYTES - 1) // 1_000_000 * 1_000_000 - 1_000_000 * index for index in range(10)],
    [RAW_BYTES % 1_000_000] + [1_000_000] * 9,
)
"""Offsets and sizes: all bytes of the object, from the last to the first."""

EMULATOR: Final = "EMULATED_CUDA_DRIVER"
"""Environment variable: the emulated driver's library."""

KILLED: Final = 1
"""Rank that dies in the programs "killed" and "half_..."."""

HALF: Final = 128 << 20
"""Bytes of a message that takes a while."""


PATIENCE: Final = 10
"""RUNAI_STREAMER_DIST_TIMEOUT, in seconds, of loads in which a rank is waited for in vain. Others answer within it on a
machine that is ten times slower, too."""


class Ranks:
    """One rank: its number, its folder, and what it has seen."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.lines: list[str] = []

    def ready(self) -> None:
        """Come here with all ranks, once each has made a load: what follows takes no rank long."""
        self.stream("small.safetensors")
        dist.barrier()

    def ended(self, what: str) -> None:
        """Let the others know that this rank has come to the end of something."""
        (self.folder / f"{self.rank} ended {what}").touch()

    def await_end(self, what: str, ranks: Iterable[int]) -> None:
        """Wait until these ranks have come to the end of it."""
        for rank in ranks:
            while not (self.folder / f"{rank} ended {what}").exists():
                time.sleep(0.05)

    def path(self, name: str) -> str:
        """Of a file of the folder, or of an object."""
        return name if "://" in name or name.startswith("./") else str(self.folder / name)

    def stream(
        self,
        *names: str,
        each: Callable[[int], None] = lambda _: None,
        make: Callable[[], SafetensorsStreamer] = SafetensorsStreamer,
        **arguments: Any,
    ) -> Outcome:
        """Stream files of the folder, or objects; what came, or the error."""
        with self.watched() as outcome, make() as streamer:
            streamer.stream_files(**{"paths": list(map(self.path, names)), "is_distributed": True, **arguments})
            outcome["files"] = len(streamer.files_to_tensors_metadata)
            for index, (name, tensor) in enumerate(streamer.get_tensors()):
                outcome["tensors"].append([name, *_described(tensor)])
                each(index)
            outcome["report"] = streamer.report.as_dict()
        return outcome

    def stream_ranges(self, *chunks: FileChunks) -> Outcome:
        """Stream ranges of files of the folder, or of objects."""
        placed = [FileChunks(each.id, self.path(each.path), each.offsets, each.sizes) for each in chunks]
        with self.watched() as outcome, DistributedStreamer() as streamer:
            streamer.stream_files(placed)
            for file, index, tensor in streamer.get_chunks():
                outcome["tensors"].append([f"{file} {index}", *_described(tensor)])
        return outcome

    @contextlib.contextmanager
    def watched(self) -> Iterator[Outcome]:
        """An outcome that is given what has been seen when it is over."""
        self.lines.clear()
        outcome: Outcome = {"tensors": []}
        started = time.monotonic()
        try:
            yield outcome
        except (StreamerError, ValueError, KeyboardInterrupt, SystemExit) as error:
            outcome |= {"error": type(error).__name__, "text": str(error), "ranks": getattr(error, "ranks", None)}
        outcome |= {"seconds": time.monotonic() - started, "lines": list(self.lines), "threads": _threads_left()}
        outcome["mapped"] = Path("/proc/self/maps").read_text().count("runai-streamer-ring")


def _threads_left() -> list[str]:
    join_ours()
    return our_threads()


def _described(tensor: torch.Tensor) -> list[Any]:
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw(tensor)).hexdigest()]


def setting(**variables: str) -> contextlib.AbstractContextManager[None]:
    """Environment variables, for a while."""
    return environment(variables)


def equal(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """All ranks get all tensors."""
    yield "one file", me.stream("large.safetensors")
    yield "objects", me.stream("s3://bucket/a.safetensors", "s3://bucket/b.safetensors", "s3://bucket/c.safetensors")
    yield "odd", me.stream("odd.safetensors", "none.safetensors", "small.safetensors")
    yield (
        "ranges",
        me.stream_ranges(
            FileChunks(7, "large.safetensors", [500_000, 0, 499_990, 9], [3_000_000, 12, 20, 0]),
            FileChunks(-1, "s3://bucket/raw.bin", *RAW_RANGES),
            FileChunks(3, "odd.safetensors", [], []),
        ),
    )
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
        yield "drops", _dropped_by(me, 3)
        with _no_landing(me.rank == 2):  # nor does it receive what comes after the first tensor, however late it fails
            yield "lands nowhere", me.stream("large.safetensors")
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
    yield (
        "no path",
        me.stream(**{"paths": "small.safetensors"} if me.rank == 3 else {"paths": [me.path("small.safetensors")]}),
    )
    yield "no device", me.stream("small.safetensors", device="abacus" if me.rank == 2 else "cpu")
    yield "no names", me.stream("small.safetensors", tensor_names=1 if me.rank == 0 else None)
    with setting(RUNAI_STREAMER_CONCURRENCY="many" if me.rank == 1 else ""):
        yield "no setting", me.stream("small.safetensors")
    with setting(RUNAI_STREAMER_DIST_TIMEOUT="soon" if me.rank == 1 else ""):
        yield "no timeout", me.stream("small.safetensors")
    yield "closed", _streamed_by(me, _closed_streamer() if me.rank == 2 else SafetensorsStreamer())
    yield "closed on all", _streamed_by(me, _closed_streamer())
    yield "a name that is no Unicode", me.stream(os.fsdecode(b"n\xff.safetensors"))
    with _broken_reads(me.rank == 1):
        yield "broken, of such a name", me.stream(os.fsdecode(b"n\xff.safetensors"))
    with setting(RUNAI_STREAMER_DIST="0", RUNAI_STREAMER_DIST_TIMEOUT="soon" if me.rank == 1 else ""):
        yield "no timeout, where none is needed", me.stream("small.safetensors")
    streamer = SafetensorsStreamer()
    with me.watched() as outcome:
        streamer.stream_files([me.path("large.safetensors" if me.rank else "missing.safetensors")], is_distributed=True)
    yield "fails", outcome
    yield "afterwards, with the same streamer", _streamed_by(me, streamer)
    yield "other ranges", me.stream_ranges(FileChunks(0, "large.safetensors", [me.rank == 2], [10]))
    yield "afterwards", me.stream("large.safetensors")


def selecting(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Ranks that select the same read it together, others on their own."""

    def half(rank: int) -> Callable[[str], Any]:
        return lambda name: TensorShard(1 if name == "columns" else 0, rank, 2)

    with counted_reads() as counted:
        yield (
            "replicas",
            me.stream("large.safetensors", "columns.safetensors", select=half(me.rank % 2)) | {"read": counted},
        )
    with counted_reads() as counted:
        own = {name: TensorShard(0, me.rank, 4) for name in (f"t{index}" for index in range(8))}
        yield "each its own", me.stream("large.safetensors", select=own) | {"read": counted}
    with counted_reads() as counted:
        yield "one nothing", me.stream("large.safetensors", select=lambda _: me.rank != 2) | {"read": counted}
    with _broken_reads(me.rank == 1):
        yield "broken", me.stream("large.safetensors", select=half(me.rank % 2))
    yield "no part", me.stream("large.safetensors", select=(lambda _: "all") if me.rank == 3 else None)


def casting(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Tensors that ranks share are cast while they land."""
    yield "unlimited", me.stream("floats.safetensors", dtype=torch.bfloat16)
    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "least memory", me.stream("floats.safetensors", dtype=torch.bfloat16)
    yield "one of them", me.stream("floats.safetensors", dtype=torch.bfloat16 if me.rank else None)
    with setting(RUNAI_STREAMER_CONCURRENCY="3" if me.rank else ""):
        yield "another concurrency", me.stream("floats.safetensors", dtype=torch.bfloat16)
        yield "another concurrency, as stored", me.stream("floats.safetensors")


def page_locked(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Each rank's part of what it sends, and what it receives, lands in page-locked memory."""
    with pinned_memory() as memory:
        yield "large", me.stream("large.safetensors") | {"blocks": memory.given}
    with setting(RUNAI_STREAMER_PINNED="1" if me.rank else "auto"):
        yield "one cannot", me.stream("large.safetensors")


def without_gloo(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """The default group can send nothing that is in host memory, as nccl's; tensors go to a GPU, which is emulated."""
    yield "host", me.stream("large.safetensors")
    library = os.environ.get(EMULATOR)
    if library is None:
        return
    world = World(emulator := Emulator(ctypes.CDLL(library)), CtypesApi(emulator))
    for name, limit in (("device", "-1"), ("least memory", "0")):
        with setting(RUNAI_STREAMER_MEMORY_LIMIT=limit):
            yield name, _onto(me, world)
    yield "locked", {"count": world.faulty.calls["cuMemHostRegister"]}
    world.faulty.fails = ("cuMemHostRegister", world.faulty.calls["cuMemHostRegister"] + 1)
    yield "not locked", _onto(me, world) | {"lines": list(me.lines)}
    hasty = World(emulator, _Hasty(emulator))
    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        found = _onto(me, hasty)
    yield "hasty", found | {"wrong": hasty.close()}
    with setting(RUNAI_STREAMER_GDS="1"):
        yield "gpudirect", me.stream("large.safetensors", device="cuda:0", make=world.streamer)
    yield "closed", {"wrong": world.close()}


def _onto(me: Ranks, world: World) -> Outcome:
    """Load onto an emulated GPU; what the caller's kernels saw."""
    me.lines.clear()
    with world.streamer() as opened:
        opened.stream_files([me.path("large.safetensors")], device="cuda:0", is_distributed=True)
        for each, tensor in opened.get_tensors():
            world.work_on(each, tensor)
            del tensor
    found = [[each, "", [], hashlib.sha256(data).hexdigest()] for each, data in world.results()]
    mapped = Path("/proc/self/maps").read_text().count("runai-streamer-ring")
    return {"tensors": found, "threads": _threads_left(), "mapped": mapped}


class _Hasty(CtypesApi):
    """A driver that does not wait for an event."""

    def __getattr__(self, name: str) -> Any:
        return (lambda _: (Code(0),)) if name == "cuEventSynchronize" else super().__getattr__(name)


class _Silent(dist.ProcessGroup):
    """A group that can do nothing."""

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        return "silent"


def _left_by(me: Ranks, rank: int) -> Outcome:
    """One rank closes its streamer after its first tensor."""
    if me.rank != rank:
        return me.stream("large.safetensors")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([me.folder / "large.safetensors"], is_distributed=True)
        for _ in streamer.get_tensors():
            break
    return {"tensors": [], "threads": _threads_left()}


def _dropped_by(me: Ranks, rank: int) -> Outcome:
    """One rank drops its iterator, and closes its streamer only when the others have seen the end of the load."""
    if me.rank != rank:
        outcome = me.stream("large.safetensors")
        dist.barrier()
        return outcome
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([me.folder / "large.safetensors"], is_distributed=True)
        next(streamer.get_tensors())
        dist.barrier()
    return {"tensors": [], "threads": _threads_left()}


def _closed_streamer() -> SafetensorsStreamer:
    streamer = SafetensorsStreamer()
    streamer.close()
    return streamer


def _streamed_by(me: Ranks, streamer: SafetensorsStreamer) -> Outcome:
    """What comes of a streamer that may be of no use any more."""
    with me.watched() as outcome:
        try:
            streamer.stream_files([me.path("small.safetensors")], is_distributed=True)
            outcome["tensors"] = [[name, *_described(tensor)] for name, tensor in streamer.get_tensors()]
        finally:
            streamer.close()
    return outcome


def forked(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """A child of one rank calls the streamer that it has from its parent, while all ranks share a load with theirs."""
    streamer = SafetensorsStreamer()

    def forking(index: int) -> None:
        if me.rank != 1 or index != 1:
            return
        child = os.fork()
        if not child:
            outcome = _streamed_by(me, streamer)
            (me.folder / "child.json").write_text(json.dumps(outcome))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "forked", me.stream("large.safetensors", each=forking)
    yield "afterwards", _streamed_by(me, streamer)


@contextlib.contextmanager
def _broken_reads(broken: bool) -> Iterator[None]:
    """Local files are cut short while they are read."""
    real = FileSource._read  # noqa: SLF001

    def truncated(self: FileSource, fd: int, offset: int, buffer: memoryview) -> None:
        if offset > 1_000_000:
            raise OSError(5, "the disk is on fire")
        real(self, fd, offset, buffer)

    with pytest.MonkeyPatch.context() as patch:
        if broken:
            # A rank opens the files of a shared load by itself: no source can be handed in.
            patch.setattr(FileSource, "_read", truncated)
        yield


@contextlib.contextmanager
def _no_landing(broken: bool) -> Iterator[None]:
    """What has been read cannot land."""

    def landed(*_: Any) -> None:
        raise MemoryError("no room")

    with pytest.MonkeyPatch.context() as patch:
        if broken:
            # What lands does not fail by itself: its memory was leased before it was read.
            patch.setattr(Feed, "landed", landed)
        yield


def be_on(node: str) -> None:
    """Be a rank of this node, for the rest of the process."""
    # All ranks of a test run on one machine, and may not set its name.
    pytest.MonkeyPatch().setattr(groups, "node_name", lambda: node)


def nodes(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Two nodes of two ranks and three, and one that has a single rank."""
    be_on(f"node {min(me.rank // 2, 1)}")
    with counted_reads() as counted:
        yield "by node", me.stream("large.safetensors") | {"read": counted}
    with setting(RUNAI_STREAMER_DIST_GLOBAL="1"), counted_reads() as counted:
        yield "globally", me.stream("large.safetensors") | {"read": counted}
    be_on(f"node {me.rank > 0}")
    with counted_reads() as counted:
        yield "alone", me.stream("large.safetensors") | {"read": counted}


@contextlib.contextmanager
def counted_reads() -> Iterator[list[int]]:
    """Bytes of each read of a local file."""
    real = FileSource.read_into
    counted: list[int] = []

    def counting(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        counted.append(len(buffer))
        return real(self, offset, buffer)

    with pytest.MonkeyPatch.context() as patch:
        # A rank opens the files of a shared load by itself: no source can be handed in.
        patch.setattr(FileSource, "read_into", counting)
        yield counted


def killed(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank dies between two tensors."""

    def dying(index: int) -> None:
        if me.rank == KILLED and index == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "killed", me.stream("large.safetensors", each=dying)


def killed_while_meeting(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank comes, and dies while the others wait for one that is late."""
    me.ready()
    if me.rank == KILLED:
        _come(me)
        os.kill(os.getpid(), signal.SIGKILL)
    if me.rank == 3:
        me.await_end("meeting", (0, 2))
    outcome = me.stream("large.safetensors")
    me.ended("meeting")
    yield "meeting", outcome


def killed_while_connecting(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank dies when all have come, and it has connected half-way."""
    me.ready()
    if me.rank == KILLED:
        store, roll = _come(me)
        roll.answers(PATIENCE)
        Channel(range(dist.get_world_size()), part_of(store, "of 0/data"), PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)
    with me.watched() as outcome:
        groups.join(LoadConfig.from_environment(), connecting=PATIENCE)
    yield "meeting", outcome


def _come(me: Ranks) -> tuple[Any, RollCall]:
    """Begin a load as far as the other ranks see."""
    ranks = range(dist.get_world_size())
    store = meeting(ranks)
    roll = RollCall(store, me.rank, ranks)
    roll.answer(groups.node_name())
    return store, roll


def half_gathered(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """A rank dies while what it has for all arrives."""
    yield _cut_off(me, lambda peers: peers.gather(b"\1" * HALF if me.rank == KILLED else b""))


def half_sent(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """A rank dies while what another has for all arrives there."""
    yield _cut_off(me, lambda peers: peers.gather(b"\1" * HALF if me.rank != KILLED else b""))


def half_received(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """A rank dies while what it has read for another arrives."""
    buffer = memoryview(bytearray(b"\1" if me.rank == KILLED else b"\0") * HALF)
    yield _cut_off(
        me, lambda peers: peers.send(buffer, 0, [0]) if me.rank == KILLED else peers.receive(buffer, KILLED, 0)
    )


def sends_forgotten(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """A rank ends a load, to which gloo would not tell that a send of its own has failed."""
    real = Channel.isend
    waited: list[int] = []

    class _Forgotten:
        def __init__(self, work: Any) -> None:
            self.work = work

        def wait(self, *_: Any) -> None:
            waited.append(1)

    if me.rank == 1:
        # Whether a rank waits for its own sends shows in nothing that it returns.
        pytest.MonkeyPatch().setattr(Channel, "isend", lambda *where: _Forgotten(real(*where)))
    membership = groups.join(LoadConfig.from_environment())
    assert membership is not None
    with me.watched() as outcome:
        if me.rank == 1:
            membership.peers.end(Reason(1, "failed: on purpose"))
        else:
            membership.peers.receive(memoryview(bytearray(9)), 1, 0)
    yield "ends", outcome | {"waited": len(waited)}


def _cut_off(me: Ranks, exchange: Callable[[Peers], object]) -> tuple[str, Outcome]:
    """What a rank sees when another is killed as soon as the first bytes of a long message have come."""
    (me.folder / f"{me.rank}.pid").write_text(str(os.getpid()))
    real = Channel.irecv

    def kill_when_begun(data: torch.Tensor) -> None:
        first = data.numpy()[:1]
        while not first[0]:
            pass
        os.kill(int((me.folder / f"{KILLED}.pid").read_text()), signal.SIGKILL)

    def receiving(channel: Channel, data: torch.Tensor, rank: int, tag: int) -> Any:
        if data.numel() > HALF // 2:
            data.zero_()
            threading.Thread(target=kill_when_begun, args=(data,), daemon=True).start()
        return real(channel, data, rank, tag)

    # Only the receiver's own buffer tells when the first bytes of a message have come.
    pytest.MonkeyPatch().setattr(Channel, "irecv", receiving)
    dist.barrier()
    with setting(RUNAI_STREAMER_DIST_TIMEOUT=str(PATIENCE)):
        membership = groups.join(LoadConfig.from_environment())
    assert membership is not None
    with me.watched() as outcome:
        try:
            exchange(membership.peers)
        except DistributedError as error:
            outcome["cause"] = str(error.__cause__)
            raise
    return "cut off", outcome


def standing(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """One rank stands still for longer than the others' patience; one never comes."""

    def still(index: int) -> None:
        if me.rank == 0 and index == 1:
            me.await_end("standing", (1, 2))

    me.ready()
    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0", RUNAI_STREAMER_DIST_TIMEOUT=str(PATIENCE)):
        outcome = me.stream("large.safetensors", each=still)
        me.ended("standing")
        yield "stands still", outcome
        if me.rank != 1:
            yield "never comes", me.stream("large.safetensors")


@contextlib.contextmanager
def _signal_in(call: str | None, number: int) -> Iterator[None]:
    """A signal when the main thread is in a call, "caller/called". It comes to another thread, and so wakes nothing."""
    over = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while not over.wait(0.01):
            frame = sys._current_frames().get(main)  # noqa: SLF001 - public, but for its name
            names = [each.f_code.co_name for each, _ in traceback.walk_stack(frame)]
            if f"{call}/" in "".join(f"{name}/" for name in reversed(names)):
                time.sleep(0.5)  # it waits there now
                signal.raise_signal(number)
                return

    thread = threading.Thread(target=interrupt, name="signal")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def interrupted(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """Ctrl-C ends a load of rank 1, which waits for rank 0: where they meet, before anything is read, in the loop."""
    yield from _ended_by(me, signal.SIGINT, "meeting", "opening", "loop")


def terminated(me: Ranks) -> Iterator[tuple[str, Outcome]]:
    """SIGTERM makes rank 1 exit, which waits for rank 0; then all ranks at once, as torchrun does when one has died."""

    def leave(*_: object) -> None:
        raise SystemExit("SIGTERM")

    signal.signal(signal.SIGTERM, leave)
    yield from _ended_by(me, signal.SIGTERM, "opening", "loop")


def _ended_by(me: Ranks, number: int, *names: str) -> Iterator[tuple[str, Outcome]]:
    """A signal comes to rank 1 in one wait after the other, then to all ranks in their loops."""
    calls = {"meeting": "join/answers", "opening": "open_each/gather", "loop": "_take/_wait_for"}
    for name in names:

        def late(*_: int, name: str = name) -> None:
            if me.rank == 0:
                me.await_end(f"{name} {number}", (1,))

        me.ready()
        if name == "meeting":
            late()
        with (
            setting(RUNAI_STREAMER_MEMORY_LIMIT="0"),
            _late_reads(late if name == "opening" else None),
            _signal_in(calls[name] if me.rank == 1 else None, number),
        ):
            outcome = me.stream("large.safetensors", each=late if name == "loop" else lambda _: None)
        me.ended(f"{name} {number}")
        yield name, outcome

    def with_all(index: int) -> None:
        if index == 1:
            me.ended(f"the first tensor {number}")
            me.await_end(f"the first tensor {number}", range(dist.get_world_size()))
            signal.raise_signal(number)

    with setting(RUNAI_STREAMER_MEMORY_LIMIT="0"):
        yield "all", me.stream("large.safetensors", each=with_all)
    yield "afterwards", me.stream("large.safetensors")


@contextlib.contextmanager
def _late_reads(late: Callable[[], None] | None) -> Iterator[None]:
    """Local files are read when something else has happened."""
    real = FileSource.read_into

    def read_into(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        if late is not None:
            late()
        return real(self, offset, buffer)

    with pytest.MonkeyPatch.context() as patch:
        # A rank opens the files of a shared load by itself: no source can be handed in.
        patch.setattr(FileSource, "read_into", read_into)
        yield


PROGRAMS: Final = {
    program.__name__: program
    for program in (equal, failing, selecting, casting, page_locked, without_gloo, nodes, killed, standing, forked)
} | {
    program.__name__: program
    for program in (
        killed_while_meeting,
        killed_while_connecting,
        interrupted,
        terminated,
        half_gathered,
        half_received,
        half_sent,
        sends_forgotten,
    )
}


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _run(folder: Path, rank: int, count: int, program: str) -> None:
    from tests.distributed.ring.namespaces import enter

    enter(rank)
    dist.Backend.register_backend("silent", lambda _, *where: _Silent(*where[:2]), devices=["cpu", "cuda"])
    backend.register()
    default = {"without_gloo": "silent", "between_devices": backend.NAME}
    dist.init_process_group(
        default.get(program, "gloo"),
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=60),
    )
    me = Ranks(folder, rank)
    log = logging.getLogger("runai_model_streamer")
    log.setLevel(logging.INFO)
    log.addHandler(_Lines(me.lines))
    outcomes = {}
    from tests.distributed.ring.programs import PROGRAMS as MORE  # which imports this module

    for name, outcome in (PROGRAMS | MORE)[program](me):
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
