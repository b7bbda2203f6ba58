"""What collecting the report costs: events of a load, times the measured cost of one.

    python -m benchmarks.tally [FILE...]

Without files it makes a checkpoint of 50,000 small tensors in a temporary folder. What is timed is what the load itself
calls, in a loop, with its calls' own overhead: an upper bound.
"""

import sys
import tempfile
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

from runai_model_streamer import LoadReport, SafetensorsStreamer
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.plan.groups import PlannedFile, Step, plan_groups
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.trace import Trace
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from tests.checkpoints import infos, stored, write

ROUNDS = 20_000


def cost(call: Callable[[], object]) -> float:
    """Microseconds of one call, the best of five rounds."""
    return min(timeit.repeat(call, number=ROUNDS, repeat=5)) / ROUNDS * 1e6


def step_cost(trace: Trace | None) -> float:
    """What a reader adds to each of its reads: the wait for the step, the read, the moment after it has landed."""
    reader = ReaderTally(WaitClock(), WaitClock())
    reader.begin(trace)
    step, reading = Step(0, 0, 4 << 20, 0), Reading(Origin.DISK, 1e-3, 1.0)

    def one() -> None:
        reader.took()
        reader.read(0, step, reading, "copy")
        reader.mark()

    return cost(one)


def group_cost(trace: Trace | None) -> float:
    """What the caller's thread adds to each group."""
    group = next(plan_groups([PlannedFile(1000, SourceKind.FILE, 1, 4096, infos([100] * 10, 0))]))
    tally = Tally(trace)
    tally.plan([group])
    tally.start()

    def one() -> None:
        tally.ask()
        tally.wait()
        tally.landed()
        tally.made(group, 1)
        tally.give(group)

    return cost(one)


def load(paths: Sequence[str]) -> tuple[LoadReport, int]:
    """A load's report, and how many groups it had."""
    groups = 0

    def count(_: object) -> None:
        nonlocal groups
        groups += 1

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, progress=count)
        for _ in streamer.get_tensors():
            pass
    return streamer.report, groups


def main(paths: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(str(Path(folder) / "trace.json"), "benchmark")
        steps, groups = step_cost(None), group_cost(None)
        print(f"one read:  {steps:.2f} us, traced {step_cost(trace):.2f} us")
        print(f"one group: {groups:.2f} us, traced {group_cost(trace):.2f} us")
        if not paths:
            paths = [str(write(Path(folder) / "m", {f"t{n}": stored("U8", (1000,), n % 100) for n in range(50_000)}))]
        load(paths)
        report, count = load(paths)
        spent = report.reads * steps + count * groups
        print(
            f"{report.tensors} tensors, {report.bytes / 1e9:.2f} GB in {report.seconds:.3f} s: {report.reads} reads, "
            f"{count} groups: {spent:.0f} us in all, {spent / report.seconds / 1e4:.4f} % of the load, "
            f"{spent / report.tensors * 1e3:.1f} ns a tensor"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
