"""The pipeline as a whole: sources in memory, threads, slabs and the iterator."""

import gc
import signal
import threading
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ReadError, SourceChangedError, StateError, StreamerError, TruncatedError
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.landing.host import HostLanding
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.ranges import PAGE
from tests.checkpoints import (
    PATIENCE,
    PREFIX,
    GatedSource,
    Stored,
    encode,
    join_ours,
    load_of,
    numbered,
    our_threads,
    raw,
    stored,
)
from tests.sources import MemorySource

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def source_of(tensors: dict[str, Stored], path: str = "m", alignment: int = 1) -> MemorySource:
    return MemorySource(path, encode(tensors), alignment=alignment)


def data_reads(source: MemorySource) -> list[tuple[int, int]]:
    """The reads but for those of the header and of its length."""
    return [(offset, length) for offset, length in source.reads if offset > PREFIX]


def bytes_of(load: Load) -> list[tuple[str, bytes]]:
    return [(name, raw(tensor)) for name, tensor in load.tensors()]


def expected(*files: dict[str, Stored]) -> list[tuple[str, bytes]]:
    return [(name, tensor.data) for file in files for name, tensor in file.items()]


def test_tensors_of_all_files_come_in_order() -> None:
    files = [numbered([10, 0, 3000], "a"), numbered([5], "b"), numbered([70_000, 1], "c")]
    assert bytes_of(load_of([source_of(file) for file in files])) == expected(*files)


def test_the_same_order_comes_every_time() -> None:
    file = numbered([1000] * 200)
    for _ in range(5):
        load = load_of([source_of(file)], limit=3000, chunk=300, concurrency=8)
        assert bytes_of(load) == expected(file)


@pytest.mark.parametrize("files", [[], [{}], [{}, {}]], ids=["no file", "a file without tensors", "two of them"])
def test_nothing_to_stream_is_an_ordinary_load(files: list[dict[str, Stored]]) -> None:
    assert bytes_of(load_of([source_of(file) for file in files])) == []


@pytest.mark.parametrize("limit", [None, 0])
def test_empty_tensors_are_tensors(limit: int | None) -> None:
    file = {"a": stored("F32", (0,)), "b": stored("BF16", (0, 3))}
    load = load_of([source_of(file)], limit=limit)
    assert [(name, tuple(tensor.shape)) for name, tensor in load.tensors()] == [("a", (0,)), ("b", (0, 3))]


def test_empty_tensors_and_files_end_nothing_early() -> None:
    files = [numbered([0, 10, 0], "a"), {}, numbered([0], "b"), numbered([10, 0], "c")]
    assert bytes_of(load_of([source_of(file) for file in files])) == expected(*files)


def test_only_what_is_wanted_is_read() -> None:
    file = numbered([100_000] * 10)
    source = source_of(file)
    load = load_of([source], names={"t3", "t7"})
    assert bytes_of(load) == [("t3", file["t3"].data), ("t7", file["t7"].data)]
    assert sum(length for _, length in data_reads(source)) == 200_000


def test_every_byte_is_read_once() -> None:
    file = numbered([1000, 50_000, 3])
    source = source_of(file)
    bytes_of(load_of([source], chunk=700))
    reads = sorted(data_reads(source))
    assert sum(length for _, length in reads) == 51_003
    assert all(offset + length == after for (offset, length), (after, _) in pairwise(reads))


def test_the_total_counts_all_tensors() -> None:
    load = load_of([source_of(numbered([10, 20])), source_of(numbered([30]))])
    assert load.total_bytes == 60
    load.close()


class Case(NamedTuple):
    files: list[dict[str, Stored]]
    alignments: list[int]
    limit: int | None
    chunk: int
    concurrency: int


_DTYPES = st.sampled_from(["U8", "BOOL", "BF16", "F32", "I64", "F8_E4M3"])
_SHAPES = st.one_of(
    st.lists(st.integers(0, 8), max_size=3),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=1),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    files = []
    for index in range(draw(st.integers(0, 3))):
        shapes = draw(st.lists(st.tuples(_DTYPES, _SHAPES), max_size=8))
        files.append({f"{index}.{n}": stored(dtype, shape, n) for n, (dtype, shape) in enumerate(shapes)})
    largest = max((len(tensor.data) for file in files for tensor in file.values()), default=0)
    return Case(
        files,
        [draw(st.sampled_from([1, PAGE])) for _ in files],
        draw(st.one_of(st.just(largest), st.integers(largest, 6 * largest + PAGE), st.none())),
        PAGE * draw(st.integers(1, 10)),
        draw(st.integers(1, 8)),
    )


def _start(case: Case, ended: list[HostLanding] | None = None) -> Load:
    sources = [
        source_of(file, alignment=alignment) for file, alignment in zip(case.files, case.alignments, strict=True)
    ]
    return load_of(sources, limit=case.limit, chunk=case.chunk, concurrency=case.concurrency, ended=ended)


_UNHURRIED = settings(max_examples=60)


@_UNHURRIED
@given(cases())
def test_any_load_gives_every_byte_in_order(case: Case) -> None:
    assert bytes_of(_start(case)) == expected(*case.files)


@_UNHURRIED
@given(cases())
def test_kept_tensors_are_right_after_the_end(case: Case) -> None:
    kept = list(_start(case).tensors())
    assert [(name, raw(tensor)) for name, tensor in kept] == expected(*case.files)


def _held(case: Case, dropped: bool) -> int:
    """Most bytes held in a load, as they count against the limit."""
    ended: list[HostLanding] = []
    for _, tensor in _start(case, ended).tensors():
        if dropped:
            del tensor
    return max((landing.peak for landing in ended), default=0)


@_UNHURRIED
@given(cases(), st.booleans())
def test_what_is_held_stays_within_the_limit(case: Case, dropped: bool) -> None:
    held = _held(case, dropped)
    assert case.limit is None or held <= case.limit


def test_a_limit_of_the_largest_tensor_is_enough_for_a_caller_that_keeps_its_loop_variable() -> None:
    ended: list[HostLanding] = []
    file = numbered([30_000] * 20)
    seen = []
    load = load_of([source_of(file)], limit=30_000, ended=ended)
    for name, tensor in load.tensors():
        seen.append((name, raw(tensor)))
    assert seen == expected(file)
    assert max(landing.peak for landing in ended) <= 30_000


def test_nothing_is_read_ahead_of_the_limit() -> None:
    source = source_of(numbered([30_000] * 4))
    load = load_of([source], limit=60_000, chunk=PAGE * 10)
    tensors = load.tensors()
    kept = next(tensors)
    # Two fit. The third has to wait for a tensor to be dropped, or to be waited for.
    assert len(data_reads(source)) <= 2
    del kept
    assert len(list(tensors)) == 3


def test_a_caller_that_keeps_its_tensors_is_still_read_ahead_of() -> None:
    data = encode(numbered([30_000] * 8))
    # Four tensors fit, and the caller keeps the first three. Nothing is waited for when the sixth is read.
    source = GatedSource("m", data, gated=len(data) - 3 * 30_000)
    load = load_of([source], limit=120_000, chunk=PAGE * 10)
    tensors = load.tensors()
    kept = [next(tensors) for _ in range(4)]
    assert source.arrived.acquire(timeout=PATIENCE)
    source.gate.set()
    kept.extend(tensors)
    assert [(name, raw(tensor)) for name, tensor in kept] == expected(numbered([30_000] * 8))


# What goes wrong.


class FailingSource(MemorySource):
    """Reads from byte `bad` on fail, once `fails` is set; other reads do not wait for that."""

    def __init__(self, path: str, data: bytes, bad: int, error: Callable[[], Exception]) -> None:
        super().__init__(path, data)
        self.bad = bad
        self.error = error  # made anew: an error that is kept here would keep the frames that it went through
        self.fails = threading.Event()

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if offset + len(buffer) > self.bad:
            assert self.fails.wait(PATIENCE)
            raise self.error()
        return super().read_into(offset, buffer)


def _gone() -> Exception:
    return ReadError("m: gone")


def _failing(bad_tensor: int, error: Callable[[], Exception] = _gone) -> tuple[FailingSource, Load]:
    """A load of six tensors, each of which has to wait for the one before to be dropped."""
    data = encode(numbered([30_000] * 6))
    source = FailingSource("m", data, len(data) - 30_000 * (6 - bad_tensor), error)
    return source, load_of([source], limit=30_000, chunk=PAGE * 10)


def test_an_error_is_raised_by_the_next_next_and_nothing_wrong_is_yielded() -> None:
    source, load = _failing(2, lambda: TruncatedError("m: ends at byte 9"))
    tensors = load.tensors()
    seen = [next(tensors)[0], next(tensors)[0]]
    source.fails.set()
    with pytest.raises(TruncatedError, match=r"m: ends at byte 9 \(while reading tensor 't2'\)"):
        next(tensors)
    assert seen == ["t0", "t1"]
    assert list(tensors) == []


def test_an_error_ahead_does_not_wait_for_what_is_still_good() -> None:
    data = encode(numbered([100] * 50))
    source = FailingSource("m", data, len(data) - 5000, _gone)
    good = source_of(numbered([100] * 50, "a"))
    load = load_of([good, source], limit=10_000, concurrency=1)
    tensors = load.tensors()
    next(tensors)
    source.fails.set()
    with pytest.raises(ReadError, match="gone"):
        list(tensors)


def test_the_first_error_wins() -> None:
    first = SourceChangedError("m: was written to")
    source, load = _failing(0, lambda: first)
    source.fails.set()
    with pytest.raises(SourceChangedError) as raised:
        next(load.tensors())
    assert raised.value is first


def test_an_error_shows_no_context_of_the_pipelines_own() -> None:
    source, load = _failing(0)
    source.fails.set()
    with pytest.raises(ReadError) as raised:
        next(load.tensors())
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


def test_an_error_closes_the_sources() -> None:
    source, load = _failing(1)
    source.fails.set()
    with pytest.raises(ReadError):
        list(load.tensors())
    assert source.closed == 1
    assert not load.open


def test_what_is_not_a_read_error_is_one_of_ours_too() -> None:
    source, load = _failing(0, lambda: ZeroDivisionError("a bug"))
    source.fails.set()
    with pytest.raises(StreamerError, match="unexpectedly: ZeroDivisionError: a bug"):
        next(load.tensors())


class _Witness:
    """Something that a caller has in a local variable when the error comes."""


def test_an_error_keeps_neither_the_callers_frames_nor_the_load() -> None:
    gone: list[weakref.ref[object]] = []

    def fail() -> None:
        source, load = _failing(1)
        source.fails.set()
        witness = _Witness()
        gone.append(weakref.ref(witness))
        gone.append(weakref.ref(load))
        try:
            list(load.tensors())
        except ReadError:
            return
        raise AssertionError

    gc.disable()
    try:
        fail()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["finished", "abandoned", "failed"])
def test_an_ended_load_is_freed_by_reference_counts(end: str) -> None:
    gc.disable()
    try:
        source, load = _failing(5)
        tensors = load.tensors()
        next(tensors)
        if end == "failed":
            source.fails.set()
            with pytest.raises(ReadError):
                list(tensors)
        elif end == "finished":
            source.bad = 1 << 60
            source.fails.set()
        source.fails.set()
        del tensors
        load.close()
        gone = weakref.ref(load)
        del load
        assert gone() is None
    finally:
        gc.enable()


# The end.


def test_the_tensors_are_given_out_once() -> None:
    load = load_of([source_of(numbered([10]))])
    load.tensors()
    with pytest.raises(StateError, match="get_tensors was called before"):
        load.tensors()
    load.close()


def test_a_finished_load_has_closed_itself() -> None:
    source = source_of(numbered([10]))
    load = load_of([source])
    list(load.tensors())
    assert not load.open
    assert source.closed == 1
    assert our_threads() == []


def test_closing_is_idempotent() -> None:
    source = source_of(numbered([10]))
    load = load_of([source])
    load.close()
    load.close()
    assert source.closed == 1


def test_closing_interrupts_reads_in_flight() -> None:
    source = GatedSource("m", encode(numbered([10_000])), gated=PREFIX + 1)
    load = load_of([source])
    assert source.arrived.acquire(timeout=PATIENCE)
    load.close()
    assert our_threads() == []
    assert source.closed == 1


def _mapped() -> int:
    """Bytes that this process has mapped."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize:"))


def test_closing_frees_memory_that_was_being_filled_although_the_load_lives() -> None:
    size = 256 * MIB
    source = GatedSource("m", encode({"t": Stored("U8", (size,), bytes(size))}), gated=PREFIX + 1)
    before = _mapped()
    load = load_of([source])
    assert source.arrived.acquire(timeout=PATIENCE)
    assert _mapped() >= before + size
    load.close()
    assert _mapped() < before + size // 2
    assert not load.open


def test_reading_on_after_the_close_is_an_error() -> None:
    load = load_of([source_of(numbered([10, 10]))])
    tensors = load.tensors()
    next(tensors)
    load.close()
    with pytest.raises(StateError, match="closed while its tensors were being read"):
        next(tensors)


def test_a_close_from_another_thread_ends_the_callers_wait() -> None:
    source = GatedSource("m", encode(numbered([10_000])), gated=PREFIX + 1)
    load = load_of([source])
    assert source.arrived.acquire(timeout=PATIENCE)
    closing = threading.Timer(0, load.close)
    closing.start()
    with pytest.raises(StateError, match="closed"):
        next(load.tensors())
    closing.join()


def test_dropping_the_iterator_stops_the_readers() -> None:
    source = GatedSource("m", encode(numbered([10_000] * 100)), gated=500_000)
    load = load_of([source], limit=10_000, concurrency=2)
    tensors = load.tensors()
    next(tensors)
    # With the loop variable gone the readers go on as far as the limit lets them, and there they are stopped.
    del tensors
    join_ours()
    assert our_threads() == []
    assert load.open
    load.close()


def test_dropping_the_iterator_before_its_first_tensor_stops_them_too() -> None:
    load = load_of([source_of(numbered([10_000] * 100))], limit=10_000, concurrency=2)
    load.tensors()
    join_ours()
    assert our_threads() == []
    assert load.tally.outcome == "abandoned"
    load.close()


def test_an_exception_in_the_callers_loop_leaves_it_to_close() -> None:
    load = load_of([source_of(numbered([10_000] * 100))], limit=10_000)

    def loop() -> None:
        for _ in load.tensors():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    load.close()
    assert our_threads() == []


class StuckSource(GatedSource):
    """Its reads hang as one in the kernel does: nothing cuts them short. At last they write what is not to be seen."""

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        origin = super().read_into(offset, buffer)
        if offset >= self.gated:
            buffer[:] = b"\xff" * len(buffer)
        return origin

    def interrupt(self) -> None:
        pass


def test_a_reader_that_is_stuck_keeps_its_memory_and_its_source(caplog: pytest.LogCaptureFixture) -> None:
    source = StuckSource("m", encode(numbered([100_000])), gated=PREFIX + 1)
    load = load_of([source])
    assert source.arrived.acquire(timeout=PATIENCE)
    load.close()
    assert source.closed == 0
    assert [record.getMessage() for record in caplog.records] == [
        "runai-reader-0 still waits for a read; it ends by itself when the read does"
    ]
    # What others take meanwhile is not written to.
    fresh = [torch.zeros(100_000, dtype=torch.uint8) for _ in range(20)]
    source.gate.set()
    join_ours()
    assert [int(tensor.max()) for tensor in fresh] == [0] * 20


class ClosedStorage(Storage):
    """Counts how often it is closed."""

    def __init__(self) -> None:
        super().__init__(LoadConfig(), None, shared=False)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class ImpatientSource(StuckSource):
    """While the close waits for the read that hangs, the user presses Ctrl-C again."""

    def interrupt(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()


def test_a_ctrl_c_while_it_waits_for_a_stuck_reader_closes_all_but_what_that_uses() -> None:
    ended: list[HostLanding] = []
    storage = ClosedStorage()
    source = ImpatientSource("m", encode(numbered([100_000])), gated=PREFIX + 1)
    load = load_of([source], storage=storage, join_seconds=PATIENCE, ended=ended)
    assert source.arrived.acquire(timeout=PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        load.close()
    assert (len(ended), storage.closed, source.closed) == (1, 1, 0)
    source.gate.set()


def test_a_ctrl_c_before_it_waits_for_readers_closes_all() -> None:
    ended: list[HostLanding] = []

    class InterruptedSource(MemorySource):
        def interrupt(self) -> None:
            join_ours()
            raise KeyboardInterrupt

    storage = ClosedStorage()
    source = InterruptedSource("m", encode(numbered([100_000])))
    load = load_of([source], storage=storage, ended=ended)
    with pytest.raises(KeyboardInterrupt):
        load.close()
    assert (len(ended), storage.closed, source.closed) == (1, 1, 1)


def test_tensors_outlive_the_load_and_its_sources() -> None:
    file = numbered([1000, 70_000, 3])
    load = load_of([source_of(file)], limit=70_000)
    kept = dict(load.tensors())
    load.close()
    del load
    gc.collect()
    assert {name: raw(tensor) for name, tensor in kept.items()} == {name: each.data for name, each in file.items()}


def test_two_loads_run_side_by_side() -> None:
    files = [numbered([5000] * 30, "a"), numbered([7000] * 30, "b")]
    loads = [load_of([source_of(file)], limit=20_000) for file in files]
    pairs = zip(loads[0].tensors(), loads[1].tensors(), strict=True)
    seen = [((a, raw(ta)), (b, raw(tb))) for (a, ta), (b, tb) in pairs]
    assert [list(each) for each in zip(*seen, strict=True)] == [expected(file) for file in files]
