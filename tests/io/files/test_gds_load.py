"""Whole loads whose files the real kvikio reads, on the emulated driver: each in a process with a time limit."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from runai_model_streamer.config import GdsMode
from runai_model_streamer.io.bandwidth import Bandwidth
from runai_model_streamer.io.files.gds import GdsFile, open_gds
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.io.source import Source
from runai_model_streamer.pipeline.cuda.destination import OpenGds
from tests.casts import expected, finite
from tests.checkpoints import Stored, raw, stored, write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs
from tests.io.files.cufile import EmulatedCufile
from tests.io.files.local_files import require_local_disk
from tests.pipeline.cuda.world import World

pytestmark = needs("kvikio", "cuda.bindings")

TENSORS: dict[str, Stored] = {
    "large": stored("U8", (9_000_001,)),
    "small": stored("I64", (5,)),
    "empty": stored("F16", (0,)),
    "numbers": finite("F32", (700_001,)),
    "last": stored("BF16", (3_000_000,)),
}


def load(
    emulator: Emulator,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype | None = None,
    kvikio_keeps: Sequence[str] = (),
    opener: OpenGds = open_gds,
) -> list[tuple[str, bytes]]:
    """The tensors' bytes as a kernel of the caller sees them. All is given back but what `kvikio_keeps` names."""
    api = importlib.import_module("cuda.bindings.driver")
    world = World(emulator, api)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    with world.streamer(
        driver_api=lambda: api,
        open_gds=opener,
    ) as opened:
        opened.stream_file(path, device="cuda:0", dtype=dtype)
        for name, tensor in opened.get_tensors():
            world.work_on(name, tensor)
            del tensor
    found = world.results()
    assert [each for each in world.close() if not any(kept in each for kept in kvikio_keeps)] == []
    return found


@emulated(modes=["lazy"])
@pytest.mark.parametrize("rate", [None, "200000000"])
def test_gpudirect_that_is_asked_for_reads_a_load(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rate: str | None,
) -> None:
    require_local_disk(tmp_path)
    taken: list[int] = []
    take = Bandwidth.take

    def counted(line: Bandwidth, count: int, *arguments: object) -> bool:
        taken.append(count)
        return take(line, count, *arguments)  # type: ignore[arg-type]

    # A load makes its line from its settings. What it took is told nowhere, since only tests would ask.
    monkeypatch.setattr(Bandwidth, "take", counted)
    if rate is not None:
        monkeypatch.setenv("RUNAI_STREAMER_MAX_BANDWIDTH", rate)
    path = write(tmp_path / "m", TENSORS)
    found = load(emulator, path, monkeypatch, torch.bfloat16)
    assert found == [(name, raw(expected(each, torch.bfloat16))) for name, each in TENSORS.items()]
    assert emulated_cufile.reads >= 3
    assert emulated_cufile.registered == 0
    # Every byte is paid for, by whichever way it came.
    assert rate is None or sum(taken) >= sum(len(each.data) for each in TENSORS.values())
    assert (rate is None) == (taken == [])


@emulated(modes=["lazy"])
def test_kvikios_own_path_lands_a_load(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counted(GdsFile):
        def read_into_device(self, offset: int, pointer: int, length: int) -> None:
            super().read_into_device(offset, pointer, length)
            read.append(length)

    def by_kvikio(source: Source, mode: GdsMode, *, shared: bool) -> GdsFile:
        assert isinstance(source, FileSource)
        return Counted(source)

    # For as long as the process lives: a stream for each thread that has read, and the buffers. Not so by GPUDirect.
    kept = ("pinned", "streams", "context")
    found = load(emulator, write(tmp_path / "m", TENSORS), monkeypatch, kvikio_keeps=kept, opener=by_kvikio)
    assert found == [(name, each.data) for name, each in TENSORS.items()]
    buffers = emulator.live("pinned") * importlib.import_module("kvikio.defaults").get("bounce_buffer_size")
    assert emulator.live("pinned_bytes") == buffers
    assert sum(read) > 12_000_000
