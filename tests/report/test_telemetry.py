"""A load in an application that uses OpenTelemetry: a span, and figures, without paths."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import numbered, write

APPLICATION = """
import sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from runai_model_streamer import SafetensorsStreamer

spans, figures = InMemorySpanExporter(), InMemoryMetricReader()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
metrics.set_meter_provider(MeterProvider([figures]))

def load(path, most):
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        for number, _ in enumerate(streamer.get_tensors(), 1):
            if number == most:
                break

with trace.get_tracer("application").start_as_current_span("start") as parent:
    load(sys.argv[1], 9)
load(sys.argv[1], 1)
try:
    load(sys.argv[1] + ".missing", 1)
except FileNotFoundError:
    pass

whole, left, failed = [span for span in spans.get_finished_spans() if span.name == "runai_model_streamer.load"]
said = whole.attributes
assert whole.parent.span_id == parent.get_span_context().span_id
assert (said["runai_model_streamer.tensors"], said["runai_model_streamer.bytes"]) == (3, 600), dict(said)
assert said["runai_model_streamer.outcome"] == "complete" and whole.status.is_unset
assert 0 < whole.end_time - whole.start_time < 60e9
assert left.attributes["runai_model_streamer.outcome"] == "abandoned"
assert failed.attributes["error.type"] == failed.status.description == "NotFoundError"
assert not failed.status.is_ok and not failed.status.is_unset
assert not [value for span in (whole, left, failed) for value in span.attributes.values() if sys.argv[1] in str(value)]

found = {
    metric.name: metric.data.data_points
    for scope in figures.get_metrics_data().resource_metrics[0].scope_metrics
    for metric in scope.metrics
}
assert sum(point.value for point in found["runai_model_streamer.bytes"]) >= 600
counts = {point.attributes["outcome"]: point.count for point in found["runai_model_streamer.seconds"]}
assert counts == {"complete": 1, "abandoned": 1, "failed": 1}, counts
"""


def run(program: str, path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def test_each_load_is_a_span_and_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    run(APPLICATION, write(tmp_path / "a.safetensors", numbered([100, 200, 300])))


def test_an_application_without_it_does_not_import_it(tmp_path: Path) -> None:
    load = "import sys; from runai_model_streamer import load_file; load_file(sys.argv[1])"
    check = "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    run(f"{load}; {check}", write(tmp_path / "a.safetensors", numbered([100])))
