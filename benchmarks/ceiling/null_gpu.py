"""Ours onto a GPU that does nothing: `null_driver.c` in place of libcuda, the host's memory in place of the GPU's.

What is left is our own Python, that of cuda.bindings, and torch.empty. The bytes are garbage. Torch's allocator for
GPUs is not in the figures. NULLGPU_ALLOCATION_US makes the allocation of each group's memory take that many
microseconds more, in which it holds no GIL, as `cudaMalloc` does.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ceiling import null_disk
from benchmarks.environments import CannotRunError, Environment, Peer

SOURCE = Path(__file__).with_name("null_driver.c")
NAME = "ours-null-gpu"


def prepare() -> Environment:
    """Return what runs the loader: this interpreter, with the driver first on the loader's path."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        raise CannotRunError("cuda.bindings is not installed: make test-cuda makes an environment that has it")
    driver = null_disk.build(source=SOURCE)
    folder = driver.with_suffix("")
    folder.mkdir(exist_ok=True)
    link = folder / "libcuda.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(driver)
    variables = (("LD_LIBRARY_PATH", str(folder)), ("RUNAI_STREAMER_GDS", "0"))
    return Environment(Peer(NAME, "ours, onto a GPU", "ours", (), variables), Path(sys.executable), "")


def opener() -> Callable[[Sequence[str]], AbstractContextManager[Iterator[tuple[str, Any]]]]:
    """Return a function from files to a context with their tensors; see `benchmarks.loaders`."""
    import torch

    from runai_model_streamer import SafetensorsStreamer
    from runai_model_streamer.device import Gpus
    from runai_model_streamer.pipeline.cuda.destination import CudaParts
    from runai_model_streamer.pipeline.cuda.memory import Allocated, new_tensors
    from runai_model_streamer.pipeline.parts import Parts

    allocation = int(os.environ.get("NULLGPU_ALLOCATION_US", "0")) / 1e6

    class HostMemory:
        """See `DeviceMemory`."""

        def __init__(self, _: torch.device) -> None:
            self.device = torch.device("cpu")

        def follow(self) -> None:
            """There is one stream."""

        def allocate(self, forms: Sequence[Any]) -> Allocated:
            if allocation:
                time.sleep(allocation)
            return Allocated(0, new_tensors(forms, self.device))

        def current_stream(self) -> int:
            return 0

        def prepare_casts(self, planned: Any) -> None:
            """Nothing is cast."""

        def cast(self, casts: Sequence[Any], stream: int) -> None:
            """Nothing is cast."""

        def record(self, tensor: torch.Tensor) -> None:
            """There is no other stream."""

    one_gpu = Gpus(lambda: True, lambda: True, lambda: 1, lambda: 0)
    parts = Parts(one_gpu, CudaParts("13.0", memory=HostMemory))
    streamer_class = type("Streamer", (SafetensorsStreamer,), {"_parts": parts})

    @contextmanager
    def stream(files: Sequence[str]) -> Iterator[Iterator[tuple[str, Any]]]:
        with streamer_class() as streamer:
            streamer.stream_files(list(files), device="cuda:0")
            yield streamer.get_tensors()

    return stream
