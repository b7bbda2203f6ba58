"""Where a load lands: one value, whatever the device and the dtype, with its groups planned."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from runai_model_streamer.config import GdsMode, LoadConfig
from runai_model_streamer.errors import GdsUnavailableError, RunaiStreamerMemoryLimitException
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.destination import destination_for
from runai_model_streamer.pipeline.landing.destination import HOST, LoadSpec
from runai_model_streamer.pipeline.plan.casts import casting_of
from runai_model_streamer.pipeline.plan.groups import REST_BYTES, PlannedFile, plan_groups
from runai_model_streamer.pipeline.plan.limit import MemoryLimit
from tests.checkpoints import infos
from tests.sources import MemorySource

GPU = torch.device("cuda", 0)


def spec_of(limit: int = -1, dtype: str = "U8", target: str | None = None, **fields: object) -> LoadSpec:
    source = MemorySource("m", bytes(100))
    tensors = [info._replace(dtype=dtype) for info in infos([1 << 20] * 40)]
    files = [PlannedFile(source.size, source.kind, source.alignment, 1 << 20, tensors)]
    config = LoadConfig(memory_limit=limit)
    spec = LoadSpec(config, ["m"], [source], files, MemoryLimit(limit, "LIMIT"), 4, casting_of(files, target))
    return replace(spec, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [-1, 0, 5 << 20])
def test_a_destination_has_the_groups_of_its_files(limit: int) -> None:
    destination = destination_for(HOST, spec_of(limit))
    grouping = destination.grouping
    assert destination.device == HOST
    assert list(destination.groups) == list(plan_groups(destination.files, grouping.limit, grouping.target))
    assert destination.limit == {-1: None, 0: 1 << 20}.get(limit, limit)


def test_what_is_cast_on_the_host_counts_as_it_will_be() -> None:
    destination = destination_for(HOST, spec_of(16 << 20, "F16", "F32"))
    assert destination.limit == 16 << 20
    assert destination.grouping.readers is not None
    # A group has half of the bytes that its tensors will have.
    assert max(group.payload for group in destination.groups) <= 4 << 20


def test_a_dtype_that_nothing_is_cast_to_changes_nothing() -> None:
    assert destination_for(HOST, spec_of(target="F32")).groups == destination_for(HOST, spec_of()).groups


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for CUDA")
def test_a_gpu_without_its_packages_is_loaded_by_way_of_the_host() -> None:
    there, here = destination_for(GPU, spec_of()), destination_for(HOST, spec_of())
    assert (there.device, there.files, there.groups) == (HOST, here.files, here.groups)


def test_reads_that_ranks_share_are_even() -> None:
    alone, shared = destination_for(HOST, spec_of()), destination_for(HOST, spec_of(waits_for_ranks=True))
    assert [file.rest for file in alone.files] == [REST_BYTES]
    assert [(file.rest, file.large) for file in shared.files] == [(0, 0)]


def test_ranks_that_share_a_load_cannot_ask_for_gpudirect() -> None:
    spec = spec_of(waits_for_ranks=True)
    spec = replace(spec, config=replace(spec.config, gds=GdsMode.ALWAYS))
    with pytest.raises(GdsUnavailableError, match="leave out is_distributed=True"):
        destination_for(GPU, spec)


def test_a_limit_below_a_tensor_is_an_error() -> None:
    with pytest.raises(RunaiStreamerMemoryLimitException, match="tensor 't0' has 1048576 bytes"):
        destination_for(HOST, spec_of(1000))


class ArraySource(MemorySource):
    """A file on several disks, or on one; cached, or not."""

    def __init__(self, streams: int, origin: Origin) -> None:
        super().__init__("m", bytes(100))
        self._streams, self._origin = streams, origin

    @property
    def streams(self) -> int:
        return self._streams

    def origin(self, offset: int, length: int) -> Origin:
        return self._origin


@pytest.mark.parametrize(
    ("streams", "origin", "fields", "larger"),
    [
        (32, Origin.DISK, {}, True),
        (16, Origin.DISK, {}, False),
        (32, Origin.PAGE_CACHE, {}, False),
        (32, Origin.DISK, {"limit": 64 << 20}, False),
        (32, Origin.DISK, {"waits_for_ranks": True}, False),
    ],
    ids=["an array", "one disk", "cached", "a limit", "shared by ranks"],
)
def test_groups_are_larger_for_cold_files_on_an_array_of_disks_only(
    streams: int, origin: Origin, fields: dict[str, Any], larger: bool
) -> None:
    spec = spec_of(**fields, sources=[ArraySource(streams, origin)])
    spec = replace(spec, files=[file._replace(size=file.tensors[-1].end) for file in spec.files])
    assert [file.group > 0 for file in destination_for(HOST, spec).files] == [larger]
