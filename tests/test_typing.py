"""What type checkers say of the documented calls: the right ones pass, a `str` for several files or names does not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RIGHT = """
from pathlib import Path
from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files

with SafetensorsStreamer() as streamer:
    streamer.stream_files(["a", Path("b")], tensor_names={"x"})
    streamer.stream_files(("a", "b"), tensor_names=["x"])
    streamer.stream_files(list_safetensors("folder"), tensor_names={"x": 1}.keys())
    for name, tensor in streamer.get_tensors():
        print(name, tensor.shape)
    report = streamer.report
    print(report.verdict)
    print(report.gb_per_second, report.first_tensor_seconds, report.peak_memory, report.bytes_from, report.settings)
    print(report.to_json(indent=2))
pull_files("s3://b/m", "there", ["*.json"], ("x",))
"""

WRONG = """
from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, pull_files

SafetensorsStreamer().stream_files("model.safetensors")
SafetensorsStreamer().stream_files(["a"], tensor_names="weight")
SafetensorsStreamer().stream_file("a", tensor_names="weight")
pull_files("s3://b/m", "there", "*.json")
pull_files("s3://b/m", "there", None, "*.json")
ObjectStorageModel("s3://b/m", "there").pull_files("*.json")
"""


def checked(code: str, folder: Path) -> list[str]:
    """Errors of mypy, strict."""
    pytest.importorskip("mypy")
    path = folder / "example.py"
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), str(path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_right_and_wrong_calls_are_told_apart(tmp_path: Path) -> None:
    assert checked(RIGHT, tmp_path) == []
    wrong = checked(WRONG, tmp_path)
    assert [line.partition("error: ")[2].partition(" has")[0] for line in wrong] == [
        'Argument 1 to "stream_files" of "SafetensorsStreamer"',
        'Argument "tensor_names" to "stream_files" of "SafetensorsStreamer"',
        'Argument "tensor_names" to "stream_file" of "SafetensorsStreamer"',
        'Argument 3 to "pull_files"',
        'Argument 4 to "pull_files"',
        'Argument 1 to "pull_files" of "ObjectStorageModel"',
    ]
