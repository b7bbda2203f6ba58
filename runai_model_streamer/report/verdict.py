"""Finds the bottleneck of a load, from shares of its wall-clock time.

The caller's thread does one thing at a time, and `LoadReport` has the seconds of each. They count for:

- The caller's own code: the caller.
- Making tensors, and placing them on the host (joining parts, casting): the CPU. Placing them on a device, and closing
  a load there, which waits for queued copies: the copy.
- Imports, compiling casts, finding credentials, and connecting: each for itself. They are the verdict if they took most
  of the time together, since more CPUs or reads in flight would hardly change them.
- The rest of opening and planning: the CPU for the thread's CPU time, and the network or the storage for the rest.
- Waiting for bytes: divided by the readers' activities at that time, in thread-seconds. Waiting for memory counts for
  the memory limit, waiting for a pinned slot for the copy (for the limit, if that leaves fewer slots than readers), and
  casting for the CPU. Reading counts for the CPU for the part in which reader threads were on a CPU or waited for one
  (`/proc/thread-self/schedstat`), and for the rest for the network (objects) or the storage (files). If the kernel does
  not report it, reads from the page cache count for the CPU, as do buffered reads faster than a disk. Idle readers do
  not count. Of reads of objects, the part in which readers connected counts for connecting.
- Time that the caller's thread waited for a CPU: the CPU, not the caller.
- What would count for the CPU beyond the CPU time of the whole process, and its threads' waits for a CPU, was something
  else, such as reads that a close waited for: it counts for the network or the storage. This needs the kernel's report.

The largest share is the verdict.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from runai_model_streamer.origins import MEMORY_SPEED
from runai_model_streamer.report.advice import SETUP, seconds_text, sentence
from runai_model_streamer.report.load_report import Bound, LoadReport

TOO_SHORT: Final = 0.05
"""Seconds below which a load has no verdict: starting and stopping threads takes as long."""

_BOUNDS: Final[tuple[Bound, ...]] = ("storage", "network", "cpu", "copy", "memory", "caller", *SETUP)


class Verdict(NamedTuple):
    """The bottleneck of a load."""

    bound_by: Bound
    sentence: str
    shares: Mapping[str, float]
    """Shares of the load's seconds for each bottleneck; empty if the load was too short."""


def judge(report: LoadReport) -> Verdict:
    """Return the load's bottleneck up to now. Pure: it depends on the report alone."""
    if report.seconds < TOO_SHORT:
        text = f"Too short to tell what bound it: {seconds_text(report.seconds)} in all."
        return Verdict("too short", text, {})
    seconds = _divided(report)
    all_seconds = sum(seconds.values())
    shares: dict[str, float] = {bound: seconds[bound] / all_seconds for bound in _BOUNDS}
    bound = max(_BOUNDS, key=lambda each: shares[each])
    share = sum(shares[each] for each in SETUP)
    if bound in SETUP or share > shares[bound]:
        bound = max(SETUP, key=lambda each: shares[each])
    else:
        share = shares[bound]
    return Verdict(bound, sentence(report, bound, share), shares)


def _divided(report: LoadReport) -> dict[Bound, float]:
    """Return the load's seconds for each bottleneck."""
    found: dict[Bound, float] = dict.fromkeys(_BOUNDS, 0.0)
    placed_on: Bound = "cpu" if report.device == "cpu" else "copy"
    found["cpu"] += report.make_seconds
    found[placed_on] += report.place_seconds + report.close_seconds
    # Readers set up what was not needed to open the files.
    setup = report.setup
    in_plan = min(setup.all, report.plan_seconds)
    in_wait = min(setup.all - in_plan, report.wait_seconds)
    for stage in SETUP:
        found[stage] += getattr(setup, stage) * (in_plan + in_wait) / (setup.all or 1.0)
    # The CPU time of imports and compiling is in that of the caller's thread, if that did it.
    plan = report.plan_seconds - in_plan
    planned = min(max(report.plan_cpu_seconds - setup.imports - setup.compiling, 0.0), plan)
    found["cpu"] += planned
    waits: Bound = "network" if _is_remote(report) else "storage"
    found[waits] += plan - planned
    for bound, part in _in_wait(report).items():
        found[bound] += part * (report.wait_seconds - in_wait)
    delay = min(report.caller_delay_seconds or 0.0, report.caller_seconds)
    found["cpu"] += delay
    found["caller"] += report.caller_seconds - delay
    idle = max(found["cpu"] - _max_busy(report), 0.0)
    found["cpu"] -= idle
    found[waits] += idle
    return found


def _max_busy(report: LoadReport) -> float:
    """Return the most seconds that can have gone into work on a CPU, or into waiting for one; infinite if unknown."""
    if report.reader_delay_seconds is None and report.readers:
        return math.inf
    return report.process_cpu_seconds + (report.reader_delay_seconds or 0.0) + (report.caller_delay_seconds or 0.0)


def _is_remote(report: LoadReport) -> bool:
    return report.settings.transport is not None or report.settings.ranks > 1


def _in_wait(report: LoadReport) -> dict[Bound, float]:
    """Return the shares of the wait for bytes, by the readers' activities during it."""
    did = report.reader_seconds_in_wait
    active = did.all - did.rest
    if active <= 0:
        # The bytes had landed, and the thread had yet to be woken.
        return {"cpu": 1.0}
    on_cpu = _on_cpu(report)
    copied = did.page_cache + did.cast
    files = did.disk + did.buffered
    if report.reader_delay_seconds is None and _at_memory_speed(report):
        copied, files = copied + did.buffered, did.disk
    network = did.object_storage
    # Assume that the other ranks read from the same kind of source.
    if files > network:
        files += did.other_ranks
    else:
        network += did.other_ranks
    # On a GPU, the memory limit bounds the number of slots.
    slots = did.copy if _is_short_of_slots(report) else 0.0
    spent = report.reader_seconds.object_storage
    connecting = min(report.reader_connect_seconds / spent, 1.0) if spent else 0.0
    found: dict[Bound, float] = {
        "storage": (1 - on_cpu) * files,
        "network": (1 - on_cpu) * network * (1 - connecting),
        "connecting": (1 - on_cpu) * network * connecting,
        "cpu": copied + on_cpu * (files + network),
        "copy": did.copy - slots,
        "memory": did.memory + slots,
    }
    return {bound: part / active for bound, part in found.items()}


def _on_cpu(report: LoadReport) -> float:
    """Return the share of reads, except page cache copies, in which readers were on a CPU or waited for one."""
    spent = report.reader_seconds
    reads = spent.read - spent.page_cache
    if reads <= 0:
        return 0.0
    running = report.reader_cpu_seconds + (report.reader_delay_seconds or 0.0)
    return min(max((running - spent.cast - spent.page_cache) / reads, 0.0), 1.0)


def _at_memory_speed(report: LoadReport) -> bool:
    return report.bytes_from.buffered > MEMORY_SPEED * report.reader_seconds.buffered


def _is_short_of_slots(report: LoadReport) -> bool:
    settings = report.settings
    return settings.memory_limit is not None and settings.memory_limit < report.readers * settings.chunk_bytesize
