"""What docs/s3.md promises of S3-compatible stores, on real ones, with both transports."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.errors import (
    AccessDeniedError,
    CredentialsError,
    NotFoundError,
    SourceChangedError,
    StorageUnreachableError,
    StreamerError,
)
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.listing import list_objects
from runai_model_streamer.io.s3.store import S3Store
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import Origin, SourceKind
from tests.checkpoints import stored, write
from tests.io import contract
from tests.io.transports import store_of
from tests.stores.running import Store

KEYS: Final = (
    "plain.safetensors",
    "a b/c d.safetensors",
    "plus+sign/equals=and&and.safetensors",
    "per%cent/%41.safetensors",
    "ünïcode/模型.safetensors",
    "quotes/'single' \"double\".safetensors",
    "brackets/(round)[square]{curly}.safetensors",
    "signs/!$*,;:@~.safetensors",
    "question?mark#hash.safetensors",
    "tilde~and^caret`tick|pipe.safetensors",
    "back\\slash.safetensors",
    "<angle>.safetensors",
    "dots/.../x.safetensors",
    f"{'long' * 50}/{'name' * 50}.safetensors",
)

PART: Final = 5 << 20
"""Bytes: the least that S3 has of a part that is not the last."""

pytestmark = pytest.mark.usefixtures("aws_files", "transport")


@pytest.fixture
def access(real_store: Store) -> Iterator[S3Store]:
    """The store, as a load opens it."""
    with store_of(real_store.endpoint, S3Credentials(real_store.key, real_store.secret), retries=2) as opened:
        yield opened


@pytest.fixture
def environment(real_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that lead to it."""
    for name, value in {
        "AWS_ENDPOINT_URL": real_store.endpoint,
        "AWS_ACCESS_KEY_ID": real_store.key,
        "AWS_SECRET_ACCESS_KEY": real_store.secret,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }.items():
        monkeypatch.setenv(name, value)


def needs_writes(store: Store) -> None:
    """Skip for a store that is read-only."""
    if store.folder is not None:
        pytest.skip(f"{store.name} is read-only")


class TestContract(contract.SourceContract):
    """What every source promises."""

    kind = SourceKind.OBJECT
    origins = (Origin.OBJECT,)

    @pytest.fixture
    def path(self, real_store: Store) -> str:
        real_store.put("contract", "model.bin", contract.DATA)
        return "s3://contract/model.bin"

    @pytest.fixture
    def source(self, access: S3Store, path: str) -> Iterator[Source]:
        opened = access.open(path)
        yield opened
        opened.close()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_any_characters_is_listed_and_read(real_store: Store, access: S3Store, key: str) -> None:
    if real_store.folder is not None and "\\" in key:
        pytest.skip("not a name of a file there")
    data = key.encode() * 100
    real_store.put("odd-keys", key, data)
    source = access.open(f"s3://odd-keys/{key}")
    buffer = bytearray(source.size)
    source.read_into(0, memoryview(buffer))
    assert bytes(buffer) == data
    prefix, _, name = key.rpartition("/")
    found = list_objects(access, f"s3://odd-keys/{prefix}", lambda each: each == name, recursive=False)
    assert [(entry.path, entry.size) for entry in found] == [(f"s3://odd-keys/{key}", len(data))]


def test_more_keys_than_a_page_has_are_all_listed(real_store: Store, access: S3Store) -> None:
    names = [f"shard-{number:05}.safetensors" for number in range(1234)]
    real_store.put("many", f"m/{names[0]}", b"x")
    with ThreadPoolExecutor(8) as pool:
        if real_store.folder is None:
            client = real_store.client()
            list(pool.map(lambda name: client.put_object(Bucket="many", Key=f"m/{name}", Body=b"x"), names))
        else:
            list(pool.map(lambda name: real_store.put("many", f"m/{name}", b"x"), names))
    real_store.put("many", "m/below/other.safetensors", b"x")
    found = list_objects(access, "s3://many/m", lambda _: True, recursive=False)
    assert [entry.name for entry in found] == names
    assert len(list_objects(access, "s3://many/m", lambda _: True, recursive=True)) == 1235


def test_an_object_that_was_uploaded_in_parts_is_read(real_store: Store, access: S3Store) -> None:
    needs_writes(real_store)
    real_store.put("parts", "other", b"")
    client = real_store.client()
    data = [bytes([number]) * PART for number in (1, 2)] + [b"end"]
    upload = client.create_multipart_upload(Bucket="parts", Key="big")["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(Bucket="parts", Key="big", UploadId=upload, PartNumber=number, Body=part)[
                "ETag"
            ],
        }
        for number, part in enumerate(data, 1)
    ]
    client.complete_multipart_upload(Bucket="parts", Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
    source = access.open("s3://parts/big")
    assert source.size == 2 * PART + 3
    buffer = bytearray(PART)
    source.read_into(PART // 2, memoryview(buffer))
    assert bytes(buffer) == bytes([1]) * (PART // 2) + bytes([2]) * (PART // 2)


def test_an_object_that_is_replaced_is_an_error_and_never_a_mixture(real_store: Store, access: S3Store) -> None:
    real_store.put("changing", "model", b"a" * 1_000_000)
    source = access.open("s3://changing/model")
    source.read_into(300_000, memoryview(bytearray(100_000)))
    real_store.put("changing", "model", b"b" * 1_000_000)
    with pytest.raises(SourceChangedError):
        source.read_into(500_000, memoryview(bytearray(100_000)))


def test_an_object_that_is_deleted_is_an_error(real_store: Store, access: S3Store) -> None:
    real_store.put("changing", "gone", b"a" * 1_000_000)
    source = access.open("s3://changing/gone")
    real_store.delete("changing", "gone")
    with pytest.raises(NotFoundError):
        source.read_into(500_000, memoryview(bytearray(100_000)))


def test_what_is_not_there_is_told_as_the_stores_word(real_store: Store, access: S3Store) -> None:
    real_store.put("there", "model", b"x")
    with pytest.raises(NotFoundError):
        access.open("s3://there/nothing")
    with pytest.raises(NotFoundError):
        list_objects(access, "s3://there/nothing", lambda _: True, recursive=True)
    with pytest.raises(NotFoundError):
        access.open("s3://not-there-at-all/model")


def test_wrong_keys_are_told(real_store: Store) -> None:
    if real_store.name in ("moto", "hadro"):
        pytest.skip(f"{real_store.name} takes any")
    real_store.put("there", "model", b"x")
    for key, secret in ((real_store.key, "a-wrong-secret-01"), ("NOSUCHKEY", real_store.secret)):
        with store_of(real_store.endpoint, S3Credentials(key, secret), retries=0) as store:
            with pytest.raises(AccessDeniedError) as opened:
                store.open("s3://there/model")
            with pytest.raises(AccessDeniedError):
                list_objects(store, "s3://there", lambda _: True, recursive=True)
        assert secret not in str(opened.value)
        assert isinstance(opened.value, CredentialsError) or real_store.name == "swift"


def test_an_anonymous_request_for_what_is_private_is_refused_clearly(real_store: Store) -> None:
    if real_store.name in ("moto", "hadro"):
        pytest.skip(f"{real_store.name} takes any")
    real_store.put("there", "model", b"x")
    with (
        store_of(real_store.endpoint, None, retries=0, unsigned=True) as store,
        pytest.raises(StreamerError) as caught,
    ):
        store.open("s3://there/model")
    assert isinstance(caught.value, AccessDeniedError | StorageUnreachableError)
    assert "RUNAI_STREAMER_S3_UNSIGNED" in str(caught.value)
    assert "TLS" not in str(caught.value)


def test_a_tenants_bucket_is_read(real_store: Store) -> None:
    if real_store.name != "ceph":
        pytest.skip("only Ceph has tenants")
    tenant = real_store._replace(key="TENANTKEY0001", secret="tenant-test-secret-01")
    tenant.put("models", "m/x.safetensors", b"12345")
    with store_of(tenant.endpoint, S3Credentials(tenant.key, tenant.secret)) as store:
        assert store.open("s3://research:models/m/x.safetensors").size == 5
        assert len(list_objects(store, "s3://research:models/m", lambda _: True, recursive=True)) == 1


@pytest.mark.usefixtures("environment")
def test_a_model_is_listed_streamed_and_pulled(real_store: Store, tmp_path: Path) -> None:
    for number in (1, 2):
        path = write(tmp_path / f"{number}.safetensors", {f"t{number}": stored("F32", [300_000])})
        real_store.put("models", f"llama/model-{number}.safetensors", path.read_bytes())
    real_store.put("models", "llama/config.json", b"{}")
    files = list_safetensors("s3://models/llama")
    assert files == [f"s3://models/llama/model-{number}.safetensors" for number in (1, 2)]
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        found = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
    assert {name: tensor.shape for name, tensor in found.items()} == {"t1": (300_000,), "t2": (300_000,)}
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    pull_files("s3://models/llama", tmp_path / "pulled")
    for number in (1, 2):
        pulled = tmp_path / "pulled" / f"model-{number}.safetensors"
        assert pulled.read_bytes() == (tmp_path / f"{number}.safetensors").read_bytes()
