"""What `doctor` says of the limits of a process, and of mounts."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.cli.doctor.limits import limits, locked_memory
from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.doctor.mounts import mounted


def checks(tmp_path: Path, group: str, **files: str) -> dict[str, Check]:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"{group}\n")
    folder = tmp_path / "cgroups" / ("memory" if "memory" in group else "") / "pod"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return {check.name: check for check in limits(tmp_path, tmp_path / "cgroups")}


def test_the_memory_of_a_control_group_is_said(tmp_path: Path) -> None:
    memory = checks(tmp_path, "0::/pod", memory_max="17179869184", memory_current="1073741824")["memory"]
    assert memory.detail == "a control group's limit of 16GiB (17.2 GB), 1.07 GB in use, page cache included"
    assert "RUNAI_STREAMER_MEMORY_LIMIT" in memory.remedy


@pytest.mark.parametrize("text", ["max", "9223372036854771712"])
def test_no_limit_is_said(tmp_path: Path, text: str) -> None:
    assert checks(tmp_path, "0::/pod", memory_max=text)["memory"].detail == "no limit of a control group"


def test_the_first_version_of_control_groups_is_known(tmp_path: Path) -> None:
    files = {"memory_limit_in_bytes": "2147483648"}
    memory = checks(tmp_path, "7:memory:/pod", **files)["memory"]
    assert memory.detail == "a control group's limit of 2GiB (2.15 GB)"


def test_cpus_of_a_control_group_are_said(tmp_path: Path) -> None:
    found = checks(tmp_path, "0::/pod", cpu_max="100000 100000")["cpus"]
    assert found.detail.startswith("1")


@pytest.mark.parametrize(("limit", "text"), [(-1, "no limit"), (8 << 20, "at most 8MiB (8.39 MB)")])
def test_locked_memory_is_said(limit: int, text: str) -> None:
    assert locked_memory(limit).detail.startswith(text)


def table(tmp_path: Path, *mounts: str) -> Path:
    number = os.stat(tmp_path).st_dev
    lines = [f"30 1 {os.major(number)}:{os.minor(number)} / {mount}\n" for mount in mounts]
    (tmp_path / "mountinfo").write_text("".join(lines))
    return tmp_path / "mountinfo"


NFS = "rw,relatime shared:1 - nfs4 server:/models rw,vers=4.2"


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (f"{NFS},rsize=65536,nconnect=8,sec=secret", "warning", "asks for 65536 bytes at a time"),
        (f"{NFS},rsize=1048576", "ok", "one TCP connection"),
        (f"{NFS},rsize=1048576,nconnect=8", "ok", "rsize=1048576 nconnect=8)"),
        ("rw - fuse.gcsfuse bucket rw,user_id=0,max_read=131072", "warning", "asks for 131072 bytes at a time"),
        ("rw - ext4 /dev/vda rw,errors=remount-ro", "ok", "(ext4, rw)"),
    ],
)
def test_options_that_reads_depend_on_are_said(tmp_path: Path, options: str, status: str, words: str) -> None:
    check = mounted(str(tmp_path), table(tmp_path, f"{tmp_path} {options}"))
    assert check is not None
    assert check.status == status
    assert words in check.detail
    assert "secret" not in check.detail


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    found = mounted(str(tmp_path), table(tmp_path, "/ rw - ext4 /dev/vda rw", f"{tmp_path} rw - xfs /dev/vdb rw"))
    assert found is not None
    assert "xfs" in found.detail


def test_a_mount_with_a_space_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    found = mounted(str(folder), table(tmp_path, f"{tmp_path}/a\\040model rw - xfs /dev/vdb rw"))
    assert found is not None
    assert found.detail == f"{folder} (xfs, rw)"


def test_nothing_is_said_where_the_kernel_says_nothing(tmp_path: Path) -> None:
    assert mounted(str(tmp_path), tmp_path / "none") is None
    assert mounted(str(tmp_path / "none"), table(tmp_path)) is None
