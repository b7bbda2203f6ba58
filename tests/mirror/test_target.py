"""The folder that files are pulled into, by itself."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from runai_model_streamer.errors import WriteError
from runai_model_streamer.io.listing import Entry
from runai_model_streamer.mirror.locks import locked
from runai_model_streamer.mirror.target import TargetFolder

TIME = 1_700_000_000_123_456_789


def entry(name: str, size: int = 5, modified_ns: int = TIME) -> Entry:
    return Entry(f"s3://b/{name}", name, size, modified_ns)


@pytest.mark.parametrize("kept", [TIME, TIME // 100 * 100, TIME // 1000 * 1000, TIME // 10**9 * 10**9])
def test_a_time_that_the_file_system_cut_is_the_same_time(tmp_path: Path, kept: int) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    os.utime(tmp_path / "x", ns=(kept, kept))
    with TargetFolder(str(tmp_path)) as destination:
        assert destination.has(entry("x"))


@pytest.mark.parametrize(
    "kept", [TIME + 1, TIME - 1, TIME // 1000 * 1000 + 1000, TIME + 10**9, TIME // 10**9 * 10**9 - 1]
)
def test_another_time_is_another_file(tmp_path: Path, kept: int) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    os.utime(tmp_path / "x", ns=(kept, kept))
    with TargetFolder(str(tmp_path)) as destination:
        assert not destination.has(entry("x"))


def test_a_link_to_such_a_file_is_not_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    os.utime(tmp_path / "x", ns=(TIME, TIME))
    (tmp_path / "y").symlink_to("x")
    with TargetFolder(str(tmp_path)) as destination:
        assert not destination.has(entry("y"))


def test_a_file_has_its_name_only_when_it_is_finished(tmp_path: Path) -> None:
    with TargetFolder(str(tmp_path)) as destination:
        part = destination.create("a/b/x", 5)
        part.write(3, memoryview(b"45"))
        part.write(0, memoryview(b"123"))
        assert not (tmp_path / "a" / "b" / "x").exists()
        part.finish(TIME)
        part.close()
        destination.sync()
        assert destination.has(entry("a/b/x"))
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"12345"


def test_a_file_that_is_not_as_long_as_it_should_be_is_never_given_its_name(tmp_path: Path) -> None:
    with TargetFolder(str(tmp_path)) as destination:
        part = destination.create("x", 5)
        part.write(0, memoryview(b"1234"))
        with pytest.raises(WriteError, match="has 4 bytes instead of 5"):
            part.finish(TIME)
        part.discard()
        part.close()
        part.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_meanwhile_is_an_error(tmp_path: Path) -> None:
    with TargetFolder(str(tmp_path / "d")) as destination:
        part = destination.create("x", 0)
        for path in (tmp_path / "d").iterdir():
            path.unlink()
        (tmp_path / "d").rmdir()
        with pytest.raises(WriteError, match="the folder was removed"):
            part.finish(TIME)
        part.close()
        with pytest.raises(WriteError, match="the folder was removed"):
            destination.create("y", 0)


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with TargetFolder(str(tmp_path)) as destination:
        part = destination.create("n" * 300, 0)
        with pytest.raises(WriteError, match="the name is longer than its file system allows"):
            part.finish(TIME)
        part.discard()
        part.close()


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    with TargetFolder(str(tmp_path)) as one, TargetFolder(str(tmp_path)) as other:
        with locked(one.fd, "d") as held:
            assert held
            with pytest.raises(BlockingIOError):
                fcntl.flock(other.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with locked(other.fd, "d") as held:
            assert held


def test_where_there_are_no_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with TargetFolder(str(tmp_path)) as destination, locked(destination.fd, "d") as held:
        assert not held
