import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from runai_model_streamer.pipeline.memory.slabs import Slab
from runai_model_streamer.ranges import HUGE_PAGE


def _flags(slab: Slab) -> list[str]:
    """What the kernel says of the mapping that the slab begins in."""
    address = np.frombuffer(slab.memory(), np.uint8).ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("the slab is mapped nowhere")


@pytest.mark.parametrize("capacity", [mmap.PAGESIZE, HUGE_PAGE])
def test_a_slab_can_be_hidden_from_children(capacity: int) -> None:
    slab = Slab(capacity, hides=True)
    assert "dc" not in _flags(slab)  # "do not copy area on fork"
    slab.hide_from_children(True)
    assert "dc" in _flags(slab)
    slab.hide_from_children(False)
    assert "dc" not in _flags(slab)


def test_where_a_fork_does_no_harm_no_slab_is_hidden() -> None:
    slab = Slab(HUGE_PAGE, hides=False)
    slab.hide_from_children(True)
    assert "dc" not in _flags(slab)
