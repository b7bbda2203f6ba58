"""Process groups between devices."""

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from runai_model_streamer.distributed.device.group import DeviceGroup
from tests.distributed.device import backend


def test_a_backend_that_torch_does_not_have_is_refused() -> None:
    with pytest.raises(RuntimeError, match="of the backend nonsense cannot be made here"):
        DeviceGroup("nonsense", HashStore(), 0, 2)


def test_a_registered_backend_brings_the_roots_bytes_to_all() -> None:
    told: list[str] = []
    backend.register(lambda store, rank, size: backend.Checked(store, rank, size, told=told.append))
    store = HashStore()
    groups = [DeviceGroup(backend.NAME, store, index, 3) for index in range(3)]
    memory = [torch.full((8,), index, dtype=torch.uint8) for index in range(3)]
    works = [group.broadcast(each, root=2) for group, each in zip(groups, memory, strict=True)]
    for work in works:
        work.wait()
    assert [each.tolist() for each in memory] == [[2] * 8] * 3
    assert told == []
    for group in groups:
        group.close()


def test_a_broadcast_that_a_rank_has_left_ends_when_the_group_is_aborted() -> None:
    backend.register()
    group = DeviceGroup(backend.NAME, HashStore(), 0, 2)
    work = group.broadcast(torch.zeros(8, dtype=torch.uint8), root=0)
    assert not work.is_completed()
    group.abort()
    with pytest.raises(RuntimeError, match="aborted"):
        work.wait()
