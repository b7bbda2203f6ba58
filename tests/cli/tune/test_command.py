"""`runai-streamer tune`: its runs, what it tells of them, and the page cache."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.cli.tune.command import show, told
from runai_model_streamer.cli.tune.search import Found, Setting, Tried
from runai_model_streamer.cli.tune.trials import Checkpoint, Trials, current, evict, read_checkpoint
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.files import file_systems
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.report.load_report import BytesFrom
from tests.checkpoints import numbered, stored, write
from tests.cli.conftest import Command
from tests.servers import FaultServer

DEFAULT = Setting(16, 8 << 20, -1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "m.safetensors", numbered([1 << 20] * 6))


def test_the_table_the_state_and_the_result_are_told(streamer: Command, file: Path) -> None:
    before = dict(os.environ)
    done = streamer("tune", file, "--budget", "1")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["CONCURRENCY", "CHUNK", "LIMIT", "RUNS", "SPEED", "SLOWEST", "FASTEST", "RATIO"]
    assert len([line for line in lines if "set now" in line and line.split()[0] == "16"]) == 1
    assert re.search(r"^measured  (warm|cold|through|mixed)", done.out, re.MULTILINE)
    assert re.search(r"^runs      \d+ of 6\.29 MB, in \d s$", done.out, re.MULTILINE)
    assert re.search(r"^ratio     speed divided by that of what is set now in the same round", done.out, re.MULTILINE)
    assert re.search(r"^result    (what is set now is best|\d\.\d\d times as fast)", done.out, re.MULTILINE)
    assert ("export " in done.out) == ("times as fast" in done.out)
    assert dict(os.environ) == before


def test_objects_are_tuned_from_what_is_set(
    streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONNECTIONS", "4")
    document = streamer("tune", "--json", "--budget", "20", "s3://models/llama").document
    assert document["state"] == "object storage"
    assert (document["default"]["concurrency"], document["default"]["chunk_bytesize"]) == (4, 8 << 20)
    assert (document["default"]["ratio"], len(document["default"]["runs"]) > 0) == (1.0, True)
    assert document["bytes"] == document["sample_bytes"] == 120400
    assert document["default_is_best"] == (document["environment"] == {})


@pytest.mark.parametrize("tensors", [{}, {"empty": stored("U8", [0])}])
def test_nothing_to_load_is_an_error(streamer: Command, tmp_path: Path, tensors: dict[str, object]) -> None:
    path = write(tmp_path / "none.safetensors", tensors)  # type: ignore[arg-type]
    done = streamer("tune", path)
    assert (done.code, done.out) == (1, "")
    assert "there are no tensors with any bytes to load" in done.err


def test_a_budget_that_the_warm_up_takes_is_an_error(streamer: Command, file: Path) -> None:
    done = streamer("tune", "--budget", "0.0001", file)
    assert done.code == 1
    assert done.err.startswith("error: --budget 0.0001: the warm-up took all of it")


def test_a_default_that_cannot_be_used_is_the_librarys_error(
    streamer: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "100")
    done = streamer("tune", file)
    assert done.code == 1
    assert "RUNAI_STREAMER_MEMORY_LIMIT=100" in done.err


def test_a_sample_is_the_first_tensors(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "n.safetensors", numbered([10, 20]))
    checkpoint = read_checkpoint([str(file), str(other)])
    assert (checkpoint.bytes, checkpoint.largest) == (6 * (1 << 20) + 30, 1 << 20)
    assert checkpoint.first(1).bytes == 1 << 20
    assert checkpoint.first((1 << 20) + 1).bytes == 2 << 20
    assert checkpoint.first(6 * (1 << 20) + 1).files[1:] == [(str(other), checkpoint.files[1][1], [10])]
    assert checkpoint.first(1 << 40) == checkpoint


def test_a_run_that_lasts_too_long_is_broken_off(file: Path) -> None:
    trials = Trials(DEFAULT, "cpu", cold=False)
    trials.warm_up(read_checkpoint([str(file)]), 10.0)
    assert trials.sample.bytes == 6 << 20
    count, _ = trials(DEFAULT, 1e-9)
    assert 0 < count < 6 << 20


def test_a_run_has_the_setting_that_it_is_of(file: Path) -> None:
    seen: list[Setting] = []

    class Watched(Trials):
        def _stream(self, checkpoint: Checkpoint) -> Iterator[int]:
            seen.append(current([str(file)]))
            yield from super()._stream(checkpoint)

    trials = Watched(DEFAULT, "cpu", cold=False)
    trials.sample = read_checkpoint([str(file)])
    for setting in (DEFAULT, DEFAULT._replace(concurrency=3, limit=1 << 30)):
        trials(setting, 1.0)
        assert seen[-1] == setting


def test_what_is_evicted_is_not_in_the_page_cache(file: Path) -> None:
    with file.open("rb") as opened:
        fd = opened.fileno()
        if file_systems.name(fd) not in file_systems.DIRECT:
            pytest.skip("this file system does not say what is cached")
        os.pread(fd, 1 << 20, 0)
        evict([str(file), "s3://bucket/key"])
        assert PageCache(fd, os.fstat(fd)).cached_bytes(0, 6 << 20) == 0


def test_what_cannot_be_evicted_is_an_error(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("no file system in memory")
    path = memory / f"runai-streamer-test-{os.getpid()}"
    path.write_bytes(bytes(1 << 16))
    try:
        with pytest.raises(StreamerError, match=r"--cold: .* leave out --cold"):
            evict([str(path)])
    finally:
        path.unlink()


def test_slow_loads_have_speeds_in_smaller_units(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried = Tried(DEFAULT, {0: 3e6, 1: 4e6, 2: 4.5e3})
    show(Found([tried], tried), trials_of(file, disk=100), 1000, 5.0)
    assert re.search(r"3\.00 MB/s +4\.50 kB/s +4\.00 MB/s +1\.00", capsys.readouterr().out)


def found(best: bool) -> Found:
    default = Tried(DEFAULT, {0: 1e9, 1: 1e9})
    other = Tried(DEFAULT._replace(concurrency=32, limit=1 << 30), {0: 2e9, 1: 2e9})
    return Found([default, other], other if best else default)


def trials_of(file: Path, **origins: int) -> Trials:
    trials = Trials(DEFAULT, "cpu", cold=False)
    trials.sample = Checkpoint([(str(file), 8, [100])])
    trials.origins = BytesFrom(**origins)
    return trials


@pytest.mark.parametrize(
    ("origins", "told_so"),
    [
        ({"disk": 99, "page_cache": 1}, "cold: from the disk"),
        ({"page_cache": 99, "disk": 1}, "warm: from the page cache"),
        ({"buffered": 100}, "through the page cache, where the warm-up left as much as fits"),
        ({"object_storage": 100}, "from object storage"),
        ({"page_cache": 40, "disk": 60}, "mixed: 40% page cache, 60% disk"),
    ],
)
def test_the_state_of_the_page_cache_is_told(file: Path, origins: dict[str, int], told_so: str) -> None:
    assert dict(told(found(best=False), trials_of(file, **origins), 100, 5.0))["measured"].startswith(told_so)


def test_what_is_better_comes_with_the_lines_that_set_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(found(best=True), trials_of(file, disk=100), 1000, 5.0)
    out = capsys.readouterr().out
    assert "2.00 times as fast as what is set now: 2.00 GB/s instead of 1.00 GB/s" in out
    assert "4 of 100 bytes, the first of 1.00 kB, in 5 s" in out
    lines = ["export RUNAI_STREAMER_CONCURRENCY=32", f"export RUNAI_STREAMER_MEMORY_LIMIT={1 << 30}"]
    assert out.splitlines()[-2:] == lines
