"""One load into a model of vLLM, in a process of its own: its CPU worker, with the model built before the load."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from benchmarks.loaders import Prepared, converse
from benchmarks.span import Span

OWN, STOCK, PLUGIN = "safetensors", "runai_streamer", "plugin"
LOADERS = {OWN: "vLLM's for safetensors", STOCK: "vLLM's for runai_streamer", PLUGIN: "the plugin"}


def prepare(job: dict[str, Any]) -> Prepared:
    """Build the worker and the model; the run is what the loader does with them."""
    from tests.engines.vllm_program import SETTINGS, worker

    os.environ.update(SETTINGS)
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.utils.torch_utils import set_default_torch_dtype

    from tests.engines.clones import Clones

    load_format = "runai_streamer_cuda" if job["loader"] == PLUGIN else job["loader"]
    made = contextlib.ExitStack()  # it ends with the process
    config, _ = made.enter_context(worker(model=job["model"], load_format=load_format))
    made.enter_context(set_current_vllm_config(config))
    loader = get_model_loader(config.load_config)
    with set_default_torch_dtype(config.model_config.dtype):
        model = loader.create_model(config, config.model_config)
    for parameter in model.parameters():
        parameter.data.fill_(0)  # memory that is there before the load, as a GPU's is

    def run() -> dict[str, Any]:
        clones = Clones()
        span = Span()
        with clones:
            loader.load_weights(model, config.model_config)
        result = span.end()
        some = next(parameter for name, parameter in model.named_parameters() if name.endswith("down_proj.weight"))
        return result | {"clones": clones.count, "right": float(some.data.float().mean()) == job["mean"]}

    size = sum(path.stat().st_size for path in Path(job["model"]).glob("*.safetensors"))
    return {"nbytes": size}, run


if __name__ == "__main__":
    converse(prepare)
