"""ObjectStorageModel: one download for many processes, and nothing to ask for afterwards."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer import ObjectStorageModel
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, NotFoundError, WriteError
from tests.servers import FaultServer, drip
from tests.test_files import environment, gets, in_process, tree

URL = "s3://models/llama"
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": random.Random(4).randbytes(2_000_000),
    "sub/vocab.txt": random.Random(5).randbytes(400_000),
}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        for name, data in FILES.items():
            server.put("models", f"llama/{name}", data)
        yield server


@pytest.fixture(autouse=True)
def _store(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "0a1b2c3d"


def pulled(dst: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(dst).items() if name != ".runai_complete"}


def pull_all(dst: Path, url: str = URL) -> None:
    with ObjectStorageModel(url, dst) as model:
        model.pull_files()


def test_the_folder_is_known_before_anything_is_pulled_and_not_made(dst: Path) -> None:
    model = ObjectStorageModel(model_path=URL, dst=str(dst))
    assert model.dir == str(dst)
    assert not dst.exists()


def test_files_are_pulled_by_patterns_into_a_folder_that_is_made(dst: Path) -> None:
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(allow_pattern=["*.json"])
        assert pulled(dst).keys() == {"config.json"}
        model.pull_files(ignore_pattern=["*.safetensors"])
        assert pulled(dst).keys() == {"config.json", "sub/vocab.txt"}
        model.pull_files(["*.safetensors"], None)
    assert pulled(dst) == FILES


def test_a_pull_that_is_complete_asks_the_store_nothing(server: FaultServer, dst: Path) -> None:
    pull_all(dst)
    server.clear()
    pull_all(dst)
    with ObjectStorageModel(f"{URL}/", f"{dst}/") as model:
        model.pull_files()
    assert server.requests == []


def test_other_patterns_than_those_that_are_complete_are_pulled(server: FaultServer, dst: Path) -> None:
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(["*.json"])
    pull_all(dst)
    assert pulled(dst) == FILES
    server.clear()
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(["*.json"])
        model.pull_files()
    assert server.requests == []


def test_a_pull_of_nothing_is_not_held_to_be_complete(server: FaultServer, dst: Path) -> None:
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(["*.model"])
    assert tree(dst) == {}
    server.put("models", "llama/tokenizer.model", b"late")
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(["*.model"])
    assert pulled(dst) == {"tokenizer.model": b"late"}


def test_a_pull_of_nothing_that_is_said_to_be_complete_is_looked_at_again(dst: Path) -> None:
    dst.mkdir(parents=True)
    said = {"model_path": f"{URL}/", "pulls": [{"allow": ["*.json"], "ignore": [], "files": []}]}
    (dst / ".runai_complete").write_text(json.dumps(said))
    with ObjectStorageModel(URL, dst) as model:
        model.pull_files(["*.json"])
    assert pulled(dst).keys() == {"config.json"}


def test_a_file_that_has_gone_since_is_fetched(server: FaultServer, dst: Path) -> None:
    pull_all(dst)
    (dst / "config.json").unlink()
    server.clear()
    pull_all(dst)
    assert pulled(dst) == FILES
    assert len(gets(server)) == 1


def test_after_an_error_in_the_block_the_next_one_looks_again(server: FaultServer, dst: Path) -> None:
    def fail() -> None:
        with ObjectStorageModel(URL, dst) as model:
            model.pull_files()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (dst / ".runai_complete").exists()
    server.clear()
    pull_all(dst)
    assert (len(server.requests), gets(server)) == (1, [])
    assert (dst / ".runai_complete").exists()


def test_a_failed_pull_leaves_what_was_there(server: FaultServer, dst: Path) -> None:
    dst.mkdir(parents=True)
    (dst / "mine.txt").write_bytes(b"mine")
    with pytest.raises(NotFoundError):
        pull_all(dst, "s3://models/nope")
    assert tree(dst) == {"mine.txt": b"mine"}


def test_exit_alone_completes_what_was_pulled_without_enter(server: FaultServer, dst: Path) -> None:
    # So vLLM's wrapper does, which has a with block of its own.
    model = ObjectStorageModel(model_path=URL, dst=str(dst))
    model.pull_files(["*.json"], None)
    model.__exit__(None, None, None)
    server.clear()
    ObjectStorageModel(URL, dst).pull_files(["*.json"])
    assert server.requests == []


def test_without_exit_nobody_is_kept_waiting(dst: Path) -> None:
    first = ObjectStorageModel(URL, dst)
    first.pull_files()
    second = ObjectStorageModel(URL, dst)
    second.pull_files()
    assert first.dir == second.dir


def test_the_files_of_another_model_are_an_error(dst: Path) -> None:
    pull_all(dst)
    with pytest.raises(
        ArgumentError, match=r"has the files of s3://models/llama/, not of s3://models/other/; delete it"
    ):
        pull_all(dst, "s3://models/other")
    assert pulled(dst) == FILES


def of_llama(pulls: str) -> bytes:
    return f'{{"model_path": "s3://models/llama/", "pulls": {pulls}}}'.encode()


def with_file(entry: str) -> bytes:
    return of_llama(f'[{{"allow": null, "ignore": [], "files": [{entry}]}}]')


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"model_path": 1}',
        b'{"model_path": "s3://x/", "pulls": [1]}',
        of_llama("{}"),
        of_llama('[{"allow": 5, "ignore": [], "files": []}]'),
        of_llama('[{"allow": [[]], "ignore": [], "files": []}]'),
        with_file("5"),
        with_file("null"),
        with_file('["p", 5, 5, 5]'),
        with_file('["p", "n\\u0000", 5, 5]'),
        with_file('["p", "n", "5", 5]'),
        with_file('["p", "n", 5, 5.5]'),
        with_file('["p", "n", 5]'),
        with_file(f'["p", "n", {"9" * 5000}, 5]'),
    ],
)
def test_a_completion_file_that_says_nothing_is_none(dst: Path, said: bytes) -> None:
    dst.mkdir(parents=True)
    (dst / ".runai_complete").write_bytes(said)
    pull_all(dst)
    assert pulled(dst) == FILES
    assert json.loads((dst / ".runai_complete").read_bytes())["model_path"] == "s3://models/llama/"


def test_a_local_folder_can_be_the_source(tmp_path: Path, dst: Path) -> None:
    (tmp_path / "source").mkdir()
    odd = os.fsdecode(b"not-utf8-\xff.json")
    (tmp_path / "source" / odd).write_bytes(b"x")
    for _ in range(2):
        pull_all(dst, str(tmp_path / "source"))
    assert pulled(dst) == {odd: b"x"}


def test_a_folder_beside_which_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"folder.lock: cannot be made, and with it processes take turns"):
        pull_all(tmp_path / "file" / "folder")


def test_arguments_are_checked_at_once(dst: Path) -> None:
    with pytest.raises(ArgumentTypeError):
        ObjectStorageModel(7, dst)  # type: ignore[arg-type]


_PULL = """
import sys
from runai_model_streamer import ObjectStorageModel
with ObjectStorageModel(sys.argv[1], sys.argv[2]) as model:
    print("go", flush=True)
    sys.stdin.read(1)
    model.pull_files(allow_pattern=["*.json"])
    model.pull_files(ignore_pattern=["*.json"])
"""


def _processes(count: int, dst: Path, server: FaultServer) -> list["subprocess.Popen[bytes]"]:
    """All at the same point, from which they go on when their input ends."""
    variables = in_process(server)
    command = [sys.executable, "-c", _PULL, URL, str(dst)]
    started = [
        subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
    return started


def _let_go(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()


@contextlib.contextmanager
def _ended(processes: list["subprocess.Popen[bytes]"]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


_PULL_IN_EIGHT = """
import os, sys
from runai_model_streamer import ObjectStorageModel
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        with ObjectStorageModel(sys.argv[1], sys.argv[2]) as model:
            model.pull_files(allow_pattern=["*.json"])
            model.pull_files(ignore_pattern=["*.json"])
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_eight_processes_download_once(server: FaultServer, dst: Path) -> None:
    server.choose = lambda request: drip(50_000, 0.005) if request.span else None
    # Forked from one, which has imported torch for all of them.
    command = [sys.executable, "-c", _PULL_IN_EIGHT, URL, str(dst)]
    subprocess.run(command, env=in_process(server), check=True, timeout=60)
    assert pulled(dst) == FILES
    ranges = [(request.target, request.headers["Range"]) for request in gets(server)]
    assert len(ranges) == len(set(ranges))
    assert server.bytes_served == sum(map(len, FILES.values()))


def test_the_others_go_on_when_the_one_that_downloads_is_killed(server: FaultServer, dst: Path) -> None:
    server.choose = lambda request: drip(20_000, 0.02) if request.span else None
    first = _processes(1, dst, server)
    with _ended(first):
        _let_go(first)
        while not list(dst.glob(".runai-*.part")):
            assert first[0].poll() is None
        others = _processes(2, dst, server)
        with _ended(others):
            _let_go(others)
            first[0].kill()
            server.choose = None
            assert [process.wait(60) for process in others] == [0, 0]
    assert pulled(dst) == FILES


def test_a_process_waits_for_the_lock_beside_the_folder(server: FaultServer, dst: Path) -> None:
    dst.parent.mkdir()
    with open(f"{dst}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = _processes(1, dst, server)
        with _ended(processes):
            _let_go(processes)
            with pytest.raises(subprocess.TimeoutExpired):
                processes[0].wait(0.5)
            assert server.requests == []
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert processes[0].wait(60) == 0
    assert pulled(dst) == FILES


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_can_use_its_parents(method: str, dst: Path) -> None:
    model = ObjectStorageModel(URL, dst)
    model.pull_files(["*.json"])
    processes: Any = multiprocessing.get_context(method)
    child = processes.Process(target=model.pull_files)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert pulled(dst) == FILES
