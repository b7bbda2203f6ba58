"""The plugin for SGLang, which calls `register` in each of its processes: docs/engines.md.

Where `RUNAI_STREAMER_SGLANG` asks for it, SGLang's own plugin registry replaces the function that gives the loader of
`runai_streamer` its weights. Load formats cannot be added to SGLang. In an SGLang that it does not know, its own
function is used, and one warning says so.
"""

import functools
import importlib
import inspect
import logging
from collections.abc import Iterator
from typing import Any, Final

import torch

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.engines.weights import Tensors, stream_weights

OLDEST: Final = (0, 5, 12)
NEWEST: Final = (0, 5, 23)
"""Releases of SGLang between these are known; tests/engines/test_sglang_plugin.py has the code of some of them."""

_UTILS: Final = "sglang.srt.model_loader.weight_utils"
_FUNCTION: Final = "runai_safetensors_weights_iterator"

_log: Final = logging.getLogger(__name__)


def register() -> None:
    """Register with SGLang's plugin registry, if the environment asks for it. Never raises."""
    try:
        if not LoadConfig.from_environment().sglang:
            return
        doubt = _doubt()
        if not doubt:
            hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
            hooks.HookRegistry.register(f"{_UTILS}.{_FUNCTION}", weights_iterator, hooks.HookType.REPLACE)
            return
    except Exception as error:  # SGLang would go on, and not say that its own function is used
        doubt = f"{type(error).__name__}: {error}"
    _warn(doubt)


def _doubt() -> str:
    """Return why this SGLang cannot be used: "" if it can."""
    version = importlib.import_module("sglang.version").__version__
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not OLDEST <= numbers <= NEWEST:
        oldest, newest = (".".join(map(str, known)) for known in (OLDEST, NEWEST))
        return f"SGLang {version} is not one of the releases that it knows ({oldest} to {newest})"
    utils = importlib.import_module(_UTILS)
    missing = [name for name in (_FUNCTION, "BAR_FORMAT", "tqdm") if not hasattr(utils, name)]
    if missing:
        return f"this SGLang {version} lacks {', '.join(missing)}"
    theirs, ours = (list(inspect.signature(each).parameters) for each in (getattr(utils, _FUNCTION), weights_iterator))
    if theirs != ours:
        return f"{_FUNCTION} of this SGLang {version} takes other arguments"
    return ""


def weights_iterator(
    hf_weights_files: list[str], is_distributed: bool = False, device: str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights, each on its device, and unmarked: SGLang's models copy the marked ones that they keep.

    Args:
        hf_weights_files: local paths and URLs.
        is_distributed: as SGLang decides: True for object storage, unless the user says otherwise.
        device: of the model, such as "cuda:0".

    Raises:
        StreamerError: see `stream_weights`.
    """
    utils: Any = importlib.import_module(_UTILS)
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0

    def bar(tensors: Tensors, count: int) -> Tensors:
        text = "Loading safetensors using Runai Model Streamer"
        shown: Tensors = utils.tqdm(
            tensors, total=count, desc=text, bar_format=utils.BAR_FORMAT, disable=not first, mininterval=2
        )
        return shown

    # Onto AMD's GPUs as SGLang does, since this package has no way of its own there.
    where = device if is_distributed or torch.version.hip is None else "cpu"
    yield from stream_weights(hf_weights_files, where, _log, bar, is_distributed=is_distributed)


@functools.cache
def _warn(reason: str) -> None:
    _log.warning("[RunAI Streamer] The plugin is off: %s. SGLang's own function is used.", reason)
