"""Safetensors files written by hand, so that they can hold what no library writes; and loads of them in memory."""

import json
import random
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, TensorInfo
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.landing.host import in_host_memory
from runai_model_streamer.pipeline.load import JOIN_SECONDS, Load
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from tests.sources import MemorySource

PREFIX: Final = 8
"""Bytes of the header's length, in front of the header."""

PATIENCE: Final = 60.0
"""Seconds after which a wait that should have ended is given up, so that a broken test ends."""


class Stored(NamedTuple):
    """One tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def stored(dtype: str, shape: Sequence[int], seed: int = 0) -> Stored:
    """A tensor of random bytes; of zeros and ones, if its dtype is BOOL."""
    bits = DTYPE_BITS[dtype]
    for length in shape:
        bits *= length
    data = random.Random(seed).randbytes(bits // 8)
    return Stored(dtype, tuple(shape), bytes(byte & 1 for byte in data) if dtype == "BOOL" else data)


def encode(
    tensors: Mapping[str, Stored],
    *,
    data_start: int | None = None,
    metadata: Mapping[str, str] | None = None,
    header_order: Sequence[str] | None = None,
) -> bytes:
    """The file's bytes, with the tensors' data in the order of `tensors`.

    Args:
        data_start: byte where the data begins, which spaces behind the header fill up to; by default, as writers of
            the format do, the next multiple of 8.
        header_order: order of the names in the header, if it is not that of the data.
    """
    entries: dict[str, object] = {}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    ordered = {name: entries[name] for name in header_order or entries}
    text = json.dumps(ordered if metadata is None else {"__metadata__": metadata, **ordered}).encode()
    if data_start is None:
        data_start = PREFIX + len(text) + -len(text) % 8
    header = text.ljust(data_start - PREFIX)
    if len(header) != data_start - PREFIX:
        raise ValueError(f"the header needs {PREFIX + len(text)} bytes, more than data_start={data_start}")
    return len(header).to_bytes(PREFIX, "little") + header + b"".join(tensor.data for tensor in tensors.values())


def numbered(sizes: Iterable[int], prefix: str = "t") -> dict[str, Stored]:
    """Tensors of bytes of the given sizes, named t0, t1 and so on."""
    return {f"{prefix}{index}": stored("U8", (size,), index) for index, size in enumerate(sizes)}


def infos(sizes: Iterable[int], data_start: int = 100) -> list[TensorInfo]:
    """Tensors of bytes as a header describes them, for what only plans."""
    found, position = [], data_start
    for index, size in enumerate(sizes):
        found.append(TensorInfo(f"t{index}", "U8", (size,), position, position + size, data_start))
        position += size
    return found


def raw(tensor: torch.Tensor) -> bytes:
    """The tensor's bytes."""
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


class Noted:
    """A landing that tells when it is closed."""

    def __init__(self, landing: Any, ended: list[Any]) -> None:
        self._landing = landing
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._landing, name)

    def close(self) -> None:
        self._ended.append(self._landing)
        self._landing.close()


def load_of(
    sources: Sequence[Source],
    *,
    limit: int | None = None,
    chunk: int = 1 << 20,
    concurrency: int = 4,
    names: Collection[str] | None = None,
    storage: Storage | None = None,
    join_seconds: float = JOIN_SECONDS,
    ended: list[Any] | None = None,
) -> Load:
    """Start to load sources that are open already; `chunk` is a multiple of each one's alignment.

    The landing joins `ended` when it is closed.
    """
    files = []
    for source in sources:
        tensors = [tensor for tensor in read_header(source).tensors if names is None or tensor.name in names]
        files.append(PlannedFile(source.size, source.kind, source.alignment, chunk, tensors))
    opened_from = storage or Storage(LoadConfig(), None, shared=False)
    destination = in_host_memory(files, limit)
    if ended is not None:
        make = destination.make_landing
        destination = replace(destination, make_landing=lambda *given: Noted(make(*given), ended))
    load = Load(opened_from, sources, destination, concurrency, join_seconds=join_seconds)
    load.start()
    return load


class GatedSource(MemorySource):
    """Reads from byte `gated` on stop at `gate`, until it is set or the source is interrupted."""

    def __init__(self, path: str, data: bytes, *, gated: int = 0, alignment: int = 1) -> None:
        super().__init__(path, data, alignment=alignment)
        self.gated = gated
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        """Released by each read that comes to the gate."""

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if offset >= self.gated:
            self.arrived.release()
            assert self.gate.wait(PATIENCE), "nobody opened the gate"
        return super().read_into(offset, buffer)

    def interrupt(self) -> None:
        super().interrupt()
        self.gate.set()


def write(path: Path, tensors: Mapping[str, Stored]) -> Path:
    """Write a safetensors file."""
    path.write_bytes(encode(tensors))
    return path


def join_ours() -> None:
    """Wait until the package's threads have ended, which on a busy machine may be after the close."""
    deadline = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread.name.startswith("runai-") and thread.is_alive():
            thread.join(max(deadline - time.monotonic(), 0.0))
    # Of one whose start or whose `join` was interrupted, `is_alive` is False; in Python 3.11 and 3.12 until its end.
    while our_threads() and time.monotonic() < deadline:
        time.sleep(0.001)


def our_threads() -> list[str]:
    """Names of the package's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("runai-")]
