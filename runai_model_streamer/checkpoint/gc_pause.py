"""Pauses Python's garbage collector while headers are read."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector for the whole process, unless it is off already.

    Headers make hundreds of thousands of objects, none of them garbage. The collector would scan them, and all of
    torch's, again and again: parsing would take 3.7 times as long (benchmarks/RUNS.md).

    At the end, all objects count as old. So no collection is due for the objects of headers, or for those of a torch
    that was just imported: it would interrupt the first load of a process for 80 ms.

    The host may call `gc.enable` and `gc.disable` meanwhile. If two threads pause at once, the first to end turns the
    collector on again, and the second is only slower. Other threads' garbage is not collected meanwhile. So never wait
    for a store inside, and read the header of one file at most.
    """
    thresholds = gc.get_threshold()
    if not gc.isenabled() or not thresholds[0]:
        yield
        return
    try:
        gc.set_threshold(0, *thresholds[1:])
        yield
    finally:
        _make_old()
        if not gc.get_threshold()[0]:  # else another thread has set them meanwhile
            gc.set_threshold(*thresholds)


def _make_old() -> None:
    # This joins lists and scans nothing. Objects that the host has frozen must stay frozen.
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
