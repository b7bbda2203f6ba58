"""RUNAI_STREAMER_VERIFY through a whole load: what is given out before an object turns out damaged, and what never."""

import base64
import logging
import threading
from collections.abc import Generator, Iterator

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ChecksumError
from runai_model_streamer.io.checksums import make_digest
from tests.casts import expected, finite
from tests.checkpoints import PATIENCE, encode, join_ours, our_threads, raw, stored
from tests.cuda_emulator import Emulator
from tests.pipeline.cuda.world import CtypesApi, World
from tests.servers import Exchange, FaultServer

MIB = 1 << 20
COUNT = 8
TENSORS = {f"t{index}": stored("U8", [3 * MIB], index) for index in range(COUNT)}
OBJECT = encode(TENSORS, metadata={"format": "pt"})
URL = "s3://bucket/model.safetensors"
IN_T3 = OBJECT.index(TENSORS["t3"].data[:64]) + 1000
IN_THE_HEADER = OBJECT.index(b'"pt"') + 1
"""It is as good a header with a bit of this byte the other way."""
CRC = make_digest("CRC64NVME", len(OBJECT)).add(0, memoryview(OBJECT)) or b""


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    join_ours()
    assert our_threads() == []


class Store(FaultServer):
    """Has one object, its CRC64NVME if `crc`, and flips a bit of it at `damage` on the way."""

    def __init__(self, *, crc: bool, damage: int | None = None, data: bytes = OBJECT) -> None:
        super().__init__()
        self.put("bucket", "model.safetensors", data)
        self.crc = crc
        self.damage = damage
        self.choose = lambda request: self.describe if request.method == "HEAD" else self.send_range

    def describe(self, exchange: Exchange) -> None:
        value = base64.b64encode(CRC).decode() if self.crc else None
        exchange.head(200, {"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": "FULL_OBJECT"})

    def send_range(self, exchange: Exchange) -> None:
        first, last = exchange.request.span or (0, 0)
        data = bytearray(exchange.asked)
        if self.damage is not None and first <= self.damage <= last:
            data[self.damage - first] ^= 1
        exchange.head()
        exchange.send(bytes(data))


@pytest.fixture(params=["CRC64NVME", "MD5"])
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_MEMORY_LIMIT": str(4 * 3 * MIB),
        "RUNAI_STREAMER_VERIFY": "1",
    }.items():
        monkeypatch.setenv(name, value)


def load(server: FaultServer, monkeypatch: pytest.MonkeyPatch, names: list[str] | None = None) -> Generator[str]:
    """Names of tensors that came, each with its bytes as they were uploaded unless they are the damaged ones."""
    monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", server.endpoint)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(URL, tensor_names=names)
        for name, tensor in streamer.get_tensors():
            assert name == "t3" or raw(tensor) == TENSORS[name].data
            yield name


def test_an_object_that_matches_is_loaded(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(crc=algorithm != "MD5") as server:
        assert list(load(server, monkeypatch)) == list(TENSORS)
        assert [request.method for request in server.requests].count("HEAD") == 1


@pytest.mark.parametrize("damage", [IN_T3, IN_THE_HEADER])
def test_the_last_tensor_of_a_damaged_object_is_never_given_out(
    algorithm: str, damage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[str] = []
    refused = pytest.raises(ChecksumError, match=f"^{URL}: .*{algorithm} is")
    with Store(crc=algorithm != "MD5", damage=damage) as server, refused as caught:
        came.extend(load(server, monkeypatch))
    assert came == list(TENSORS)[: len(came)]
    assert len(came) < COUNT
    assert "while reading tensor" not in str(caught.value)


def test_without_the_setting_a_damaged_object_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "0")
    with Store(crc=True, damage=IN_T3) as server:
        assert list(load(server, monkeypatch)) == list(TENSORS)
        assert {request.method for request in server.requests} == {"GET"}


def test_under_a_cap_it_is_verified_too(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MAX_BANDWIDTH", str(10**9))
    with Store(crc=algorithm != "MD5") as server:
        assert list(load(server, monkeypatch)) == list(TENSORS)
    with Store(crc=algorithm != "MD5", damage=IN_T3) as server, pytest.raises(ChecksumError):
        list(load(server, monkeypatch))


def test_where_only_some_tensors_are_wanted_they_are_loaded_with_one_warning(
    algorithm: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["t1", "t3", "t6"]
    with Store(crc=algorithm != "MD5", damage=IN_T3) as server, caplog.at_level(logging.WARNING):
        assert list(load(server, monkeypatch, names)) == names
    (record,) = caplog.records
    assert record.getMessage().startswith("RUNAI_STREAMER_VERIFY: 1 of 1 files are not verified: tensor_names")


def test_a_load_that_is_dropped_ends_while_readers_wait_to_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(crc=False) as server:
        tensors = load(server, monkeypatch)
        assert next(tensors) == "t0"
        tensors.close()
        join_ours()
        assert our_threads() == []


def within_patience(streamer: SafetensorsStreamer) -> Generator[tuple[str, torch.Tensor]]:
    """Its tensors; a load that stands still is closed, which its caller hears of."""
    ending = threading.Timer(PATIENCE, streamer.close)
    ending.start()
    try:
        yield from streamer.get_tensors()
    finally:
        ending.cancel()


def test_readers_that_wait_to_hash_leave_others_memory_to_cast_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    tensors = {f"t{index}": finite("BF16", [MIB // 32], index) for index in range(400)}
    # One request's memory to cast from, and room for eight of the tensors, each of which is a request.
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(5 * MIB + MIB))
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(5 * MIB))
    with Store(crc=False, data=encode(tensors)) as server, SafetensorsStreamer() as streamer:
        monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", server.endpoint)
        streamer.stream_file(URL, dtype=torch.float32)
        for name, tensor in within_patience(streamer):
            assert raw(tensor) == raw(expected(tensors[name], torch.float32))


def test_readers_that_wait_to_hash_leave_others_slots_to_stage_in(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(emulator, CtypesApi(emulator))
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(MIB // 4))
    with Store(crc=False) as server, world.streamer() as streamer:
        monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", server.endpoint)
        streamer.stream_file(URL, device="cuda:0")
        for name, tensor in within_patience(streamer):
            world.work_on(name, tensor)
            del tensor
    assert world.results() == [(name, each.data) for name, each in TENSORS.items()]
    assert world.close() == []
