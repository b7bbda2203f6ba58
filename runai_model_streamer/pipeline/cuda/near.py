"""Finds the CPUs on a GPU's NUMA node, for its readers and its page-locked memory.

A copy from memory of another node crosses the link between the processors, which all GPUs of the other node share. A
thread's memory comes from the node that the thread runs on when it first touches it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, TypeAlias

_SYSFS: Final = Path("/sys")

Cpus: TypeAlias = frozenset[int]
"""Numbers of CPUs, as the kernel counts them. Empty: any that the process may use."""

FindCpus: TypeAlias = Callable[[str], Cpus]
"""Returns the CPUs near a PCI device, given its address."""


def near_cpus(address: str, allowed: AbstractSet[int] | None = None, sysfs: Path = _SYSFS) -> Cpus:
    """Return the CPUs on the NUMA node of a PCI device that this process may use; none if those are all, or unknown.

    Args:
        address: the device's, such as "0000:C1:00.0".
        allowed: the CPUs that the process may use; None to ask the kernel.
        sysfs: where the kernel describes its devices.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0)
    try:
        text = (sysfs / "bus/pci/devices" / address.lower() / "local_cpulist").read_text()
        near = allowed & _parsed(text)
    except (OSError, ValueError):
        return frozenset()
    return frozenset() if near == allowed else frozenset(near)


def enough(near: Cpus, readers: int, allowed: int) -> Cpus:
    """Return `near` if that many readers may be bound to it, else none.

    A few CPUs, such as those that a container leaves on one of two nodes, would slow readers down more than distance.
    """
    return near if len(near) >= min(readers, allowed / 2) else frozenset()


@contextlib.contextmanager
def running_on(cpus: Cpus) -> Iterator[None]:
    """Run the calling thread on these CPUs only, for the duration of the context."""
    before = os.sched_getaffinity(0)
    bind(cpus)
    try:
        yield
    finally:
        bind(frozenset(before))


def bind(cpus: Cpus) -> None:
    """Run the calling thread on these CPUs only, from now on. Where the kernel forbids that, it stays as it is."""
    if cpus:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)


def _parsed(text: str) -> set[int]:
    """Return the numbers in a list of the kernel's, such as "0-3,8"."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
