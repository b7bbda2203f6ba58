"""What the kernel says of how a thread has spent its time."""

from typing import NamedTuple

from runai_model_streamer.io.kernel_files import read_kernel_file


class ThreadTimes(NamedTuple):
    """One thread's times from the kernel, in seconds."""

    cpu: float
    delay: float | None
    """Time ready to run, but without a CPU; None: the kernel does not report it."""


def times_of(thread: int) -> ThreadTimes | None:
    """Return the times of this process's thread with this native id; None if it has ended or none are known."""
    try:
        cpu, delay, _ = read_kernel_file(f"/proc/self/task/{thread}/schedstat").split()
    except (OSError, ValueError):
        return None
    return ThreadTimes(int(cpu) / 1e9, int(delay) / 1e9)
