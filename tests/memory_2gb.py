"""A 2 GB file under a limit of 200 MB: peak memory when tensors are dropped, and whether kept ones are right.

    python -m tests.memory_2gb [FOLDER]

Makes the file in FOLDER (a temporary one by default), streams it in a process of its own for each case, and exits
with 1 if the peak is 300 MB or more above the baseline, or if a tensor is not as it was written.
"""

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Self

import numpy as np

from tests.checkpoints import Stored, encode
from tests.test_memory import MEASURE

MB = 1_000_000
LIMIT = 200 * MB
MOST = 300 * MB
# As in a model: one large embedding, then layers of a few large matrices and small vectors.
SIZES = [131 * MB, *[33 * MB, 8 * MB, 8 * MB, 33 * MB, 8192, 8192] * 23]


def make(path: Path) -> list[int]:
    """Write the file; the checksums of its tensors."""
    random = np.random.default_rng(0)
    # The header is made of tensors without their bytes, which are written one by one.
    sums = []
    header = encode({f"t{n}": Stored("U8", (size,), _Sized(size)) for n, size in enumerate(SIZES)})
    with open(path, "wb") as file:
        file.write(header)
        for size in SIZES:
            data = random.bytes(size)
            sums.append(zlib.crc32(data))
            file.write(data)
    return sums


class _Sized(bytes):
    """Says that it has `size` bytes, and has none."""

    _size: int

    def __new__(cls, size: int) -> Self:
        made = super().__new__(cls)
        made._size = size
        return made

    def __len__(self) -> int:
        return self._size


def main(folder: Path) -> int:
    path, small = folder / "2gb.safetensors", folder / "small.safetensors"
    sums = make(path)
    small.write_bytes(encode({"t": Stored("U8", (4,), b"abcd")}))
    size = path.stat().st_size
    print(
        f"file: {size / MB:.0f} MB, {len(SIZES)} tensors, largest {max(SIZES) / MB:.0f} MB; limit {LIMIT / MB:.0f} MB"
    )
    right = True
    for case in ("drop", "keep"):
        for cached in (True, False):
            if not cached:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, path, small, case],
                env=os.environ | {"RUNAI_STREAMER_MEMORY_LIMIT": str(LIMIT)},
                capture_output=True,
                text=True,
                check=True,
            )
            figures = json.loads(done.stdout)
            equal = figures["sums"] == sums
            where = "warm" if cached else "cold"
            print(
                f"{case:4} {where}: peak above baseline {figures['peak'] / MB:7.1f} MB, after the end "
                f"{figures['left'] / MB:5.1f} MB, tensors {'all right' if equal else 'WRONG'}"
            )
            right &= equal and (case == "keep" or figures["peak"] < MOST)
    print("within the bound" if right else "NOT WITHIN THE BOUND")
    return 0 if right else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as name:
        sys.exit(main(Path(name)))
