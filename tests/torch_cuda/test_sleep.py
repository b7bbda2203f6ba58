"""vLLM's sleep levels, by its own worker and allocator for CUDA, and loads into the memory that sleeps.

The release is what `make test-releases` has fetched: without it these tests skip. Memory that sleeps is unmapped, and
what is mapped again holds other bytes, as on a GPU. Not here: vLLM's models, kernels and graphs.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch

from runai_model_streamer.engines import vllm as plugin
from tests.checkpoints import write
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.engines.vllm_modules import ModelConfig, installed
from tests.engines.vllm_sleep import COMPILED, RELEASE, SleepingVllm
from tests.torch_cuda.loads import DEVICE, MIB, TENSORS, wrong

SIZE: Final = sum(len(tensor.data) for tensor in TENSORS.values())


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    """Of a model on disk."""
    write(tmp_path / "model.safetensors", TENSORS)
    return ModelConfig(str(tmp_path))


@pytest.fixture(params=["stock", "plugin"])
def vllm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SleepingVllm]:
    """With and without the plugin."""
    folder = Path(os.environ.get("ENGINE_SOURCES") or "/nonexistent", str(RELEASE))
    if not (folder / COMPILED).exists():
        pytest.skip(f"no sources of {RELEASE}: make test-releases")
    monkeypatch.setenv("RUNAI_STREAMER_VLLM", str(int(request.param == "plugin")))
    with installed(folder, SleepingVllm) as found:
        plugin.register()
        yield found


class Model(torch.nn.Module):
    """Copies weights into its parameters, as vLLM's models do."""

    def __init__(self) -> None:
        super().__init__()
        for name, kept in TENSORS.items():
            empty = torch.empty(kept.shape, dtype=torch.uint8, device=DEVICE)
            self.register_parameter(name, torch.nn.Parameter(empty, requires_grad=False))
        self.register_buffer("scale", torch.full((4,), 2.0, device=DEVICE))

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            self.get_parameter(name).data.copy_(tensor)


@emulated_torch(modes=("lazy", "random"))
def test_a_model_that_slept_is_whole_once_it_is_loaded_again(
    vllm: SleepingVllm, emulator: Emulator, config: ModelConfig
) -> None:
    torch.zeros(1, device=DEVICE)
    at_first, _ = torch.cuda.mem_get_info()
    worker = vllm.worker(config, Model)
    worker.load_model()
    model = worker.model_runner.model
    weights = dict(model.named_parameters())
    assert wrong(weights) == []
    # What vLLM counts as weights is the model alone.
    assert SIZE <= vllm.allocator.get_current_usage() < 1.5 * SIZE
    addresses = {name: each.data_ptr() for name, each in weights.items()}

    worker.sleep(level=2)
    assert at_first - torch.cuda.mem_get_info()[0] < 4 * MIB  # nothing of the load is there either
    worker.wake_up()
    assert wrong(weights) == list(TENSORS)
    assert model.scale.tolist() == [2.0] * 4

    worker.reload_weights()
    assert wrong(weights) == []
    assert {name: each.data_ptr() for name, each in weights.items()} == addresses

    worker.sleep(level=1)
    worker.wake_up()
    assert wrong(weights) == []
