"""Every fault of a store, over both transports: the bytes come right in the end, or an error says why they do not."""

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from runai_model_streamer.config import S3Transport
from runai_model_streamer.errors import (
    CredentialsError,
    ReadError,
    SourceChangedError,
    StorageTimeoutError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from tests.checkpoints import PATIENCE
from tests.io.transports import URL, store_of
from tests.servers import (
    Fault,
    FaultServer,
    change,
    closing,
    cut_short,
    drip,
    dripping_headers,
    endless_continue,
    endless_headers,
    endless_trailers,
    garbage,
    longer,
    no_length,
    other_range,
    refuse,
    reset_after,
    reset_at_once,
    right,
    shorter,
    stall_after,
    stall_before_headers,
    whole_object,
    without_etag,
)

pytestmark = pytest.mark.usefixtures("aws_files", "transport", "waits")

DATA = random.Random(5).randbytes(PREFIX_BYTES + 200_000)
REST = DATA[PREFIX_BYTES:]
SHORT = 0.4
"""Seconds."""


@dataclass(frozen=True)
class Case:
    """A fault, and what becomes of a load that meets it once, and of one that meets nothing else."""

    name: str
    fault: Callable[[], Fault]
    once: type[StreamerError] | None
    """None: the load succeeds."""
    always: type[StreamerError] | None
    says: str = ""
    timeout: float = PATIENCE
    """Seconds; what stalls is cut by it."""


OVERLOADED = "the store is failing or overloaded"
CASES = [
    Case("503 SlowDown", lambda: refuse(503, "SlowDown"), None, ReadError, OVERLOADED),
    Case("500", lambda: refuse(500, "InternalError"), None, ReadError, OVERLOADED),
    Case("502 without a body", lambda: refuse(502, ""), None, ReadError, OVERLOADED),
    Case("429", lambda: refuse(429, "TooManyRequests"), None, ReadError, OVERLOADED),
    Case("reset in place of an answer", reset_at_once, None, StorageUnreachableError, "broke: Connection reset"),
    Case("reset before the body", lambda: reset_after(0), None, StorageUnreachableError, "broke: Connection reset"),
    Case(
        "stall before the headers",
        stall_before_headers,
        None,
        StorageTimeoutError,
        "or no more of it, for 0.4 s",
        SHORT,
    ),
    Case(
        "stall before the body", lambda: stall_after(0), None, StorageTimeoutError, "or no more of it, for 0.4 s", SHORT
    ),
    Case(
        "slow drip",
        lambda: drip(10, 0.05),
        None,
        StorageTimeoutError,
        "less than 1024 bytes per second for 0.4 s",
        SHORT,
    ),
    Case("cut short", lambda: cut_short(0), None, ReadError, "had 0 bytes instead of 200000, every time"),
    Case("short body, right length", lambda: shorter(7), ReadError, ReadError, "in a body of 199993 bytes"),
    Case("long body", lambda: longer(7), ReadError, ReadError, "in a body of 200007 bytes"),
    Case("other Content-Range", lambda: other_range(-5), ReadError, ReadError, "the store sent bytes 262139-462139"),
    Case("whole object", whole_object, ReadError, ReadError, "the server ignored Range"),
    Case("changed", lambda: change(DATA[::-1]), SourceChangedError, SourceChangedError, "was written to"),
    Case(
        "changed, without If-Match",
        lambda: change(DATA[::-1], conditions=False),
        SourceChangedError,
        SourceChangedError,
        "its ETag differs",
    ),
    Case("expired token", lambda: refuse(400, "ExpiredToken"), None, CredentialsError, "have expired"),
    Case(
        "another region",
        lambda: refuse(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
        None,
        ReadError,
        "bucket bucket is in region eu-west-1",
    ),
    Case("garbage", garbage, None, StorageUnreachableError, "does not speak HTTP"),
    Case("headers without end", endless_headers, None, StorageUnreachableError, ""),
    Case(
        "100 Continue without end", lambda: endless_continue(0.05), None, StorageTimeoutError, "sent no answer", SHORT
    ),
    Case("headers that drip", lambda: dripping_headers(0.05), None, StorageTimeoutError, "sent no answer", SHORT),
    Case("trailers without end", lambda: endless_trailers(0.05), None, None, "", SHORT),
    Case("without its ETag", lambda: without_etag(DATA[::-1]), ReadError, ReadError, "now the answer has none"),
    Case("no length", no_length, None, None),
    Case("closing", closing, None, None),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def load(server: FaultServer, fault: Fault, *, always: bool, timeout: float) -> bytes:
    """Open the object, and read what the opening did not bring while the fault happens."""
    buffer = bytearray(b"\xa5" * len(REST))
    # On a busy machine a right answer, too, may be later than the timeout.
    with store_of(server) as patient, store_of(server, retries=1 if always else 20, timeout=timeout) as store:
        opened = patient.open(URL)
        source = store.open(URL, (opened.size, opened.version))
        if always:
            server.choose = lambda request: fault
        else:
            server.script(fault)
        source.read_into(PREFIX_BYTES, memoryview(buffer))
    return bytes(buffer)


@each_case
def test_a_fault_that_happens_once(server: FaultServer, case: Case) -> None:
    if case.once is None:
        assert load(server, case.fault(), always=False, timeout=case.timeout) == REST
    else:
        with pytest.raises(case.once) as caught:
            load(server, case.fault(), always=False, timeout=case.timeout)
        assert case.says in str(caught.value)
    assert not server.faults


@each_case
def test_a_fault_that_stays(server: FaultServer, case: Case) -> None:
    if case.always is None:
        assert load(server, case.fault(), always=True, timeout=case.timeout) == REST
        return
    with pytest.raises(case.always) as caught:
        load(server, case.fault(), always=True, timeout=case.timeout)
    assert URL in str(caught.value)
    assert case.says in str(caught.value)


def test_bytes_that_are_not_the_range_never_count(server: FaultServer) -> None:
    with store_of(server, retries=0) as store:
        source = store.open(URL)
        for fault in (refuse(503, "SlowDown", message="x" * 5000), whole_object(), other_range(-5), garbage()):
            buffer = bytearray(len(REST))
            server.script(fault)
            with pytest.raises(StreamerError):
                source.read_into(PREFIX_BYTES, memoryview(buffer))
            source.read_into(PREFIX_BYTES, memoryview(buffer))
            assert buffer == REST


def test_bytes_that_are_not_the_range_are_overwritten_by_the_next_attempt(server: FaultServer) -> None:
    page = refuse(503, "SlowDown", message="x" * 50_000)
    faults = (cut_short(70_000), page, reset_after(30_000), page)
    buffer = bytearray(len(REST))
    with store_of(server, retries=9) as store:
        source = store.open(URL)
        server.script(*faults)
        source.read_into(PREFIX_BYTES, memoryview(buffer))
    assert buffer == REST


@pytest.mark.parametrize("size", [1, 10, 1000])
@pytest.mark.parametrize(
    "fault",
    [refuse(503, "SlowDown", message="x" * 5000), longer(7), whole_object()],
    ids=["refused", "longer", "whole"],
)
def test_a_short_range_gets_no_byte_but_its_own(server: FaultServer, fault: Fault, size: int) -> None:
    buffer = bytearray(b"\xa5" * (size + 100))
    with store_of(server, retries=0) as store:
        source = store.open(URL)
        server.script(fault)
        with pytest.raises(StreamerError):
            source.read_into(PREFIX_BYTES, memoryview(buffer)[:size])
        assert buffer == b"\xa5" * (size + 100)
        source.read_into(PREFIX_BYTES, memoryview(buffer)[:size])
    assert buffer == REST[:size] + b"\xa5" * 100


def test_a_slow_drip_goes_on_from_the_byte_already_landed(server: FaultServer) -> None:
    assert load(server, drip(10, 0.05), always=False, timeout=SHORT) == REST
    spans = [request.span for request in server.requests]
    assert len(spans) >= 3
    assert spans[1] is not None
    assert spans[2] is not None
    assert spans[2][0] > spans[1][0] == PREFIX_BYTES


def draw(chance: random.Random) -> Fault:
    """Any fault; those that take time less often."""
    quick: list[Callable[[], Fault]] = [
        lambda: refuse(503, "SlowDown"),
        lambda: refuse(500, ""),
        lambda: reset_after(chance.randrange(50_000)),
        lambda: cut_short(chance.randrange(50_000)),
        reset_at_once,
        garbage,
        no_length,
        closing,
        right,
        right,
        lambda: refuse(400, "ExpiredToken"),
        lambda: refuse(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
    ]
    final: list[Callable[[], Fault]] = [
        lambda: shorter(chance.randrange(1, 10_000)),
        lambda: longer(chance.randrange(1, 10_000)),
        lambda: other_range(-chance.randrange(1, 1000)),
        whole_object,
        lambda: change(DATA[::-1], conditions=chance.random() < 0.5),
        lambda: refuse(403, "AccessDenied"),
    ]
    slow: list[Callable[[], Fault]] = [
        stall_before_headers,
        lambda: stall_after(chance.randrange(50_000)),
        lambda: drip(10, 0.05),
    ]
    drawn = chance.random()
    return chance.choice(slow if drawn < 0.01 else final if drawn < 0.06 else quick)()


@pytest.mark.parametrize("block", range(8))
def test_two_hundred_random_schedules_of_faults_load_right_or_fail_cleanly(server: FaultServer, block: int) -> None:
    right_ones = 0
    piece = 50_000
    with store_of(server, retries=4, timeout=SHORT) as store, ThreadPoolExecutor(3) as readers:
        for seed in range(25 * block, 25 * block + 25):
            chance = random.Random(seed)
            server.put("bucket", "model.safetensors", DATA)
            server.faults.clear()
            server.script(*[draw(chance) for _ in range(chance.randrange(1, 12))])
            buffer = bytearray(b"\xa5" * len(REST))
            view = memoryview(buffer)
            try:
                with contextlib.closing(store.open(URL)) as source:
                    reads = [
                        readers.submit(source.read_into, PREFIX_BYTES + at, view[at : at + piece])
                        for at in range(0, len(REST), piece)
                    ]
                    errors = [read.exception() for read in reads]
            except StreamerError as error:
                errors = [error]
            # One version of the object or the other: a mix is for the ETag to refuse.
            if not any(errors):
                assert buffer in (REST, DATA[::-1][PREFIX_BYTES:]), f"seed {seed}"
                right_ones += 1
            for failure in filter(None, errors):
                assert isinstance(failure, StreamerError), f"seed {seed}"
                assert URL in str(failure), f"seed {seed}"
    assert right_ones >= 5


def test_a_third_of_all_requests_failing_does_not_fail_a_load(server: FaultServer, transport: S3Transport) -> None:
    chance = random.Random(11)

    def sometimes(_: object) -> Fault | None:
        if chance.random() > 0.3:
            return None
        return chance.choice([refuse(503, "SlowDown"), reset_at_once(), reset_after(1000), cut_short(5000)])

    server.choose = sometimes
    piece = 10_000
    buffer = bytearray(len(REST))
    view = memoryview(buffer)
    with store_of(server, retries=20) as store, ThreadPoolExecutor(8) as readers:
        source = store.open(URL)
        list(
            readers.map(lambda at: source.read_into(PREFIX_BYTES + at, view[at : at + piece]), range(0, 200_000, piece))
        )
    assert buffer == REST
    assert len(server.requests) > 21
