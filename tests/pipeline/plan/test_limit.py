"""What a memory limit is to one of the processes that share it."""

import pytest

from runai_model_streamer.pipeline.plan.limit import MemoryLimit


@pytest.mark.parametrize(
    ("setting", "processes", "part"), [(-1, 8, -1), (0, 8, 0), (800, 8, 100), (807, 8, 100), (8, 8, 1), (7, 8, 1)]
)
def test_a_part_of_the_nodes_limit_is_a_limit_however_many_processes_share_it(
    setting: int, processes: int, part: int
) -> None:
    assert MemoryLimit(setting, "LIMIT", processes).part == part
