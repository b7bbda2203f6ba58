"""What a store has on record of an object: which of it is believed, and how it is asked for."""

import base64
import hashlib
import itertools
import logging
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.session import Session

from runai_model_streamer.config import LoadConfig, S3Config
from runai_model_streamer.errors import ChecksumError, SourceChangedError
from runai_model_streamer.io.checksums import Checksum, make_digest
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.s3 import checksums
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.storage import Storage
from tests.io.contract import DATA
from tests.io.transports import URL
from tests.servers import Exchange, Fault, FaultServer, MotoServer, Request, moto_server, refuse

MD5 = hashlib.md5(DATA, usedforsecurity=False).digest()
ETAG = f'"{MD5.hex()}"'
CRC32 = zlib.crc32(DATA).to_bytes(4, "big")
IN_BASE64 = base64.b64encode(CRC32).decode()

ANSWERS: dict[str, tuple[dict[str, str], Checksum | None]] = {
    "of the whole": ({"ChecksumCRC32": IN_BASE64, "ChecksumType": "FULL_OBJECT"}, Checksum("CRC32", CRC32)),
    "of no type": ({"ChecksumCRC32": IN_BASE64, "ETag": ETAG}, Checksum("CRC32", CRC32)),
    "of the whole, uploaded in parts": (
        {"ChecksumCRC32": IN_BASE64, "ChecksumType": "FULL_OBJECT", "ETag": f'"{MD5.hex()}-2"'},
        Checksum("CRC32", CRC32),
    ),
    "of parts": ({"ChecksumCRC32": f"{IN_BASE64}-2", "ChecksumType": "COMPOSITE", "ETag": f'"{MD5.hex()}-2"'}, None),
    "of parts, it seems": ({"ChecksumCRC32": f"{IN_BASE64}-2"}, None),
    "of no type, uploaded in parts": ({"ChecksumCRC32": IN_BASE64, "ETag": f'"{MD5.hex()}-2"'}, None),
    "the cheapest of two": (
        {"ChecksumCRC32": IN_BASE64, "ChecksumCRC64NVME": "rosUhgp5mIg=", "ChecksumType": "FULL_OBJECT"},
        Checksum("CRC64NVME", bytes.fromhex("ae8b14860a799888")),
    ),
    "rather than the ETag": ({"ChecksumCRC32": IN_BASE64, "ETag": ETAG}, Checksum("CRC32", CRC32)),
    "an ETag": ({"ETag": ETAG}, Checksum("MD5", MD5)),
    "an ETag under S3's own encryption": ({"ETag": ETAG, "ServerSideEncryption": "AES256"}, Checksum("MD5", MD5)),
    "an ETag under KMS": ({"ETag": ETAG, "ServerSideEncryption": "aws:kms"}, None),
    "an ETag under the customer's key": ({"ETag": ETAG, "SSECustomerAlgorithm": "AES256"}, None),
    "an ETag of parts": ({"ETag": f'"{MD5.hex()}-12"'}, None),
    "another kind of ETag": ({"ETag": '"6b0315ff-70211098"'}, None),
    "a weak ETag": ({"ETag": f"W/{ETAG}"}, None),
    "nothing": ({}, None),
    "nonsense": ({"ChecksumCRC32": "no base64!"}, None),
}


@pytest.mark.parametrize(("answer", "found"), ANSWERS.values(), ids=ANSWERS)
def test_a_checksum_of_the_whole_object_is_found(answer: dict[str, str], found: Checksum | None) -> None:
    assert checksums.find(answer) == found


def described(**headers: str) -> Fault:
    """An answer to HEAD with these headers, `_` for `-`."""
    return lambda exchange: exchange.head(200, {name.replace("_", "-"): value for name, value in headers.items()})


def answer_head(server: FaultServer, **headers: str) -> None:
    server.choose = lambda request: described(**headers) if request.method == "HEAD" else None


def flipped(position: int) -> Fault:
    """The right answer, but for one bit of the object's byte at `position`."""

    def fault(exchange: Exchange) -> None:
        first, last = exchange.request.span or (0, 0)
        data = bytearray(exchange.asked)
        if first <= position <= last:
            data[position - first] ^= 1
        exchange.head()
        exchange.send(bytes(data))

    return fault


def storage_of(endpoint: str, *, verify: bool = True) -> Storage:
    config = LoadConfig(verify=verify, s3=S3Config(endpoint, virtual_addressing=False, max_retries=3))
    return Storage(config, S3Credentials("key", "secret"), shared=False)


def read_all(storage: Storage, path: str = URL) -> bytes:
    with closing(storage.open(path)) as source:
        buffer = bytearray(source.size)
        edges = [0, 8, 5000, 300_000, source.size]
        for start, end in itertools.pairwise(edges):
            source.read_into(start, memoryview(buffer)[start:end])
        return bytes(buffer)


class TestAsking:
    def test_nothing_is_asked_without_the_setting(self, server: FaultServer) -> None:
        with closing(storage_of(server.endpoint, verify=False)) as storage:
            assert read_all(storage) == DATA
        assert {request.method for request in server.requests} == {"GET"}
        assert not [name for request in server.requests for name in request.headers if "checksum" in name.lower()]

    def test_it_is_asked_once_with_the_checksum(self, server: FaultServer) -> None:
        answer_head(server)
        with closing(storage_of(server.endpoint)) as storage:
            assert read_all(storage) == DATA
        (asked,) = [request for request in server.requests if request.method == "HEAD"]
        headers = {name.lower(): value for name, value in asked.headers.items()}
        assert headers["x-amz-checksum-mode"] == "ENABLED"

    def test_it_is_asked_again_when_the_store_is_busy(self, server: FaultServer) -> None:
        busy = itertools.chain([refuse(503, ""), refuse(500, "")], itertools.repeat(described()))
        server.choose = lambda request: next(busy) if request.method == "HEAD" else None
        with closing(storage_of(server.endpoint)) as storage:
            assert read_all(storage) == DATA

    def test_an_object_that_changed_since_it_was_opened_is_told(self, server: FaultServer) -> None:
        server.choose = lambda request: refuse(412, "") if request.method == "HEAD" else None
        with closing(storage_of(server.endpoint)) as storage, pytest.raises(SourceChangedError, match=URL):
            storage.open(URL)

    def test_an_object_of_another_etag_is_told(self, server: FaultServer) -> None:
        answer_head(server, ETag='"another"')
        with (
            closing(storage_of(server.endpoint)) as storage,
            pytest.raises(SourceChangedError, match="its ETag differs"),
        ):
            storage.open(URL)

    def test_an_object_without_one_is_read_with_a_warning(
        self, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer_head(server, ETag='"1234-2"')
        server.put("bucket", "model.safetensors", DATA, '"1234-2"')
        with caplog.at_level(logging.WARNING), closing(storage_of(server.endpoint)) as storage:
            assert read_all(storage) == DATA
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{URL}: not verified: the store has no checksum of the whole object")


class TestVerifying:
    @pytest.mark.parametrize("position", [0, 5, 4999, 270_000, len(DATA) - 1])
    def test_a_bit_that_flips_on_the_way_is_refused(self, server: FaultServer, position: int) -> None:
        server.choose = lambda request: described() if request.method == "HEAD" else flipped(position)
        with closing(storage_of(server.endpoint)) as storage, pytest.raises(ChecksumError, match=f"{URL}.*MD5"):
            read_all(storage)

    def test_without_the_setting_it_is_read(self, server: FaultServer) -> None:
        server.choose = lambda request: flipped(270_000)
        with closing(storage_of(server.endpoint, verify=False)) as storage:
            assert read_all(storage) != DATA

    def test_an_object_that_was_damaged_in_the_store_is_refused(self, server: FaultServer) -> None:
        crc = make_digest("CRC64NVME", len(DATA)).add(0, memoryview(DATA)) or b""
        server.put("bucket", "model.safetensors", DATA[:-1] + b"?")
        headers: dict[str, Any] = {
            "x_amz_checksum_crc64nvme": base64.b64encode(crc).decode(),
            "x_amz_checksum_type": "FULL_OBJECT",
        }
        answer_head(server, **headers)
        with closing(storage_of(server.endpoint)) as storage, pytest.raises(ChecksumError, match="CRC64NVME"):
            read_all(storage)

    def test_a_retry_after_some_bytes_is_verified_as_a_whole(self, server: FaultServer) -> None:
        def cut(exchange: Exchange) -> None:
            exchange.head()
            exchange.send(exchange.asked[:1000])
            exchange.reset()

        def choose(request: Request) -> Fault | None:
            if request.method == "HEAD":
                return described()
            return cut if request.span and request.span[0] == 300_000 else None

        server.choose = choose
        with closing(storage_of(server.endpoint)) as storage:
            assert read_all(storage) == DATA


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.put("bucket", "made", b"")
        yield server


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "SHA1"])
def test_the_checksum_that_was_uploaded_is_verified(moto: MotoServer, algorithm: str) -> None:
    session = Session()
    session.set_credentials("test", "test")
    maker: Any = session.create_client
    with closing(maker("s3", region_name="us-east-1", endpoint_url=moto.endpoint)) as client:
        client.put_object(Bucket="bucket", Key=algorithm, Body=DATA, ChecksumAlgorithm=algorithm)
        asked = checksums.ask(client, Location("bucket", algorithm), None)
    assert asked is not None
    assert asked.algorithm == algorithm
    with closing(storage_of(moto.endpoint)) as storage:
        assert read_all(storage, f"s3://bucket/{algorithm}") == DATA
