"""128 requests in flight end by `close` and by Ctrl-C without a rest; few descriptors mean few connections."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runai_model_streamer import S3Credentials, SafetensorsStreamer
from runai_model_streamer.errors import StreamerError
from tests.checkpoints import PATIENCE, numbered, write
from tests.servers import FaultServer, stall_after

CONNECTIONS = 128
URLS = ["s3://bucket/model"] * 160

pytestmark = pytest.mark.usefixtures("aws_files")

CHILD = """
import contextlib, os, sys, threading, time
import torch
from runai_model_streamer import S3Credentials, SafetensorsStreamer
endpoint, urls = sys.argv[1], sys.argv[2:]
def left():
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the list itself
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    # Some releases of libraries keep /dev/urandom open.
    return threading.active_count(), sorted(name for name in names if not name.startswith("/dev/"))
before = left()
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(urls, S3Credentials("a key", "a secret", endpoint=endpoint))
        print("streaming", flush=True)
        for _ in streamer.get_tensors():
            pass
except KeyboardInterrupt:
    end = time.monotonic() + float(os.environ["PATIENCE"])
    while (after := left()) != before and time.monotonic() < end:
        time.sleep(0.01)
    print("interrupted", "nothing left" if after == before else f"{before} {after}", flush=True)
"""

FEW = """
import resource, sys
import torch
from runai_model_streamer import S3Credentials, SafetensorsStreamer
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[2:], S3Credentials("a key", "a secret", endpoint=sys.argv[1]))
    sums = [int(tensor.view(torch.uint8).sum(dtype=torch.int64)) for _, tensor in streamer.get_tensors()]
    print(sums, streamer.report.settings.concurrency)
"""


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FaultServer:
    """Serves the beginnings of objects, which is what opening asks for, and nothing else."""
    monkeypatch.setenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    monkeypatch.setenv("RUNAI_STREAMER_CONNECTIONS", str(CONNECTIONS))
    server = FaultServer()
    server.put("bucket", "model", write(tmp_path / "model", numbered([500_000])).read_bytes())
    server.choose = lambda request: stall_after(1000) if request.span and request.span[0] else None
    return server


def await_stalls(server: FaultServer) -> None:
    for _ in range(CONNECTIONS):
        assert server.stalled.acquire(timeout=PATIENCE)


def left() -> tuple[set[str], int]:
    ours = {thread.name for thread in threading.enumerate() if "runai" in thread.name or "reader" in thread.name}
    return ours, len(os.listdir("/proc/self/fd"))


def test_closing_leaves_no_thread_and_no_descriptor(stalling: FaultServer) -> None:
    with stalling as server:
        before = left()
        streamer = SafetensorsStreamer()
        streamer.stream_files(URLS, S3Credentials("a key", "a secret", endpoint=server.endpoint))
        tensors = streamer.get_tensors()
        await_stalls(server)
        assert len(left()[0]) >= CONNECTIONS
        streamer.close()
        # The server of the test has a descriptor for each connection too, until its thread notices.
        end = time.monotonic() + PATIENCE
        while left() != before and time.monotonic() < end:
            time.sleep(0.01)
        assert left() == before
        with pytest.raises(StreamerError):
            next(tensors)


def test_ctrl_c_leaves_no_thread_and_no_descriptor(stalling: FaultServer) -> None:
    with stalling as server:
        environment = os.environ | {"PATIENCE": str(PATIENCE)}
        command = [sys.executable, "-c", CHILD, server.endpoint, *URLS]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "streaming\n"
            await_stalls(server)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=PATIENCE)[0] == "interrupted nothing left\n"


@pytest.mark.parametrize("transport", ["curl", "boto3"])
def test_a_process_that_may_open_64_files_loads_with_fewer_connections(tmp_path: Path, transport: str) -> None:
    path = write(tmp_path / "model", numbered([500_000, 3, 2_000_000]))
    data = [int(tensor.view(torch.uint8).sum(dtype=torch.int64)) for tensor in load_file(path).values()]
    environment = os.environ | {
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_TRANSPORT": transport,
    }
    with FaultServer() as server:
        server.put("bucket", "model", path.read_bytes())
        command = [sys.executable, "-c", FEW, server.endpoint, *["s3://bucket/model"] * 20]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    sums, _, connections = done.stdout.rpartition(" ")
    assert sums == str(data * 20)
    assert 1 <= int(connections) <= 8
