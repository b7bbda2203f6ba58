"""The model loaders for vLLM. Importing this needs a vLLM of `vllm.RELEASES`.

They are vLLM's loaders for `runai_streamer` and `runai_streamer_sharded`, with other weights: on their device instead
of on the host, not cloned, and without those that this rank's model does not use. Parts of tensors are not selected.
Only the model's own weight loaders know which rows a rank takes, after they have renamed, merged and split what the
checkpoint has.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import torch
from vllm.distributed import get_dp_group, get_pp_group, get_tp_group
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight
from vllm.model_executor.model_loader.runai_streamer_loader import RunaiModelStreamerLoader
from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader
from vllm.model_executor.model_loader.weight_utils import _BAR_FORMAT, enable_tqdm, tqdm
from vllm.platforms import current_platform

from runai_model_streamer.engines.weights import Tensors, stream_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_log: Final = logging.getLogger("vllm.runai_model_streamer")

_find_experts: Final = DefaultModelLoader._init_ep_weight_filter  # noqa: SLF001
"""Sets `local_expert_ids` of a loader, if the configuration asks for the filter of experts."""


class StreamerLoader(RunaiModelStreamerLoader):  # type: ignore[misc]
    """Takes the options of vLLM's own loader: `distributed`, `concurrency` and `memory_limit`."""

    local_expert_ids: set[int] | None = None
    """Experts of this rank; None for all."""

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load the weights when the engine starts. All ranks that have this model do so at once.

        Raises:
            StreamerError: see `stream_weights`.
        """
        _find_experts(self, model_config)
        if not self._is_distributed and torch.distributed.is_initialized() and torch.distributed.get_rank() == 0:
            _tell_of_sharing(torch.distributed.get_world_size(), str(model_config.model_weights))
        with closing(self._weights(model, model_config, reload=False)) as weights:
            model.load_weights(weights)  # type: ignore[operator]

    if hasattr(RunaiModelStreamerLoader, "get_all_weights"):  # before vLLM 0.32, it cannot reload

        def get_all_weights(
            self, model_config: Any, model: torch.nn.Module
        ) -> Generator[tuple[str, torch.Tensor], None, None]:
            """Yield the weights once more, for `reload_weights`. All ranks of this engine do so at once."""
            return self._weights(model, model_config, reload=True)

    def _weights(
        self, model: torch.nn.Module, model_config: Any, *, reload: bool
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        files = self._prepare_weights(model_config.model_weights or model_config.model, model_config.revision)
        unused = getattr(model, "is_unused_checkpoint_weight", None)
        experts = self.local_expert_ids

        shared = self._is_distributed and torch.distributed.is_initialized()

        def wanted(name: str) -> bool:
            return not (should_skip_weight(name, experts) or (unused is not None and unused(name)))

        yield from _stream(
            self.load_config,
            files,
            is_distributed=self._is_distributed,
            group=loading_group(model_config, reload=reload) if shared else None,
            select=None if unused is None and experts is None else wanted,
        )


class ShardedLoader(ShardedStateLoader):  # type: ignore[misc]
    """Loads a model that vLLM has saved rank by rank: each rank reads its own files, and all of them."""

    def iterate_over_files(self, paths: Sequence[str]) -> Generator[tuple[str, torch.Tensor], None, None]:
        """Yield the parameters in these files. Raises as `stream_weights` does."""
        yield from _stream(self.load_config, paths)


@cache
def _tell_of_sharing(ranks: int, url: str) -> None:
    """Log how ranks that read from object storage would read each byte once."""
    if ranks > 1 and url:
        _log.info(
            "[RunAI Streamer] Each of %d ranks reads %s. They read each byte once and share it with "
            "--model-loader-extra-config '{\"distributed\": true}'",
            ranks,
            url,
        )


def _stream(load_config: Any, files: Sequence[str], **options: Any) -> Generator[tuple[str, torch.Tensor], None, None]:
    bar = partial(_bar, shown=enable_tqdm(load_config.use_tqdm_on_load))
    yield from stream_weights(files, _device(load_config.device), _log, bar, **options)


def loading_group(model_config: Any, *, reload: bool) -> "ProcessGroup | None":
    """Return the ranks that load this model now, where they share it; None for those of torch's default group.

    The default group may hold more: the stages of a pipeline, whose last one alone has the draft model, and the engines
    of data parallelism, which reload one by one.
    """
    last_stage = model_config.runner_type == "draft" and get_pp_group().world_size > 1
    one_engine = reload and get_dp_group().world_size > 1
    return get_tp_group().cpu_group if last_stage or one_engine else None


def _device(wanted: str | None) -> str:
    """Return the device of the model's parameters, where this package can load onto it, or the host's."""
    if current_platform.is_cuda() and (wanted is None or torch.device(wanted).type == "cuda"):
        return f"cuda:{current_platform.current_device()}"
    return "cpu"


def _bar(tensors: Tensors, count: int, shown: bool) -> Tensors:
    text = "Loading safetensors using Runai Model Streamer"
    return tqdm(tensors, total=count, desc=text, bar_format=_BAR_FORMAT, disable=not shown, mininterval=2)  # type: ignore[no-any-return]
