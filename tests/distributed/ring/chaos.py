"""Ranks that end at random moments: `python -m tests.distributed.ring.chaos ROUNDS RANKS SEED [FANOUT]`.

Each round forks ranks that share a load; one of them is killed, stopped, leaves its loop, or fails to read, at a random
moment. The others have to come to their end soon: with an error that names it, or with all tensors, if that moment was
after what they needed. No process, file or shared memory may be left. Prints a line for each round.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.files.posix import FileSource
from tests.checkpoints import join_ours, numbered, raw, write
from tests.distributed.device import backend

WAYS: Final = ("killed", "killed", "stopped", "leaves", "cannot read")
TIMEOUT: Final = 15.0
"""Seconds that ranks wait for one that is stopped: long for one that is just slow."""
SOON: Final = 100.0
"""Seconds in which all others have to have ended: on a machine that does other things, too."""

TENSORS: Final = 24
STORED: Final = numbered([1_500_000] * TENSORS)
EXPECTED: Final = [(name, zlib.crc32(each.data)) for name, each in STORED.items()]


def _rank(folder: Path, rank: int, ranks: int, way: str | None, moment: float, limit: str, fan_out: str) -> None:
    os.environ |= {
        "RUNAI_STREAMER_DIST_FANOUT": fan_out,
        "RUNAI_STREAMER_DIRECT_IO": "0",
        "RUNAI_STREAMER_DIST_TIMEOUT": str(TIMEOUT),
        "RUNAI_STREAMER_MEMORY_LIMIT": limit,
    }
    torch.set_num_threads(1)
    backend.register()
    dist.init_process_group(
        backend.NAME if fan_out == "device" else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=60),
    )
    with SafetensorsStreamer() as streamer:  # what a first load imports
        streamer.stream_files([folder / "small.safetensors"], is_distributed=True)
        list(streamer.get_tensors())
    dist.barrier()
    deadline = time.monotonic() + moment
    if way in ("killed", "stopped"):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), 9 if way == "killed" else signal.SIGSTOP))
        signal.setitimer(signal.ITIMER_REAL, moment)
    elif way == "cannot read":
        _break_reads(deadline)
    outcome: dict[str, Any] = {"wrong": []}
    try:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([folder / "model.safetensors"], is_distributed=True)
            count = 0
            for index, (name, tensor) in enumerate(streamer.get_tensors()):
                if (name, zlib.crc32(raw(tensor))) != EXPECTED[index]:
                    outcome["wrong"].append(name)
                count += 1
                del tensor
                time.sleep(0.005)
                if way == "leaves" and time.monotonic() > deadline:
                    outcome["left"] = True
                    break
        outcome["count"] = count
    except StreamerError as error:
        outcome |= {"error": type(error).__name__, "text": str(error), "ranks": getattr(error, "ranks", None)}
    signal.setitimer(signal.ITIMER_REAL, 0)
    join_ours()  # the memory goes with the last thread that copies from it
    outcome["mapped"] = Path("/proc/self/maps").read_text().count("runai-streamer-ring")
    (folder / f"{rank}.json").write_text(json.dumps(outcome))


def _break_reads(deadline: float) -> None:
    real = FileSource.read_into

    def read_into(self: FileSource, offset: int, buffer: memoryview) -> Any:
        if len(buffer) > 1000 and time.monotonic() > deadline:
            raise StreamerError("the disk is on fire")
        return real(self, offset, buffer)

    # A rank opens the files of a shared load by itself: no source can be handed in.
    pytest.MonkeyPatch().setattr(FileSource, "read_into", read_into)


def play(folder: Path, ranks: int, victim: int, way: str, moment: float, limit: str, fan_out: str) -> list[str]:
    """One round; what was not as it has to be."""
    wrong: list[str] = []
    children: dict[int, int] = {}
    for rank in range(ranks):
        child = os.fork()
        if not child:
            code = 1
            try:
                _rank(folder, rank, ranks, way if rank == victim else None, moment, limit, fan_out)
                code = 0
            finally:
                os._exit(code)
        children[child] = rank
    codes = _ended(children, victim, way)
    for rank in range(ranks):
        file = folder / f"{rank}.json"
        outcome = json.loads(file.read_text()) if file.exists() else {}
        file.unlink(missing_ok=True)
        if rank == victim:
            continue
        text = f"rank {rank}, limit {limit}: {outcome or codes.get(rank)}"
        named = outcome.get("ranks") == [victim] and re.search(rf"rank {victim}\b", outcome.get("text", ""))
        whole = outcome.get("count") == TENSORS
        if outcome.get("wrong") or outcome.get("mapped") or not (named or whole):
            wrong.append(text)
    (folder / "meeting").unlink(missing_ok=True)
    return wrong


def _ended(children: dict[int, int], victim: int, way: str) -> dict[int, int]:
    """The exit codes of all ranks. One that is stopped is killed when the others have ended; so are those that hang."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + SOON
    left = dict(children)
    while left and time.monotonic() < deadline:
        for child, rank in list(left.items()):
            if os.waitpid(child, os.WNOHANG)[0]:
                codes[rank] = 0
                del left[child]
        if set(left.values()) <= {victim} and way == "stopped":
            break
        time.sleep(0.01)
    for child, rank in left.items():
        if rank != victim:
            codes[rank] = -1
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return codes


def _segments() -> set[str]:
    """Files of the package, or of torch, in shared memory."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("runai", "torch_", "gloo"))}


def main(
    rounds: int,
    ranks: int,
    seed: int,
    tell: Callable[[str], object] = print,
    ways: tuple[str, ...] = WAYS,
    fan_out: str = "auto",
) -> list[str]:
    """Play so many rounds; what was not as it has to be."""
    chosen = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    wrong: list[str] = []
    before = _segments()
    try:
        write(folder / "model.safetensors", STORED)
        write(folder / "small.safetensors", numbered([100]))
        for number in range(rounds):
            victim, way = number % ranks, ways[number // ranks % len(ways)]
            moment = chosen.choice([chosen.uniform(0.001, 0.1), chosen.uniform(0.05, 0.8)])
            limit = chosen.choice(["0", "-1", str(ranks * 4_000_000)])
            began = time.monotonic()
            found = play(folder, ranks, victim, way, moment, limit, fan_out)
            tell(f"{number}: rank {victim} {way} after {moment:.3f} s: {time.monotonic() - began:.1f} s {found or ''}")
            wrong.extend(found)
        wrong.extend(f"/dev/shm/{name} is left" for name in _segments() - before)
    finally:
        shutil.rmtree(folder)
    return wrong


if __name__ == "__main__":
    chosen_rounds, chosen_ranks, chosen_seed = map(int, sys.argv[1:4])
    sys.exit(bool(main(chosen_rounds, chosen_ranks, chosen_seed, fan_out=(*sys.argv[4:], "auto")[0])))
