"""Loads through the node's cache (RUNAI_STREAMER_CACHE_DIR), from servers that count what they send."""

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerConfig, list_safetensors
from runai_model_streamer.errors import AccessDeniedError, ChecksumError, StorageUnreachableError
from runai_model_streamer.io.cache import bytes_at
from runai_model_streamer.io.cache.names import FOLDER
from runai_model_streamer.io.cache.policy import USUAL
from runai_model_streamer.report.load_report import LoadReport
from tests.cache_processes import SIZE, killed, together
from tests.checkpoints import encode, raw, stored
from tests.servers import FaultServer, refuse
from tests.test_files import environment

pytest.importorskip("awscrt", reason="the extra [verify] is not installed")

TENSORS = {f"t{number:02}": stored("F32", [97 + number, 501 + number], number) for number in range(40)}
DATA = encode(TENSORS)
SECRET = "topsecret0123456789"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.put("models", "model.safetensors", DATA)
        yield server


@pytest.fixture
def url(server: FaultServer) -> str:
    return f"{server.endpoint}/models/model.safetensors"


@pytest.fixture
def config(tmp_path: Path) -> StreamerConfig:
    (tmp_path / "cache").mkdir()
    # With a size: without one there is no room where less than a tenth of the disk is free.
    return StreamerConfig(cache_dir=tmp_path / "cache", cache_size="1GB")


def load(url: str, config: StreamerConfig, names: list[str] | None = None, device: str = "cpu") -> LoadReport:
    """Load tensors, and compare them."""
    found = []
    with SafetensorsStreamer(config) as streamer:
        streamer.stream_file(url, tensor_names=names, device=device)
        for name, tensor in streamer.get_tensors():
            assert raw(tensor) == TENSORS[name].data
            found.append(name)
    assert found == (sorted(TENSORS) if names is None else sorted(names))
    return streamer.report


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def cached(config: StreamerConfig) -> list[Path]:
    return sorted(path for path in Path(str(config.cache_dir)).rglob("*") if path.is_file())


def test_half_of_the_tensors_and_then_all_fetch_each_byte_once(
    server: FaultServer, url: str, config: StreamerConfig
) -> None:
    load(url, config, sorted(TENSORS)[::2])
    assert 0 < server.bytes_served < len(DATA)
    load(url, config)
    assert server.bytes_served == len(DATA) + 1  # with one byte the store was asked for access
    report = load(url, config)
    assert server.bytes_served == len(DATA) + 2
    assert report.bytes_from.object_storage == 0


def test_the_report_says_how_much_came_from_the_cache(url: str, config: StreamerConfig) -> None:
    first, second = load(url, config).cache, load(url, config)
    assert first is not None
    assert first.bytes_written == len(DATA)
    assert second.cache is not None
    assert (second.cache.bytes_read >= second.bytes_read, second.cache.bytes_written) == (True, 0)
    assert "read from it" in str(second)
    assert second.as_dict()["cache"]["bytes_read"] == second.cache.bytes_read
    assert load(url, StreamerConfig()).cache is None


def test_a_load_that_was_broken_off_is_completed_by_the_next(
    server: FaultServer, url: str, config: StreamerConfig
) -> None:
    with SafetensorsStreamer(config) as streamer:
        streamer.stream_file(url)
        for _ in streamer.get_tensors():
            break
    completed = load(url, config).cache
    assert completed is not None
    assert completed.bytes_read > 0
    assert completed.bytes_read + completed.bytes_written >= len(DATA)
    assert load(url, config).bytes_from.object_storage == 0


def test_an_object_of_s3_is_cached_and_the_store_is_asked_for_access_each_time(
    server: FaultServer, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    url = "s3://models/model.safetensors"
    load(url, config)
    assert load(url, config).bytes_from.object_storage == 0
    server.script(*[refuse(403, "AccessDenied")] * 10)
    with pytest.raises(AccessDeniedError):
        load(url, config)


def test_objects_of_two_endpoints_with_equal_urls_and_versions_are_told_apart(
    server: FaultServer, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {f"t{number:02}": stored("F32", [97 + number, 501 + number], 100 + number) for number in range(40)}
    with FaultServer() as other:
        served = {server: TENSORS, other: changed}
        for each, tensors in served.items():
            each.put("models", "model.safetensors", encode(tensors), '"the same"')
        for _ in range(2):
            for each, tensors in served.items():
                for name, value in environment(each).items():
                    monkeypatch.setenv(name, value)
                with SafetensorsStreamer(config) as streamer:
                    streamer.stream_file("s3://models/model.safetensors")
                    for name, tensor in streamer.get_tensors():
                        assert raw(tensor) == tensors[name].data
        assert all(secret.encode() not in path.read_bytes() for path in cached(config) for secret in ("test-secret",))


def test_wanted_tensors_that_are_all_there_are_read_as_a_file(url: str, config: StreamerConfig) -> None:
    wanted = sorted(TENSORS)[8:24:2]
    assert load(url, config, wanted).connections
    report = load(url, config, wanted)
    assert (report.bytes_from.object_storage, report.connections) == (0, ())


def test_a_checksum_of_the_whole_gets_each_byte_once_from_the_cache(
    server: FaultServer, url: str, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    path = "s3://models/model.safetensors"
    load(path, config)
    report = load(path, replace(config, verify=True, memory_limit="1MiB"))
    assert report.cache is not None
    assert (report.cache.bytes_read, report.cache.bytes_written) == (len(DATA), 0)


def test_a_checksum_is_compared_with_what_comes_from_the_cache(
    server: FaultServer, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    url = "s3://models/model.safetensors"
    load(url, config)
    load(url, replace(config, verify=True))
    server.put("models", "other.safetensors", DATA, '"0123456789abcdef0123456789abcdef"')
    other = "s3://models/other.safetensors"
    load(other, config)
    with pytest.raises(ChecksumError):
        load(other, replace(config, verify=True))


def test_a_new_version_is_fetched_and_the_old_one_stays(server: FaultServer, url: str, config: StreamerConfig) -> None:
    load(url, config)
    changed = encode({name: stored("F32", [97, 501], 100 + number) for number, name in enumerate(TENSORS)})
    server.put("models", "model.safetensors", changed)
    with SafetensorsStreamer(config) as streamer:
        streamer.stream_file(url)
        assert sum(raw(tensor) in changed for _, tensor in streamer.get_tensors()) == len(TENSORS)
    served = server.bytes_served
    server.put("models", "model.safetensors", DATA)
    load(url, config)
    assert server.bytes_served == served + 1


def test_flipped_bits_are_found_fetched_again_and_said(
    server: FaultServer, url: str, config: StreamerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    load(url, config)
    (data,) = (path for path in cached(config) if path.suffix == ".data")
    with data.open("r+b") as file:
        for place in (len(DATA) // 3, len(DATA) - 5):
            file.seek(place)
            was = file.read(1)
            file.seek(place)
            file.write(bytes([was[0] ^ 1]))
    served = server.bytes_served
    report = load(url, config)
    assert report.cache is not None
    assert report.cache.bytes_damaged == server.bytes_served - served - 1 > 0
    assert any("were damaged in the cache" in message for message in caplog.messages)
    assert load(url, config).bytes_from.object_storage == 0


def test_offline_nothing_is_asked_of_the_store(server: FaultServer, url: str, config: StreamerConfig) -> None:
    load(url, config)
    requests = len(server.requests)
    offline = replace(config, cache_offline=True)
    report = load(url, offline)
    assert report.bytes_from.object_storage == 0
    with pytest.raises(StorageUnreachableError, match="RUNAI_STREAMER_CACHE_OFFLINE is set"):
        load(f"{url}.other", offline)
    assert len(server.requests) == requests


def test_a_folder_is_listed_offline(
    server: FaultServer, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "other/model-3.safetensors"):
        server.put("models", f"llama/{name}", DATA)
        load(f"{server.endpoint}/models/llama/{name}?sig=1", config)
    monkeypatch.setenv("RUNAI_STREAMER_CACHE_DIR", str(config.cache_dir))
    monkeypatch.setenv("RUNAI_STREAMER_CACHE_OFFLINE", "1")
    requests, folder = len(server.requests), f"{server.endpoint}/models/llama"
    assert list_safetensors(folder) == [f"{folder}/model-1.safetensors", f"{folder}/model-2.safetensors"]
    for url in list_safetensors(folder):
        load(url, StreamerConfig())
    with pytest.raises(StorageUnreachableError, match="has nothing in the node's cache"):
        list_safetensors(f"{server.endpoint}/models/mistral")
    assert len(server.requests) == requests


_RANK = """
import sys
import torch.distributed as dist
from runai_model_streamer import SafetensorsStreamer, StreamerConfig, list_safetensors
url, folder, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=2)
for _ in range(2):
    with SafetensorsStreamer(StreamerConfig(cache_dir=folder, cache_size="1GB")) as streamer:
        streamer.stream_file(url, is_distributed=True)
        print(sum(tensor.view(-1).double().nan_to_num().abs().sum().item() > 0 for _, tensor in streamer.get_tensors()))
    dist.barrier()
print(streamer.report.bytes_from.object_storage)
dist.destroy_process_group()
"""


def test_ranks_that_share_a_load_fetch_each_byte_once_and_then_none(
    server: FaultServer, url: str, config: StreamerConfig
) -> None:
    folder = str(config.cache_dir)
    ranks = [
        subprocess.Popen([sys.executable, "-c", _RANK, url, folder, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=240)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said == [["40", "40", "0"]] * 2
    assert server.bytes_served == len(DATA) + 1


def test_no_secret_is_in_a_name_a_file_or_the_log(
    server: FaultServer, url: str, config: StreamerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "runai_model_streamer")
    host = url.split("/")[2]
    secrets = replace(config, http_token=f"{host}={SECRET}token")
    load(f"{url}?sig={SECRET}&expires=1", secrets)
    report = load(f"{url}?sig={SECRET}again&expires=2", secrets)
    assert report.bytes_from.object_storage == 0  # signed anew, it is the same object
    for path in cached(config):
        assert SECRET not in str(path)
        assert SECRET.encode() not in path.read_bytes()
        assert b"expires" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert (Path(str(config.cache_dir)) / FOLDER).stat().st_mode & 0o077 == 0
    assert SECRET not in caplog.text


@pytest.mark.parametrize("folder", ["/sys", "/nowhere/at/all", __file__])
def test_a_folder_that_is_missing_or_read_only_is_one_warning(
    url: str, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    report = load(url, StreamerConfig(cache_dir=folder))
    assert report.complete
    (said,) = warnings(caplog)
    assert said.startswith(f"RUNAI_STREAMER_CACHE_DIR={folder}: ")
    assert said.endswith("The load goes on without it")


def test_a_disk_that_becomes_full_is_one_warning(
    server: FaultServer, url: str, config: StreamerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with SafetensorsStreamer(replace(config, memory_limit=0)) as streamer:
        streamer.stream_file(url)
        tensors = streamer.get_tensors()
        next(tensors)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, limits[1]))
        try:
            for name, tensor in tensors:
                assert raw(tensor) == TENSORS[name].data
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (said,) = warnings(caplog)
    assert "its disk is full, or a limit of it is reached" in said
    load(url, config)
    assert load(url, config).bytes_from.object_storage == 0


def test_a_cache_of_a_quarter_of_what_is_loaded_works_and_stays_within_its_size(
    server: FaultServer, config: StreamerConfig
) -> None:
    urls = []
    for number in range(8):
        server.put("models", f"{number}.safetensors", DATA)
        urls.append(f"{server.endpoint}/models/{number}.safetensors")
    size = 2 * len(DATA) + (1 << 16)
    streamer = SafetensorsStreamer(replace(config, cache_size=size))
    for _ in range(3):
        with streamer:
            streamer.stream_files(urls)
            for name, tensor in streamer.get_tensors():
                assert raw(tensor) == TENSORS[name].data
        assert sum(path.stat().st_blocks * 512 for path in cached(config) if path.suffix == ".data") <= size
    assert streamer.report.cache is not None
    assert streamer.report.cache.bytes_read >= 2 * len(DATA)


def test_the_files_of_the_cache_are_closed_with_the_load(url: str, config: StreamerConfig) -> None:
    load(url, config)
    load(url, config)
    targets = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert [target for target in targets if FOLDER in target] == []


def test_tensors_are_written_from_their_own_memory(
    url: str, config: StreamerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def count(fd: int, offset: int, view: memoryview) -> None:
        copied.append((offset, len(view)))
        write_copies(fd, offset, view)

    write_copies = bytes_at.write_copies
    # Whether bytes are copied on their way to the disk shows in nothing that a load returns.
    monkeypatch.setattr(bytes_at, "write_copies", count)
    report = load(url, config)
    assert report.cache is not None
    assert report.cache.bytes_written == len(DATA)
    # Only what opening the object has brought is not in a tensor's memory.
    assert sum(length for _, length in copied) <= USUAL.beginning


def test_tensors_are_right_in_any_piece_of_memory(url: str, config: StreamerConfig) -> None:
    for limit in ("-1", "0", "1MiB"):
        for _ in range(2):
            load(url, replace(config, memory_limit=limit))
    tensors: dict[str, torch.Tensor] = {}
    with SafetensorsStreamer(config) as streamer:
        streamer.stream_file(url, select={"t05": (0, 3, 60)})
        tensors.update(streamer.get_tensors())
    assert tensors["t05"].shape[0] == 57


def test_eight_processes_at_once_fetch_each_byte_once(tmp_path: Path) -> None:
    found, served, digest = together(8, tmp_path)
    assert [each.digest for each in found] == [digest] * 8
    # One opens the object; the others ask for one byte each.
    assert served == SIZE + 7
    assert sum(each.written for each in found) == SIZE


def test_after_loads_were_killed_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    killed(4, tmp_path, seed=3, longest=0.1)
