"""What loads are made of: GPUs, and the parts of a load onto one."""

from dataclasses import dataclass
from typing import Final

import torch

from runai_model_streamer.device import GPUS, Gpus, resolve_device
from runai_model_streamer.pipeline.cuda.destination import CUDA, CudaParts


@dataclass(frozen=True, slots=True)
class Parts:
    """What a streamer's loads are made of."""

    gpus: Gpus = GPUS
    cuda: CudaParts = CUDA

    def resolve_device(self, device: str | torch.device | None) -> torch.device:
        """Return the device with its index; see `resolve_device`."""
        return resolve_device(device, self.gpus)


PARTS: Final = Parts()
