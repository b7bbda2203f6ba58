"""CPUs that a container may use; what its memory is in tests/pipeline/memory/test_headroom.py."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.io.cgroups import usable_cpus


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `proc` and a `cgroup` in it, for a process that may run on 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def cpus(machine: Path, *lines: str) -> int:
    (machine / "proc" / "self" / "cgroup").write_text("\n".join(lines) + "\n")
    return usable_cpus(machine / "proc", machine / "cgroup")


def group(machine: Path, name: str, **files: str) -> None:
    folder = machine / "cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("cpu_", "cpu.", 1)).write_text(text + "\n")


def test_without_a_group_they_are_those_that_the_process_may_run_on(machine: Path) -> None:
    assert usable_cpus(machine / "proc", machine / "cgroup") == 16


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("20000 100000", 1),
        ("9900000 100000", 16),
        ("max 100000", 16),
        ("", 16),
        ("1 0", 16),
    ],
)
def test_a_group_may_give_time_for_fewer(machine: Path, text: str, count: int) -> None:
    group(machine, "a", cpu_max=text)
    assert cpus(machine, "0::/a") == count


def test_the_groups_above_count_too(machine: Path) -> None:
    group(machine, "a/b", cpu_max="max 100000")
    group(machine, "a", cpu_max="300000 100000")
    assert cpus(machine, "0::/a/b") == 3


def test_in_a_container_the_path_may_be_the_hosts_and_the_files_at_the_top(machine: Path) -> None:
    group(machine, "", cpu_max="200000 100000")
    assert cpus(machine, "0::/kubepods/pod1/container2") == 2


@pytest.mark.parametrize(("quota", "count"), [("300000", 3), ("-1", 16)])
def test_a_group_of_the_first_version(machine: Path, quota: str, count: int) -> None:
    group(machine, "cpu/a", cpu_cfs_quota_us=quota, cpu_cfs_period_us="100000")
    assert cpus(machine, "4:memory:/a", "3:cpu,cpuacct:/a", "0::/") == count


def test_this_machine_has_some() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
