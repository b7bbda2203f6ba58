"""A CUDA graph that is captured in the process while tensors are loaded."""

import threading
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import StateError
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, load, wrong


def loaded_elsewhere(checkpoint: Path) -> dict[str, torch.Tensor]:
    """In a thread of its own, which takes no part in a capture; its mode is that of a thread that knows of none."""
    results: list[dict[str, torch.Tensor]] = []
    thread = threading.Thread(target=lambda: results.append(load(checkpoint)))
    thread.start()
    thread.join()
    return results[0]


@emulated_torch(modes=("lazy", "random"))
def test_a_load_in_another_thread_does_not_break_a_capture(emulator: Emulator, checkpoint: Path) -> None:
    assert wrong(load(checkpoint)) == []
    source, target = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        target.copy_(source)
        loaded = loaded_elsewhere(checkpoint)
    graph.replay()
    assert target.tolist() == [1.0] * 8
    assert wrong(loaded) == []


@emulated_torch(modes=("lazy",))
def test_the_first_load_of_a_process_page_locks_memory_and_does_not_break_a_capture(
    emulator: Emulator, checkpoint: Path
) -> None:
    source, target = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    emulator.reset()
    with torch.cuda.graph(graph):
        target.copy_(source)
        loaded = loaded_elsewhere(checkpoint)
    graph.replay()
    assert "cuMemHostRegister" in emulator.calls()
    assert target.tolist() == [1.0] * 8
    assert wrong(loaded) == []


@emulated_torch(modes=("lazy",))
def test_a_stream_that_captures_is_refused(emulator: Emulator, checkpoint: Path) -> None:
    target = torch.zeros(8, device=DEVICE)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(checkpoint)], device="cuda")
        tensors = streamer.get_tensors()
        next(tensors)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            target.copy_(torch.empty(8, device=DEVICE))
            with pytest.raises(StateError, match="captured"):
                for _ in tensors:
                    pass
        graph.replay()
