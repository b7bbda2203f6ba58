"""Throughput of loading a checkpoint onto a GPU, ours against safetensors' own, cold and warm, on this machine.

    python -m benchmarks.gpu                                     # makes a checkpoint of 3.9 GB once
    python -m benchmarks.gpu --files model-*.safetensors --device cuda:1 --rounds 7

Every load has a process of its own, which makes the CUDA context and loads a tiny checkpoint before the clock starts.
The span runs from just before the loader is given the files until every tensor is on the device and the device has
nothing left to do; all tensors are kept, as an engine keeps its parameters. Afterwards, outside the span, every tenth
tensor is compared with the file's bytes. The loaders take turns in each round, so that what drifts on the machine
falls on all of them; the ratios are of one round each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import caches, checkpoints, machine

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 600.0
"""Seconds that one load may take."""

Tensors = Iterator[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Loader:
    """A row of the table."""

    title: str
    load: Callable[[Sequence[str], str], Tensors]
    environment: dict[str, str] = field(default_factory=dict)


def _ours(files: Sequence[str], device: str) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(files), device=device)
        yield from streamer.get_tensors()


def _ours_by_host(files: Sequence[str], device: str) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(files))
        for name, tensor in streamer.get_tensors():
            yield name, tensor.to(device)


def _safetensors(files: Sequence[str], device: str) -> Tensors:
    from safetensors.torch import load_file

    for path in files:
        yield from load_file(path, device=device).items()


OURS: Final = "ours"
LOADERS: Final = {
    OURS: Loader("ours, device=", _ours, {"RUNAI_STREAMER_GDS": "0"}),
    "ours-gds": Loader("ours, GPUDirect (RUNAI_STREAMER_GDS=1)", _ours, {"RUNAI_STREAMER_GDS": "1"}),
    "ours-by-host": Loader("ours, to the host, then tensor.to()", _ours_by_host),
    "ours-by-pageable": Loader("the same, RUNAI_STREAMER_PINNED=0", _ours_by_host, {"RUNAI_STREAMER_PINNED": "0"}),
    "safetensors": Loader("safetensors load_file(device=)", _safetensors),
}

STATES: Final[dict[str, Callable[[Sequence[Path]], None]]] = {"cold": caches.drop, "warm": caches.warm}


@dataclass(slots=True)
class Row:
    """The loads of one loader from one state of the page cache."""

    state: str
    loader: str
    rates: list[float] = field(default_factory=list)
    """GB/s, one a round."""
    failure: str = ""


# ---- the process that loads ----


def load_once(loader: str, files: Sequence[str], tiny: str, device: str) -> None:
    """Say 'ready', wait for a line, load, say what was seen; both in JSON, on standard output."""
    load = LOADERS[loader].load
    kept = dict(load([tiny], device))
    _finish(device)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    kept.clear()
    began = time.perf_counter()
    kept.update(load(files, device))
    _finish(device)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "wrong": _wrong(kept, files)}), flush=True)


def _finish(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _wrong(tensors: dict[str, Any], files: Sequence[str]) -> list[str]:
    """Names that are missing or, of every tenth, whose bytes are not the file's."""
    import torch

    wrong = []
    for path in files:
        with open(path, "rb") as file:
            for index, placed in enumerate(checkpoints.read_header(Path(path))):
                tensor = tensors.get(placed.name)
                if tensor is None:
                    wrong.append(placed.name)
                elif index % 10 == 0:
                    file.seek(placed.start)
                    expected = torch.frombuffer(bytearray(file.read(placed.nbytes)), dtype=torch.uint8)
                    if not torch.equal(tensor.reshape(-1).view(torch.uint8).cpu(), expected):
                        wrong.append(placed.name)
    return wrong


# ---- the process that measures ----


def measure(loader: str, state: str, files: Sequence[Path], tiny: Path, device: str) -> float:
    """Seconds of one load. Raises RuntimeError, with what the loader said, when it failed or loaded wrong bytes."""
    task = json.dumps({"loader": loader, "files": [str(path) for path in files], "tiny": str(tiny), "device": device})
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", "--task", task],
        cwd=ROOT,
        env=os.environ | LOADERS[loader].environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if child.stdout.readline():
                STATES[state](files)
            output, complaint = child.communicate("go\n", timeout=PATIENCE)
        finally:
            child.kill()
    if child.returncode:
        raise RuntimeError(complaint.strip().rpartition("\n")[2] or f"exit status {child.returncode}")
    answer = json.loads(output)
    if answer["wrong"]:
        raise RuntimeError(f"wrong bytes in {len(answer['wrong'])} tensors, {answer['wrong'][0]} the first")
    return float(answer["seconds"])


def run(files: Sequence[Path], tiny: Path, device: str, rounds: int) -> list[Row]:
    """Every loader from every state; a loader that fails once is not asked again."""
    size = sum(placed.nbytes for path in files for placed in checkpoints.read_header(path))
    rows = [Row(state, loader) for state in STATES for loader in LOADERS]
    for number in range(rounds):
        # Each round starts with another loader: none always profits from what the one before it left behind.
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            if row.failure:
                continue
            try:
                row.rates.append(size / measure(row.loader, row.state, files, tiny, device) / 1e9)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                row.failure = str(error)
    return rows


def table(rows: Sequence[Row], device: str) -> str:
    """Medians, the range of all rounds, and how many times as fast ours was, as markdown."""
    lines = ["| page cache | loader | GB/s | min-max | ours / it |", "|---|---|---:|---:|---:|"]
    for row in rows:
        title = LOADERS[row.loader].title.replace("device=", f'device="{device}"')
        if row.failure:
            lines.append(f"| {row.state} | {title} | | | {row.failure.replace('|', '/')} |")
            continue
        (ours,) = (other for other in rows if (other.state, other.loader) == (row.state, OURS))
        # zip: ours may have failed half way.
        ratios = [our / its for our, its in zip(ours.rates, row.rates, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios and row is not ours else ""
        spread = f"{min(row.rates):.2f}-{max(row.rates):.2f}"
        lines.append(f"| {row.state} | {title} | {statistics.median(row.rates):.2f} | {spread} | {ratio} |")
    return "\n".join(lines)


def describe(device: str, folder: Path) -> list[tuple[str, str]]:
    """The machine, its GPU and what is installed, for whoever compares figures."""
    import torch

    facts = machine.describe(folder)
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts.append(("GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return [*facts, ("PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda}")]


def _refuse_without(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        built = "built without CUDA" if torch.version.cuda is None else "finds no GPU"
        sys.exit(f"no table: PyTorch {torch.__version__} {built}; --device cpu shows only that this script works")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a loader other than the one by GPUDirect failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="where the tensors go (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="loads that each median is of (default: %(default)s)")
    parser.add_argument("--files", type=Path, nargs="+", help="a checkpoint of yours (default: one of 3.9 GB)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.task:
        load_once(**json.loads(options.task))
        return 0
    _refuse_without(options.device)
    files = [path.resolve() for path in options.files or checkpoints.make("large").files]
    rows = run(files, checkpoints.make("tiny").files[0], options.device, options.rounds)
    print("\n".join(f"{name}: {value}" for name, value in describe(options.device, files[0].parent)))
    print(f"{sum(path.stat().st_size for path in files) / 1e9:.2f} GB in {len(files)} files, {options.rounds} rounds\n")
    print(table(rows, options.device))
    return int(any(row.failure and row.loader != "ours-gds" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
