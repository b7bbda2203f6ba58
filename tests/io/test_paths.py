"""From paths and URLs to sources."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import pytest
from typing_extensions import override

from runai_model_streamer.config import DirectIO, LoadConfig, S3Config
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    InterruptedReadError,
    IsDirectoryError,
    NotFoundError,
    UnsupportedError,
)
from runai_model_streamer.io.paths import as_path, is_object, kind_of
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin, SourceKind
from tests.io.contract import make_buffer
from tests.io.files.local_files import cached_bytes
from tests.servers import FaultServer


class Text(str):
    __slots__ = ()


class Place:
    """A path of somebody else's making."""

    def __init__(self, path: object) -> None:
        self.path = path

    def __fspath__(self) -> object:
        return self.path

    @override
    def __repr__(self) -> str:
        return f"Place({self.path!r})"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.safetensors", "model.safetensors"),
        ("/models/a b/ü.safetensors", "/models/a b/ü.safetensors"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("s3://bucket/a key?#%20", "s3://bucket/a key?#%20"),
        ("~/model", "~/model"),
        ("a:b", "a:b"),
        ("C:\\model", "C:\\model"),
        ("folder/gs://x", "folder/gs://x"),
        ("line\nbreak", "line\nbreak"),
        ("\udcff", "\udcff"),
        (Text("model"), "model"),
        (PurePosixPath("/models/m"), "/models/m"),
        (Place("s3://bucket/key"), "s3://bucket/key"),
    ],
    ids=repr,
)
def test_a_path_is_taken_as_it_is_written(path: str | os.PathLike[str], text: str) -> None:
    assert as_path(path) == text


@pytest.mark.parametrize("path", [b"model", 3, None, ["model"], Place(b"model"), object], ids=repr)
def test_what_is_no_text_is_no_path(path: object) -> None:
    with pytest.raises(ArgumentTypeError, match=type(path).__name__):
        as_path(path)  # type: ignore[arg-type]


def test_a_url_after_white_space_is_no_path() -> None:
    with pytest.raises(ArgumentError, match=r"^ s3://bucket/key: a URL does not begin with white space"):
        as_path(" s3://bucket/key")


@pytest.mark.parametrize("path", ["", Place("")], ids=["text", "object"])
def test_an_empty_path_is_refused(path: str | os.PathLike[str]) -> None:
    with pytest.raises(ArgumentError, match="empty"):
        as_path(path)


@pytest.mark.parametrize("path", ["mod\0el", "s3://bucket/mod\0el", "\0", "mod\ud800el"])
def test_a_character_that_no_path_can_have_is_refused_and_shown(path: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        as_path(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", ["ftp://host/m", "S3://bucket/key", "AZ://container/key", "a+b.c-1://x"])
def test_a_scheme_that_is_not_known_lists_those_that_are(path: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        as_path(path)
    assert str(caught.value).startswith(f"{path}: ")
    known = (
        "s3://bucket/key, gs://bucket/key, az://container/key, https://host/path, http://host/path, hf://org/model, "
        "file:///path"
    )
    assert str(caught.value).endswith(f"give a local path or a URL: {known}")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///models/m.safetensors", "/models/m.safetensors"),
        ("file://localhost/models/m", "/models/m"),
        ("FILE:///a%20folder/%C3%A9%ff", "/a folder/\u00e9\udcff"),
    ],
)
def test_a_url_of_a_file_is_its_path(url: str, path: str) -> None:
    assert as_path(url) == path


@pytest.mark.parametrize("url", ["file://", "file:///", "file://models/m", "file://host/models/m", "file:///a%00b"])
def test_a_url_of_no_file_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError):
        as_path(url)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("s3://bucket/key", SourceKind.OBJECT),
        ("model.safetensors", SourceKind.FILE),
        ("/s3://bucket/key", SourceKind.FILE),
        ("s3", SourceKind.FILE),
        ("s3:/bucket/key", SourceKind.FILE),
    ],
)
def test_only_urls_of_s3_are_objects(path: str, kind: SourceKind) -> None:
    assert (kind_of(path), is_object(path)) == (kind, kind is SourceKind.OBJECT)


@pytest.mark.parametrize(
    ("direct", "shared", "origin"),
    [
        (DirectIO.AUTO, False, Origin.DISK),
        (DirectIO.AUTO, True, Origin.BUFFERED),
        (DirectIO.NEVER, False, Origin.BUFFERED),
        (DirectIO.ALWAYS, True, Origin.DISK),
    ],
)
def test_files_are_read_as_the_settings_say(cold_file: Path, direct: DirectIO, shared: bool, origin: Origin) -> None:
    with (
        closing(Storage(LoadConfig(direct_io=direct), None, shared=shared)) as storage,
        closing(storage.open(str(cold_file))) as source,
    ):
        buffer = make_buffer(source.size)
        assert (source.path, source.read_into(0, buffer)) == (str(cold_file), origin)
    assert bytes(buffer) == cold_file.read_bytes()


def test_opening_a_file_reads_nothing_of_it(cold_file: Path) -> None:
    with closing(Storage(LoadConfig(), None, shared=False)) as storage:
        storage.open(str(cold_file)).close()
    assert cached_bytes(cold_file) == 0


@pytest.fixture
def storage() -> Iterator[Storage]:
    """With a store that has s3://models/m."""
    with FaultServer() as server:
        server.put("models", "m", b"bytes of m")
        config = LoadConfig(s3=S3Config(endpoint=server.endpoint, virtual_addressing=False))
        with closing(Storage(config, S3Credentials("key", "secret"), shared=False)) as storage:
            yield storage


def test_a_url_of_s3_opens_the_object(storage: Storage) -> None:
    buffer = make_buffer(10)
    with closing(storage.open("s3://models/m")) as source:
        assert (source.kind, source.read_into(0, buffer)) == (SourceKind.OBJECT, Origin.OBJECT)
    assert bytes(buffer) == b"bytes of m"


def test_credentials_that_are_changed_afterwards_are_those_of_before() -> None:
    with FaultServer() as server:
        server.put("models", "m", b"bytes of m")
        credentials = S3Credentials("key", "secret", endpoint=server.endpoint)
        config = LoadConfig(s3=S3Config(virtual_addressing=False))
        with closing(Storage(config, credentials, shared=False)) as storage:
            credentials.endpoint = "http://127.0.0.1:1"
            credentials.secret_access_key = None
            storage.open("s3://models/m").close()


@pytest.mark.parametrize("path", ["/nowhere/m", "s3://models/none", "s3://nowhere/m"])
def test_what_is_not_there_is_not_found(storage: Storage, path: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        storage.open(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("path", ["/", "s3://models/folder/"])
def test_a_folder_is_no_file(storage: Storage, path: str) -> None:
    with pytest.raises(IsDirectoryError) as caught:
        storage.open(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_object_is_opened_after_an_interrupt(storage: Storage) -> None:
    storage.interrupt()
    with pytest.raises(InterruptedReadError):
        storage.open("s3://models/m")


def test_interrupting_and_closing_it_twice_is_harmless(storage: Storage) -> None:
    storage.close()
    storage.interrupt()
    storage.close()


def test_it_can_be_closed_unused() -> None:
    Storage(LoadConfig(), None, shared=False).close()


def test_under_a_cap_reads_of_files_and_objects_stand_in_one_line(cold_file: Path) -> None:
    with FaultServer() as server:
        server.put("bucket", "key", b"object")
        config = LoadConfig(max_bandwidth=1 << 30, s3=S3Config(server.endpoint, virtual_addressing=False))
        with closing(Storage(config, S3Credentials("key", "secret"), shared=False)) as storage:
            sources = [storage.open(str(cold_file)), storage.open("s3://bucket/key")]
            storage.interrupt()
            for source in sources:
                # Neither a file nor what an object's opening brought would be interrupted but for the line.
                with pytest.raises(InterruptedReadError):
                    source.read_into(0, make_buffer(5))
                source.close()
