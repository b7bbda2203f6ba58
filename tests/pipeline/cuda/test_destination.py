"""From the public face to the device: what `device="cuda:0"` does, with and without CUDA's packages."""

import logging
from pathlib import Path

import pytest
import torch

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    RunaiStreamerMemoryLimitException,
    SafetensorsStreamer,
    streamer,
)
from runai_model_streamer import (
    range_streamer as chunk_streamer,
)
from runai_model_streamer.errors import GdsUnavailableError, MissingDependencyError, NotFoundError
from runai_model_streamer.installation import install_command
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda import destination, driver, staging
from runai_model_streamer.pipeline.landing import assembly
from runai_model_streamer.pipeline.plan import groups
from runai_model_streamer.pipeline.plan.selection import Rows
from tests.checkpoints import Stored, join_ours, numbered, raw, stored, write
from tests.cuda_emulator import Emulator
from tests.pipeline.cuda.world import GPU, CtypesApi, World


@pytest.fixture
def world(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> World:
    """A machine with a GPU, of whose tensors torch says that they are on the CPU."""
    world = World(emulator, CtypesApi(emulator))
    world.stand_in(monkeypatch)
    return world


@pytest.fixture
def tensors() -> dict[str, Stored]:
    return numbered([3_000_000, 0, 5, 70_000, 4_000_000])


def test_tensors_are_staged_and_copied(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors)
    with SafetensorsStreamer() as opened:
        opened.stream_file(path, device="cuda:0")
        for name, tensor in opened.get_tensors():
            world.work_on(name, tensor)
            del tensor
    assert world.results() == [(name, each.data) for name, each in tensors.items()]
    assert world.faulty.calls["cuMemcpyHtoDAsync"] >= 4
    report = opened.report
    assert (report.device, report.bytes) == ("cuda:0", sum(len(each.data) for each in tensors.values()))
    assert report.peak_memory == world.emulator.live("registered_bytes_peak")
    assert report.reader_seconds.copy > 0
    assert world.close() == []


@pytest.mark.parametrize("limit", ["0", "8192", "1000000"])
def test_a_limit_below_the_largest_tensor_is_enough(
    limit: str, world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    path = write(tmp_path / "m", tensors)
    with SafetensorsStreamer() as opened:
        opened.stream_file(path, device="cuda:0")
        kept = list(opened.get_tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in tensors.values()]
    kept.clear()
    assert world.emulator.live("registered_bytes_peak") <= (int(limit) or 16 << 20)  # two reads
    assert world.close() == []


@pytest.mark.parametrize("limit", ["-1", "0"])
def test_without_a_limit_a_chunk_that_is_too_large_for_two_slots_is_cut(
    limit: str, world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_BYTES", 1 << 20)
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    with SafetensorsStreamer() as opened:
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0")
        kept = list(opened.get_tensors())
    assert [raw(tensor) for _, tensor in kept] == [each.data for each in tensors.values()]
    kept.clear()
    assert world.emulator.live("registered_bytes_peak") <= 1 << 20
    assert world.close() == []


def test_a_limit_of_less_than_two_pages_is_an_error(
    world: World, tensors: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "8191")
    with SafetensorsStreamer() as opened, pytest.raises(RunaiStreamerMemoryLimitException, match="8192 or more"):
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0")
    assert world.close() == []


def test_without_cudas_packages_tensors_are_moved_one_by_one_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise MissingDependencyError(install_command("cuda13"))

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(destination, "driver_api", missing)
    monkeypatch.setattr(streamer, "resolve_device", lambda _: GPU)
    moved: list[torch.device] = []

    def to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(device)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    with SafetensorsStreamer() as opened, caplog.at_level(logging.INFO):
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")
        assert len(list(opened.get_tensors())) == 2
    assert moved == [GPU, GPU]
    assert sum("cuda13" in record.message for record in caplog.records) == 1


def test_gpudirect_that_is_asked_for_is_an_error_without_cudas_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError(install_command("cuda13"))

    monkeypatch.setattr(destination, "driver_api", missing)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(streamer, "resolve_device", lambda _: GPU)
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    with SafetensorsStreamer() as opened, pytest.raises(GdsUnavailableError, match=r"RUNAI_STREAMER_GDS=1: .*cuda13"):
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")


def test_missing_packages_are_named_with_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(MissingDependencyError, match=r"\[cuda13\].*\[cuda12\]"):
        driver.driver_api()


@pytest.mark.parametrize("gap", [0, 64 << 10])
def test_a_ranks_parts_are_put_together_on_the_device(
    gap: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, add = assembly.cut, assembly.add

    # Torch's own work would be queued on the caller's stream; here it is done by the CPU, at once.
    def cut_later(piece: torch.Tensor, rows: Rows) -> torch.Tensor:
        world.call("cuStreamSynchronize", world.using)
        return cut(piece, rows)

    def add_later(piece: torch.Tensor, made: torch.Tensor, row: int) -> None:
        world.call("cuStreamSynchronize", world.using)
        add(piece, made, row)

    monkeypatch.setattr(assembly, "cut", cut_later)
    monkeypatch.setattr(assembly, "add", add_later)
    monkeypatch.setitem(groups.MAX_GAP, SourceKind.FILE, gap)
    whole = stored("U8", (30, 100_000))
    path = write(tmp_path / "m", {"rows": whole, "columns": whole, "none": whole, "whole": whole})
    found = []
    with SafetensorsStreamer() as opened:
        opened.stream_file(
            path, device="cuda:0", select={"rows": (0, 7, 9), "columns": (1, 5, 20_000), "none": (1, 3, 3)}
        )
        for name, tensor in opened.get_tensors():
            world.call("cuStreamSynchronize", world.using)
            found.append((name, raw(tensor)))
            del tensor
    columns = b"".join(whole.data[row * 100_000 :][5:20_000] for row in range(30))
    assert found == [
        ("rows", whole.data[700_000:900_000]),
        ("columns", columns),
        ("none", b""),
        ("whole", whole.data),
    ]
    assert world.close() == []


def test_raw_ranges_that_overlap_or_go_back_land_on_the_device(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_streamer, "resolve_device", lambda _: GPU)
    data = stored("U8", (3_000_000,)).data
    (tmp_path / "data.bin").write_bytes(data)
    offsets, sizes = [1_000_000, 0, 5, 900_000, 2_999_999], [500_000, 10, 0, 200_000, 1]
    found = []
    with FileStreamer() as opened:
        opened.stream_files([FileChunks(1, str(tmp_path / "data.bin"), offsets, sizes)], device="cuda:0")
        for _, index, tensor in opened.get_chunks():
            world.call("cuStreamSynchronize", world.using)
            found.append((index, raw(tensor)))
            del tensor
    assert found == [(index, data[offsets[index] : offsets[index] + sizes[index]]) for index in range(5)]
    assert world.close() == []


def test_memory_is_page_locked_once_while_headers_are_read_and_serves_the_next_load(
    world: World, tensors: dict[str, Stored], tmp_path: Path
) -> None:
    path = write(tmp_path / "m", tensors)
    for _ in range(2):
        with SafetensorsStreamer() as opened:
            opened.stream_file(path, device="cuda:0")
            list(opened.get_tensors())
    assert world.faulty.calls["cuMemHostRegister"] == 1
    assert world.faulty.calls["cuMemHostUnregister"] == 0
    assert world.close() == []


def test_it_is_begun_before_a_header_is_read(world: World, tmp_path: Path) -> None:
    with SafetensorsStreamer() as opened, pytest.raises(NotFoundError):
        opened.stream_file(tmp_path / "missing", device="cuda:0")
    join_ours()
    assert world.faulty.calls["cuMemHostRegister"] == 1
    assert world.close() == []
