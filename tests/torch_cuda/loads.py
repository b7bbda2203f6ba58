"""What the tests here load, how, and what they compare it with."""

import gc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
import torch

from runai_model_streamer import SafetensorsStreamer, release_staging_memory
from tests.checkpoints import Stored, raw
from tests.cuda_emulator import Emulator

MIB: Final = 1 << 20


def _numbers(size: int, seed: int) -> bytes:
    """Bytes that differ from place to place and from tensor to tensor, made faster than random ones."""
    return (np.arange(size // 4, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed << 24)).tobytes()


def _tensors(count: int) -> dict[str, Stored]:
    sizes = [MIB + 8 * index for index in range(count)]
    return {f"t{index}": Stored("U8", (size,), _numbers(size, index)) for index, size in enumerate(sizes)}


TENSORS: Final = _tensors(52)
"""Four groups, each as large as groups on a device are at least: 16 MiB. No two tensors are of one size."""

Made = TypeVar("Made")

DEVICE: Final = torch.device("cuda", 0)

_KEPT: Final = ("pinned", "streams", "events")
"""What torch itself keeps for the next use, and has no call to give back."""


def load(path: Path, device: str | torch.device = DEVICE, **options: Any) -> dict[str, torch.Tensor]:
    """All tensors of a file, kept."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path)], device=str(device), **options)
        return dict(streamer.get_tensors())


def mapped(
    path: Path, change: Callable[[torch.Tensor], Made], device: str | torch.device = DEVICE, **options: Any
) -> dict[str, Made]:
    """What becomes of each tensor, which is dropped at once."""
    made = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path)], device=str(device), **options)
        for name, tensor in streamer.get_tensors():
            made[name] = change(tensor)
            del tensor
    return made


def sleep() -> None:
    """A kernel on the current stream, behind which all that comes next waits."""
    torch.cuda._sleep(1000)  # noqa: SLF001 - what torch's own tests use


def cloned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that runs late: behind a kernel."""
    sleep()
    return tensor.clone()


def wrong(
    loaded: Mapping[str, torch.Tensor],
    device: str | torch.device = DEVICE,
    expected: Mapping[str, Stored] = TENSORS,
) -> list[str]:
    """Names of the tensors that are missing, on another device, or not what the file holds."""
    return [
        name
        for name, tensor in expected.items()
        if name not in loaded or loaded[name].device != torch.device(device) or raw(loaded[name].cpu()) != tensor.data
    ]


def left_behind(emulator: Emulator) -> Mapping[str, int]:
    """What is still there of a load whose tensors have been dropped: nothing, where all is well."""
    gc.collect()
    release_staging_memory()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    left: dict[str, int] = {what: count for what, count in emulator.leaks().items() if what not in _KEPT}
    return left | {"allocated": torch.cuda.memory_allocated()} if torch.cuda.memory_allocated() else left


def not_pinned(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors in ordinary memory."""
    return [name for name, tensor in tensors.items() if not tensor.is_pinned()]


def has_context(device: int) -> bool:
    """Whether this process has a context on a device: some 530 MB of a real one."""
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext")  # noqa: B009, SLF001 - not in torch's stubs
    return cast(bool, has_context(device))


def synchronize(streams: Iterable[torch.cuda.Stream]) -> None:
    """Wait for all of them."""
    for stream in streams:
        stream.synchronize()
