"""Whatever reads do, a load gives the right bytes, or an error of ours that says where, and leaves nothing behind."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import stored, write
from tests.faulty_disk.loads import Fault, Task

SOURCE = Path(__file__).with_name("faulty_disk.c")
ROOT = Path(__file__).parents[2]
SECONDS = 280
READS = 14
"""More than a load of these files makes with any settings where nothing fails: two headers, and some reads of each."""

Outcomes = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the faulty disk needs a C compiler: neither gcc nor cc is on the PATH")
    path = tmp_path_factory.mktemp("faulty_disk") / "faulty_disk.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(path), str(SOURCE), "-ldl", "-lpthread"], check=True)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    sizes = ([3_000_000, 17, 2_500_000, 0], [5_000_001])
    return [
        write(
            folder / f"{number}.safetensors",
            {f"t{number}.{index}": stored("U8", (size,), seed=index) for index, size in enumerate(each)},
        )
        for number, each in enumerate(sizes)
    ]


def outcomes(tasks: Sequence[Task], library: Path, files: Sequence[Path], folder: Path) -> Outcomes:
    """What came of each task."""
    listed = folder / "tasks.json"
    listed.write_text(json.dumps([dataclasses.asdict(task) for task in tasks]))
    command = [sys.executable, "-m", "tests.faulty_disk.loads", str(listed), *map(str, files)]
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(tasks)
    return found


def test_every_fault_at_every_read_of_a_load(library: Path, files: list[Path], tmp_path: Path) -> None:
    kinds = [fault for fault in Fault if fault is not Fault.HANG]
    tasks = [Task(seed=at, fault=fault, at=at) for at in range(READS) for fault in kinds]
    found = outcomes(tasks, library, files, tmp_path)
    _check(found, files)
    assert {each["task"]["fault"] for each in found if each["faults"]} == set(kinds)
    harmless = (Fault.INTERRUPTED, Fault.SHORT, Fault.SHORT_ODD)
    assert [each for each in found if each["error"] and each["task"]["fault"] in harmless] == []
    fatal = (Fault.IO_ERROR, Fault.END, Fault.NO_MEMORY, Fault.AGAIN)
    assert [each for each in found if each["faults"] and not each["error"] and each["task"]["fault"] in fatal] == []


def test_schedules_of_many_faults(library: Path, files: list[Path], tmp_path: Path) -> None:
    found = outcomes([Task(seed, every=2 + seed % 15) for seed in range(500)], library, files, tmp_path)
    _check(found, files)
    assert len({each["error"] for each in found}) > 2
    assert any(each["faults"] and not each["error"] for each in found)


def test_reads_that_never_return(library: Path, files: list[Path], tmp_path: Path) -> None:
    found = outcomes([Task(at, fault=Fault.HANG, at=at) for at in range(READS)], library, files, tmp_path)
    assert {each["error"] for each in found if each["faults"]} == {"KeyboardInterrupt"}
    _check(found, files)


def _check(found: Outcomes, files: Sequence[Path]) -> None:
    """Right bytes, or an error that says where; nothing left."""
    names = "|".join(re.escape(str(file)) for file in files)
    for each in found:
        assert each["wrong"] == [], each
        assert each["left"] == [], each
        assert each["ours"], each
        assert bool(each["error"]) == bool(each["missing"]), each
        if each["error"] not in ("", "KeyboardInterrupt"):
            assert re.search(rf"({names}): .*(bytes \d+-\d+|\d+ bytes)", each["message"]), each
