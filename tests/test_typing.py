"""What type checkers say of the documented calls: the right ones pass, a `str` for several files or names does not."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import runai_model_streamer
from runai_model_streamer import plots, profiling

ROOT = Path(__file__).parents[1]
PROGRAM = Path(__file__).with_name("every_public_name.py")

RIGHT = """
from pathlib import Path
from runai_model_streamer import SafetensorsStreamer, StreamerConfig, list_safetensors, pull_files

config = StreamerConfig(memory_limit="4GiB", chunk_bytesize=1 << 24, direct_io=True, gds="auto", cache_dir=Path("c"))
with SafetensorsStreamer(config=config) as streamer:
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
from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, StreamerConfig, pull_files

SafetensorsStreamer().stream_files("model.safetensors")
SafetensorsStreamer().stream_files(["a"], tensor_names="weight")
SafetensorsStreamer().stream_file("a", tensor_names="weight")
pull_files("s3://b/m", "there", "*.json")
pull_files("s3://b/m", "there", None, "*.json")
ObjectStorageModel("s3://b/m", "there").pull_files("*.json")
StreamerConfig(memory_limit=4.5)
StreamerConfig(memory_limt="4GiB")
StreamerConfig(s3_transport="wget")
SafetensorsStreamer({"RUNAI_STREAMER_MEMORY_LIMIT": "4GiB"})
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
        'Argument "memory_limit" to "StreamerConfig"',
        'Unexpected keyword argument "memory_limt" for "StreamerConfig"; did you mean "memory_limit"?  [call-arg]',
        'Argument "s3_transport" to "StreamerConfig"',
        'Argument 1 to "SafetensorsStreamer"',
    ]


def test_the_program_for_type_checkers_uses_every_public_name() -> None:
    used = {node.id for node in ast.walk(ast.parse(PROGRAM.read_text("utf-8"))) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(ast.parse(PROGRAM.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert {*runai_model_streamer.__all__, *profiling.__all__, *plots.__all__, "StreamerPatcher"} - used == set()


@pytest.mark.skipif(shutil.which("node") is None, reason="pyright runs on Node.js")
def test_pyright_accepts_a_program_that_uses_every_public_name() -> None:
    pytest.importorskip("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(PROGRAM)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings, 0 informations"), done.stdout
