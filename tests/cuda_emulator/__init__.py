"""An emulated CUDA driver for tests on machines without a GPU: how to build it, and how to talk to it.

    folder = build(tmp_path)                # a libcuda.so.1 made by this machine's compiler; raises NoCompilerError
    subprocess.run(..., env=environment(folder))

and, in a process that was started so:

    emulator = Emulator.attach()
    emulator.set_mode("lazy")
    ...                                     # any library on libcuda: cuda.bindings, cuda.core, kvikio
    assert emulator.misuses() == []

Tests do not start processes themselves: see `emulated` in tests/cuda_emulator/testing.py, and the README.md here.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

SOURCES: Final = Path(__file__).parent
LIBRARY: Final = "libcuda.so.1"

Mode = Literal["lazy", "eager", "random"]
MODES: Final[tuple[Mode, ...]] = ("lazy", "eager", "random")

Kind = Literal[
    "race",
    "source-changed",
    "host-access",
    "freed-in-use",
    "use-after-free",
    "unmapped",
    "out-of-bounds",
    "invalid-free",
    "stale-handle",
    "call-in-callback",
]
Counted = Literal[
    "device",
    "device_bytes",
    "device_bytes_peak",
    "pinned",
    "pinned_bytes",
    "pinned_bytes_peak",
    "registered",
    "registered_bytes",
    "registered_bytes_peak",
    "streams",
    "events",
    "pools",
    "contexts",
    "operations",
]
LEAKS: Final[tuple[Counted, ...]] = ("device", "pinned", "registered", "streams", "events", "pools", "operations")
"""What a load must leave as it found it."""

_FLAGS: Final = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fPIC", "-shared")


class NoCompilerError(Exception):
    """This machine has no C compiler, or not one that can build the emulator."""


def build(folder: Path, name: str = LIBRARY) -> Path:
    """Compiles the emulator into a folder and returns the folder. Raises NoCompilerError, saying why.

    name: of the file, and what the loader knows it by. A process that loads it as anything but `libcuda.so.1`, for
    ctypes alone, does not give it to every library that looks for a driver later.
    """
    compile_library(folder / name, sorted((SOURCES / "libcuda").glob("*.c")), ["-lm"])
    return folder


def compile_library(target: Path, sources: Sequence[Path], options: Sequence[str] = ()) -> None:
    """Make a shared library of C sources, which the loader knows by its file's name. Raises NoCompilerError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompilerError("the emulated CUDA driver needs a C compiler: neither gcc nor cc is on the PATH")
    command = [compiler, *_FLAGS, f"-Wl,-soname,{target.name}", "-o", str(target), *map(str, sources)]
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([*command, *options, "-lpthread"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompilerError(f"{compiler} could not build the emulated {target.name}:\n{done.stderr}")


def environment(folder: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for a process that is to find the emulator where it looks for a CUDA driver."""
    # First on the path, so that it wins over a real driver; by path and not preloaded, so that `env`, compilers and
    # other children of the process are left alone.
    path = os.pathsep.join(filter(None, (str(folder), base.get("LD_LIBRARY_PATH"))))
    return {**base, "LD_LIBRARY_PATH": path}


@dataclass(frozen=True, slots=True)
class Misuse:
    """Something that CUDA does not allow, or that is right only by luck."""

    kind: Kind
    text: str


class Emulator:
    """The emulator of this process. All methods may be called from any thread."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        """For tests that call the driver through ctypes."""
        self._taken = 0
        for name in ("misuse_count", "call_count", "live"):
            getattr(library, f"emulator_{name}").restype = ctypes.c_long
        for name in ("misuse_kind", "misuse_text", "call_name"):
            getattr(library, f"emulator_{name}").restype = ctypes.c_char_p
            getattr(library, f"emulator_{name}").argtypes = [ctypes.c_long]
        library.emulator_set_mode.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        library.emulator_set_device_memory.argtypes = [ctypes.c_size_t]
        library.emulator_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        library.emulator_host_access.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]
        formats, place = [ctypes.c_char_p] * 2, ctypes.c_uint64
        library.emulator_launch_cast.argtypes = [*formats, place, place, ctypes.c_size_t, place]

    @classmethod
    def attach(cls) -> Self:
        """Raises OSError where there is no libcuda, RuntimeError where it is not the emulator."""
        library = ctypes.CDLL(LIBRARY)
        if not hasattr(library, "emulator_reset"):
            raise RuntimeError(f"{LIBRARY} of this process is not the emulator")
        return cls(library)

    def set_mode(self, mode: Mode, seed: int = 0) -> None:
        """lazy: operations run as late as CUDA allows; eager: at the call; random: some of them after each call."""
        self._check(self.library.emulator_set_mode(mode.encode(), seed), mode)

    def set_patience(self, polls: int) -> None:
        """How many queries in a row of one event or stream answer NOT_READY before one makes progress (3)."""
        self.library.emulator_set_patience(polls)

    def set_device_memory(self, size: int) -> None:
        """Bytes of device memory (8 GiB); more is CUDA_ERROR_OUT_OF_MEMORY."""
        self.library.emulator_set_device_memory(size)

    def fail(self, call: str, nth: int = 1, code: int = 2) -> None:
        """The nth coming call of this name fails (1: the next; 0: all; "*": any name). Adds to what is planned.

        2 is out of memory. Errors that lose the device (700 illegal address, 719 launch failed, 214 ECC, 46
        unavailable) come back from every later call too. Calls that free or destroy do so even when they fail.
        """
        self._check(self.library.emulator_fail(call.encode(), nth, code, 0), call)

    def fail_when_run(self, call: str, nth: int = 1, code: int = 700) -> None:
        """The nth copy, fill or cast of this call's fails as it runs: the call succeeds, later ones return the code."""
        self._check(self.library.emulator_fail(call.encode(), nth, code, 1), call)

    def delay(self, call: str, seconds: float) -> None:
        """Each coming call of this name takes so much longer, until the next reset; other threads' calls go on."""
        self._check(self.library.emulator_delay(call.encode(), round(seconds * 1e6)), call)

    def set_pinning_waits(self, waits: bool) -> None:
        """Whether page-locking memory, and unlocking it, wait for all that is queued, as CUDA's may (no)."""
        self.library.emulator_set_pinning_waits(int(waits))

    def misuses(self) -> list[Misuse]:
        """What was reported since the last reset, in order."""
        found = []
        for index in range(self.library.emulator_misuse_count()):
            kind = self.library.emulator_misuse_kind(index).decode()
            found.append(Misuse(kind, self.library.emulator_misuse_text(index).decode()))
        return found

    def take_misuses(self) -> list[Misuse]:
        """What was reported since the last reset, or the last time that this was called."""
        found = self.misuses()[self._taken :]
        self._taken += len(found)
        return found

    def ignore(self, kind: Kind, ignored: bool = True) -> None:
        """Whether reports of this kind are left out, until the next reset."""
        self._check(self.library.emulator_ignore(kind.encode(), int(ignored)), kind)

    def calls(self) -> list[str]:
        """The names of all driver calls since the last reset, in order, without version suffixes."""
        return [self.library.emulator_call_name(index).decode() for index in range(self.library.emulator_call_count())]

    def live(self, what: Counted) -> int:
        """How many of these there are: allocations, their bytes (and the most since the last reset), handles.

        `contexts` counts how often the primary context is retained, `operations` what is enqueued and has not run.
        """
        count: int = self.library.emulator_live(what.encode())
        self._check(count, what)
        return count

    def leaks(self) -> dict[Counted, int]:
        """What is alive of that which a load must not leave behind."""
        return {what: count for what in LEAKS if (count := self.live(what))}

    def host_access(self, address: int, size: int, *, writes: bool) -> None:
        """Tells that the CPU is about to touch these bytes: a misuse, if an operation that it would race is pending."""
        self.library.emulator_host_access(address, size, int(writes))

    def launch_cast(self, formats: tuple[str, str], source: int, target: int, count: int, stream: int) -> int:
        """What the launch of a kernel does that casts numbers from the first format to the second: its result."""
        source_format, target_format = (name.encode() for name in formats)
        result: int = self.library.emulator_launch_cast(source_format, target_format, source, target, count, stream)
        return result

    def reset(self) -> None:
        """Forgets misuses, calls, planned failures, delays, a lost device, ignored kinds and peaks; nothing else."""
        self._taken = 0
        self.library.emulator_reset()

    def _check(self, result: int, argument: str) -> None:
        if result < 0:
            raise ValueError(f"the emulator does not know, or has no room for, {argument!r}")
