"""The small files of procfs and control groups."""

from pathlib import Path

import pytest

from runai_model_streamer.io.kernel_files import read_kernel_file


def test_a_file_of_procfs_is_read_whole() -> None:
    assert read_kernel_file("/proc/meminfo").splitlines()[-1].endswith(" kB")


def test_names_that_are_no_utf_8_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    assert read_kernel_file(tmp_path / "cgroup").encode(errors="surrogateescape") == b"0::/\xff\n"


def test_one_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_kernel_file(tmp_path / "cgroup")
