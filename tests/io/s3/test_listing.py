"""Prefixes of keys: what is listed, page by page, and what is an error."""

import itertools
import re
import time
from collections.abc import Callable, Iterator

import pytest

from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentError,
    CredentialsError,
    NotFoundError,
    ReadError,
    StorageTimeoutError,
    StorageUnreachableError,
)
from runai_model_streamer.io.listing import Entry
from runai_model_streamer.io.s3.listing import list_objects
from tests.io.transports import store_of
from tests.servers import Exchange, Fault, FaultServer, moto_server, refuse, reset_at_once

pytestmark = pytest.mark.usefixtures("aws_files")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        for key in ("model/b", "model/a", "model/sub/c", "model/", "model/empty/", "model2/x", "mode", "top"):
            server.put("bucket", key, b"12345", modified=1_700_000_000)
        yield server


def entries(
    endpoint: str, path: str, *, recursive: bool = True, wanted: Callable[[str], bool] | None = None, retries: int = 2
) -> list[Entry]:
    with store_of(endpoint, retries=retries) as store:
        return list_objects(store, path, wanted or (lambda _: True), recursive=recursive)


def names(server: FaultServer, path: str, *, recursive: bool = True) -> list[str]:
    return [entry.name for entry in entries(server.endpoint, path, recursive=recursive)]


@pytest.mark.parametrize("path", ["s3://bucket/model", "s3://bucket/model/"])
def test_a_prefix_is_a_folder_with_or_without_its_slash(server: FaultServer, path: str) -> None:
    assert names(server, path) == ["a", "b", "sub/c"]
    assert names(server, path, recursive=False) == ["a", "b"]


@pytest.mark.parametrize("path", ["s3://bucket", "s3://bucket/"])
def test_a_whole_bucket_is_listed(server: FaultServer, path: str) -> None:
    assert names(server, path) == ["mode", "model/a", "model/b", "model/sub/c", "model2/x", "top"]
    assert names(server, path, recursive=False) == ["mode", "top"]


def test_an_entry_has_the_url_and_the_size(server: FaultServer) -> None:
    (found,) = entries(server.endpoint, "s3://bucket/model/sub")
    assert (found.path, found.name, found.size) == ("s3://bucket/model/sub/c", "c", 5)


def test_the_time_of_an_entry_holds_its_seconds_and_whole_microseconds_of_its_etag(server: FaultServer) -> None:
    def time_of(data: bytes, modified: float) -> int:
        server.put("bucket", "model/sub/c", data, modified=modified)
        return entries(server.endpoint, "s3://bucket/model/sub")[0].modified_ns

    first, other, later = time_of(b"12345", 1e9), time_of(b"54321", 1e9), time_of(b"12345", 1e9 + 1)
    assert time_of(b"12345", 1e9) == first
    assert {time // 10**9 for time in (first, other)} == {10**9}
    assert first != other
    assert later == first + 10**9
    assert [time % 1000 for time in (first, other)] == [0, 0]


def test_pages_are_read_to_the_last(server: FaultServer) -> None:
    server.page_size = 2
    assert names(server, "s3://bucket") == ["mode", "model/a", "model/b", "model/sub/c", "model2/x", "top"]
    assert len(server.requests) == 4


def test_only_wanted_keys_are_kept(server: FaultServer) -> None:
    found = entries(server.endpoint, "s3://bucket/model", wanted=lambda name: name.endswith("c"))
    assert [entry.name for entry in found] == ["sub/c"]


@pytest.mark.parametrize("key", ["a b", "ünï/模型", "q?x=1", "100%25", "a//b", "/lead", "../up", "a+b&c=d", "<x>"])
def test_a_key_is_listed_as_it_is_written(server: FaultServer, key: str) -> None:
    server.put("odd", f"p/{key}", b"x")
    (found,) = entries(server.endpoint, "s3://odd/p")
    assert (found.name, found.path) == (key, f"s3://odd/p/{key}")


def test_a_folder_with_nothing_in_it_is_empty(server: FaultServer) -> None:
    assert names(server, "s3://bucket/model/empty") == []


def test_a_prefix_under_which_there_is_nothing_is_an_error(server: FaultServer) -> None:
    with pytest.raises(NotFoundError, match=r"s3://bucket/nope: bucket bucket has no key that begins with 'nope/'"):
        names(server, "s3://bucket/nope")


def test_an_objects_own_name_is_no_prefix(server: FaultServer) -> None:
    with pytest.raises(NotFoundError, match="if it is an object, stream_file takes it"):
        names(server, "s3://bucket/top")


def test_a_missing_bucket_is_an_error(server: FaultServer) -> None:
    with pytest.raises(NotFoundError, match="there is no bucket other"):
        names(server, "s3://other/model")


@pytest.mark.parametrize("path", ["s3://", "s3:///key", "bucket/key"])
def test_a_url_without_a_bucket_is_refused(server: FaultServer, path: str) -> None:
    with pytest.raises(ArgumentError, match="does not name a bucket"):
        names(server, path)


def test_a_passing_fault_is_tried_again(server: FaultServer) -> None:
    server.page_size = 4
    server.script(refuse(503, "SlowDown"), Exchange.listing, reset_at_once())
    assert len(names(server, "s3://bucket")) == 6
    assert len(server.requests) == 4


def test_an_error_that_the_caller_is_handling_is_no_part_of_a_fault(server: FaultServer) -> None:
    def list_after(elsewhere: str) -> list[str]:
        try:
            return names(server, elsewhere)
        except NotFoundError:
            server.script(reset_at_once())
            return names(server, "s3://bucket/model")

    assert list_after("s3://bucket/nope") == ["a", "b", "sub/c"]


def test_a_fault_that_stays_is_told(server: FaultServer) -> None:
    server.script(*[refuse(503, "SlowDown")] * 3)
    with pytest.raises(ReadError, match=r"s3://bucket/model: the store is failing.*HTTP 503 SlowDown.*3 attempts"):
        names(server, "s3://bucket/model")


def test_a_refusal_names_the_right_to_list(server: FaultServer) -> None:
    server.script(refuse(403, "AccessDenied"))
    with pytest.raises(AccessDeniedError, match=r"access denied .*Grant these credentials s3:ListBucket"):
        names(server, "s3://bucket/model")
    assert len(server.requests) == 1


def test_wrong_credentials_are_told(server: FaultServer) -> None:
    server.script(refuse(403, "InvalidAccessKeyId"))
    with pytest.raises(CredentialsError, match="does not know the access key"):
        names(server, "s3://bucket/model")


def test_a_store_that_is_not_there_is_told() -> None:
    with pytest.raises(StorageUnreachableError, match=r"no connection to 127\.0\.0\.1:1"):
        entries("http://127.0.0.1:1", "s3://bucket/model", retries=0)


def test_a_listing_without_an_end_is_an_error(server: FaultServer) -> None:
    server.page_size = 2
    server.choose = lambda request: lambda exchange: exchange.listing(NextContinuationToken="again")
    with pytest.raises(ReadError, match=r"its listing does not end: page \d leads back to an earlier one"):
        names(server, "s3://bucket")
    assert len(server.requests) == 2


@pytest.mark.parametrize("tokens", [("A", "B"), ("A", "B", "C"), ("A", "B", "B")])
def test_a_listing_whose_tokens_go_round_is_an_error(server: FaultServer, tokens: tuple[str, ...]) -> None:
    turns = itertools.cycle(tokens)
    server.page_size = 1
    server.choose = lambda request: lambda exchange: exchange.listing(NextContinuationToken=next(turns))
    with pytest.raises(ReadError, match=r"its listing does not end: page \d leads back to an earlier one"):
        names(server, "s3://bucket")
    assert len(server.requests) <= len(tokens) + 1


def test_a_listing_of_ever_more_pages_is_an_error(server: FaultServer) -> None:
    numbers = itertools.count()
    server.page_size = 1
    server.choose = lambda request: lambda exchange: exchange.listing(NextContinuationToken=f"T{next(numbers)}")
    with (
        store_of(server.endpoint) as store,
        pytest.raises(ReadError, match="its listing does not end: it has more than 5 pages"),
    ):
        list_objects(store, "s3://bucket", lambda _: True, recursive=True, max_pages=5)
    assert len(server.requests) == 6


PAGE = "<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
WHOLE = "<Contents><Key>model/a</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><Size>5</Size></Contents>"


def page(text: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Type": "application/xml", "Content-Length": str(len(text.encode()))})
        exchange.send(text.encode())

    return fault


@pytest.mark.parametrize("field", ["LastModified", "Size", "Key", "IsTruncated"])
def test_a_listing_that_leaves_a_field_out_is_read_or_an_error_of_it(server: FaultServer, field: str) -> None:
    server.script(page(re.sub(f"<{field}>.*?</{field}>", "", PAGE.format(entry=WHOLE))))
    if field in ("Size", "Key"):
        with pytest.raises(ReadError, match=rf"s3://bucket/model: .*no {field.lower()}"):
            names(server, "s3://bucket/model")
    else:
        assert names(server, "s3://bucket/model") == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        PAGE.format(entry=WHOLE.replace(">5<", ">five<")),
        PAGE.format(entry=WHOLE.replace("2024-01-01T00:00:00.000Z", "yesterday")),
        PAGE.format(entry=WHOLE.replace("2024-01-01T00:00:00.000Z", "9" * 30)),
        PAGE.format(entry=WHOLE.replace(">5<", f">{'9' * 5000}<")),
        PAGE.format(entry="<Contents>text</Contents>"),
        "<ListBucketResult><Contents><Key>model/a</Key>",
        "<html><body>no listing</body></html>",
        '{"Contents": []}',
        "",
    ],
    ids=["size", "time", "far time", "long size", "text", "cut", "html", "json", "nothing"],
)
def test_a_listing_that_cannot_be_read_is_an_error_of_ours(server: FaultServer, text: str) -> None:
    server.choose = lambda _: page(text)
    with pytest.raises(ReadError, match="s3://bucket/model: "):
        names(server, "s3://bucket/model")


def test_a_listing_that_brings_next_to_nothing_is_given_up(server: FaultServer) -> None:
    def dripping(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Type": "application/xml", "Content-Length": "100000"})
        for _ in range(2000):
            exchange.send(b" ")
            time.sleep(0.05)

    server.choose = lambda _: dripping
    with (
        store_of(server.endpoint, retries=0, timeout=0.5) as store,
        pytest.raises(StorageTimeoutError, match="sent less than 1024 bytes per second"),
    ):
        list_objects(store, "s3://bucket/model", lambda _: True, recursive=True)


def test_a_listing_without_end_is_given_up_before_it_fills_the_memory(server: FaultServer) -> None:
    sent = 0

    def endless(exchange: Exchange) -> None:
        nonlocal sent
        exchange.head(200, {"Content-Type": "application/xml", "Content-Length": str(1 << 40)})
        while sent < 256 << 20:
            exchange.send(b"x" * (1 << 20))
            sent += 1 << 20

    server.choose = lambda _: endless
    with pytest.raises(ReadError, match="the answer is not a listing: it has more than 16 MiB"):
        names(server, "s3://bucket/model")
    assert sent < 64 << 20


@pytest.mark.parametrize("bucket", ["tenant:bucket", "tenant$bucket", "Bücket", "a b", "x", "UPPER_case", "a@b", "b!"])
def test_a_store_of_ones_own_judges_names_of_buckets(server: FaultServer, bucket: str) -> None:
    server.put(bucket, "model/a", b"12345")
    assert names(server, f"s3://{bucket}/model") == ["a"]
    with store_of(server.endpoint) as store:
        assert store.open(f"s3://{bucket}/model/a").size == 5


def test_keys_that_were_not_asked_for_are_an_error(server: FaultServer) -> None:
    server.script(lambda exchange: exchange.listing(Key="other/key"))
    with pytest.raises(ReadError, match="asked for keys under 'model/', it sent 'other/key'"):
        names(server, "s3://bucket/model")


@pytest.mark.parametrize("text", ["<html><body>Sign in</body></html>", "\n <!DOCTYPE HTML>\n<html lang=en>"])
def test_a_web_page_instead_of_a_listing_is_not_the_stores_word(server: FaultServer, text: str) -> None:
    server.script(page(text))
    with pytest.raises(
        StorageUnreachableError, match=r"something other than the store answered.* but a web page"
    ) as caught:
        names(server, "s3://bucket/model")
    assert "in front of the store" in caught.value.remedy


def test_a_listing_that_says_there_is_more_and_not_where_is_an_error(server: FaultServer) -> None:
    server.script(page(PAGE.format(entry=WHOLE).replace("false", "true")))
    with pytest.raises(ReadError, match="page 1 of its listing is not the last one, and names no next one"):
        names(server, "s3://bucket/model")


def test_an_answer_that_is_no_listing_is_an_error(server: FaultServer) -> None:
    server.script(Exchange.right)
    with pytest.raises(ReadError, match="the answer is not a listing"):
        names(server, "s3://bucket/model")


def test_secrets_are_in_no_error(server: FaultServer) -> None:
    server.script(refuse(400, "Bad", message="you sent explicit-secret"))
    with pytest.raises(ReadError) as caught:
        names(server, "s3://bucket/model")
    assert "explicit-secret" not in str(caught.value)


def test_ten_thousand_keys_are_listed_in_order(server: FaultServer) -> None:
    expected = sorted(f"shard-{number}.safetensors" for number in range(10_000))
    for name in expected:
        server.put("big", f"model/{name}", b"", etag='"e"')
        server.put("big", f"model/below/{name}", b"", etag='"e"')
    assert names(server, "s3://big/model", recursive=False) == expected
    assert len(server.requests) == 11


def test_motos_server_is_listed() -> None:
    with moto_server() as moto:
        for number in range(25):
            moto.put("models", f"m/{number:02}.bin", b"x" * number)
        moto.put("models", "m/a b/ü.bin", b"x")
        moto.put("models", "m2/x", b"x")
        found = entries(moto.endpoint, "s3://models/m")
        assert [entry.size for entry in found] == [*range(25), 1]
        assert found[-1].path == "s3://models/m/a b/ü.bin"
        assert len(entries(moto.endpoint, "s3://models/m", recursive=False)) == 25
        with pytest.raises(NotFoundError):
            entries(moto.endpoint, "s3://nobody-made-it/m")
