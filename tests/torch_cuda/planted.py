"""Plants each fault of the GPU path that was mended back, one by one, and runs the test that has to find it.

    CUDA_EMULATOR_DEVICES=2 python -m tests.cuda_emulator --torch /tmp/emu python -m tests.torch_cuda.planted [NAME...]

It works on a copy of the checkout, and prints for each fault whether the test failed. It fails if one passed. Faults in
tests of tests/gpu themselves cannot be planted so: they passed on no GPU, or failed on any.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
_CUDA: Final = "runai_model_streamer/pipeline/cuda"
_FOLDERS: Final = ("runai_model_streamer", "tests", "benchmarks", "docs")


class Fault(NamedTuple):
    """One mend taken back."""

    file: str
    mended: str
    """Text that is once in the file."""
    fault: str
    """What it is replaced by."""
    tests: str
    """The file with the test that finds it."""
    chosen: str
    """Which test of the file, as pytest's -k takes it."""


FAULTS: Final = {
    "B1 a context on GPU 0": Fault(
        f"{_CUDA}/memory.py",
        "with allocating(), torch.cuda.device(device), torch.cuda.stream(stream):",
        "with allocating(), torch.cuda.stream(stream):",
        "tests/torch_cuda/test_devices.py",
        "test_a_load_onto_the_second_device_makes_no_context_on_the_first and lazy",
    ),
    "B2 SIGABRT at the end of Python": Fault(
        "runai_model_streamer/pipeline/memory/process_end.py",
        "    atexit.register(_each.close)\n",
        "",
        "tests/torch_cuda/test_exit.py",
        "cuda",
    ),
    "B3 tensors that are views made without grad": Fault(
        f"{_CUDA}/memory.py",
        "return Allocated(stream.cuda_stream, tensors)",
        "with torch.no_grad():\n                    views = [each.view(each.shape) for each in tensors]\n"
        "                return Allocated(stream.cuda_stream, views)",
        "tests/torch_cuda/test_modes.py",
        "test_tensors_may_be_detached_in_place",
    ),
    "B4 the count of page-locked memory after the user freed it": Fault(
        "runai_model_streamer/pipeline/memory/pinned.py",
        "if locked is None or locked >= self._total:",
        "if True or locked >= self._total:",
        "tests/torch_cuda/test_pinned.py",
        "test_what_the_user_had_torch_free_does_not_count and lazy",
    ),
    "B6 a full device is final": Fault(
        f"{_CUDA}/ahead.py",
        "                if last:\n                    raise\n",
        "                raise\n",
        "tests/torch_cuda/test_allocators.py",
        "test_a_full_device_waits_for_what_the_caller_drops and lazy",
    ),
    "B7 a load breaks a capture elsewhere": Fault(
        f"{_CUDA}/driver.py",
        "            self._exchange_capture_mode(_RELAXED)\n            self._of_thread.relaxed = True\n",
        "            self._of_thread.relaxed = True\n",
        "tests/torch_cuda/test_capture.py",
        "test_a_load_in_another_thread_does_not_break_a_capture and lazy",
    ),
    "B7 page-locking breaks a capture elsewhere": Fault(
        f"{_CUDA}/arena.py",
        "            with driver.relaxed():\n",
        "            with driver.current():\n",
        "tests/torch_cuda/test_capture.py",
        "test_the_first_load_of_a_process_page_locks_memory_and_does_not_break_a_capture",
    ),
    "B7 a stream that captures is recorded on": Fault(
        f"{_CUDA}/driver.py",
        'if int(self._call("cuStreamIsCapturing", stream)):',
        'if int(self._call("cuStreamIsCapturing", stream)) and False:',
        "tests/torch_cuda/test_capture.py",
        "test_a_stream_that_captures_is_refused",
    ),
    "B8 the stream is that of the load's beginning": Fault(
        f"{_CUDA}/landing.py",
        "            self._memory.follow()\n",
        "",
        "tests/torch_cuda/test_allocators.py",
        "test_in_a_pool_of_the_callers_dropped_tensors_leave_their_memory_to_the_next and lazy",
    ),
    "B9 memory is unlocked by every load": Fault(
        f"{_CUDA}/arena.py",
        "kept = intact and arena.usable and idle + arena.size <= staging.kept",
        "kept = False",
        "tests/pipeline/cuda/test_arena.py",
        "test_the_second_load_of_a_process_makes_no_call_that_page_locks_or_unlocks",
    ),
    "B10 per-thread default streams": Fault(
        f"{_CUDA}/driver.py",
        "self.wait(stream or _LEGACY, event)",
        "self.wait(stream, event)",
        "tests/pipeline/cuda/test_driver.py",
        "test_the_callers_default_stream_is_named",
    ),
    "B10 a forked child": Fault(
        "runai_model_streamer/device.py",
        "    except RuntimeError as error:\n",
        "    except ZeroDivisionError as error:\n",
        "tests/torch_cuda/test_loads.py",
        "test_a_forked_child_gets_an_error_that_says_why and lazy and cuda",
    ),
    "B10 memory that direct reads cannot pin": Fault(
        "runai_model_streamer/io/files/posix.py",
        "errno.EOPNOTSUPP, errno.EFAULT}",
        "errno.EOPNOTSUPP}",
        "tests/io/files/test_posix.py",
        "refuse",
    ),
    "B10 CPUs of the machine, not of the control group": Fault(
        "runai_model_streamer/io/cgroups.py",
        "        if quota is not None:\n",
        "        if False and quota is not None:\n",
        "tests/io/test_cgroups.py",
        "test_a_group_may_give_time_for_fewer",
    ),
}


def found(fault: Fault, folder: Path) -> bool:
    """Plant the fault in this copy, run the test, take the fault back. Return whether the test failed."""
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    assert text.count(fault.mended) == 1, f"{fault.file} does not hold once: {fault.mended}"
    path.write_text(text.replace(fault.mended, fault.fault), encoding="utf-8")
    try:
        arguments = ["-q", "-x", "-p", "no:cacheprovider", fault.tests, "-k", fault.chosen]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main(names: list[str]) -> int:
    """Plant the faults whose names begin so, or all; 1 if a test passed with its fault."""
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in _FOLDERS:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for name, fault in FAULTS.items():
            if names and not name.startswith(tuple(names)):
                continue
            is_found = found(fault, folder)
            missed += not is_found
            print(f"{name}: {'found by' if is_found else 'NOT FOUND by'} {fault.tests}, {fault.chosen}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
