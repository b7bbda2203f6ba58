"""What runs at the same time on a real GPU, and in which order: copies beside reads, tensors on the caller's stream."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.origins import Origin
from tests.checkpoints import PATIENCE, raw, stored, write
from tests.gpu.marks import only_a_gpu

MIB = 1 << 20
TENSORS = {f"t{index}": stored("U8", (8 * MIB + index,), index) for index in range(32)}
CYCLES = 50_000_000
"""Of the GPU's clock, some 30 ms: long enough that whoever does not wait is early."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "model.safetensors", TENSORS)


@pytest.fixture(autouse=True)
def _staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "0")


def wrong(loaded: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in TENSORS.items() if raw(loaded[name].cpu()) != tensor.data]


class Copies:
    """The copies that a trace of torch's profiler shows."""

    def __init__(self, trace: Path) -> None:
        content = json.loads(trace.read_text())
        base = content.get("baseTimeNanoseconds", 0)
        events = [event for event in content["traceEvents"] if event.get("cat") == "gpu_memcpy"]
        copies = [event for event in events if "HtoD" in event["name"]]
        self.names = {event["name"] for event in copies}
        self.streams = {event["args"]["stream"] for event in copies}
        self.spans = [(base + event["ts"] * 1e3, base + (event["ts"] + event["dur"]) * 1e3) for event in copies]
        """Start and end of each, in nanoseconds of the system's clock."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Start and end of every read of a file, in nanoseconds of the system's clock."""
    spans: list[tuple[float, float]] = []
    read_into = FileSource.read_into

    def timed(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        began = time.time_ns()
        origin = read_into(self, offset, buffer)
        spans.append((began, time.time_ns()))
        return origin

    # Runs on a GPU only, where a source that is handed in has not been tried yet.
    monkeypatch.setattr(FileSource, "read_into", timed)
    return spans


@only_a_gpu("the profiler of a GPU, CUPTI, tells what runs when")
def test_copies_run_beside_reads_from_pinned_memory_on_a_stream_of_their_own(
    streamer: SafetensorsStreamer,
    checkpoint: Path,
    device: torch.device,
    reads: list[tuple[float, float]],
    tmp_path: Path,
) -> None:
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        # The consumer's own work tells its stream's number.
        torch.zeros(1).pin_memory().to(device)
        own = tmp_path / "own.json"
    profile.export_chrome_trace(str(own))
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        streamer.stream_files([str(checkpoint)], device=str(device))
        loaded = dict(streamer.get_tensors())
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(tmp_path / "load.json"))
    assert wrong(loaded) == []
    copies = Copies(tmp_path / "load.json")
    assert copies.names == {"Memcpy HtoD (Pinned -> Device)"}
    assert copies.streams.isdisjoint(Copies(own).streams)
    beside = sum(any(began < end and start < ended for start, end in reads) for began, ended in copies.spans)
    assert beside > len(copies.spans) // 2, f"{beside} of {len(copies.spans)} copies ran while a read was under way"


def test_the_first_tensor_is_on_the_gpu_before_the_last_is_read(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()
    read_into = FileSource.read_into
    gated = checkpoint.stat().st_size - 8 * MIB

    def wait_at_the_end(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        if offset >= gated:
            assert arrived.wait(PATIENCE), "the first tensor waits for the last read"
        return read_into(self, offset, buffer)

    # Runs on a GPU only, where a source that is handed in has not been tried yet.
    monkeypatch.setattr(FileSource, "read_into", wait_at_the_end)
    streamer.stream_files([str(checkpoint)], device=str(device))
    loaded: dict[str, torch.Tensor] = {}
    for name, tensor in streamer.get_tensors():
        loaded[name] = tensor
        if not arrived.is_set():
            assert raw(tensor.cpu()) == TENSORS[name].data
            arrived.set()
    assert wrong(loaded) == []


@pytest.fixture
def side(device: torch.device) -> Iterator[torch.cuda.Stream]:
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        yield stream


@pytest.mark.usefixtures("nothing_left")
def test_a_caller_on_a_side_stream_reads_what_has_landed(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device, side: torch.cuda.Stream
) -> None:
    streamer.stream_files([str(checkpoint)], device=str(device))
    # No synchronise in between: each clone is enqueued on the side stream as soon as the tensor is yielded.
    cloned = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
    side.synchronize()
    assert wrong(cloned) == []


@pytest.mark.usefixtures("nothing_left")
def test_memory_that_the_caller_dropped_is_not_reused_while_its_stream_still_reads_it(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device, side: torch.cuda.Stream
) -> None:
    cloned = {}
    streamer.stream_files([str(checkpoint)], device=str(device))
    for name, tensor in streamer.get_tensors():
        # The clone runs late; by then the tensor is gone, and later groups look for memory.
        torch.cuda._sleep(CYCLES)  # noqa: SLF001 - torch's own tests use it so
        cloned[name] = tensor.clone()
        del tensor
    side.synchronize()
    assert wrong(cloned) == []


@pytest.mark.usefixtures("nothing_left")
def test_a_stream_that_was_taken_up_in_the_middle_of_a_load_is_waited_for_too(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device
) -> None:
    cloned = {}
    streams = [torch.cuda.Stream(device) for _ in range(3)]
    streamer.stream_files([str(checkpoint)], device=str(device))
    tensors = streamer.get_tensors()
    for index in range(len(TENSORS)):
        with torch.cuda.stream(streams[index % len(streams)]):
            name, tensor = next(tensors)
            torch.cuda._sleep(CYCLES)  # noqa: SLF001
            cloned[name] = tensor.clone()
            del tensor
    for stream in streams:
        stream.synchronize()
    assert wrong(cloned) == []


@pytest.mark.usefixtures("nothing_left")
def test_what_was_pending_on_memory_does_not_overwrite_what_is_loaded_into_it(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device
) -> None:
    # Freed with work pending on the current stream: torch hands it out again at once, in that stream's order.
    earlier = torch.empty(256 * MIB, dtype=torch.uint8, device=device)
    torch.cuda._sleep(CYCLES)  # noqa: SLF001
    earlier.fill_(0xEE)
    del earlier
    streamer.stream_files([str(checkpoint)], device=str(device))
    loaded = dict(streamer.get_tensors())
    torch.cuda.synchronize()
    assert wrong(loaded) == []


@pytest.mark.usefixtures("nothing_left")
def test_a_load_that_fails_with_copies_pending_leaves_no_memory_behind(
    checkpoint: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_into = FileSource.read_into

    def fail_half_way(self: FileSource, offset: int, buffer: memoryview) -> Origin:
        if offset > 128 * MIB:
            raise ReadError("planted")
        return read_into(self, offset, buffer)

    # Runs on a GPU only, where a source that is handed in has not been tried yet.
    monkeypatch.setattr(FileSource, "read_into", fail_half_way)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device=str(device))
        with pytest.raises(ReadError, match="planted"):
            sum(tensor.numel() for _name, tensor in streamer.get_tensors())
