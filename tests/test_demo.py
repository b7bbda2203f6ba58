"""`make demo` on a checkpoint of a few hundred kilobytes, and what it says when something is wrong."""

from pathlib import Path

import pytest
from safetensors import safe_open

from demo.__main__ import main
from demo.checkpoint import QWEN2_5_0_5B, Layout, prepare

TINY = Layout("Tiny", vocabulary=300, layers=2, hidden=16, intermediate=40, key_value=8)


def test_the_real_layout_has_the_models_size() -> None:
    shapes = QWEN2_5_0_5B.shapes()
    elements = 0
    for shape in shapes.values():
        count = 1
        for length in shape:
            count *= length
        elements += count
    assert (len(shapes), elements) == (290, 494_032_768)


def test_the_demo_streams_and_compares(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache", str(tmp_path)], layout=TINY) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "All 26 tensors equal."
    first = lines.index("") + 1
    table = lines[first : lines.index("", first)]
    assert table[0].split() == ["source", "GB", "seconds", "GB/s", "peak", "memory"]
    titles = [line.strip().split(",")[0].split("  ")[0] for line in table[1:]]
    theirs = "the same by safetensors.load_file"
    assert titles == ["disk", theirs, "disk", theirs, "disk", "S3 on loopback", "S3 on loopback"]
    assert any(line.startswith("Seconds are medians of three") for line in lines)
    assert any(line.startswith("Peak memory came") for line in lines)
    assert len({len(line) for line in table}) == 1


def test_a_load_that_fails_fails_the_demo(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "none")
    assert main(["--cache", str(tmp_path)], layout=TINY) == 1
    output = capfd.readouterr()
    assert "RUNAI_STREAMER_CONCURRENCY" in output.err
    assert "tensors equal" not in output.out


def test_a_checkpoint_is_made_once_and_mended_when_damaged(tmp_path: Path) -> None:
    first = prepare(TINY, tmp_path)
    assert first.made
    assert first.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    content = [path.read_bytes() for path in first.files]
    assert not prepare(TINY, tmp_path).made
    with first.files[1].open("r+b") as file:
        file.truncate(first.files[1].stat().st_size - 1)
    assert prepare(TINY, tmp_path).made
    assert [path.read_bytes() for path in first.files] == content


def test_a_checkpoint_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    shapes = {}
    for path in prepare(TINY, tmp_path).files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping, though it has keys
                tensor = file.get_tensor(name)
                assert tensor.isfinite().all()
                shapes[name] = tuple(tensor.shape)
    assert shapes == TINY.shapes()
