"""Two ranks on two emulated GPUs: `python -m tests.torch_cuda.ranks FOLDER MODE [FAULT]`, where CUDA is emulated.

Each loads FOLDER/model.safetensors by broadcasts on the tests' own backend, and writes what was wrong to
FOLDER/RANK.json. FAULT is one of `FAULTS`.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import pytest
import torch
import torch.distributed as dist

from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.turns import Turns
from runai_model_streamer.errors import StreamerError
from tests.cuda_emulator import Emulator, Mode, torch_operators
from tests.distributed.device import backend
from tests.torch_cuda.loads import cloned, load, mapped, wrong

RANKS: Final = 2


def _broadcast_at_once(self: Lane, slot: int, length: int, root: int) -> Any:
    """Do not wait for the upload."""
    self._uploaded.clear()
    return _BROADCAST(self, slot, length, root)


def _wait_for_nothing(self: Lane, work: Any) -> bool:
    return True


def _beside_the_stream(self: Lane, stream: Any) -> Any:
    """Upload and broadcast on the thread's own stream of that moment."""
    return _ON(self, torch.cuda.Stream(self._device))


_BROADCAST, _ON = Lane.broadcast, Lane._on  # noqa: SLF001

FAULTS: Final[dict[str, tuple[type, str, Callable[..., Any]]]] = {
    "the upload is not waited for": (Lane, "broadcast", _broadcast_at_once),
    "the broadcast is not waited for": (Lane, "has_run", _wait_for_nothing),
    "streams that nobody waits for": (Lane, "_on", _beside_the_stream),
    "a slot is used again at once": (Turns, "may_load", lambda self, turn: turn < self.run + self.slots),
}


def _run(folder: Path, rank: int, mode: str, fault: str | None) -> None:
    torch_operators.install()
    emulator = Emulator.attach()
    emulator.set_mode(cast(Mode, mode), rank)
    told: list[str] = []
    backend.register(lambda store, index, size: backend.Checked(store, index, size, told=told.append))
    dist.init_process_group(
        backend.NAME,
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    device = f"cuda:{rank}"
    torch.cuda.set_device(rank)
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            # A rank makes its lane by itself: none can be handed in.
            patch.setattr(*FAULTS[fault])
        try:
            path = folder / "model.safetensors"
            found += wrong(load(path, device, is_distributed=True), device)
            found += wrong(mapped(path, cloned, device, is_distributed=True), device)
            torch.cuda.synchronize()
        except StreamerError as error:
            found.append(f"{type(error).__name__}: {error}")
    found += told + [f"{misuse.kind}: {misuse.text}" for misuse in emulator.take_misuses()]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    deadline = time.monotonic() + 60
    while not all((folder / f"{each}.json").exists() for each in range(RANKS)) and time.monotonic() < deadline:
        time.sleep(0.01)  # the store of torch is a file; but a rank's memory is not


def main() -> None:
    folder, mode, *fault = Path(sys.argv[1]), *sys.argv[2:]
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if not child:
            status = 1
            try:
                _run(folder, rank, str(mode), fault[0] if fault else None)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
