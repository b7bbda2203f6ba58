"""What a memory limit is to one of the processes that share it."""

import pytest

from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.pipeline.plan.limit import MemoryLimit
from tests.checkpoints import infos


@pytest.mark.parametrize(
    ("setting", "processes", "part"), [(-1, 8, -1), (0, 8, 0), (800, 8, 100), (807, 8, 100), (8, 8, 1), (7, 8, 1)]
)
def test_a_part_of_the_nodes_limit_is_a_limit_however_many_processes_share_it(
    setting: int, processes: int, part: int
) -> None:
    assert MemoryLimit(setting, "LIMIT", processes).part == part


@pytest.mark.parametrize(
    ("kind", "largest", "left"),
    [
        pytest.param(SourceKind.OBJECT, 100, 700, id="objects"),
        pytest.param(SourceKind.FILE, 100, 800, id="files, which nobody asks for a second time"),
        pytest.param(SourceKind.OBJECT, 750, 750, id="a tensor that needs nearly all"),
    ],
)
def test_memory_for_second_answers_is_part_of_the_limit(kind: SourceKind, largest: int, left: int) -> None:
    file = PlannedFile(10_000, kind, 1, 8, infos([10, largest]))
    assert MemoryLimit(800, "LIMIT", second_answers=100).bytes_for(["m"], [file], 0) == left
