"""`runai-streamer tune` finds the concurrency, chunk and memory limit that load these files fastest."""

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from runai_model_streamer.cli.arguments import CACHE, Subcommands, add_command, add_device, add_paths, seconds
from runai_model_streamer.cli.interrupts import ended_by_ctrl_c
from runai_model_streamer.cli.output import (
    Column,
    described,
    write_json,
    write_line,
    write_pairs,
    write_table,
)
from runai_model_streamer.cli.progress import status
from runai_model_streamer.cli.targets import find_files
from runai_model_streamer.cli.tune.search import WORTH, Found, Setting, Tried, candidates, search
from runai_model_streamer.config import UNLIMITED
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.report.load_report import BytesFrom
from runai_model_streamer.settings.environment import environment
from runai_model_streamer.settings.units import rate_text, setting_text, size_text

if TYPE_CHECKING:
    from runai_model_streamer.cli.tune.trials import Trials

_BUDGET: Final = 60.0
"""Default budget in seconds."""

_RUNS: Final = 30
"""Number of runs that the budget should allow."""

_MIN_RUN: Final = 0.25
"""The shortest run in seconds. In a shorter one, start and end would dominate."""

_ALL: Final = 0.98
"""Share of bytes from which one origin counts as the only one."""


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "tune",
        run,
        "find the concurrency, chunk and memory limit that load these files fastest",
        "Loads as much of the files as the budget allows, repeatedly, with different settings, in turns with the "
        "current one. Prints a table, and export lines for a setting that is clearly faster, if there is one.\n"
        "The result depends on whether the files are in the page cache; the output says so.",
    )
    add_paths(parser)
    parser.add_argument("--budget", type=seconds, default=_BUDGET, metavar="SECONDS", help="default: %(default)g")
    add_device(parser)
    parser.add_argument(
        "--cold",
        action="store_true",
        help="evict the files from the page cache before each run (posix_fadvise; slows other readers of these files)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Search for the fastest setting. Return exit code 0 even if it is the current one."""
    with environment({CACHE: None}):  # each run has to read the same
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    with ended_by_ctrl_c():
        from runai_model_streamer.cli.tune.trials import Trials, current, min_chunk, read_checkpoint

    started = time.perf_counter()
    ends = started + arguments.budget
    paths = find_files(arguments.paths)
    checkpoint = read_checkpoint(paths)
    if not checkpoint.bytes:
        raise ArgumentError("there are no tensors with any bytes to load", where=arguments.paths[0])
    default = current(paths)
    trials = Trials(default, arguments.device, cold=arguments.cold)
    with status() as say:
        say("warming up")
        target = max(arguments.budget / _RUNS, _MIN_RUN)
        trials.warm_up(checkpoint, target)
        others = candidates(default, min_chunk(paths), checkpoint.largest)

        def measure(setting: Setting, maximum: float) -> tuple[float, float]:
            left = max(ends - time.perf_counter(), 0)
            chunk = setting_text(setting.chunk)
            say(f"{left:.0f} s left: concurrency {setting.concurrency}, chunk {chunk}, {_limit(setting)}")
            return trials(setting, maximum)

        found = search(default, others, measure, ends, time.perf_counter)
    if not found.default.runs:
        raise ArgumentError(f"--budget {arguments.budget:g}: the warm-up took all of it", remedy="give more seconds")
    spent = time.perf_counter() - started
    if arguments.json:
        write_json(_document(found, trials, checkpoint.bytes, spent))
    else:
        show(found, trials, checkpoint.bytes, spent)
    return 0


def _state(origins: BytesFrom) -> tuple[str, str]:
    """Return the origin of the measured bytes, as a word and as a sentence."""
    whole = origins.all or 1
    if origins.object_storage >= _ALL * whole:
        return "object storage", "from object storage"
    if origins.disk >= _ALL * whole:
        return "cold", "cold: from the disk, past the page cache, as when files are loaded for the first time"
    if origins.page_cache >= _ALL * whole:
        return "warm", "warm: from the page cache, as when files are loaded again; --cold measures the disk"
    if origins.buffered >= _ALL * whole:
        return "buffered", "through the page cache, where the warm-up left as much as fits"
    parts = {
        "page cache": origins.page_cache,
        "disk": origins.disk,
        "through the page cache": origins.buffered,
        "object storage": origins.object_storage,
    }
    told = ", ".join(f"{100 * count / whole:.0f}% {name}" for name, count in parts.items() if count)
    return "mixed", f"mixed: {told}; for one state, read the files into memory first (cat), or use --cold"


def _limit(setting: Setting) -> str:
    return "no limit" if setting.limit == UNLIMITED else f"limit {setting_text(setting.limit)}"


def _rows(found: Found) -> Iterator[tuple[str, ...]]:
    # Settings with the most runs first: the ratio of a single run says little.
    for each in sorted(found.tried, key=lambda each: (-len(each.runs), -each.ratio(found.default))):
        setting = each.setting
        limit = "none" if setting.limit == UNLIMITED else setting_text(setting.limit)
        shown = (str(setting.concurrency), setting_text(setting.chunk), limit, str(len(each.runs)))
        if each.failure is not None:
            yield *shown, "-", "-", "-", "-", f"failed: {each.failure}"
        elif each.runs:
            speeds = (each.speed, min(each.runs.values()), max(each.runs.values()))
            texts = (rate_text(speed, 1) for speed in speeds)
            yield *shown, *texts, f"{each.ratio(found.default):.2f}", _mark(each, found)


def _mark(each: Tried, found: Found) -> str:
    marks = ("set now", each is found.default), ("best", each is found.best)
    return ", ".join(mark for mark, holds in marks if holds)


def show(found: Found, trials: "Trials", whole: int, spent: float) -> None:
    """Print the table, a summary, and the variables to set.

    Args:
        found: the result of the search.
        trials: the runs of the search.
        whole: bytes of all tensors. The sample is a part of them.
        spent: the seconds that the search took.
    """
    columns = ("concurrency", "chunk", "limit", "runs", "speed", "slowest", "fastest", "ratio")
    write_table([*(Column(title, right=True) for title in columns), Column("")], _rows(found))
    write_line()
    write_pairs(told(found, trials, whole, spent))
    variables = found.best.setting.changes_from(found.default.setting)
    if variables:
        write_line()
    for name, value in variables.items():
        write_line(f"export {name}={value}")


def told(found: Found, trials: "Trials", whole: int, spent: float) -> list[tuple[str, str]]:
    """Return the summary below the table; see `show`."""
    sample = trials.sample.bytes
    part = "" if sample == whole else f", the first of {size_text(whole)}"
    best, default = found.best, found.default
    if best is default:
        percent = f"{100 * WORTH - 100:.0f}%"
        result = f"what is set now is best: nothing was faster by {percent} in nearly every round"
    else:
        speeds = f"{rate_text(best.speed, 1)} instead of {rate_text(default.speed, 1)}"
        result = f"{best.ratio(default):.2f} times as fast as what is set now: {speeds}"
    count = sum(len(each.runs) for each in found.tried)
    return [
        ("measured", _state(trials.origins)[1]),
        ("runs", f"{count} of {size_text(sample)}{part}, in {spent:.0f} s"),
        (
            "ratio",
            "speed divided by that of what is set now in the same round, so that a busy machine slows both; the median",
        ),
        ("result", result),
    ]


def _document(found: Found, trials: "Trials", whole: int, spent: float) -> dict[str, Any]:
    return {
        "seconds": spent,
        "bytes": whole,
        "sample_bytes": trials.sample.bytes,
        "state": _state(trials.origins)[0],
        "default_is_best": found.best is found.default,
        "environment": found.best.setting.changes_from(found.default.setting),
        "default": _described(found.default, found),
        "best": _described(found.best, found),
        "settings": [_described(each, found) for each in found.tried],
    }


def _described(each: Tried, found: Found) -> dict[str, Any]:
    return {
        "concurrency": each.setting.concurrency,
        "chunk_bytesize": each.setting.chunk,
        "memory_limit": each.setting.limit,
        "runs": list(each.runs.values()),
        "bytes_per_second": each.speed,
        "ratio": each.ratio(found.default),
        "error": None if each.failure is None else described(each.failure),
    }
