"""The verdict in words: what bound a load, and the setting that would change it."""

from typing import Final

from runai_model_streamer.report.load_report import Bound, LoadReport
from runai_model_streamer.settings.units import rate_text, setting_text, size_text

SETUP: Final[tuple[Bound, ...]] = ("imports", "compiling", "credentials", "connecting")
"""The stages of `SetupSeconds`."""


def sentence(report: LoadReport, bound: Bound, share: float) -> str:
    """Return the verdict as a sentence, with the setting that would change it."""
    what, advice = {
        "storage": _storage,
        "network": _network,
        "cpu": _cpu,
        "copy": _copy,
        "memory": _memory,
        "caller": _caller,
        "imports": _imports,
        "compiling": _compiling,
        "credentials": _credentials,
        "connecting": _connecting,
    }[bound](report)
    name = {"cpu": "CPU", "memory": "memory limit", "copy": f"copy to {report.device}"}.get(bound, bound)
    by = name if bound in SETUP else f"the {name}"
    return f"Bound by {by}: {share:.0%} of {seconds_text(report.seconds)} {what}; {advice}."


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
    what = f"went into waiting for object storage, read at {_rate(report)} over {_connections(report)}{again}"
    if report.plan_seconds > report.wait_seconds:
        files = "a file" if report.files == 1 else f"{report.files} files"
        what = f"went into waiting for object storage, most of it to open {files}{again}"
    if advice := _paced(report):
        return what, advice
    return what, _more_connections(report)


def _connections(report: LoadReport) -> str:
    counts = [count for _, count in report.connections] or [report.readers]
    if max(counts) == counts[-1]:
        return f"{counts[-1]} connections"
    return f"up to {max(counts)} connections, {counts[-1]} at the end"


def _more_connections(report: LoadReport) -> str:
    connections = report.connections[-1][1] if report.connections else report.readers
    if report.connections_held_by == "refused":
        return (
            f"the store refused requests or did not answer, so that there were {connections} connections at the end: "
            "ask its operator for more requests a second, or spread the objects over more prefixes"
        )
    if report.connections_held_by == "no faster":
        return f"more connections than {connections} were tried, and no faster: the network or the store gives no more"
    if report.connections_held_by == "maximum":
        return (
            f"if the link has more to give, set RUNAI_STREAMER_CONNECTIONS to more than {connections}, and "
            "`ulimit -n` to eight times as much"
        )
    if report.connections_held_by == "cpu":
        return f"its {connections} connections kept the CPUs busy: give the process more of them"
    if report.connections_held_by == "idle":
        return f"its {connections} connections had pauses, waiting for memory or for the caller"
    return f"{connections} connections were used: a longer load finds out whether more are faster"


def _paced(report: LoadReport) -> str | None:
    maximum = report.settings.max_bandwidth
    if maximum is None or report.bytes_read < 0.7 * maximum * report.seconds:
        return None
    return f"RUNAI_STREAMER_MAX_BANDWIDTH={setting_text(maximum)} holds it there: raise it, or leave it out"


def _cpu(report: LoadReport) -> tuple[str, str]:
    spent = report.reader_seconds
    delays = (report.reader_delay_seconds or 0.0) + (report.caller_delay_seconds or 0.0)
    cpus = f"{report.process_cpu_seconds / report.seconds:.1f} CPUs were in use"
    if delays > report.reader_cpu_seconds + report.make_seconds + report.plan_cpu_seconds:
        return f"went into waiting for a CPU ({seconds_text(delays)} in all threads; {cpus} by this process)", (
            "other processes have the rest, or a container's limit does: give the process more CPUs, or end what else "
            "runs on them"
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
    what = f"went into waiting for memory, with {size_text(report.peak_memory)} held at most"
    if settings.memory_limit is None:
        return what, "the machine has no more: drop tensors as they come"
    enough = max(2 * settings.memory_limit, 2 * settings.concurrency * settings.chunk_bytesize)
    whose = f", of this rank; the setting is for all {settings.ranks}" if settings.ranks > 1 else ""
    now = f"now {setting_text(settings.memory_limit)}{whose}"
    return what, f"raise RUNAI_STREAMER_MEMORY_LIMIT ({now}) to {setting_text(enough)}, or leave it out"


def _caller(_: LoadReport) -> tuple[str, str]:
    return "passed in the code that took the tensors", (
        "no setting of the streamer changes that: do less there, or let another thread do it"
    )


def _imports(report: LoadReport) -> tuple[str, str]:
    return _before_reading(report), "a later load in the same process imports nothing: measure that one"


def _compiling(report: LoadReport) -> tuple[str, str]:
    return _before_reading(report), (
        f"kernels that cast to {report.settings.dtype} are compiled once, and kept where NUMBA_CACHE_DIR says: measure "
        "a later load, or leave out dtype="
    )


def _credentials(report: LoadReport) -> tuple[str, str]:
    return _before_reading(report), (
        "credentials in the environment or in a file are found at once; for S3 off AWS, AWS_EC2_METADATA_DISABLED=true "
        "asks no metadata service"
    )


def _connecting(report: LoadReport) -> tuple[str, str]:
    connected = report.reader_connect_seconds
    also = f", and readers connected for {seconds_text(connected)} of their {seconds_text(report.reader_seconds.all)}"
    return _before_reading(report) + (also if connected >= 0.01 * report.seconds else ""), (
        "look at name resolution, proxies and TLS on the way to the store, with `curl -v` and its endpoint; fewer "
        f"connections (RUNAI_STREAMER_CONNECTIONS, now up to {report.settings.concurrency}) are made sooner"
    )


def _before_reading(report: LoadReport) -> str:
    return f"went by before bytes could come ({str(report.setup) or 'connecting'})"


def _rate(report: LoadReport) -> str:
    return rate_text(report.bytes_read, report.seconds)


def seconds_text(seconds: float) -> str:
    """Return seconds with a unit, to milliseconds if below one."""
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
