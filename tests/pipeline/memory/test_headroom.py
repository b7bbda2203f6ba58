import os
from pathlib import Path

import pytest

from runai_model_streamer.pipeline.memory import headroom

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with a `proc` and a `cgroup` in it, in place of the machine's."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    _meminfo(tmp_path, 1000)
    return tmp_path


def available(machine: Path) -> int | None:
    return headroom.available_bytes(machine / "proc", machine / "cgroup")


def _meminfo(machine: Path, mebibytes: int) -> None:
    text = f"MemTotal:  99999999 kB\nMemFree:  1234 kB\nMemAvailable:  {mebibytes * 1024} kB\nBuffers: 1 kB\n"
    (machine / "proc" / "meminfo").write_text(text)


def _in_group(machine: Path, *lines: str) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("\n".join(lines) + "\n")


def _group_v2(machine: Path, name: str, limit: int | None, usage: int, inactive: int = 0) -> None:
    folder = machine / "cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("max\n" if limit is None else f"{limit * MIB}\n")
    (folder / "memory.current").write_text(f"{usage * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file 7\ninactive_file {inactive * MIB}\n")


def _group_v1(machine: Path, name: str, limit: int, usage: int, inactive: int = 0) -> None:
    folder = machine / "cgroup" / "memory" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit * MIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage * MIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {inactive * MIB}\n")


def test_outside_a_group_it_is_what_the_machine_has(machine: Path) -> None:
    assert available(machine) == 1000 * MIB


def test_a_group_may_leave_less_than_the_machine(machine: Path) -> None:
    _in_group(machine, "0::/a/b")
    _group_v2(machine, "a/b", limit=500, usage=400)
    assert available(machine) == 100 * MIB


def test_the_machine_may_leave_less_than_the_group(machine: Path) -> None:
    _in_group(machine, "0::/a")
    _group_v2(machine, "a", limit=5000, usage=400)
    assert available(machine) == 1000 * MIB


def test_the_page_cache_of_a_group_counts_as_free(machine: Path) -> None:
    _in_group(machine, "0::/a")
    _group_v2(machine, "a", limit=500, usage=400, inactive=300)
    assert available(machine) == 400 * MIB


def test_a_group_without_a_limit_has_none(machine: Path) -> None:
    _in_group(machine, "0::/a")
    _group_v2(machine, "a", limit=None, usage=400)
    assert available(machine) == 1000 * MIB


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c", ""])
def test_the_groups_above_count_too(machine: Path, limited: str) -> None:
    _in_group(machine, "0::/a/b/c")
    for name in ("", "a", "a/b", "a/b/c"):
        _group_v2(machine, name, limit=500 if name == limited else None, usage=450)
    assert available(machine) == 50 * MIB


def test_in_a_container_the_path_may_be_the_hosts_and_the_files_at_the_top(machine: Path) -> None:
    _in_group(machine, "0::/kubepods/pod1/container2")
    _group_v2(machine, "", limit=500, usage=200)
    assert available(machine) == 300 * MIB


def test_a_group_of_the_first_version(machine: Path) -> None:
    _in_group(machine, "9:name=systemd:/", "4:cpu,memory:/a/b", "3:cpuset:/", "0::/")
    _group_v1(machine, "a/b", limit=500, usage=450, inactive=20)
    assert available(machine) == 70 * MIB


def test_groups_of_other_controllers_do_not_matter(machine: Path) -> None:
    _in_group(machine, "3:cpu:/a")
    _group_v1(machine, "a", limit=500, usage=450)
    assert available(machine) == 1000 * MIB


def test_a_group_over_its_limit_has_nothing_left(machine: Path) -> None:
    _in_group(machine, "0::/a")
    _group_v2(machine, "a", limit=500, usage=600)
    assert available(machine) == 0


def test_files_that_are_not_there_or_make_no_sense_tell_nothing(machine: Path) -> None:
    _in_group(machine, "0::/a")
    (machine / "cgroup" / "a").mkdir()
    (machine / "cgroup" / "a" / "memory.max").write_text("\n")
    (machine / "proc" / "meminfo").write_text("MemAvailable:\n")
    assert available(machine) is None


def test_nothing_is_known_where_there_is_nothing_to_read(machine: Path) -> None:
    (machine / "proc" / "meminfo").unlink()
    assert available(machine) is None


def test_this_machine_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    left = headroom.available_bytes()
    assert left is not None
    assert left > 0


@pytest.mark.parametrize(("left", "asked"), [(2, 16), (17, 8), (65, 3)], ids=str)
def test_the_more_is_left_the_more_may_be_taken_before_it_is_looked_at_again(left: int, asked: int) -> None:
    looks = []

    def look() -> int:
        looks.append(1)
        return left << 30

    room = headroom.Headroom(look)
    for _ in range(64):
        assert not room.lacks(128 * MIB)
        room.took(128 * MIB)
    assert len(looks) <= asked


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "when needed"])
def test_a_check_ahead_of_the_load_spares_its_readers_the_first(ahead: bool) -> None:
    looks = []

    def look() -> int:
        looks.append(1)
        return 64 << 30

    room = headroom.Headroom(look, ahead=ahead)
    assert len(looks) == ahead
    assert not room.lacks(headroom.CHECK_EVERY)
    assert len(looks) == 1


def test_a_check_ahead_of_a_load_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    headroom.Headroom(lambda: MIB, ahead=True)
    assert not caplog.records


def test_of_a_group_without_a_limit_nothing_else_is_read(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_group(machine, "4:memory:/a", "0::/b")
    _group_v1(machine, "a", limit=(1 << 63) // MIB - 1, usage=400)
    _group_v2(machine, "b", limit=None, usage=400)
    read: list[Path] = []
    opened = os.open

    def noted(path: str, flags: int) -> int:
        read.append(Path(path))
        return opened(path, flags)

    monkeypatch.setattr(os, "open", noted)
    assert available(machine) == 1000 * MIB
    groups = [path.name for path in read if path.is_relative_to(machine / "cgroup")]
    assert groups == ["memory.limit_in_bytes"] * 3 + ["memory.max"] * 2
