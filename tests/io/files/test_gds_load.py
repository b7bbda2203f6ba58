"""Whole loads whose files the emulated cuFile reads, on the emulated driver: each in a process with a time limit."""

import contextlib
import importlib
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch

from runai_model_streamer.errors import GdsUnavailableError, ReadError
from runai_model_streamer.io.bandwidth import Bandwidth
from tests.casts import expected, finite
from tests.checkpoints import Stored, raw, stored, write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated, needs
from tests.io.files.cufile import EmulatedCufile
from tests.io.files.local_files import evict, require_local_disk
from tests.pipeline.cuda.world import World

pytestmark = needs("cuda.bindings")

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
    mode: str = "1",
) -> list[tuple[str, bytes]]:
    """The tensors' bytes as a kernel of the caller sees them. All is given back."""
    api = importlib.import_module("cuda.bindings.driver")
    world = World(emulator, api)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", mode)
    with world.streamer(driver_api=lambda: api) as opened:
        opened.stream_file(path, device="cuda:0", dtype=dtype)
        for name, tensor in opened.get_tensors():
            world.work_on(name, tensor)
            del tensor
    found = world.results()
    assert world.close() == []
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
    assert emulated_cufile.count("reads") >= 3
    assert emulated_cufile.count("indirect") == 0
    assert emulated_cufile.left() == {}
    # Every byte is paid for, by whichever way it came.
    assert rate is None or sum(taken) >= sum(len(each.data) for each in TENSORS.values())
    assert (rate is None) == (taken == [])


@pytest.mark.parametrize("target", [None, torch.bfloat16])
@emulated()
def test_tensors_land_by_way_of_pinned_device_memory(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: torch.dtype | None,
) -> None:
    require_local_disk(tmp_path)
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(1 << 20))
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(3 << 20))
    small = {f"s{index}": stored("F16", (index,)) for index in range(40)}
    tensors = TENSORS | small | {"end": stored("U8", (777,))}
    found = load(emulator, write(tmp_path / "m", tensors), monkeypatch, target)
    assert found == [(name, raw(expected(each, target)) if target else each.data) for name, each in tensors.items()]
    assert emulated_cufile.count("indirect") == 0
    assert emulated_cufile.left() == {}


@emulated(modes=["lazy"])
def test_the_host_waits_for_slots_only(
    emulator: Emulator, emulated_cufile: EmulatedCufile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_local_disk(tmp_path)
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(1 << 20))
    load(emulator, write(tmp_path / "m", TENSORS), monkeypatch)
    calls = Counter(emulator.calls())
    # Of the load: once, at its end.
    assert calls["cuStreamSynchronize"] == 1
    assert emulated_cufile.count("reads") > 5
    # There are slots for all of them.
    assert calls["cuEventSynchronize"] == 0


@emulated(modes=["lazy"])
@pytest.mark.parametrize("refused", ["memory", "pinning"])
def test_where_the_device_memory_cannot_be_had_auto_goes_by_the_host(
    emulator: Emulator,
    emulated_cufile: EmulatedCufile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    require_local_disk(tmp_path)
    caplog.set_level(logging.INFO, logger="runai_model_streamer")
    path = write(tmp_path / "m", TENSORS)
    if refused == "pinning":
        monkeypatch.setenv("CUFILE_REFUSE_MEMORY", "5036")
    else:
        emulator.set_device_memory(100 << 20)  # tensors fit; the slots are 144 MiB
    evict(path)
    found = load(emulator, path, monkeypatch, mode="auto")
    assert found == [(name, each.data) for name, each in TENSORS.items()]
    assert any("through page-locked memory, not by GPUDirect" in each.getMessage() for each in caplog.records)
    assert emulated_cufile.count("reads") == 0
    assert emulated_cufile.left() == {}
    with pytest.raises(GdsUnavailableError, match="GPUDirect has no memory on cuda:0"):
        load(emulator, path, monkeypatch)


@emulated(modes=["lazy"])
def test_a_load_that_fails_or_is_left_gives_everything_back(
    emulator: Emulator, emulated_cufile: EmulatedCufile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_local_disk(tmp_path)
    api = importlib.import_module("cuda.bindings.driver")
    path = write(tmp_path / "m", TENSORS)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    for failure in ("", "5012"):
        world = World(emulator, api)
        with world.streamer(driver_api=lambda: api) as opened:
            if failure:
                monkeypatch.setenv("CUFILE_FAIL", failure)
            opened.stream_file(path, device="cuda:0")
            with pytest.raises(ReadError) if failure else contextlib.nullcontext():
                next(iter(opened.get_tensors()))
        assert world.close() == []
        assert emulated_cufile.left() == {}
