"""`make demo` on a checkpoint of a few hundred kilobytes, and what it says when something is wrong."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from safetensors import safe_open

from demo.__main__ import main
from demo.checkpoint import QWEN2_5_0_5B, Layout, prepare
from demo.s3server import BUCKET, serving

TINY = Layout("Tiny", vocabulary=300, layers=2, hidden=16, intermediate=40, key_value=8)


def test_the_real_layout_has_the_models_size() -> None:
    shapes = QWEN2_5_0_5B.shapes()
    elements = 0
    for shape in shapes.values():
        count = 1
        for length in shape:
            count *= length
        elements += count
    assert (len(shapes), elements) == (290, 494_032_768)


def test_the_demo_streams_and_compares(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache", str(tmp_path)], layout=TINY) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "All 26 tensors equal."
    table = lines[lines.index("") + 1 : -2]
    assert table[0].split() == ["source", "GB", "seconds", "GB/s", "peak", "memory"]
    assert [line.split(",")[0].split("  ")[0] for line in table[1:]] == ["disk"] * 3 + ["S3 on loopback"] * 2
    assert len({len(line) for line in table}) == 1


def test_a_load_that_fails_fails_the_demo(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "none")
    assert main(["--cache", str(tmp_path)], layout=TINY) == 1
    output = capfd.readouterr()
    assert "RUNAI_STREAMER_CONCURRENCY" in output.err
    assert "tensors equal" not in output.out


def test_a_checkpoint_is_made_once_and_mended_when_damaged(tmp_path: Path) -> None:
    first = prepare(TINY, tmp_path)
    assert first.made
    assert first.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    content = [path.read_bytes() for path in first.files]
    assert not prepare(TINY, tmp_path).made
    with first.files[1].open("r+b") as file:
        file.truncate(first.files[1].stat().st_size - 1)
    assert prepare(TINY, tmp_path).made
    assert [path.read_bytes() for path in first.files] == content


def test_a_checkpoint_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    shapes = {}
    for path in prepare(TINY, tmp_path).files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping, though it has keys
                tensor = file.get_tensor(name)
                assert tensor.isfinite().all()
                shapes[name] = tuple(tensor.shape)
    assert shapes == TINY.shapes()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An object of the bytes 0 to 255."""
    path = tmp_path / "key"
    path.write_bytes(bytes(range(256)))
    with serving([path]) as endpoint:
        yield f"{endpoint}/{BUCKET}/key"


def get(url: str, **headers: str) -> tuple[int, bytes, Message]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
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
