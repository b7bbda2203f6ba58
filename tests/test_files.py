"""list_safetensors and pull_files, from local folders and from S3: what arrives, and what is left of a failure."""

import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer import S3Credentials, StreamerError, list_safetensors, pull_files
from runai_model_streamer.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    NotDirectoryError,
    NotFoundError,
    SourceChangedError,
    StorageTimeoutError,
    UnsafeNameError,
    UnsupportedError,
    WriteDeniedError,
    WriteError,
)
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from tests.checkpoints import PATIENCE, encode, our_threads, stored
from tests.servers import Exchange, Fault, FaultServer, Request, change, drip, refuse, stall_after

BIG = random.Random(1).randbytes(12_000_000)
FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model.safetensors": BIG,
    "tokenizer/vocab.json": random.Random(2).randbytes(300_000),
}
URL = "s3://models/llama"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        for name, data in FILES.items():
            server.put("models", f"llama/{name}", data, modified=1_700_000_000)
        server.put("models", "llama/", b"")
        server.put("models", "llama2/other.json", b"no")
        yield server


@pytest.fixture(autouse=True)
def _store(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)


def environment(server: FaultServer) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_MAX_RETRIES": "1",
        "RUNAI_STREAMER_S3_TIMEOUT": "30",
    }


def in_process(server: FaultServer) -> dict[str, str]:
    """All variables of a process of its own, for one that is there for more than the transport."""
    return dict(os.environ) | environment(server) | {"RUNAI_STREAMER_S3_TRANSPORT": "boto3"}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_MODULES = "print(sorted({'numba', 'llvmlite', 'boto3'}.intersection(sys.modules)))"


_IMPORT_STREAMER = "from runai_model_streamer import SafetensorsStreamer; s = SafetensorsStreamer()"
_IMPORT_READ = "from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request"


def modules_after(server: FaultServer, code: str) -> list[str]:
    """Which of numba, llvmlite and boto3 a new process has imported that runs the code with the default transport."""
    environment = in_process(server)
    del environment["RUNAI_STREAMER_S3_TRANSPORT"]
    command = [sys.executable, "-c", f"import sys\n{code}\n{_MODULES}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    return found


@pytest.mark.parametrize(
    "code",
    [
        f"from runai_model_streamer import list_safetensors; assert list_safetensors({URL!r})",
        f"from runai_model_streamer import pull_files; pull_files({URL!r}, FOLDER)",
        f"from runai_model_streamer import FileStreamer; assert FileStreamer().list_files({URL!r})",
        f"{_IMPORT_READ}; assert prepare_request(None, [{URL + '/small.safetensors'!r}], None)",
        f"{_IMPORT_STREAMER}; s.stream_file({URL + '/small.safetensors'!r}); assert dict(s.get_tensors())",
    ],
    ids=["list", "pull", "list_files", "headers", "load"],
)
def test_no_use_of_objects_imports_numba_or_boto3(server: FaultServer, tmp_path: Path, code: str) -> None:
    server.put("models", "llama/small.safetensors", encode({"w": stored("F32", [2])}))
    assert modules_after(server, code.replace("FOLDER", repr(str(tmp_path / "pulled")))) == []


def gets(server: FaultServer) -> list[Request]:
    return [request for request in server.requests if "list-type=2" not in request.target]


@pytest.fixture(params=["local", "s3"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same files in a local folder and in S3."""
    if request.param == "s3":
        return URL
    for name, data in FILES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(tmp_path / "source")


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model"


INDEX = "model.safetensors.index.json"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def index_of(*files: str) -> bytes:
    return json.dumps({"weight_map": {f"t{number}": file for number, file in enumerate(files)}}).encode()


class TestListing:
    def test_only_safetensors_directly_in_the_folder_are_listed(self, source: str, server: FaultServer) -> None:
        if source != URL:
            for name in ("b.safetensors", ".hidden.safetensors", "sub.safetensors/x.safetensors", "C.SAFETENSORS"):
                path = Path(source) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"")
        else:
            for name in ("b.safetensors", ".hidden.safetensors", "sub.safetensors/x.safetensors", "C.SAFETENSORS"):
                server.put("models", f"llama/{name}", b"")
        expected = [f"{source}/b.safetensors", f"{source}/model.safetensors"]
        assert list_safetensors(source) == expected
        assert list_safetensors(f"{source}/") == expected

    @staticmethod
    def put(source: str, server: FaultServer, name: str, data: bytes) -> None:
        if source == URL:
            server.put("models", f"llama/{name}", data)
        else:
            (Path(source) / name).write_bytes(data)

    def test_files_that_the_index_does_not_name_are_left_out_with_a_warning(
        self, source: str, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
            self.put(source, server, name, b"")
        self.put(source, server, INDEX, index_of("model-2.safetensors", "model-1.safetensors"))
        assert list_safetensors(source) == [f"{source}/model-1.safetensors", f"{source}/model-2.safetensors"]
        (said,) = warnings(caplog)
        assert f"{INDEX} does not name consolidated.safetensors, model.safetensors: left out" in said

    def test_a_file_that_is_missing_is_a_warning_and_all_that_are_there_are_listed(
        self, source: str, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.put(source, server, "model-1.safetensors", b"")
        self.put(source, server, INDEX, index_of("model-1.safetensors", "model-2.safetensors"))
        assert list_safetensors(source) == [f"{source}/model-1.safetensors", f"{source}/model.safetensors"]
        (said,) = warnings(caplog)
        assert f"{INDEX} names files that are not there: model-2.safetensors" in said

    def test_with_all_that_the_index_names_nothing_is_said(
        self, source: str, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.put(source, server, INDEX, index_of("model.safetensors"))
        assert list_safetensors(source) == [f"{source}/model.safetensors"]
        assert warnings(caplog) == []

    def test_an_index_that_is_none_leaves_the_list_as_it_is(
        self, source: str, server: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.put(source, server, INDEX, b"{")
        assert list_safetensors(source) == [f"{source}/model.safetensors"]
        assert f"{source}/{INDEX}: not used to choose files" in caplog.text

    def test_an_index_stands_for_the_files_that_it_names(self, source: str, server: FaultServer) -> None:
        self.put(source, server, "b.safetensors", b"")
        self.put(source, server, "other.safetensors.index.json", index_of("b.safetensors"))
        assert list_safetensors(f"{source}/other.safetensors.index.json") == [f"{source}/b.safetensors"]

    def test_a_pattern_stands_for_the_files_that_match_it(self, source: str, server: FaultServer) -> None:
        for name in ("a-1.safetensors", "a-2.safetensors", "a-1.bin"):
            self.put(source, server, name, b"")
        assert list_safetensors(f"{source}/a-[1-9]*") == [f"{source}/a-1.safetensors", f"{source}/a-2.safetensors"]
        with pytest.raises(FileNotFoundError, match="no safetensors file matches this pattern"):
            list_safetensors(f"{source}/c-*")

    def test_a_folder_without_safetensors_has_none(self, source: str) -> None:
        assert list_safetensors(f"{source}/tokenizer") == []

    def test_a_missing_folder_is_an_error(self, source: str) -> None:
        with pytest.raises(FileNotFoundError, match="nope"):
            list_safetensors(f"{source}/nope")

    def test_a_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(NotDirectoryError):
            list_safetensors(tmp_path / "model.safetensors")

    def test_explicit_credentials_are_used(self, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        found = list_safetensors(URL, S3Credentials("AKID", "other-secret", endpoint=server.endpoint))
        assert found == [f"{URL}/model.safetensors"]
        assert "Credential=AKID/" in server.requests[0].headers["Authorization"]

    def test_other_storage_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="ftp:// URLs are not supported"):
            list_safetensors("ftp://host/model")

    def test_settings_are_read_at_the_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "many")
        with pytest.raises(ConfigError, match="RUNAI_STREAMER_CONCURRENCY"):
            list_safetensors(URL)


class TestPulling:
    def test_every_file_arrives_as_it_is_and_nothing_else(self, source: str, dst: Path) -> None:
        pull_files(source, dst)
        assert tree(dst) == FILES

    @pytest.mark.parametrize("end", ["", "/"])
    def test_the_source_may_end_in_a_slash(self, source: str, dst: Path, end: str) -> None:
        pull_files(source + end, str(dst) + end, ["*.json"])
        assert sorted(tree(dst)) == ["config.json", "tokenizer/vocab.json"]

    def test_patterns_choose(self, source: str, dst: Path) -> None:
        pull_files(source, dst, allow_pattern=["*.json", "*.txt"], ignore_pattern=["tokenizer/*"])
        assert sorted(tree(dst)) == ["config.json", "empty.txt"]

    @pytest.mark.parametrize("end", ["", "/"])
    def test_patterns_may_be_of_whole_keys_as_the_original_has_them(self, dst: Path, end: str) -> None:
        pull_files(URL + end, dst, allow_pattern=["llama/*.json"], ignore_pattern=["llama/tokenizer/*"])
        assert sorted(tree(dst)) == ["config.json"]

    def test_where_a_local_folder_lies_does_not_count(self, tmp_path: Path, dst: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "config.json").write_bytes(b"{}")
        pull_files(tmp_path / "source", dst, ignore_pattern=["*/source/*"])
        assert sorted(tree(dst)) == ["config.json"]

    def test_an_empty_list_allows_nothing(self, source: str, dst: Path) -> None:
        pull_files(source, dst, allow_pattern=[])
        assert tree(dst) == {}

    def test_patterns_that_choose_nothing_make_an_empty_folder_and_a_warning(
        self, source: str, dst: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pull_files(source, dst, ["*.model"])
        assert tree(dst) == {}
        assert dst.is_dir()
        assert "no file is chosen by the patterns" in caplog.text

    @pytest.mark.parametrize("limit", ["-1", "0", "1", "6000000", "100000000"])
    def test_the_memory_limit_changes_only_the_size_and_number_of_reads(
        self, source: str, dst: Path, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        pull_files(source, dst)
        assert tree(dst) == FILES

    def test_a_large_object_is_read_in_ranges_at_once(
        self, server: FaultServer, dst: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(5 << 20))
        together = threading.Barrier(3, timeout=PATIENCE)

        def when_all_have_come(exchange: Exchange) -> None:
            together.wait()
            exchange.right()

        def choose(request: Request) -> Fault | None:
            return when_all_have_come if request.span and request.span[1] >= PREFIX_BYTES else None

        server.choose = choose
        pull_files(URL, dst, ["*.safetensors"])
        assert tree(dst) == {"model.safetensors": BIG}

    def test_files_may_be_read_by_others(self, source: str, dst: Path) -> None:
        before = os.umask(0o022)
        try:
            pull_files(source, dst)
        finally:
            os.umask(before)
        assert (dst / "config.json").stat().st_mode & 0o777 == 0o644

    def test_nothing_is_left_open(self, source: str, dst: Path) -> None:
        pull_files(source, dst)
        before = len(os.listdir("/proc/self/fd"))
        pull_files(source, dst.parent / "again")
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("runai-")]
        # The server's side of the connections is in this process, and closes when it likes.
        assert len([fd for fd in os.listdir("/proc/self/fd") if not is_socket(fd)]) <= before

    def test_the_completion_file_of_another_mirror_is_not_pulled(self, server: FaultServer, dst: Path) -> None:
        server.put("models", "llama/.runai_complete", b"{}")
        pull_files(URL, dst)
        assert tree(dst) == FILES


def is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


class TestPullingAgain:
    def test_what_is_there_is_not_fetched(self, server: FaultServer, dst: Path) -> None:
        pull_files(URL, dst)
        server.clear()
        pull_files(URL, dst)
        assert gets(server) == []
        assert tree(dst) == FILES

    def test_what_is_missing_is_fetched(self, source: str, server: FaultServer, dst: Path) -> None:
        pull_files(source, dst)
        (dst / "config.json").unlink()
        server.clear()
        pull_files(source, dst)
        assert tree(dst) == FILES
        if source == URL:
            assert [request.target for request in gets(server)] == ["/models/llama/config.json"]

    def test_what_was_changed_here_is_fetched(self, source: str, dst: Path) -> None:
        pull_files(source, dst)
        (dst / "config.json").write_bytes(b'{"a": 2}')
        pull_files(source, dst)
        assert tree(dst) == FILES

    def test_an_object_that_changed_within_a_second_to_the_same_size_is_fetched(
        self, server: FaultServer, dst: Path
    ) -> None:
        pull_files(URL, dst)
        server.put("models", "llama/config.json", b'{"a": 3}', modified=1_700_000_000)
        server.clear()
        pull_files(URL, dst)
        assert (dst / "config.json").read_bytes() == b'{"a": 3}'
        assert len(gets(server)) == 1

    def test_a_local_file_that_changed_is_fetched(self, tmp_path: Path, dst: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "x").write_bytes(b"1")
        pull_files(tmp_path / "s", dst)
        (tmp_path / "s" / "x").write_bytes(b"2")
        os.utime(tmp_path / "s" / "x", ns=(0, 1))
        pull_files(tmp_path / "s", dst)
        assert tree(dst) == {"x": b"2"}

    def test_files_that_the_source_has_not_are_left_alone(self, source: str, dst: Path) -> None:
        dst.mkdir(parents=True)
        (dst / "mine.txt").write_bytes(b"mine")
        pull_files(source, dst)
        assert tree(dst) == FILES | {"mine.txt": b"mine"}

    def test_what_a_killed_pull_left_is_removed(self, source: str, dst: Path) -> None:
        (dst / "tokenizer").mkdir(parents=True)
        (dst / ".runai-0123456789abcdef.part").write_bytes(b"half")
        (dst / "tokenizer" / ".runai-fedcba9876543210.part").write_bytes(b"half")
        pull_files(source, dst)
        assert tree(dst) == FILES


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["../up.json", "a/../../up.json", "/../up.json", "//..//up.json", "a//../..//../up.json", "./up.json", "a/."],
    )
    def test_a_key_that_would_leave_the_folder_is_an_error_before_anything_is_written(
        self, server: FaultServer, dst: Path, name: str
    ) -> None:
        server.put("models", f"llama/{name}", b"bad")
        with pytest.raises(UnsafeNameError, match="cannot be the name of a file") as caught:
            pull_files(URL, dst)
        assert f"{URL}/{name}" in str(caught.value)
        assert not dst.exists()
        assert not (dst.parent / "up.json").exists()

    @pytest.mark.parametrize(
        ("name", "file"),
        [("/x.json", "x.json"), ("///x.json", "x.json"), ("/etc/x.json", "etc/x.json"), ("a//b/x.json", "a/b/x.json")],
    )
    def test_slashes_in_front_and_in_a_row_are_as_one_to_a_file_system(
        self, server: FaultServer, dst: Path, name: str, file: str
    ) -> None:
        server.put("models", f"llama/{name}", b"odd")
        pull_files(URL, dst)
        assert tree(dst) == FILES | {file: b"odd"}
        server.clear()
        pull_files(URL, dst)
        assert gets(server) == []

    def test_two_keys_that_would_be_one_file_are_an_error_that_names_both(self, server: FaultServer, dst: Path) -> None:
        server.put("models", "llama//config.json", b"other")
        with pytest.raises(UnsafeNameError, match="would be the same file as") as caught:
            pull_files(URL, dst)
        assert f"{URL}/config.json" in str(caught.value)
        assert f"{URL}//config.json" in str(caught.value)
        assert not dst.exists()
        pull_files(URL, dst, ignore_pattern=["*//*"])
        assert tree(dst) == FILES

    def test_the_completion_file_is_not_pulled_under_a_name_with_two_slashes(
        self, server: FaultServer, dst: Path
    ) -> None:
        server.put("models", "llama//.runai_complete", b"{}")
        pull_files(URL, dst)
        assert tree(dst) == FILES

    def test_a_key_that_is_ignored_may_have_any_name(self, server: FaultServer, dst: Path) -> None:
        server.put("models", "llama/../up.json", b"bad")
        pull_files(URL, dst, ignore_pattern=["../*"])
        assert tree(dst) == FILES

    @pytest.mark.parametrize("key", ["llama/tokenizer", "llama//tokenizer"])
    def test_a_key_that_is_also_a_folder_is_an_error(self, server: FaultServer, dst: Path, key: str) -> None:
        server.put("models", key, b"both")
        with pytest.raises(UnsafeNameError, match=rf"{key}: is an object, and .* under tokenizer/"):
            pull_files(URL, dst)

    def test_a_link_to_a_folder_is_not_followed(self, source: str, dst: Path, tmp_path: Path) -> None:
        dst.mkdir(parents=True)
        (tmp_path / "outside").mkdir()
        (dst / "tokenizer").symlink_to(tmp_path / "outside")
        with pytest.raises(WriteError, match=r"tokenizer/vocab\.json: a part of this path is .* a symbolic link"):
            pull_files(source, dst)
        assert tree(tmp_path / "outside") == {}
        assert not [name for name in tree(dst) if name.endswith(".part")]

    def test_a_link_to_a_file_is_replaced(self, source: str, dst: Path, tmp_path: Path) -> None:
        dst.mkdir(parents=True)
        (tmp_path / "outside.json").write_bytes(b"mine")
        (dst / "config.json").symlink_to(tmp_path / "outside.json")
        pull_files(source, dst)
        assert (tmp_path / "outside.json").read_bytes() == b"mine"
        assert tree(dst) == FILES

    def test_a_folder_where_a_file_is_to_be_is_an_error(self, source: str, dst: Path) -> None:
        (dst / "config.json").mkdir(parents=True)
        with pytest.raises(WriteError, match=r"config.json: is a folder, where a file is to be"):
            pull_files(source, dst)

    def test_a_file_where_the_folder_is_to_be_is_an_error(self, source: str, dst: Path) -> None:
        dst.parent.mkdir(parents=True)
        dst.write_bytes(b"")
        with pytest.raises(WriteError, match="a part of this path is a file"):
            pull_files(source, dst)


class TestArguments:
    def test_a_folder_in_the_source_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        for target in (tmp_path / "s", tmp_path / "s" / "copy"):
            with pytest.raises(ArgumentError, match="itself, or a folder in it"):
                pull_files(tmp_path / "s", target)

    def test_object_storage_is_no_destination(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="to a local folder"):
            pull_files(tmp_path, "s3://bucket/model")

    def test_one_pattern_alone_is_refused(self, dst: Path) -> None:
        with pytest.raises(ArgumentTypeError, match="allow_pattern is a list of patterns"):
            pull_files(URL, dst, "*.json")  # type: ignore[arg-type]

    def test_a_missing_source_is_an_error_and_makes_nothing(self, source: str, dst: Path) -> None:
        with pytest.raises(NotFoundError, match="nope"):
            pull_files(f"{source}/nope", dst)
        assert not dst.exists()


class TestFailures:
    def test_a_refused_object_is_an_error_that_names_it_and_leaves_no_half_file(
        self, server: FaultServer, dst: Path
    ) -> None:
        server.choose = lambda request: refuse(403, "AccessDenied") if "vocab" in request.target else None
        with pytest.raises(PermissionError, match=f"{URL}/tokenizer/vocab.json"):
            pull_files(URL, dst)
        assert tree(dst).items() <= FILES.items()
        server.choose = None
        pull_files(URL, dst)
        assert tree(dst) == FILES

    def test_an_object_that_is_replaced_meanwhile_is_an_error(self, server: FaultServer, dst: Path) -> None:
        server.choose = lambda request: change(BIG[::-1]) if (request.span or (0,))[0] else None
        with pytest.raises(SourceChangedError, match=r"model\.safetensors"):
            pull_files(URL, dst, ["*.safetensors"])
        assert tree(dst) == {}

    def test_an_object_that_is_longer_than_listed_is_an_error(self, server: FaultServer, dst: Path) -> None:
        server.script(lambda exchange: exchange.listing(Size="7"))
        with pytest.raises(SourceChangedError, match=r"config.json: has 8 bytes, and had 7 a moment ago"):
            pull_files(URL, dst, ["config.json"])

    def test_a_store_that_stops_sending_is_an_error_in_bounded_time(
        self, server: FaultServer, dst: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_S3_TIMEOUT", "1")
        server.choose = lambda request: stall_after(1000) if "model.safetensors" in request.target else None
        with pytest.raises(StorageTimeoutError, match=r"model\.safetensors"):
            pull_files(URL, dst)
        assert not [name for name in tree(dst) if name.endswith(".part")]

    def test_the_first_error_ends_the_others_at_once(self, server: FaultServer, dst: Path) -> None:

        def choose(request: Request) -> Fault | None:
            if "config" in request.target:
                return refuse(403, "AccessDenied")
            # 12 MB would take 10 minutes.
            return drip(1000, 0.05) if request.span else None

        server.choose = choose
        with pytest.raises(PermissionError, match="config"):
            pull_files(URL, dst)
        assert not [name for name in tree(dst) if name.endswith(".part")]

    def test_the_first_error_ends_those_too_that_wait_to_be_hashed(
        self, server: FaultServer, dst: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(5 << 20))
        others = threading.Semaphore(0)

        def refuse_when_the_others_have_come(exchange: Exchange) -> None:
            assert others.acquire(timeout=PATIENCE)
            time.sleep(0.2)  # in which they come to the hash
            exchange.refuse(403, "AccessDenied")

        def come(exchange: Exchange) -> None:
            exchange.right()
            others.release()

        def choose(request: Request) -> Fault | None:
            if request.span is None or request.span[1] < PREFIX_BYTES:
                return None
            return refuse_when_the_others_have_come if request.span[0] < 5 << 20 else come

        server.choose = choose
        with pytest.raises(PermissionError, match=r"model\.safetensors"):
            pull_files(URL, dst, ["*.safetensors"])
        assert our_threads() == []

    def test_ctrl_c_ends_it_and_leaves_no_half_file(self, server: FaultServer, dst: Path) -> None:
        server.choose = lambda request: stall_after(1000) if "model.safetensors" in request.target else None

        def interrupt() -> None:
            server.stalled.acquire()
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Thread(target=interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pull_files(URL, dst)
        timer.join()
        assert not [name for name in tree(dst) if name.endswith(".part")]

    def test_a_folder_that_may_not_be_written_to_is_an_error(self, source: str, dst: Path) -> None:
        dst.mkdir(parents=True)
        dst.chmod(0o500)
        try:
            if os.access(dst, os.W_OK):
                pytest.skip("this user may write everywhere")
            with pytest.raises(WriteDeniedError, match="this user may not write here"):
                pull_files(source, dst)
        finally:
            dst.chmod(0o700)

    def test_a_full_disk_is_told_and_leaves_no_half_file(
        self, source: str, dst: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite

        def full(fd: int, data: bytes, offset: int) -> int:
            if offset + len(data) > 5_000_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # Less than asked for, as at the end of a disk.
            return real(fd, memoryview(data)[:100_000], offset)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(WriteError, match=r"model.safetensors: no space left on its disk") as caught:
            pull_files(source, dst)
        assert isinstance(caught.value, StreamerError)
        assert caught.value.errno == errno.ENOSPC
        assert tree(dst).items() <= {name: data for name, data in FILES.items() if data != BIG}.items()
        monkeypatch.undo()


_PULL = "import sys; from runai_model_streamer import pull_files; print('go', flush=True); pull_files(*sys.argv[1:])"


def test_two_hundred_files_survive_a_kill_at_any_moment(server: FaultServer, dst: Path) -> None:
    chance = random.Random()
    contents = {f"part-{n % 7}/{n:03}.bin": chance.randbytes(chance.randrange(60_000)) for n in range(200)}
    for name, data in contents.items():
        server.put("many", f"m/{name}", data)
    # Slow enough to be killed in the middle of files.
    server.choose = lambda request: None if "list-type" in request.target else drip(8_000, 0.002)
    variables = in_process(server)
    for _ in range(3):
        pull = subprocess.Popen(
            [sys.executable, "-c", _PULL, "s3://many/m", str(dst)], env=variables, stdout=subprocess.PIPE
        )
        assert pull.stdout is not None
        pull.stdout.readline()
        time.sleep(chance.uniform(0, 1.2))
        pull.kill()
        pull.wait()
        pull.stdout.close()
        if dst.exists():
            whole = {name: data for name, data in tree(dst).items() if not name.endswith(".part")}
            assert whole.items() <= contents.items()
    kept = {name for name in tree(dst) if not name.endswith(".part")} if dst.exists() else set()
    server.clear()
    pull_files("s3://many/m", dst)
    assert tree(dst) == contents
    fetched = {request.target.removeprefix("/many/m/") for request in gets(server)}
    assert fetched == {name for name, data in contents.items() if data and name not in kept}
