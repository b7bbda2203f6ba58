"""benchmarks/ranks.py, with two ranks and a few bytes: figures of any size show that it works."""

import os
import shutil
from pathlib import Path

import pytest

from benchmarks import ranks
from benchmarks.objects import server


def test_ranks_load_in_turns_in_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ranks", "2", "--size", "0.03", "--rounds", "1", "--states", "warm kept"]
    options += ["--ways", "alone", "memory", "--folder", str(tmp_path)]
    ranks.main(options)
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "warm kept", "alone"],
        ["2", "warm kept", "alone"],
        ["2", "warm kept", "memory"],
    ]
    assert list(tmp_path.iterdir()) == []


def test_ranks_load_objects_of_which_each_byte_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ranks", "2", "--size", "0.03", "--rounds", "1", "--states", "http kept", "--ways", "alone", "memory"]
    try:
        ranks.main([*options, "--folder", str(tmp_path)])
    except server.NoServerError as missing:
        pytest.skip(str(missing))
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    fetched = {(row[1], row[3]): float(row[-2]) for row in rows}
    assert fetched == {
        ("1", "alone"): pytest.approx(1, abs=0.02),
        ("2", "alone"): pytest.approx(2, abs=0.02),
        ("2", "memory"): pytest.approx(1, abs=0.02),
    }


@pytest.mark.skipif(shutil.which("cc") is None, reason="the emulated disk needs a C compiler")
def test_ranks_share_an_emulated_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    options = ["--ranks", "2", "--size", "0.03", "--rounds", "1", "--disk", "10", "--ways", "memory"]
    ranks.main([*options, "--folder", str(tmp_path)])
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [["1", "emulated", "alone"], ["2", "emulated", "memory"]]
    assert dict(os.environ) == before
