"""Throughput of loading a checkpoint onto a GPU, from memory and from disk: ours against other loaders.

    python -m benchmarks.gpu                                     # makes a checkpoint of 3.9 GB once
    python -m benchmarks.gpu --files model-*.safetensors --device cuda:1 --rounds 7 --minutes 30

Every load has a process of its own, which makes the CUDA context and loads a tiny checkpoint before the clock starts.
The span runs from just before the loader is given the files until every tensor is on the device and the device has
nothing left to do; all tensors are kept, as an engine keeps its parameters. Afterwards, outside the span, every tenth
tensor is compared with the file's bytes. The loaders take turns in each round, so that what drifts on the machine
falls on all of them; the ratios are of one round each. Rounds after the first end when the minutes are over.

Other loaders are installed with pip into environments of their own, which use this one's PyTorch. One that cannot be
installed or fails is a row that says why. The table goes into a file too: attach it to an issue of this project.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import caches, checkpoints, machine
from benchmarks.environments import CannotRunError
from benchmarks.gpu import bandwidth
from benchmarks.gpu.environments import python_of, variables_of
from benchmarks.gpu.loaders import LOADERS, OURS

PATIENCE: Final = 120.0
"""Seconds that one load may take."""

LOAD: Final = Path(__file__).with_name("load.py")

STATES: Final[dict[str, Callable[[Sequence[Path]], None]]] = {"disk": caches.drop, "memory": caches.warm}
"""What is done to the files' pages before a load: where its bytes come from."""


@dataclass(slots=True)
class Row:
    """The loads of one loader from one state of the page cache."""

    state: str
    loader: str
    rates: list[float] = field(default_factory=list)
    """GB/s, one a round."""
    failure: str = ""


def measure(loader: str, state: str, files: Sequence[Path], tiny: Path, device: str) -> float:
    """Seconds of one load. Raises RuntimeError, with what the loader said, when it failed or loaded wrong bytes."""
    python = python_of(LOADERS[loader])
    task = json.dumps({"loader": loader, "files": [str(path) for path in files], "tiny": str(tiny), "device": device})
    child = subprocess.Popen(
        [python, LOAD, task],
        env=variables_of(LOADERS[loader]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
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


def run(
    files: Sequence[Path],
    tiny: Path,
    device: str,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Every loader from every state; one that fails is not asked again. After the first round, none begins too late."""
    size = sum(placed.nbytes for path in files for placed in checkpoints.read_header(path))
    rows = [Row(state, loader) for state in STATES for loader in LOADERS]
    end = clock() + seconds
    for number in range(rounds):
        # Each round starts with another loader: none always profits from what the one before it left behind.
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            if row.failure or (number and clock() >= end):
                continue
            try:
                row.rates.append(size / measure(row.loader, row.state, files, tiny, device) / 1e9)
            except (RuntimeError, OSError, subprocess.TimeoutExpired, CannotRunError) as error:
                row.failure = str(error)
    return rows


def table(rows: Sequence[Row], device: str) -> str:
    """Medians, the range of all rounds, and how many times as fast ours was, as markdown."""
    lines = ["| from | loader | GB/s | min-max | ours / it |", "|---|---|---:|---:|---:|"]
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
        index = torch.device(device).index or 0
        facts += [
            ("GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"),
            ("nvbandwidth, host to device", bandwidth.of_nvbandwidth(index)),
            ("PyTorch's copies from page-locked memory", bandwidth.of_torch(device)),
        ]
    return [*facts, ("PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda}")]


def _refuse_without(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        built = "built without CUDA" if torch.version.cuda is None else "finds no GPU"
        sys.exit(f"no table: PyTorch {torch.__version__} {built}; --device cpu shows only that this script works")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if a loader failed that takes nothing but a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="where the tensors go (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="loads that each median is of (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=7, help="when the last round ends (default: %(default)s)")
    parser.add_argument("--files", type=Path, nargs="+", help="a checkpoint of yours (default: one of 3.9 GB)")
    parser.add_argument("--output", type=Path, default=Path("gpu-table.md"), help="the file (default: %(default)s)")
    options = parser.parse_args(arguments)
    _refuse_without(options.device)
    files = [path.resolve() for path in options.files or checkpoints.make("large").files]
    rows = run(files, checkpoints.make("tiny").files[0], options.device, options.rounds, 60 * options.minutes)
    facts = [f"- {name}: {value}" for name, value in describe(options.device, files[0].parent)]
    size = sum(path.stat().st_size for path in files) / 1e9
    done = max(len(row.rates) for row in rows)
    text = "\n".join([*facts, f"- {size:.2f} GB in {len(files)} files, {done} rounds", "", table(rows, options.device)])
    print(text)
    options.output.write_text(text + "\n", encoding="utf-8")
    print(f"\nThis is in {options.output} too: please attach it to an issue, good or bad.")
    return int(any(row.failure and not LOADERS[row.loader].may_fail for row in rows))


if __name__ == "__main__":
    sys.exit(main())
