"""Python's garbage collector, kept out of the way while headers are read."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, for the whole process, unless it rests already.

    Headers make objects by the hundred thousand, none of them garbage, and the collector looks at all of them, and at
    all of torch's, again and again: orjson takes 3.7 rather than 1.0 microseconds a tensor (50,000 of them), and a
    model of 163 files with 91,000 tensors takes 300 rather than 230 ms until its first read.

    At the end, all objects that there are count as old, so that no collection is due for those that headers have made,
    nor for torch's where it has just been imported: the first load of a process would have it in its midst (80 ms).

    `gc.enable` and `gc.disable` remain the host's, who may call them meanwhile. Where two threads pause at once, the
    first to end starts the collector again, and the second is only slower. Other threads' garbage stays meanwhile, so
    no store is waited for inside, and of files one at most.
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
        if not gc.get_threshold()[0]:  # else somebody else has set them meanwhile
            gc.set_threshold(*thresholds)


def _make_old() -> None:
    # Lists are joined, nothing is looked at. What the host has frozen has to stay so.
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
