"""However a load ends, nothing of it is left: threads, file descriptors, and processes that hang."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError
from tests.checkpoints import PATIENCE, encode, numbered, our_threads, write
from tests.servers import Fault, FaultServer, Request, stall_after

ROOT = Path(__file__).parents[1]
STALL = 10 * PATIENCE
"""Seconds that a stalled source takes; a process that ends while the test has patience did not wait for it."""


def script(source: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a Python process."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process."""
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, out, err


# Many loads in one process.


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_sixty_loads_leave_no_thread_and_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    good = write(tmp_path / "good", numbered([300_000] * 8))
    before = _descriptors()
    with SafetensorsStreamer() as streamer:
        for number in range(60):
            bad = write(tmp_path / "bad", numbered([300_000] * 8))
            streamer.stream_files([good, bad] if number % 3 == 0 else [good])
            tensors = streamer.get_tensors()
            if number % 3 == 0:  # fails
                next(tensors)
                os.truncate(bad, 1_000_000)
                with pytest.raises(StreamerError, match="while reading tensor"):
                    list(tensors)
            elif number % 3 == 1:  # is abandoned
                next(tensors)
                del tensors
            else:
                assert len(list(tensors)) == 8
                assert our_threads() == []
                assert _descriptors() <= before
    assert our_threads() == []
    assert _descriptors() <= before


# Ctrl-C.

_STALLED = """
import sys, time
from runai_model_streamer.io.source import Origin
from tests.checkpoints import PREFIX, encode, load_of, numbered
from tests.sources import MemorySource

class Stalled(MemorySource):
    def read_into(self, offset, buffer):
        if offset > 200_000:
            print("stalled", flush=True)
            time.sleep(float(sys.argv[1]))  # in one call that nothing interrupts, as a read of a dead mount
        return super().read_into(offset, buffer)

load = load_of([Stalled("m", encode(numbered([100_000] * 10)))], limit=200_000)
try:
    for name, tensor in load.tensors():
        pass
finally:
    load.close()
"""


def _interrupted(process: subprocess.Popen[str]) -> None:
    """The process has ended by the signal, with no traceback but the main thread's."""
    status, _, err = ended(process)
    assert status == -signal.SIGINT, err
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert not re.search("Exception (ignored )?in", err), err


def test_ctrl_c_ends_a_process_whose_reads_hang() -> None:
    process = script(_STALLED, str(STALL))
    assert process.stdout is not None
    assert process.stdout.readline() == "stalled\n"
    process.send_signal(signal.SIGINT)
    _interrupted(process)


_FROM_S3 = """
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_files(["s3://bucket/model", "s3://bucket/model"])
    for name, tensor in streamer.get_tensors():
        print(name, flush=True)
"""


def _to(server: FaultServer) -> dict[str, str]:
    """The environment of a process that loads from the server, and waits long for it."""
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_TIMEOUT": str(STALL),
    }


def test_ctrl_c_ends_a_process_that_waits_for_s3() -> None:
    data = encode(numbered([1000, 20_000_000]))

    def stall_behind_the_header(request: Request) -> Fault | None:
        return stall_after(1000) if request.span is not None and request.span[0] > 0 else None

    with FaultServer() as server:
        server.put("bucket", "model", data)
        server.choose = stall_behind_the_header
        process = script(
            _FROM_S3,
            **_to(server),
        )
        assert server.stalled.acquire(timeout=PATIENCE)
        process.send_signal(signal.SIGINT)
        _interrupted(process)


# A signal that does not interrupt the wait: it came a moment too early, or the system gave it to another thread.

_IN_ANOTHER_THREAD = """
import os, signal, sys, threading, time

def interrupt():
    os.read(0, 1)
    time.sleep(0.2)  # the wait has begun
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
"""

_WAITS = {
    "load": """
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_files(["s3://bucket/model"])
    list(streamer.get_tensors())
""",
    "open": """
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_files(["s3://bucket/model", "s3://bucket/other", "s3://bucket/third"])
""",
    "pull": """
from runai_model_streamer import pull_files

pull_files("s3://bucket/", sys.argv[1])
""",
    "join": """
from runai_model_streamer.threads.crew import Crew

crew = Crew("tester", "test")
crew.add(lambda: time.sleep(1000))
crew.join()
""",
}


@pytest.mark.parametrize("waits", _WAITS)
def test_ctrl_c_ends_a_wait_that_the_signal_did_not_interrupt(waits: str, tmp_path: Path) -> None:
    header_stalls = waits == "open"

    def stall(request: Request) -> Fault | None:
        in_header = request.span is None or request.span[0] == 0
        return stall_after(0) if request.method == "GET" and request.span and in_header == header_stalls else None

    with FaultServer() as server:
        for name in ("model", "other", "third"):
            server.put("bucket", name, encode(numbered([1000, 20_000_000])))
        server.choose = stall
        process = script(
            _IN_ANOTHER_THREAD + _WAITS[waits],
            str(tmp_path),
            **_to(server),
        )
        assert waits == "join" or server.stalled.acquire(timeout=PATIENCE)
        _interrupted(process)  # whose standard input ends now


# An interpreter that ends with a load in it.

_LEFT_OPEN = """
import sys
from runai_model_streamer import SafetensorsStreamer

streamer = SafetensorsStreamer()
streamer.stream_file(sys.argv[1])
tensors = streamer.get_tensors()
print(next(tensors)[0])
"""


def test_a_process_that_ends_with_a_load_open_ends_quietly(tmp_path: Path) -> None:
    path = write(tmp_path / "m", numbered([3_000_000] * 8))
    status, out, err = ended(script(_LEFT_OPEN, str(path), RUNAI_STREAMER_MEMORY_LIMIT="0"))
    assert (status, out, err) == (0, "t0\n", "")


# Forks.

_FORKED = """
import gc, mmap, os, sys, threading, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from Python 3.12 on
from runai_model_streamer import SafetensorsStreamer, StreamerError

path = sys.argv[1]
streamer = SafetensorsStreamer()
streamer.stream_file(path)
tensors = streamer.get_tensors()
name, kept = next(tensors)

# The worst moment: a reader holds the locks that the child would need, and is not there to release them.
held, go = threading.Event(), threading.Event()

def hold():
    load = streamer._load
    with load._lifecycle._changed, load._landing._pool._lock, load._feed._resting:
        held.set()
        go.wait()

holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
child = os.fork()
if not child:
    refused = 0
    for call in (lambda: streamer.stream_file(path), streamer.get_tensors, streamer.__enter__, lambda: next(tensors)):
        try:
            call()
        except StreamerError as error:
            refused += "fork" in str(error)
    right = bool((kept == 0).all())
    streamer.close()
    del streamer, tensors, kept, call
    gc.collect()
    # Where hidden slabs were in the parent, the child may have mapped something else, which must stay.
    fresh = [mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(32)]
    for each in fresh:
        each[:] = b"x" * len(each)
    with SafetensorsStreamer() as new:
        new.stream_file(path)
        values = [int(tensor[0]) for _, tensor in new.get_tensors()]
    whole = all(each[-1] == ord("x") for each in fresh)
    print(refused, right, values, whole, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
go.set()
holder.join()
rest = [int(tensor.max()) for _, tensor in tensors]
streamer.close()
print(status, rest, int(kept.max()))
"""


def test_after_a_fork_the_childs_streamer_is_refused_and_a_new_one_works(tmp_path: Path) -> None:
    path = tmp_path / "m"
    tensors = numbered([3_000_000] * 4)
    filled = {name: each._replace(data=bytes([n]) * 3_000_000) for n, (name, each) in enumerate(tensors.items())}
    write(path, filled)
    status, out, err = ended(script(_FORKED, str(path), RUNAI_STREAMER_MEMORY_LIMIT="7000000"))
    assert (status, err) == (0, "")
    assert out.splitlines() == ["4 True [0, 1, 2, 3] True", "0 [1, 2, 3] 0"]


_FORKED_WHILE_FILLING = """
import gc, mmap, os, sys, warnings

warnings.simplefilter("ignore", DeprecationWarning)
from tests.checkpoints import PREFIX, GatedSource, encode, load_of, numbered

source = GatedSource("m", encode(numbered([3_000_000] * 3)), gated=1_500_000)
load = load_of([source], chunk=1 << 19)
tensors = load.tensors()
source.arrived.acquire()
child = os.fork()
if not child:
    # Its slab is not mapped here. What is mapped where it was must still be there when it has been dropped.
    fresh = [mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(64)]
    for each in fresh:
        each[:] = b"x" * len(each)
    load._landing._pool.close()
    load._feed.close()
    del load, tensors
    gc.collect()
    os._exit(any(each[0] + each[-1] != 2 * ord("x") for each in fresh))
_, status = os.waitpid(child, 0)
source.gate.set()
print(status, [bytes(tensor.numpy()) == numbered([3_000_000] * 3)[name].data for name, tensor in tensors])
"""


def test_a_child_may_drop_memory_that_is_being_filled(tmp_path: Path) -> None:
    status, out, err = ended(script(_FORKED_WHILE_FILLING))
    assert (status, err) == (0, "")
    assert out == "0 [True, True, True]\n"
