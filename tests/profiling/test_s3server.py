"""The local S3 server answers as S3 does, keeps to its latency and bandwidth, and ends."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.profiling import S3Server, range_server
from tests.checkpoints import PATIENCE, numbered, raw, write


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An object of the bytes 0 to 255."""
    path = tmp_path / "key"
    path.write_bytes(bytes(range(256)))
    with S3Server([path]) as server:
        yield f"{server.endpoint}/local/key"


def get(url: str, **headers: str) -> tuple[int, bytes, Message]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=10-", 10, 255), ("bytes=-6", 250, 255), ("bytes=200-9999", 200, 255)],
)
def test_the_server_answers_a_range_as_s3_does(url: str, asked: str, first: int, last: int) -> None:
    status, body, headers = get(url, Range=asked)
    assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/256")
    assert body == bytes(range(first, last + 1))


def test_the_server_answers_a_whole_object(url: str) -> None:
    status, body, headers = get(url)
    assert (status, body, headers["Content-Range"]) == (200, bytes(range(256)), None)
    assert get(url, If_Match=headers["ETag"])[0] == 200


@pytest.mark.parametrize(
    ("key", "headers", "status", "code"),
    [
        ("", {"If_Match": '"other"'}, 412, "PreconditionFailed"),
        ("", {"Range": "bytes=256-300"}, 416, "InvalidRange"),
        ("-missing", {}, 404, "NoSuchKey"),
        ("/../../../etc/passwd", {}, 404, "NoSuchKey"),
    ],
)
def test_the_server_refuses_as_s3_does(url: str, key: str, headers: dict[str, str], status: int, code: str) -> None:
    answered, body, _ = get(url + key, **headers)
    assert answered == status
    assert f"<Code>{code}</Code>".encode() in body


def test_a_file_is_streamed_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = numbered([100, 5000])
    with S3Server([write(tmp_path / "model.safetensors", stored)]) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(server.urls)
            found = {name: raw(tensor) for name, tensor in streamer.get_tensors()}
    assert found == {name: tensor.data for name, tensor in stored.items()}


def test_each_answer_waits_for_the_latency(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"x")
    with S3Server([path], latency=0.2) as server:
        started = time.perf_counter()
        get(f"{server.endpoint}/local/key")
        assert time.perf_counter() - started >= 0.2


def test_an_answer_takes_as_long_as_the_bandwidth_says(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(1 << 20))
    with S3Server([path], bandwidth=4 << 20) as server:
        started = time.perf_counter()
        _, body, _ = get(f"{server.endpoint}/local/key")
        assert (
            time.perf_counter() - started >= 0.25 * 3 / 4
        )  # the last piece has left the server, and is not waited for
    assert len(body) == 1 << 20


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "key").touch()
    with pytest.raises(ArgumentError, match="have one name"):
        S3Server([tmp_path / "a" / "key", tmp_path / "b" / "key"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        S3Server([tmp_path / "missing"])


def test_it_ends_with_close_which_may_be_called_twice(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    server = S3Server([tmp_path / "key"])
    server.close()
    server.close()
    with pytest.raises(urllib.error.URLError):
        get(f"{server.endpoint}/local/key")


def test_it_ends_with_whoever_started_it() -> None:
    task = {"bucket": "local", "files": {}, "latency": 0, "bandwidth": None}
    command = [sys.executable, "-I", range_server.__file__, json.dumps(task)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=60, check=True)
    assert int(done.stdout) > 0
