"""Finds the bottleneck of a load, from shares of its wall-clock time.

The caller's thread does one thing at a time, and `LoadReport` has the seconds of each. They count for:

- The caller's own code: the caller.
- Making tensors, and placing them on the host (joining parts, casting): the CPU. Placing them on a device, and closing
  a load there, which waits for queued copies: the copy.
- Opening and planning until a client of object storage exists (imports, compilation, credentials): the set-up.
- The rest of opening and planning: the CPU for the thread's CPU time, and the network or the storage for the rest.
- Waiting for bytes: divided by the readers' activities at that time, in thread-seconds. Waiting for memory counts for
  the memory limit, waiting for a pinned slot for the copy (for the limit, if that leaves fewer slots than readers), and
  casting for the CPU. Reading counts for the CPU for the part in which reader threads were on a CPU or waited for one
  (`/proc/thread-self/schedstat`), and for the rest for the network (objects) or the storage (files). If the kernel does
  not report it, reads from the page cache count for the CPU, as do buffered reads faster than a disk. Idle readers do
  not count.
- Time that the caller's thread waited for a CPU: the CPU, not the caller.

The largest share is the verdict.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from runai_model_streamer.origins import MEMORY_SPEED
from runai_model_streamer.report.load_report import Bound, LoadReport

TOO_SHORT: Final = 0.05
"""Seconds below which a load has no verdict: starting and stopping threads takes as long."""

_BOUNDS: Final[tuple[Bound, ...]] = ("storage", "network", "cpu", "copy", "memory", "caller", "setup")


class Verdict(NamedTuple):
    """The bottleneck of a load."""

    bound_by: Bound
    sentence: str
    shares: Mapping[str, float]
    """Shares of the load's seconds for each bottleneck; empty if the load was too short."""


def judge(report: LoadReport) -> Verdict:
    """Return the load's bottleneck up to now. Pure: it depends on the report alone."""
    if report.seconds < TOO_SHORT:
        text = f"Too short to tell what bound it: {_seconds(report.seconds)} in all."
        return Verdict("too short", text, {})
    seconds = _divided(report)
    all_seconds = sum(seconds.values())
    shares: dict[str, float] = {bound: seconds[bound] / all_seconds for bound in _BOUNDS}
    bound = max(_BOUNDS, key=lambda each: shares[each])
    return Verdict(bound, sentence(report, bound, shares[bound]), shares)


def _divided(report: LoadReport) -> dict[Bound, float]:
    """Return the load's seconds for each bottleneck."""
    found: dict[Bound, float] = dict.fromkeys(_BOUNDS, 0.0)
    placed_on: Bound = "cpu" if report.device == "cpu" else "copy"
    found["cpu"] += report.make_seconds
    found[placed_on] += report.place_seconds + report.close_seconds
    setup = min(report.setup_seconds, report.plan_seconds)
    found["setup"] += setup
    # Its CPU time is counted with the rest of the caller's thread, if that did it.
    planned = min(max(report.plan_cpu_seconds - setup, 0.0), report.plan_seconds - setup)
    found["cpu"] += planned
    found["network" if _is_remote(report) else "storage"] += report.plan_seconds - setup - planned
    for bound, part in _in_wait(report).items():
        found[bound] += part * report.wait_seconds
    delay = min(report.caller_delay_seconds or 0.0, report.caller_seconds)
    found["cpu"] += delay
    found["caller"] += report.caller_seconds - delay
    return found


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
    found: dict[Bound, float] = {
        "storage": (1 - on_cpu) * files,
        "network": (1 - on_cpu) * network,
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


def sentence(report: LoadReport, bound: Bound, share: float) -> str:
    """Return the verdict as a sentence, with the setting that would change it."""
    what, advice = {
        "storage": _storage,
        "network": _network,
        "cpu": _cpu,
        "copy": _copy,
        "memory": _memory,
        "caller": _caller,
        "setup": _setup,
    }[bound](report)
    name = {"cpu": "CPU", "memory": "memory limit", "copy": f"copy to {report.device}"}.get(bound, bound)
    return f"Bound by the {name}: {share:.0%} of {_seconds(report.seconds)} {what}; {advice}."


def _storage(report: LoadReport) -> tuple[str, str]:
    what = f"went into waiting for files, read at {_rate(report)}"
    settings = report.settings
    if advice := _paced(report):
        return what, advice
    if report.bytes_from.buffered > report.bytes_from.disk and settings.direct_io != "1":
        return what, (
            "RUNAI_STREAMER_DIRECT_IO=1 reads past the page cache, which most file systems on local disks do faster; "
            f"for network mounts, raise RUNAI_STREAMER_CONCURRENCY (now {settings.concurrency})"
        )
    return what, f"if the disk has more to give, raise RUNAI_STREAMER_CONCURRENCY (now {settings.concurrency})"


def _network(report: LoadReport) -> tuple[str, str]:
    settings = report.settings
    again = f", {report.retries} requests made again" if report.retries else ""
    if settings.transport is None and settings.ranks > 1:
        what = f"went into waiting for other ranks, at {_rate(report)}"
        return what, "RUNAI_STREAMER_DIST=0 has each rank read everything itself, which a fast disk does faster"
    what = f"went into waiting for object storage, read at {_rate(report)} in {report.readers} requests at once{again}"
    if report.plan_seconds > report.wait_seconds:
        what = f"went into waiting for object storage, most of it to open {report.files} files{again}"
    if advice := _paced(report):
        return what, advice
    return what, (
        f"if the link has more to give, raise RUNAI_STREAMER_CONCURRENCY (now {settings.concurrency}, "
        f"try {2 * settings.concurrency})"
    )


def _paced(report: LoadReport) -> str | None:
    maximum = report.settings.max_bandwidth
    if maximum is None or report.bytes_read < 0.7 * maximum * report.seconds:
        return None
    return f"RUNAI_STREAMER_MAX_BANDWIDTH={maximum} holds it there: raise it, or leave it out"


def _cpu(report: LoadReport) -> tuple[str, str]:
    spent = report.reader_seconds
    delays = (report.reader_delay_seconds or 0.0) + (report.caller_delay_seconds or 0.0)
    cpus = f"{report.process_cpu_seconds / report.seconds:.1f} CPUs were in use"
    if delays > report.reader_cpu_seconds + report.make_seconds + report.plan_cpu_seconds:
        return f"went into waiting for a CPU ({_seconds(delays)} in all threads; {cpus} by this process)", (
            "other processes have the rest, or a container's limit does: give the process more CPUs, or end what else "
            "runs on them"
        )
    if report.settings.dtype is not None and report.plan_cpu_seconds > 0.5 * report.seconds:
        return f"went into opening files and making ready to cast to {report.settings.dtype} ({cpus})", (
            "numba is imported for that, and its kernels loaded, once in a process: a later load does without"
        )
    if report.place_seconds + report.make_seconds + report.plan_cpu_seconds > 0.5 * report.seconds:
        return f"went into opening files and making {report.total_tensors} tensors, one after the other ({cpus})", (
            "no setting of the streamer changes that: fewer, larger tensors would"
        )
    if spent.cast > spent.read:
        return f"went into casting to {report.settings.dtype} ({cpus})", (
            "leave out dtype= and cast on the device, or give the process more CPUs"
        )
    if spent.object_storage > spent.page_cache + spent.buffered and report.settings.verify:
        return f"went into receiving and checking bytes ({cpus})", "RUNAI_STREAMER_VERIFY=0 leaves out the checksums"
    if spent.object_storage > spent.page_cache + spent.buffered:
        boto3 = (report.settings.transport or "").startswith("boto3")
        return f"went into receiving bytes ({cpus})", (
            "RUNAI_STREAMER_S3_TRANSPORT=curl takes less of it" if boto3 else "give the process more CPUs"
        )
    return f"went into copying bytes from the page cache, at {_rate(report)} ({cpus})", (
        "no setting of the streamer changes that: give the process more CPUs; tensors that are dropped as they come "
        "cost less than those that are kept, for which fresh memory has to be made"
    )


def _copy(report: LoadReport) -> tuple[str, str]:
    if report.place_seconds > report.wait_seconds and report.device.startswith("cuda"):
        return "went into copying tensors one by one", (
            "install the extra [cuda13] or [cuda12], which overlaps copies with reads"
        )
    if report.device.startswith("cuda"):
        return f"went into waiting for copies over the bus, at {_rate(report)}", (
            "RUNAI_STREAMER_GDS=1 reads past host memory, where the machine has GPUDirect Storage"
        )
    return "went into copying tensors one by one", "no setting of the streamer changes that"


def _memory(report: LoadReport) -> tuple[str, str]:
    settings = report.settings
    what = f"went into waiting for memory, with {report.peak_memory} bytes held at most"
    if settings.memory_limit is None:
        return what, "the machine has no more: drop tensors as they come"
    enough = max(2 * settings.memory_limit, 2 * settings.concurrency * settings.chunk_bytesize)
    whose = f", of this rank; the setting is for all {settings.ranks}" if settings.ranks > 1 else ""
    return what, f"raise RUNAI_STREAMER_MEMORY_LIMIT (now {settings.memory_limit}{whose}) to {enough}, or leave it out"


def _caller(_: LoadReport) -> tuple[str, str]:
    return "passed in the code that took the tensors", (
        "no setting of the streamer changes that: do less there, or let another thread do it"
    )


def _setup(_: LoadReport) -> tuple[str, str]:
    return "went into importing boto3 and finding credentials before the first request", (
        "a later load in the same process does without: measure that, or import boto3 beforehand"
    )


def _rate(report: LoadReport) -> str:
    return f"{report.bytes_read / report.seconds / 1e9:.2f} GB/s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
