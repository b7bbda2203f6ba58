import errno
import logging
import os
import threading
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.memory import headroom
from runai_model_streamer.pipeline.memory.policy import PoolPolicy
from runai_model_streamer.pipeline.memory.pool import CYCLE, LIVE_GROUPS, SlabPool
from runai_model_streamer.pipeline.memory.slabs import Bytes, Lease, Slab
from runai_model_streamer.pipeline.plan.groups import GROUP_BYTES, Group, Part
from runai_model_streamer.ranges import PAGE, round_up
from tests.checkpoints import PATIENCE, infos

MIB = 1 << 20


def group_of(index: int, size: int = MIB) -> Group:
    part = Part(0, 0, size, 0, infos([size], data_start=0))
    return Group(index, (part,), 1, size, round_up(size, PAGE))


class CountingLifecycle(Lifecycle):
    """Tells how often a waiting lease has looked: it checks the state each time before it does."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = threading.Semaphore(0)

    def check(self) -> None:
        self.looks.release()
        super().check()


class Consumer:
    """The pool of a load, and what its caller does."""

    def __init__(self, limit: int | None, policy: PoolPolicy | None = None) -> None:
        self.lifecycle = CountingLifecycle()
        self.pool = SlabPool(limit, self.lifecycle, policy=policy)

    def lease(self, index: int, size: int = MIB) -> Lease:
        return self.pool.lease(group_of(index, size))

    def tensor(self, index: int, size: int = MIB) -> torch.Tensor:
        """A tensor of all bytes of a group that has been read."""
        return self.made(self.lease(index, size), index)

    def made(self, lease: Lease, value: int) -> torch.Tensor:
        lease.memory[:] = bytes([value % 256]) * len(lease.memory)
        return torch.from_numpy(np.ndarray((lease.group.payload,), np.uint8, self.handed_over(lease)))

    def handed_over(self, lease: Lease) -> Bytes:
        root = self.pool.hand_over(lease)
        assert isinstance(root, np.ndarray)
        return root


class Asked:
    """A lease that another thread has asked for."""

    def __init__(self, consumer: Consumer, index: int, size: int = MIB, storage_bound: bool = False) -> None:
        self._consumer = consumer
        self._group = group_of(index, size)
        self._hurry = storage_bound
        self.lease: Lease | None = None
        self.error: BaseException | None = None
        while consumer.lifecycle.looks.acquire(blocking=False):
            pass
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.lease = self._consumer.pool.lease(self._group, self._hurry)
        except BaseException as error:
            self.error = error

    def granted(self) -> Lease:
        self._thread.join(PATIENCE)
        assert self.error is None
        assert self.lease is not None, "still waits"
        return self.lease

    def refused(self) -> BaseException:
        self._thread.join(PATIENCE)
        assert self.error is not None, "still waits"
        return self.error

    def end(self) -> None:
        """Not be granted after the test, when what it waits for is gone."""
        self._consumer.lifecycle.close()
        assert isinstance(self.refused(), Stopped)


class Waiting(Asked):
    """A lease that another thread waits for, from the moment it has to wait."""

    def __init__(self, consumer: Consumer, index: int, size: int = MIB, storage_bound: bool = False) -> None:
        super().__init__(consumer, index, size, storage_bound)
        assert consumer.lifecycle.looks.acquire(timeout=PATIENCE)
        self.still_waits()

    def still_waits(self) -> None:
        """Make it look once more: who was given a lease does not look again."""
        self._consumer.pool.release(-1)
        assert self._consumer.lifecycle.looks.acquire(timeout=PATIENCE), "was given a lease, did not wait"


pytestmark = pytest.mark.usefixtures("no_cyclic_garbage")


@pytest.fixture
def eager() -> PoolPolicy:
    """Without a limit: two MiB are few enough to take at once, and a used slab is waited for as long as it takes."""
    return PoolPolicy(working_set=2 * MIB, recycle_wait=10 * PATIENCE)


# What comes back, and when.


@pytest.mark.parametrize(
    ("limit", "size", "counted"),
    [
        pytest.param(64 * MIB, 9 * MIB, 10 * MIB, id="whole huge pages become resident"),
        pytest.param(64 * MIB, 17 * MIB, 17 * MIB, id="behind the last whole huge page of a slab are small ones"),
        pytest.param(9 * MIB, 9 * MIB, 9 * MIB, id="a limit equal to the tensor is enough"),
        pytest.param(4 * MIB, MIB // 2, MIB // 2, id="small slabs have small pages"),
        pytest.param(None, 9 * MIB, 9 * MIB, id="without a limit"),
    ],
)
def test_a_group_counts_for_the_memory_that_becomes_resident(limit: int | None, size: int, counted: int) -> None:
    consumer = Consumer(limit)
    consumer.lease(0, size)
    assert consumer.pool.peak == counted


def test_a_slab_is_used_again_when_its_tensor_has_been_dropped() -> None:
    consumer = Consumer(limit=4 * MIB)
    lease = consumer.lease(0)
    slab = lease.slab
    tensor = consumer.made(lease, 0)
    del lease, tensor
    assert consumer.lease(1).slab is slab


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda tensor: tensor[10:20], id="slice"),
        pytest.param(lambda tensor: tensor.view(2, -1), id="view"),
        pytest.param(lambda tensor: tensor.view(torch.float32), id="view of another dtype"),
        pytest.param(lambda tensor: tensor.detach(), id="detached"),
        pytest.param(lambda tensor: torch.nn.Parameter(tensor, requires_grad=False), id="parameter"),
        pytest.param(lambda tensor: tensor.numpy(), id="numpy"),
        pytest.param(lambda tensor: tensor[5:].numpy()[5:], id="numpy slice"),
        pytest.param(lambda tensor: memoryview(tensor.numpy()), id="memoryview"),
        pytest.param(lambda tensor: tensor.untyped_storage(), id="storage"),
        pytest.param(torch.utils.dlpack.to_dlpack, id="dlpack"),  # type: ignore[attr-defined]
    ],
)
def test_a_slab_is_not_used_again_while_anything_made_from_it_lives(keep: object) -> None:
    assert callable(keep)
    consumer = Consumer(limit=4 * MIB)
    lease = consumer.lease(0)
    slab = lease.slab
    kept = keep(consumer.made(lease, 0))
    del lease
    other = consumer.lease(1)
    assert other.slab is not slab
    del kept
    assert consumer.lease(2).slab is slab


def test_a_slab_is_not_used_again_while_one_of_several_tensors_lives() -> None:
    consumer = Consumer(limit=4 * MIB)
    lease = consumer.lease(0)
    slab = lease.slab
    root = consumer.handed_over(lease)
    tensors = [torch.from_numpy(np.ndarray((1000,), np.uint8, root, 1000 * index)) for index in range(4)]
    del root
    while tensors:
        tensors.pop(0)
        assert (consumer.lease(1).slab is slab) == (not tensors)


def test_a_lease_that_is_dropped_unused_comes_back() -> None:
    consumer = Consumer(limit=4 * MIB)
    lease = consumer.lease(0)
    slab = lease.slab
    del lease
    assert consumer.lease(1).slab is slab


def test_a_lease_keeps_nothing_of_what_it_has_handed_over() -> None:
    consumer = Consumer(limit=4 * MIB)
    lease = consumer.lease(0)
    consumer.made(lease, 0)
    assert consumer.lease(1).slab is lease.slab


def test_tensors_that_are_kept_are_never_overwritten() -> None:
    consumer = Consumer(limit=2 * MIB)
    kept = []
    for index in range(20):
        kept.append(consumer.tensor(index))
        consumer.pool.release(index)
    assert [(int(tensor.min()), int(tensor.max())) for tensor in kept] == [(index, index) for index in range(20)]
    assert len({tensor.data_ptr() for tensor in kept}) == 20


def test_a_dropped_callers_memory_goes_round_in_few_slabs() -> None:
    consumer = Consumer(limit=2 * MIB)
    places = set()
    for index in range(50):
        tensor = consumer.tensor(index)
        places.add(tensor.data_ptr())
        consumer.pool.release(index)
        del tensor
    assert len(places) == 1


def test_groups_of_a_larger_target_use_each_others_memory_whatever_their_size() -> None:
    pool = Consumer(limit=None).pool
    target = 2 * GROUP_BYTES
    capacities = []
    for index, size in enumerate([target - MIB, target]):
        lease = pool.lease(replace(group_of(index, size), target=target))
        capacities.append((lease.slab, lease.slab.capacity))
        del lease.root
    assert capacities[0] == capacities[1]
    assert capacities[0][1] == target


def test_what_comes_back_while_the_pool_is_locked_does_not_deadlock() -> None:
    tensors: list[torch.Tensor] = []

    def drop_and_map(capacity: int) -> Slab:
        # As the garbage collector might, inside the pool's locked section.
        tensors.clear()
        return Slab(capacity)

    consumer = Consumer(4 * MIB, PoolPolicy(new_slab=drop_and_map))
    tensors.append(consumer.tensor(0))
    leases: list[Lease] = []
    thread = threading.Thread(target=lambda: leases.append(consumer.lease(1)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert len(leases) == 1
    assert tensors == []


def test_a_tensor_may_be_dropped_in_any_thread() -> None:
    consumer = Consumer(limit=4 * MIB)
    tensors = [consumer.tensor(0)]
    place = tensors[0].data_ptr()
    thread = threading.Thread(target=tensors.clear)
    thread.start()
    thread.join()
    assert consumer.tensor(1).data_ptr() == place


# The limit.


def test_a_lease_waits_at_the_limit_until_the_caller_drops_a_tensor() -> None:
    consumer = Consumer(limit=2 * MIB)
    tensors = [consumer.tensor(0), consumer.tensor(1)]
    place = tensors[0].data_ptr()
    waiting = Waiting(consumer, 2)
    del tensors[0]
    assert consumer.made(waiting.granted(), 2).data_ptr() == place
    assert consumer.pool.peak == 2 * MIB


def test_a_limit_of_the_largest_tensor_is_enough() -> None:
    consumer = Consumer(limit=MIB)
    tensors = [consumer.tensor(0)]
    waiting = Waiting(consumer, 1)
    tensors.clear()
    waiting.granted()
    assert consumer.pool.peak == MIB


def test_a_lease_goes_on_when_the_caller_visibly_keeps_a_tensor() -> None:
    consumer = Consumer(limit=MIB)
    kept = consumer.tensor(0)
    waiting = Waiting(consumer, 1)
    # It has been given a tensor of the next group, so it is not about to drop this one.
    consumer.pool.release(1)
    waiting.granted()
    assert int(kept[0]) == 0


def test_the_group_of_the_last_tensor_given_out_still_counts() -> None:
    consumer = Consumer(limit=MIB)
    tensor = consumer.tensor(0)
    consumer.pool.release(0)
    Waiting(consumer, 1)
    del tensor


def test_a_group_that_the_caller_waits_for_is_served_although_it_holds_the_one_before() -> None:
    consumer = Consumer(limit=MIB)
    held = consumer.tensor(0)
    waiting = Waiting(consumer, 1)
    consumer.pool.await_group(1)
    waiting.granted()
    assert int(held[0]) == 0


def test_awaiting_comes_before_the_lease_too() -> None:
    consumer = Consumer(limit=MIB)
    held = consumer.tensor(0)
    consumer.pool.await_group(1)
    consumer.lease(1)
    assert int(held[0]) == 0


def test_only_the_group_that_is_waited_for_is_served_out_of_turn() -> None:
    consumer = Consumer(limit=MIB)
    held = consumer.tensor(0)
    consumer.pool.await_group(1)
    lease = consumer.lease(1)
    waiting = Waiting(consumer, 2)
    del held
    waiting.still_waits()
    del lease
    waiting.granted()


def test_what_the_caller_holds_does_not_count_for_the_group_it_waits_for() -> None:
    consumer = Consumer(limit=MIB)
    held = consumer.tensor(0)
    consumer.pool.await_group(1)
    consumer.lease(1)
    assert consumer.pool.peak == MIB
    del held


def test_a_kept_slab_counts_again_when_it_comes_back() -> None:
    consumer = Consumer(limit=2 * MIB)
    kept = consumer.tensor(0)
    consumer.pool.release(1)
    leases = [consumer.lease(1), consumer.lease(2)]
    del kept
    # Nothing is left for an idle slab: it has been freed, and a third group still has to wait.
    waiting = Waiting(consumer, 3)
    del leases[0]
    waiting.granted()
    assert consumer.pool.peak == 2 * MIB


def test_a_slab_that_has_come_back_is_not_taken_for_one_that_the_caller_keeps() -> None:
    consumer = Consumer(limit=2 * MIB)
    consumer.tensor(0)
    leases = [consumer.lease(1), consumer.lease(2)]
    consumer.pool.release(1)
    Waiting(consumer, 3)
    assert len(leases) == 2


def test_a_slab_counts_as_much_as_has_ever_been_in_it() -> None:
    consumer = Consumer(limit=3 * MIB)
    large = consumer.lease(0, 2 * MIB).slab
    leases = [consumer.lease(1), consumer.lease(2)]
    assert leases[0].slab is large
    waiting = Waiting(consumer, 3)
    leases.clear()
    waiting.granted()
    assert consumer.pool.peak == 3 * MIB


def test_a_kept_slab_that_comes_back_is_freed_where_the_limit_has_no_room_for_it() -> None:
    size = 512 * MIB
    consumer = Consumer(limit=size)
    kept = [consumer.pool.hand_over(consumer.lease(0, size))]
    consumer.pool.release(1)
    lease = consumer.lease(1, size)
    before = _mapped()
    kept.clear()
    consumer.pool.release(-1)
    assert _mapped() < before - size // 2
    assert lease.group.payload == size


def test_idle_memory_makes_room_for_a_group_that_does_not_fit_into_it() -> None:
    consumer = Consumer(limit=3 * MIB)
    consumer.lease(0, MIB)
    consumer.lease(1, 3 * MIB)
    consumer.lease(2, 2 * MIB)
    assert consumer.pool.peak == 3 * MIB


@given(
    limit=st.integers(1, 100),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    drops=st.lists(st.integers(0, 5), min_size=40, max_size=40),
)
def test_the_limit_holds_whatever_is_dropped_and_kept(limit: int, sizes: list[int], drops: list[int]) -> None:
    limit = max(limit, *sizes) * PAGE
    consumer = Consumer(limit)
    kept: list[tuple[int, torch.Tensor]] = []
    for index, size in enumerate(sizes):
        # The caller waits for each group in turn, as one does that reads no faster than it asks.
        consumer.pool.await_group(index)
        kept.append((index, consumer.tensor(index, size * PAGE)))
        consumer.pool.release(index)
        del kept[: drops[index]]
        assert all(bool((tensor == number).all()) for number, tensor in kept)
    assert consumer.pool.peak <= limit


# Without a limit.


def test_without_a_limit_a_slow_caller_is_run_ahead_of() -> None:
    consumer = Consumer(limit=None)
    tensors = [consumer.tensor(index) for index in range(20)]
    assert [int(tensor[0]) for tensor in tensors] == list(range(20))


def dropping(policy: PoolPolicy) -> Consumer:
    """Without a limit, a caller that has dropped a tensor: it may go on to."""
    consumer = Consumer(None, policy)
    consumer.tensor(-1)
    return consumer


def test_without_a_limit_a_used_slab_is_waited_for_before_much_fresh_memory_is_taken(eager: PoolPolicy) -> None:
    consumer = dropping(eager)
    tensors = [consumer.tensor(index) for index in range(4)]
    place = tensors[0].data_ptr()
    waiting = Waiting(consumer, 4)
    del tensors[0]
    assert consumer.made(waiting.granted(), 4).data_ptr() == place


def test_without_a_limit_four_groups_are_alive_before_any_is_waited_for(eager: PoolPolicy) -> None:
    consumer = dropping(eager)
    sizes = [8 * MIB, 8 * MIB, 8 * MIB, 2 * MIB]
    leases = [Asked(consumer, index, size).granted() for index, size in enumerate(sizes)]
    waiting = Waiting(consumer, 4, 2 * MIB)
    del leases[0]
    waiting.granted()


def test_without_a_limit_no_used_slab_is_waited_for_in_a_hurry(eager: PoolPolicy) -> None:
    consumer = dropping(eager)
    tensors = [consumer.tensor(index) for index in range(4)]
    fresh = consumer.made(consumer.pool.lease(group_of(4), storage_bound=True), 4)
    assert fresh.data_ptr() not in {tensor.data_ptr() for tensor in tensors}


def test_a_limit_holds_in_a_hurry_too() -> None:
    consumer = Consumer(limit=2 * MIB)
    leases = [consumer.lease(0), consumer.lease(1)]
    waiting = Waiting(consumer, 2, storage_bound=True)
    waiting.still_waits()
    del leases[0]
    waiting.granted()


def test_without_a_limit_a_lease_waits_for_used_slabs_once_not_for_each_group(
    eager: PoolPolicy,
) -> None:
    consumer = dropping(eager)
    tensors = [consumer.tensor(index) for index in range(4)]
    eager.recycle_wait = 0.001
    tensors.append(consumer.tensor(4))
    eager.recycle_wait = 10 * PATIENCE
    tensors.extend(consumer.made(Asked(consumer, index).granted(), index) for index in range(5, 10))
    assert [int(tensor[0]) for tensor in tensors] == list(range(10))


def test_without_a_limit_a_caller_that_keeps_its_tensors_is_not_waited_for(eager: PoolPolicy) -> None:
    consumer = dropping(eager)
    kept = [consumer.tensor(index) for index in range(4)]
    waiting = Waiting(consumer, 4)
    consumer.pool.release(3)
    waiting.granted()
    assert len(kept) == 4


def test_without_a_limit_the_group_that_the_caller_waits_for_is_served_at_once(eager: PoolPolicy) -> None:
    consumer = dropping(eager)
    kept = [consumer.tensor(index) for index in range(4)]
    consumer.pool.await_group(4)
    kept.append(consumer.made(Asked(consumer, 4).granted(), 4))


@pytest.mark.parametrize(("idle_bytes", "kept"), [(2 * MIB, LIVE_GROUPS), (5 * MIB, 5)])
def test_without_a_limit_idle_memory_is_trimmed_to_what_a_few_groups_take(idle_bytes: int, kept: int) -> None:
    consumer = Consumer(None, PoolPolicy(working_set=0, idle_bytes=idle_bytes))
    leases = [consumer.lease(index) for index in range(6)]
    slabs = [lease.slab for lease in leases]
    leases.clear()
    leases = [consumer.lease(index) for index in range(6, 12)]
    assert len([lease for lease in leases if lease.slab in slabs]) == kept


def test_a_large_slab_is_used_again_though_small_groups_came_in_between() -> None:
    consumer = Consumer(None, PoolPolicy(working_set=0, idle_bytes=0))
    large = consumer.lease(0, 64 * MIB).slab
    for index in range(1, 8):
        consumer.lease(index, MIB)
    assert consumer.lease(8, 64 * MIB).slab is large


def test_a_large_slab_is_freed_when_no_such_group_has_come_for_long() -> None:
    consumer = Consumer(None, PoolPolicy(working_set=0, idle_bytes=0))
    large = consumer.lease(0, 64 * MIB).slab
    for index in range(1, CYCLE + 2):
        consumer.lease(index, MIB)
    assert consumer.lease(CYCLE + 2, 64 * MIB).slab is not large


def test_idle_memory_is_freed_where_the_machine_lacks_it() -> None:
    left = 3 * headroom.RESERVE
    consumer = Consumer(None, PoolPolicy(available=lambda: left))
    large = consumer.lease(0, 64 * MIB).slab
    left = 0
    consumer.pool.await_group(1)
    consumer.lease(1, 2 * headroom.RESERVE)
    left = 3 * headroom.RESERVE
    assert consumer.lease(2, 64 * MIB).slab is not large


def test_the_slab_used_last_is_used_first() -> None:
    consumer = Consumer(limit=None)
    leases = [consumer.lease(index) for index in range(3)]
    last = leases[1].slab
    del leases[2], leases[0], leases[0]
    assert consumer.lease(3).slab is last


def test_a_small_group_does_not_take_a_large_slab() -> None:
    consumer = Consumer(limit=None)
    large = consumer.lease(0, 100 * MIB).slab
    lease = consumer.lease(1, MIB)
    assert lease.slab is not large
    assert consumer.lease(2, 90 * MIB).slab is large


# Memory that the machine has not.


@pytest.fixture
def nearly_full() -> PoolPolicy:
    return PoolPolicy(available=lambda: headroom.RESERVE + MIB // 2)


def test_a_full_machine_makes_reading_ahead_wait(nearly_full: PoolPolicy, caplog: pytest.LogCaptureFixture) -> None:
    consumer = Consumer(None, nearly_full)
    tensors = [consumer.tensor(0)]
    place = tensors[0].data_ptr()
    waiting = Waiting(consumer, 1)
    tensors.clear()
    assert consumer.made(waiting.granted(), 1).data_ptr() == place


def test_a_full_machine_is_said_once(nearly_full: PoolPolicy, caplog: pytest.LogCaptureFixture) -> None:
    consumer = Consumer(None, nearly_full)
    tensor = consumer.tensor(0)
    Waiting(consumer, 1).still_waits()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "RUNAI_STREAMER_MEMORY_LIMIT" in warnings[0].getMessage()
    assert "1.07 GB" in warnings[0].getMessage()
    del tensor


def test_a_full_machine_still_serves_the_group_that_the_caller_waits_for(nearly_full: PoolPolicy) -> None:
    consumer = Consumer(None, nearly_full)
    kept = [consumer.tensor(0)]
    waiting = Waiting(consumer, 1)
    consumer.pool.await_group(1)
    kept.append(consumer.made(waiting.granted(), 1))
    assert [int(tensor[0]) for tensor in kept] == [0, 1]


def test_a_machine_that_does_not_tell_is_not_full() -> None:
    consumer = Consumer(None, PoolPolicy(available=lambda: None))
    assert len([consumer.tensor(index) for index in range(5)]) == 5


def test_with_a_limit_the_machine_is_not_asked() -> None:
    def ask() -> NoReturn:
        raise AssertionError("asked")

    Consumer(4 * MIB, PoolPolicy(available=ask)).lease(0)


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), MemoryError()], ids=repr)
def test_memory_that_the_system_refuses_is_an_error_that_says_for_what(
    error: Exception,
) -> None:
    def refuse(capacity: int) -> NoReturn:
        raise error

    with pytest.raises(OutOfMemoryError, match=r"1048576 bytes .* tensor 't0' .*RUNAI_STREAMER_MEMORY_LIMIT") as raised:
        Consumer(None, PoolPolicy(new_slab=refuse)).lease(0)
    assert isinstance(raised.value, MemoryError)
    assert raised.value.__cause__ is error


# The end.


@pytest.mark.parametrize("limit", [MIB, None])
@pytest.mark.parametrize("end", ["close", "fail"])
def test_a_waiting_lease_ends_with_the_load(limit: int | None, end: str, nearly_full: PoolPolicy) -> None:
    consumer = Consumer(limit, nearly_full)
    tensor = consumer.tensor(0)
    waiting = Waiting(consumer, 1)
    if end == "close":
        consumer.lifecycle.close()
    else:
        consumer.lifecycle.fail(ValueError())
    assert isinstance(waiting.refused(), Stopped)
    del tensor


def test_no_lease_is_granted_after_the_end() -> None:
    consumer = Consumer(limit=None)
    consumer.lifecycle.close()
    with pytest.raises(Stopped):
        consumer.lease(0)


def test_closing_leaves_the_callers_tensors_as_they_are() -> None:
    consumer = Consumer(limit=8 * MIB)
    tensors = [consumer.tensor(index) for index in range(3)]
    consumer.lifecycle.close()
    consumer.pool.close()
    fresh = [np.full(MIB, 99, np.uint8) for _ in range(8)]
    assert [(int(tensor.min()), int(tensor.max())) for tensor in tensors] == [(0, 0), (1, 1), (2, 2)]
    tensors.clear()
    assert len(fresh) == 8


def test_closing_twice_is_harmless() -> None:
    consumer = Consumer(limit=None)
    tensor = consumer.tensor(7)
    consumer.pool.close()
    consumer.pool.close()
    assert int(tensor[0]) == 7


def _mapped() -> int:
    """Bytes of anonymous memory that this process has mapped."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize:"))


@pytest.mark.parametrize("state", ["dropped", "idle", "kept"])
def test_memory_is_given_back_when_the_pool_is_closed_and_the_caller_is_done(
    state: str,
) -> None:
    size = 512 * MIB
    consumer = Consumer(None, PoolPolicy(idle_bytes=size))
    before = _mapped()
    held = [consumer.pool.hand_over(consumer.lease(0, size))]
    if state != "kept":
        held.clear()
    if state == "idle":
        consumer.pool.release(-1)
    assert _mapped() >= before + size
    consumer.pool.close()
    if state == "kept":
        assert _mapped() >= before + size
        held.clear()
    assert _mapped() < before + size // 2
