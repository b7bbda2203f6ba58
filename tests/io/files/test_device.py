"""What sysfs says of block devices: folders made as the kernel makes them."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.io.files.device import STREAMS, UNKNOWN, Device, device_of


class Machine:
    """A sysfs and a table of mounts."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.mounts = folder / "sys", folder / "mountinfo"
        (self.sys / "dev" / "block").mkdir(parents=True)
        self.mounts.write_text("")

    def disk(
        self, name: str, number: str, *, rotates: bool = False, minimum: int = 512, optimal: int = 0, slaves: str = ""
    ) -> Path:
        folder = self.sys / "devices" / name
        (folder / "queue").mkdir(parents=True)
        for file, value in (("rotational", int(rotates)), ("minimum_io_size", minimum), ("optimal_io_size", optimal)):
            (folder / "queue" / file).write_text(f"{value}\n")
        (folder / "slaves").mkdir()
        for slave in slaves.split():
            (folder / "slaves" / Path(slave).name).symlink_to(self.sys / "devices" / slave)
        self.number(folder, number)
        return folder

    def partition(self, disk: Path, name: str, number: str) -> None:
        (disk / name).mkdir()
        (disk / name / "partition").write_text("1\n")
        self.number(disk / name, number)

    def number(self, folder: Path, number: str) -> None:
        (self.sys / "dev" / "block" / number).symlink_to(folder)

    def device(self, major: int, minor: int) -> Device:
        return device_of(os.makedev(major, minor), self.sys, self.mounts)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_solid_state_disk_has_several_reads_at_once(machine: Machine) -> None:
    machine.disk("nvme0n1", "259:0")
    assert machine.device(259, 0) == Device("nvme0n1", 1, seeks=False)
    assert machine.device(259, 0).streams == STREAMS


def test_a_partition_is_its_disk(machine: Machine) -> None:
    machine.partition(machine.disk("sda", "8:0"), "sda1", "8:1")
    assert machine.device(8, 1) == Device("sda", 1, seeks=False)


def test_a_hard_disk_begins_with_one_reader(machine: Machine) -> None:
    machine.disk("sda", "8:0", rotates=True)
    assert machine.device(8, 0).streams == 1


@pytest.mark.parametrize("name", ["vda", "xvda"])
def test_a_virtual_disk_that_says_that_it_rotates_is_not_believed(machine: Machine, name: str) -> None:
    machine.disk(name, "254:0", rotates=True)
    assert machine.device(254, 0).streams == STREAMS


def test_disks_of_an_array_are_counted(machine: Machine) -> None:
    for index in range(4):
        machine.partition(machine.disk(f"nvme{index}n1", f"259:{index}"), f"nvme{index}n1p1", f"259:{index + 10}")
    machine.disk("md0", "9:0", slaves=" ".join(f"nvme{index}n1/nvme{index}n1p1" for index in range(4)))
    machine.disk("dm-0", "253:0", slaves="md0")
    assert machine.device(253, 0) == Device("dm-0", 4, seeks=False)
    assert machine.device(253, 0).streams == 4 * STREAMS


def test_an_array_of_hardware_is_known_by_its_stripe(machine: Machine) -> None:
    machine.disk("sda", "8:0", rotates=True, minimum=64 << 10, optimal=512 << 10)
    assert machine.device(8, 0) == Device("sda", 8, seeks=True)


@pytest.mark.parametrize(("minimum", "optimal"), [(512, 128 << 10), (64 << 10, 0), (64 << 10, 100 << 10)])
def test_a_size_that_a_disk_likes_makes_no_array(machine: Machine, minimum: int, optimal: int) -> None:
    machine.disk("nvme0n1", "259:0", minimum=minimum, optimal=optimal)
    assert machine.device(259, 0).members == 1


def test_a_file_system_with_a_number_of_its_own_is_found_by_its_mount(machine: Machine, tmp_path: Path) -> None:
    tty = os.stat("/dev/null").st_rdev
    machine.disk("nvme0n1", f"{os.major(tty)}:{os.minor(tty)}")
    machine.mounts.write_text("29 1 0:24 / /models rw,relatime shared:1 - btrfs /dev/null rw,ssd\n")
    assert machine.device(0, 24).name == "nvme0n1"


def test_what_the_kernel_does_not_tell_is_one_disk(machine: Machine) -> None:
    assert machine.device(0, 99) == machine.device(8, 0) == UNKNOWN


def test_this_machine_tells(tmp_path: Path) -> None:
    assert device_of(tmp_path.stat().st_dev).streams >= 1
