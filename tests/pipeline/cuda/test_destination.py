"""From the public face to the device: what `device="cuda:0"` does, with and without CUDA's packages."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from runai_model_streamer import FileChunks, FileStreamer, RunaiStreamerMemoryLimitException, SafetensorsStreamer
from runai_model_streamer.config import GdsMode, LoadConfig
from runai_model_streamer.errors import GdsUnavailableError, MissingDependencyError, NotFoundError
from runai_model_streamer.installation import install_command
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda.arena import Arenas
from runai_model_streamer.pipeline.cuda.destination import CudaParts, CudaTools, begin_staging, cuda_destination
from runai_model_streamer.pipeline.cuda.driver import driver_api
from runai_model_streamer.pipeline.cuda.staging import Staging
from runai_model_streamer.pipeline.landing.destination import Destination, LoadSpec
from runai_model_streamer.pipeline.parts import Parts
from runai_model_streamer.pipeline.plan.groups import SMALL_GROUPS, PlannedFile
from runai_model_streamer.pipeline.plan.limit import LIMIT, MemoryLimit
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import Stored, infos, join_ours, numbered, raw, stored, write
from tests.cuda_emulator import Emulator
from tests.gaps import reading_over
from tests.pipeline.cuda.world import GPU, ONE_GPU, CtypesApi, World
from tests.streamers import streamer_of

MIB = 1 << 20


@pytest.fixture
def world(emulator: Emulator) -> World:
    """A machine with a GPU, of whose tensors torch says that they are on the CPU."""
    return World(emulator, CtypesApi(emulator))


def without_packages() -> SafetensorsStreamer:
    """A streamer on a machine with a GPU and without CUDA's packages."""

    def missing() -> None:
        raise MissingDependencyError(install_command("cuda13"))

    return streamer_of(SafetensorsStreamer, Parts(ONE_GPU, CudaParts("13.0", missing)))


class Moves(TorchFunctionMode):
    """Tensors are not moved to a device: where to is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[torch.device] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is torch.Tensor.to:
            self.devices.append(args[1])
            return args[0]
        return func(*args, **(kwargs or {}))


class AtOnce:
    """The driver's interface, but what a caller's stream waits for is done when the call returns.

    Torch's own work would be queued on that stream; here the CPU does it, without waiting.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.faulty, name)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:  # noqa: N802 - the driver's name
        answer = self._world.faulty.cuStreamWaitEvent(stream, event, flags)
        if stream in (self._world.stream, self._world.other):
            self._world.call("cuStreamSynchronize", stream)
        return answer


@pytest.fixture
def tensors() -> dict[str, Stored]:
    return numbered([3_000_000, 0, 5, 70_000, 4_000_000])


def test_tensors_are_staged_and_copied(world: World, tensors: dict[str, Stored], tmp_path: Path) -> None:
    path = write(tmp_path / "m", tensors)
    with world.streamer() as opened:
        opened.stream_file(path, device="cuda:0")
        for name, tensor in opened.get_tensors():
            world.work_on(name, tensor)
            del tensor
    assert world.results() == [(name, each.data) for name, each in tensors.items()]
    assert world.faulty.calls["cuMemcpyBatchAsync"] == 1
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
    with world.streamer() as opened:
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
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    with world.streamer(max_pinned=1 << 20) as opened:
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
    with world.streamer() as opened, pytest.raises(RunaiStreamerMemoryLimitException, match="8192 or more"):
        opened.stream_file(write(tmp_path / "m", tensors), device="cuda:0")
    assert world.close() == []


def test_without_cudas_packages_tensors_are_moved_one_by_one_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with without_packages() as opened, caplog.at_level(logging.INFO), Moves() as moves:
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")
        assert len(list(opened.get_tensors())) == 2
    assert moves.devices == [GPU, GPU]
    assert sum("cuda13" in record.message for record in caplog.records) == 1


def test_gpudirect_that_is_asked_for_is_an_error_without_cudas_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    with without_packages() as opened, pytest.raises(GdsUnavailableError, match=r"RUNAI_STREAMER_GDS=1: .*cuda13"):
        opened.stream_file(write(tmp_path / "m", numbered([10, 20])), device="cuda:0")


def test_missing_packages_are_named_with_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # what Python has for a module that is not there
    with pytest.raises(MissingDependencyError, match=r"\[cuda13\].*\[cuda12\]"):
        driver_api()


@pytest.mark.parametrize("gap", [0, 64 << 10])
def test_a_ranks_parts_are_put_together_on_the_device(gap: int, world: World, tmp_path: Path) -> None:
    whole = stored("U8", (30, 100_000))
    path = write(tmp_path / "m", {"rows": whole, "columns": whole, "none": whole, "whole": whole})
    found = []
    with reading_over(gap), world.streamer(driver_api=lambda: AtOnce(world)) as opened:
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


def test_raw_ranges_that_overlap_or_go_back_land_on_the_device(world: World, tmp_path: Path) -> None:
    data = stored("U8", (3_000_000,)).data
    (tmp_path / "data.bin").write_bytes(data)
    offsets, sizes = [1_000_000, 0, 5, 900_000, 2_999_999], [500_000, 10, 0, 200_000, 1]
    found = []
    with streamer_of(FileStreamer, world.parts()) as opened:
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
        with world.streamer() as opened:
            opened.stream_file(path, device="cuda:0")
            list(opened.get_tensors())
    assert world.faulty.calls["cuMemHostRegister"] == 1
    assert world.faulty.calls["cuMemHostUnregister"] == 0
    assert world.close() == []


def test_it_is_begun_before_a_header_is_read(world: World, tmp_path: Path) -> None:
    with world.streamer() as opened, pytest.raises(NotFoundError):
        opened.stream_file(tmp_path / "missing", device="cuda:0")
    join_ours()
    assert world.faulty.calls["cuMemHostRegister"] == 1
    assert world.close() == []


def planned(config: LoadConfig, sizes: Sequence[int], *, waits_for_ranks: bool = False) -> Destination:
    """The destination of a load of tensors of these bytes, in one file."""
    tensors = infos(sizes, data_start=0)
    file = PlannedFile(sum(sizes), SourceKind.FILE, PAGE, config.chunk_for(SourceKind.FILE), tensors)
    spec = LoadSpec(config, ["m"], [], [file], MemoryLimit(-1, LIMIT), 16, waits_for_ranks=waits_for_ranks)
    return cuda_destination(GPU, spec, CudaTools(None, GdsMode.NEVER))


def test_reads_of_files_grow_as_large_as_two_slots() -> None:
    (file,) = planned(LoadConfig(), [1]).files
    assert (file.chunk, file.large, file.shared_copies) == (8 * MIB, 28 * MIB, False)


@pytest.mark.parametrize(("config", "ranks"), [(LoadConfig(chunk_bytesize=4 * MIB), False), (LoadConfig(), True)])
def test_reads_do_not_grow_where_their_size_is_set_or_ranks_share_them(config: LoadConfig, ranks: bool) -> None:
    (file,) = planned(config, [1], waits_for_ranks=ranks).files
    assert (file.chunk, file.large) == (config.chunk_bytesize or 8 * MIB, 0)


def test_the_first_groups_are_small_and_later_ones_two_large_reads() -> None:
    sizes = [group.payload for group in planned(LoadConfig(), [MIB] * 1000).groups]
    assert max(sizes[:SMALL_GROUPS]) <= 16 * MIB
    assert max(sizes[SMALL_GROUPS:]) == 55 * MIB


@pytest.mark.parametrize(("kind", "slots"), [(SourceKind.FILE, 18), (SourceKind.OBJECT, 64)])
def test_objects_have_a_slot_for_each_of_many_connections(kind: SourceKind, slots: int) -> None:
    prepared: list[Staging] = []

    class Noting(Arenas):
        @override
        def begin(self, device: int, api: Any, staging: Staging) -> None:
            prepared.append(staging)

    begin_staging(GPU, LoadConfig(), {kind}, CudaParts("13.0", lambda: None, arenas=Noting()))
    assert [staging.slots for staging in prepared] == [slots]
