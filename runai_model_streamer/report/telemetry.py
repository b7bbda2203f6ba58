"""Tells OpenTelemetry of each load, in an application that uses it: a span, and figures to count and plot.

Nothing is imported for it. An application that wants spans has imported the API before it loads a model; for the others
this costs a look into `sys.modules`. Prometheus gets the figures from OpenTelemetry's exporter for it.
"""

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from runai_model_streamer.report.load_report import LoadReport

_SCOPE: Final = "runai_model_streamer"
_FIGURES: Final = (
    *("outcome", "device", "files", "tensors", "bytes", "bytes_read", "reads", "retries", "peak_memory", "bound_by"),
    *("plan_seconds", "wait_seconds", "caller_seconds"),
)
"""Fields of the report that become attributes of the span."""


def tell_telemetry(make_report: Callable[[], LoadReport]) -> None:
    """Make a span of a load that has ended, below the span that is current, and count the load.

    Both hold counts, seconds and the device (docs/usage.md). Neither has a path or a message, which may name a bucket:
    the span's status is the type of the error alone.
    """
    trace, metrics = (sys.modules.get(f"opentelemetry.{name}") for name in ("trace", "metrics"))
    if trace is None and metrics is None:
        return
    report = make_report()
    if trace is not None:
        _make_span(trace, report)
    if metrics is not None:
        _count(metrics, report)


def _make_span(trace: Any, report: LoadReport) -> None:
    ended = time.time_ns()
    span = trace.get_tracer(_SCOPE).start_span(
        f"{_SCOPE}.load", start_time=ended - int(report.seconds * 1e9), attributes=_attributes(report)
    )
    if report.error is not None:
        kind = report.error.partition(":")[0]
        span.set_attribute("error.type", kind)
        span.set_status(trace.Status(trace.StatusCode.ERROR, kind))
    span.end(end_time=ended)


def _attributes(report: LoadReport) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {f"{_SCOPE}.{name}": getattr(report, name) for name in _FIGURES}
    if report.first_tensor_seconds is not None:
        found[f"{_SCOPE}.first_tensor_seconds"] = report.first_tensor_seconds
    return found


def _count(metrics: Any, report: LoadReport) -> None:
    read, seconds = _instruments(metrics)
    read.add(report.bytes, {"device": report.device})
    seconds.record(report.seconds, {"device": report.device, "outcome": report.outcome})


@cache
def _instruments(metrics: Any) -> tuple[Any, Any]:
    # Once: the SDK warns of an instrument that is made again. They also serve a provider that is set later.
    meter = metrics.get_meter(_SCOPE)
    return (
        meter.create_counter(f"{_SCOPE}.bytes", "By", "Bytes of the tensors that were yielded"),
        meter.create_histogram(f"{_SCOPE}.seconds", "s", "Seconds from the call that starts a load to its end"),
    )
