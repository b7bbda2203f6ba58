"""Counts copies of tensors that engines make."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Clones(TorchFunctionMode):
    """Counts calls of `clone` in its context, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += call in (torch.Tensor.clone, torch.clone)
        return call(*args, **(kwargs or {}))
