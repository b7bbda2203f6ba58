"""Page-locked memory for groups on the host: what counts, what goes back to torch and when, and up to which bound."""

import logging
import random
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.config import PinnedMode
from runai_model_streamer.errors import OutOfMemoryError, PinnedUnavailableError
from runai_model_streamer.pipeline.landing.tensors import make_tensors
from runai_model_streamer.pipeline.memory import pinned
from runai_model_streamer.pipeline.memory.pinned import AUTO_BYTES, PageLocking, PinnedBlocks, PinnedSlab, page_locking
from runai_model_streamer.pipeline.memory.pool import SlabPool
from runai_model_streamer.pipeline.memory.slabs import Lease, Slab
from runai_model_streamer.pipeline.plan.groups import GROUP_BYTES, Group, Part
from runai_model_streamer.ranges import PAGE, round_up
from tests.checkpoints import PATIENCE, infos
from tests.pinned_memory import POISON, Copy, PinnedMemory, pinned_memory
from tests.pipeline.memory.test_pool import Asked, Consumer, CountingLifecycle, Waiting, group_of

MIB = 1 << 20
TRY = 1
"""Bytes that each load locks once, to see whether it can."""


pytestmark = pytest.mark.usefixtures("no_cyclic_garbage")


@pytest.fixture
def memory() -> Iterator[PinnedMemory]:
    with pinned_memory() as memory:
        yield memory


@pytest.fixture
def small_bound() -> int:
    """How much `auto` may lock: four groups of the size that these tests use."""
    return 4 * MIB


class PinnedConsumer(Consumer):
    """The pool of a load into page-locked memory, and what its caller does."""

    def __init__(self, limit: int | None = None, mode: PinnedMode = PinnedMode.ALWAYS, bound: int = AUTO_BYTES) -> None:
        self.lifecycle = CountingLifecycle()
        self.locking = page_locking(mode, limit, bound)
        assert self.locking is not None
        self.pool = SlabPool(limit, self.lifecycle, other=self.locking)

    def made(self, lease: Lease, value: int) -> torch.Tensor:
        lease.memory[:] = bytes([value % 200]) * len(lease.memory)
        ((_, tensor),) = next(make_tensors(lease.group, self.pool.hand_over(lease)))
        return tensor


def right(tensor: torch.Tensor, value: int) -> bool:
    return bool((tensor == value % 200).all())


# Sizes.


@pytest.mark.parametrize(
    ("size", "locked"),
    [(1, PAGE), (PAGE + 1, 2 * PAGE), (GROUP_BYTES, GROUP_BYTES), (GROUP_BYTES + 1, 2 * GROUP_BYTES)],
)
def test_what_torch_rounds_up_to_counts_and_the_usual_group_needs_no_rounding(
    memory: PinnedMemory, size: int, locked: int
) -> None:
    consumer = PinnedConsumer()
    lease = consumer.lease(0, size)
    assert (memory.in_use, consumer.pool.peak, lease.slab.charge) == (locked, locked, locked)
    assert len(lease.memory) == round_up(size, PAGE)


# What goes back, and when.


def test_a_block_goes_back_to_torch_when_its_tensor_is_dropped_and_the_pool_keeps_nothing(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=4 * MIB)
    for index in range(20):
        before = memory.given
        tensor = consumer.tensor(index)
        consumer.pool.release(index)
        assert memory.given == before + 1
        assert memory.in_use == MIB
        del tensor
        assert memory.in_use == 0
    assert memory.locked == MIB + TRY


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda tensor: tensor[10:20], id="slice"),
        pytest.param(lambda tensor: tensor.view(torch.float32), id="view of another dtype"),
        pytest.param(lambda tensor: tensor.detach(), id="detached"),
        pytest.param(lambda tensor: tensor.data, id="data"),
        pytest.param(lambda tensor: torch.nn.Parameter(tensor, requires_grad=False), id="parameter"),
        pytest.param(lambda tensor: tensor[5:].numpy()[5:], id="numpy slice"),
        pytest.param(lambda tensor: memoryview(tensor.numpy()), id="memoryview"),
        pytest.param(lambda tensor: tensor.untyped_storage(), id="storage"),
        pytest.param(torch.utils.dlpack.to_dlpack, id="dlpack"),  # type: ignore[attr-defined]
        pytest.param(lambda tensor: torch.empty(0, dtype=torch.uint8).set_(tensor), id="set"),
    ],
)
def test_a_block_counts_and_stays_while_anything_made_from_it_lives(
    memory: PinnedMemory, keep: Callable[[torch.Tensor], object]
) -> None:
    consumer = PinnedConsumer(limit=MIB)
    kept = [keep(consumer.tensor(0))]
    waiting = Waiting(consumer, 1)
    assert memory.in_use == MIB
    kept.clear()
    waiting.granted()
    assert consumer.pool.peak == MIB


def test_a_block_stays_while_one_of_several_tensors_lives(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer()
    lease = consumer.lease(0, 4000)
    part = Part(0, 0, 4000, 0, infos([1000] * 4, data_start=0))
    tensors = next(make_tensors(Group(0, (part,), 1, 4000, PAGE), consumer.pool.hand_over(lease)))
    del lease
    for _ in range(4):
        assert memory.in_use == PAGE
        tensors.pop(0)
    assert memory.in_use == 0


def test_the_bytes_that_a_read_has_keep_the_block(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer()
    lease = consumer.lease(0)
    read = lease.memory[100:200]  # by a reader that hangs
    del lease
    consumer.pool.close()
    assert memory.in_use == MIB
    del read
    assert memory.in_use == 0


def test_a_lease_that_is_dropped_unused_goes_back(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=MIB)
    lease = consumer.lease(0)
    del lease
    consumer.lease(1)
    assert consumer.pool.peak == MIB


def test_tensors_may_be_dropped_in_any_thread_and_order(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=4 * MIB)
    tensors = {index: consumer.tensor(index) for index in range(4)}
    for index, drop in zip(range(4, 8), (2, 0, 3, 1), strict=True):
        waiting = Waiting(consumer, index)
        thread = threading.Thread(target=tensors.pop, args=(drop,))
        thread.start()
        thread.join()
        tensors[index] = consumer.made(waiting.granted(), index)
        assert all(right(tensor, number) for number, tensor in tensors.items())
    assert consumer.pool.peak == memory.in_use == 4 * MIB


def test_what_the_caller_keeps_outlives_the_pool(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer()
    tensors = [consumer.tensor(index) for index in range(3)]
    consumer.lifecycle.close()
    consumer.pool.close()
    assert all(right(tensor, index) for index, tensor in enumerate(tensors))
    tensors.clear()
    assert memory.in_use == 0


# The limit.


def test_a_limit_of_the_largest_tensor_is_enough_although_its_block_is_larger(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=3 * MIB)
    tensors = [consumer.tensor(0, 3 * MIB)]
    waiting = Waiting(consumer, 1, 3 * MIB)
    tensors.clear()
    waiting.granted()
    assert memory.locked == 4 * MIB + TRY


def test_a_block_that_the_caller_visibly_keeps_does_not_count(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=MIB)
    kept = consumer.tensor(0)
    waiting = Waiting(consumer, 1)
    consumer.pool.release(1)
    lease = waiting.granted()
    del kept
    # Nor does its end make room twice.
    Waiting(consumer, 2).end()
    del lease


def test_idle_slabs_make_room_for_blocks(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=2 * MIB, mode=PinnedMode.AUTO)
    memory.refuse_after = memory.given
    lease = consumer.lease(0, 2 * MIB)
    assert isinstance(lease.slab, Slab)
    del lease
    memory.refuse_after = None
    again = page_locking(PinnedMode.ALWAYS, 2 * MIB)
    consumer.pool._other = again  # noqa: SLF001 - memory came back meanwhile
    assert isinstance(consumer.lease(1, 2 * MIB).slab, PinnedSlab)
    assert consumer.pool.peak == 2 * MIB


@pytest.mark.parametrize("mode", [PinnedMode.AUTO, PinnedMode.ALWAYS])
@given(
    limit=st.integers(1, 100),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    drops=st.lists(st.integers(0, 5), min_size=40, max_size=40),
)
def test_the_limit_holds_whatever_is_dropped_and_kept(
    mode: PinnedMode, limit: int, sizes: list[int], drops: list[int]
) -> None:
    limit = max(limit, *sizes) * PAGE
    with pinned_memory() as memory:
        consumer = PinnedConsumer(limit, mode)
        kept: list[tuple[int, torch.Tensor]] = []
        for index, size in enumerate(sizes):
            consumer.pool.await_group(index)
            kept.append((index, consumer.tensor(index, size * PAGE)))
            consumer.pool.release(index)
            del kept[: drops[index]]
            assert all(right(tensor, number) for number, tensor in kept)
        largest = 1 << (max(sizes) * PAGE - 1).bit_length()
        assert consumer.pool.peak <= (limit if mode is PinnedMode.AUTO else max(limit, largest))
        if mode is PinnedMode.AUTO:
            assert memory.locked <= limit + TRY
        kept.clear()


def test_auto_takes_a_slab_where_a_rounded_block_would_have_to_wait(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer(limit=5 * MIB + MIB // 4, mode=PinnedMode.AUTO)
    small, large = MIB + PAGE, 2 * MIB + PAGE
    leases = [consumer.lease(index, small) for index in range(2)]
    assert memory.in_use == 4 * MIB
    del leases[0]
    leases.append(Asked(consumer, 2, large).granted())  # more than torch has, or may lock, a block for
    leases.append(Asked(consumer, 3, small).granted())  # torch has a block, for which there is no room
    assert [type(lease.slab) for lease in leases] == [PinnedSlab, Slab, Slab]
    Waiting(consumer, 4, small).end()


# The bound of auto.


def kinds(consumer: PinnedConsumer, count: int, kept: list[torch.Tensor], size: int = MIB) -> list[bool]:
    """Whether each of the next groups, all of which the caller keeps, is page-locked."""
    memory = []
    for _ in range(count):
        index = len(kept)
        consumer.pool.await_group(index)
        lease = consumer.lease(index, size)
        memory.append(isinstance(lease.slab, PinnedSlab))
        kept.append(consumer.made(lease, index))
        consumer.pool.release(index)
    return memory


def test_auto_locks_up_to_its_bound_what_a_caller_keeps(memory: PinnedMemory, small_bound: int) -> None:
    kept: list[torch.Tensor] = []
    assert kinds(PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound), 8, kept) == [True] * 4 + [False] * 4
    assert memory.locked == small_bound + TRY
    assert [right(tensor, index) for index, tensor in enumerate(kept)] == [True] * 8
    kept.clear()


def test_the_bound_is_that_of_all_loads_together(memory: PinnedMemory, small_bound: int) -> None:
    kept: list[torch.Tensor] = []
    assert kinds(PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound), 2, kept) == [True, True]
    consumer = PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound)
    assert kinds(consumer, 3, kept) == [True, True, False]
    kept.clear()
    assert kinds(consumer, 5, kept) == [True, True, True, True, False]
    kept.clear()


def test_auto_locks_all_groups_of_a_caller_who_drops_them(memory: PinnedMemory, small_bound: int) -> None:
    consumer = PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound)
    for index in range(50):
        assert kinds(consumer, 1, []) == [True], index
    assert memory.locked == MIB + TRY


def test_what_torch_keeps_of_another_size_counts(memory: PinnedMemory, small_bound: int) -> None:
    consumer = PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound)
    assert kinds(consumer, 1, [], 2 * MIB) == [True]
    kept: list[torch.Tensor] = []
    assert kinds(consumer, 3, kept) == [True, True, False]
    assert kinds(consumer, 1, [], 2 * MIB) == [True]
    assert memory.locked == small_bound + TRY
    kept.clear()


def test_always_knows_no_bound(memory: PinnedMemory, small_bound: int) -> None:
    kept: list[torch.Tensor] = []
    assert kinds(PinnedConsumer(bound=small_bound), 8, kept) == [True] * 8
    kept.clear()


def test_a_group_larger_than_the_bound_is_not_locked(memory: PinnedMemory, small_bound: int) -> None:
    assert kinds(PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound), 1, [], small_bound + 1) == [False]


def test_copies_that_do_not_keep_up_do_not_have_more_and_more_locked(
    memory: PinnedMemory, small_bound: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    copies = []
    for load in range(2):
        consumer = PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound)
        for index in range(20):
            tensor = consumer.tensor(index)
            copies.append((index, Copy(memory, tensor)))
            del tensor
        assert memory.locked <= small_bound + (load + 1) * MIB + TRY
    assert all(copy.finish() == bytes([index]) * MIB for index, copy in copies)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("not page-locked: copies do not keep up with the load" in message for message in said)
    assert kinds(PinnedConsumer(mode=PinnedMode.AUTO, bound=small_bound), 1, []) == [True]


def test_blocks_are_told_apart_that_come_and_go_in_many_threads(memory: PinnedMemory) -> None:
    blocks = PinnedBlocks()

    def come_and_go(seed: int) -> None:
        chosen = random.Random(seed)
        kept: list[torch.Tensor] = []
        for _ in range(300):
            block = memory.allocate(chosen.choice((1, 2, 4)) * PAGE)
            blocks.add(block, block.numel(), MIB)
            kept.append(block)
            del block, kept[: chosen.randint(0, 2)]

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert blocks.has_room(memory.locked, memory.locked) is False
    assert blocks._total == memory.locked  # noqa: SLF001
    assert blocks._alive == {}  # noqa: SLF001
    assert sum(size * count for size, count in blocks._returned.items()) == memory.locked  # noqa: SLF001


# What cannot be had.


def test_auto_goes_on_in_ordinary_memory_when_torch_gives_none_and_says_so_once(
    memory: PinnedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumer = PinnedConsumer(mode=PinnedMode.AUTO)
    memory.refuse_after = memory.given + 2
    kept: list[torch.Tensor] = []
    assert kinds(consumer, 5, kept) == [True, True, False, False, False]
    assert all(right(tensor, index) for index, tensor in enumerate(kept))
    assert [record.getMessage() for record in caplog.records] == [
        "The rest of this load goes into memory that is not page-locked: torch gives no more: CUDA error: out of memory"
    ]
    kept.clear()


def test_always_fails_when_torch_gives_none_and_says_for_what(memory: PinnedMemory) -> None:
    consumer = PinnedConsumer()
    memory.refuse_after = memory.given
    with pytest.raises(
        OutOfMemoryError, match=r"1048576 bytes .* tensor 't0' .*: CUDA error: out of memory; .*RUNAI_STREAMER_PINNED="
    ) as raised:
        consumer.lease(0)
    assert isinstance(raised.value, MemoryError)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_never_is_never(memory: PinnedMemory) -> None:
    assert page_locking(PinnedMode.NEVER, None) is None
    assert memory.given == 0


def test_without_cuda_auto_locks_nothing_and_does_not_touch_it() -> None:
    with pinned_memory(initialized=False) as memory:
        assert page_locking(PinnedMode.AUTO, None) is None
        assert memory.given == 0


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (False, r"RUNAI_STREAMER_PINNED=1, but the installed torch .* is built without CUDA: .*=auto"),
        (True, r"RUNAI_STREAMER_PINNED=1, but CUDA is not initialised in this process: call torch\.cuda\.init\(\)"),
    ],
)
def test_always_without_cuda_is_an_error_that_says_what_to_do(
    built: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pinned_memory(initialized=False) as memory:
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        with pytest.raises(PinnedUnavailableError, match=message) as raised:
            page_locking(PinnedMode.ALWAYS, None)
        assert isinstance(raised.value, RuntimeError)
        assert memory.given == 0


def test_a_torch_that_cannot_lock_at_all_is_found_out_before_anything_is_read(
    memory: PinnedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    memory.refuse_after = 0
    assert page_locking(PinnedMode.AUTO, None) is None
    assert [record.getMessage() for record in caplog.records] == [
        "Tensors are loaded into ordinary memory, since torch cannot page-lock any: CUDA error: out of memory"
    ]
    with pytest.raises(PinnedUnavailableError, match="torch cannot page-lock memory: CUDA error: out of memory"):
        page_locking(PinnedMode.ALWAYS, None)


def test_the_real_torch_of_this_machine_is_asked() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: tests/gpu asks it")
    with pytest.raises(RuntimeError):
        pinned.page_lock(1)


def test_a_fresh_account_has_room_up_to_its_bound() -> None:
    blocks = PinnedBlocks()
    assert blocks.has_room(10, 10)
    assert not blocks.has_room(11, 10)
    assert PageLocking(False, AUTO_BYTES, blocks).size_for(group_of(0)) == MIB
    assert PageLocking(False, MIB - 1, blocks).size_for(group_of(0)) is None


def test_blocks_that_the_user_had_torch_free_do_not_count() -> None:
    memory = PinnedMemory()
    blocks = PinnedBlocks(lambda: memory.locked)
    for size in (2 * PAGE, 4 * PAGE, 2 * PAGE):
        assert blocks.has_room(size, 4 * PAGE)
        block = memory.allocate(size)
        assert not blocks.add(block, size, 4 * PAGE)
        del block
        memory.empty_cache()


def test_blocks_in_use_count_whatever_torch_has_freed() -> None:
    memory = PinnedMemory()
    blocks = PinnedBlocks(lambda: memory.locked)
    kept = memory.allocate(2 * PAGE)
    assert not blocks.add(kept, 2 * PAGE, 4 * PAGE)
    dropped = memory.allocate(2 * PAGE)
    assert not blocks.add(dropped, 2 * PAGE, 4 * PAGE)
    del dropped
    memory.empty_cache()
    assert not blocks.has_room(4 * PAGE, 4 * PAGE)
    assert blocks.has_room(2 * PAGE, 4 * PAGE)


def test_blocks_in_torchs_cache_count() -> None:
    memory = PinnedMemory()
    blocks = PinnedBlocks(lambda: memory.locked)
    block = memory.allocate(2 * PAGE)
    assert not blocks.add(block, 2 * PAGE, 2 * PAGE)
    del block
    assert blocks.has_room(2 * PAGE, 2 * PAGE)
    assert not blocks.has_room(PAGE, 2 * PAGE)


def test_the_fake_shows_a_block_that_is_overwritten_under_a_copy() -> None:
    # What the tests above stand on: an array laid over the block is copied from without torch's knowing.
    memory = PinnedMemory()
    block = memory.allocate(PAGE)
    block.fill_(1)
    known, unknown = Copy(memory, block[10:20]), Copy(memory, torch.from_numpy(block.numpy()[10:20]))
    del block
    assert memory.in_use == 0
    assert known.finish() == bytes([1]) * 10
    assert unknown.finish() == bytes([POISON]) * 10
