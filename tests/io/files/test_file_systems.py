"""What file systems are told apart, and which are read how."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.files import file_systems
from tests.io.files.local_files import with_mount


def kind_of(path: str | Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return file_systems.name(fd)
    finally:
        os.close(fd)


def mounted_kind(path: Path) -> str:
    """The kind of file system that a path is on, by the table of mounts."""
    found = ("", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        about, _, source = line.partition(" - ")
        point = about.split()[4]
        # Later mounts hide earlier ones.
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            # Without what is mounted through FUSE: "fuse.sshfs".
            found = (point, source.split()[0].partition(".")[0])
    same = {"ext2": "ext4", "ext3": "ext4", "overlay": "overlayfs", "nfs4": "nfs", "fuseblk": "fuse", "smb3": "smb2"}
    return same.get(found[1], found[1])


@pytest.mark.parametrize("folder", ["/", "/tmp", "/dev/shm", "/usr"])
def test_the_name_is_that_of_the_table_of_mounts(folder: str) -> None:
    kind = mounted_kind(Path(folder).resolve())
    name = kind_of(folder)
    if name == "unknown" and kind not in file_systems.DIRECT | file_systems.IN_MEMORY:
        pytest.skip(f"{folder} is on {kind}, which is not in our table")
    assert name == kind


@pytest.mark.parametrize(("kind", "name"), [("tmpfs", "tmpfs"), ("ramfs", "ramfs"), ("overlay", "overlayfs")])
def test_a_mount_has_its_kinds_name(kind: str, name: str, tmp_path: Path) -> None:
    for folder in ("target", "lower", "upper", "work"):
        (tmp_path / folder).mkdir()
    options = {"overlay": f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work,userxattr"}
    target = tmp_path / "target"
    assert with_mount(kind, target, options.get(kind, ""), lambda: kind_of(target)) == name


def test_the_files_of_the_kernel_are_on_an_unknown_file_system() -> None:
    assert kind_of("/proc/version") == "unknown"


def test_a_pipe_is_on_an_unknown_file_system() -> None:
    ends = os.pipe()
    try:
        assert file_systems.name(ends[0]) == "unknown"
    finally:
        for fd in ends:
            os.close(fd)


def test_a_file_that_is_not_open_is_on_an_unknown_file_system() -> None:
    assert file_systems.name(-1) == "unknown"


def test_direct_reads_are_automatic_on_file_systems_of_local_disks_only() -> None:
    assert {"ext4", "xfs", "btrfs", "f2fs"} == file_systems.DIRECT


def test_memory_is_what_tmpfs_and_ramfs_are() -> None:
    assert {"tmpfs", "ramfs"} == file_systems.IN_MEMORY


@pytest.mark.parametrize(
    ("file_system", "direct", "why"),
    [
        ("ext4", DirectIO.AUTO, ""),
        ("nfs", DirectIO.ALWAYS, ""),
        ("nfs", DirectIO.AUTO, "direct reads of nfs may be slower"),
        ("tmpfs", DirectIO.AUTO, "tmpfs is memory"),
        ("ext4", DirectIO.NEVER, "RUNAI_STREAMER_DIRECT_IO is 0"),
    ],
)
def test_it_is_known_why_files_are_read_through_the_page_cache(file_system: str, direct: DirectIO, why: str) -> None:
    assert file_systems.why_buffered(file_system, direct, shared=False) == why
