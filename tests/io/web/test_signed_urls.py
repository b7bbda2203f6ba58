"""A URL whose query signs it: no message, variable of a frame, report, trace or log line shows the query."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    SafetensorsStreamer,
    list_safetensors,
    load_file,
    pull_files,
    safe_open,
)
from runai_model_streamer.report.progress import Progress
from tests.checkpoints import stored, write
from tests.io.s3.test_secrets import TOKEN, Watch
from tests.io.web.servers import WebServers

PARAMETER = {"a": torch.zeros(2)}


def load(*urls: str, names: list[str] | None = None, into: dict[str, torch.Tensor] | None = None) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(urls, tensor_names=names, into=into)
        assert len(list(streamer.get_tensors())) == 1


def load_ranges(url: str, size: int = 1) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, url, [0], [size])])
        list(streamer.get_chunks())


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(load, id="not there"),
        pytest.param(lambda url: load(url.replace("missing", "model"), names=["no"]), id="no such tensor"),
        pytest.param(lambda url: load(*[url.replace("missing", "model")] * 2, names=["a"]), id="a tensor twice"),
        pytest.param(lambda url: load(*[url.replace("missing", "model")] * 2, into=PARAMETER), id="two into one"),
        pytest.param(
            lambda url: load(url.replace("missing", "model"), into={"b": torch.zeros(2)}), id="into no tensor"
        ),
        pytest.param(lambda url: load(url.replace("missing", "model"), into={"a": torch.zeros(3)}), id="into a shape"),
        pytest.param(lambda url: SafetensorsStreamer().stream_file(url), id="stream_file"),
        pytest.param(lambda url: SafetensorsStreamer().stream_files(url), id="a str for a list"),
        pytest.param(lambda url: FileStreamer().list_files(url), id="list_files"),
        pytest.param(load_ranges, id="FileStreamer"),
        pytest.param(lambda url: load_ranges(url.replace("missing", "model"), 1 << 40), id="a range beyond the end"),
        pytest.param(lambda url: FileStreamer().stream_files(url), id="a str for chunks"),
        pytest.param(lambda url: FileStreamer().stream_files([url]), id="str for chunks"),
        pytest.param(lambda url: FileChunks(1, url, [0], []), id="FileChunks without sizes"),
        pytest.param(lambda url: FileChunks(1, url, [0], ["x"]), id="FileChunks of no numbers"),  # type: ignore[list-item]
        pytest.param(lambda url: FileChunks(1, url.replace("http", "ftp"), [0], [1]), id="FileChunks of no store"),
        pytest.param(lambda url: FileChunks.contiguous(1, url, "x", [1]), id="contiguous"),  # type: ignore[arg-type]
        pytest.param(list_safetensors, id="list_safetensors"),
        pytest.param(lambda url: pull_files(url, "/nowhere"), id="pull_files"),
        pytest.param(lambda url: pull_files("/", url), id="pull_files to it"),
        pytest.param(lambda url: ObjectStorageModel(url, "/nowhere").pull_files(), id="ObjectStorageModel"),
        pytest.param(load_file, id="load_file"),
        pytest.param(safe_open, id="safe_open"),
        pytest.param(lambda url: load(url.replace("://", ":/")), id="one slash"),
        pytest.param(lambda url: load(url.replace("http:", "HTTP:")), id="capitals"),
        pytest.param(lambda url: load(url.replace("http:", "abfs:")), id="another scheme"),
        pytest.param(lambda url: load(f" {url}"), id="a space before it"),
        pytest.param(lambda url: load(url.replace("127.0.0.1:", "h:9999")), id="no port"),
        pytest.param(lambda url: load(url.replace("127.0.0.1", f"ann:{TOKEN}@127.0.0.1")), id="a user"),
    ],
)
def test_no_error_shows_the_query(
    servers: WebServers, tmp_path: Path, caplog: pytest.LogCaptureFixture, use: Callable[[str], None]
) -> None:
    write(tmp_path / "m", {"a": stored("F32", (2,))})
    servers.origin.put("models", "model.safetensors", (tmp_path / "m").read_bytes())
    url = servers.url.replace("model.safetensors", f"missing.safetensors?sig={TOKEN}")
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"), pytest.raises(Exception) as caught:  # noqa: PT011 - any
        use(url)
    watch = Watch()
    watch.look_at_traceback(caught.value)
    assert not watch.found, "\n".join(sorted(watch.found))
    assert TOKEN not in f"{caught.value}{caught.value!r}{caplog.text}"


def test_no_report_trace_or_log_line_of_a_load_shows_it(
    servers: WebServers, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m", {"a": stored("F32", (2,))})
    servers.origin.put("models", "model.safetensors", (tmp_path / "m").read_bytes())
    monkeypatch.setenv("RUNAI_STREAMER_TRACE", str(tmp_path / "trace"))
    told: list[Progress] = []
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"), SafetensorsStreamer() as streamer:
        streamer.stream_file(f"{servers.url}?sig={TOKEN}", progress=told.append)
        assert [name for name, _ in streamer.get_tensors()] == ["a"]
        report = streamer.report
    shown = (told, report, str(report), report.to_json(), (tmp_path / "trace").read_text(), caplog.text)
    assert "model.safetensors" in shown[-2]
    assert all(TOKEN not in f"{each!r}" for each in shown)
