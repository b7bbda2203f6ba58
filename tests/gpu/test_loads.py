"""Loads onto a real GPU: the right bytes, memory in torch's accounts, tensors of torch's own, GPUDirect, kernels."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.errors import GdsUnavailableError
from tests.checkpoints import Stored, raw, stored, write
from tests.gpu.marks import only_a_gpu
from tests.test_real_model import model  # noqa: F401 - a fixture

MIB = 1 << 20
# In every dtype that safetensors and torch share; tiny, odd and empty ones between, and one larger than any slot.
TENSORS: dict[str, Stored] = {
    "bf16": stored("BF16", (1000, 1001)),
    "odd": stored("U8", (1001,)),
    "f32": stored("F32", (17, 31)),
    "empty": stored("F16", (0, 7)),
    "bool": stored("BOOL", (999,)),
    "f8": stored("F8_E4M3", (4097,)),
    "f8_e5m2": stored("F8_E5M2", (3,)),
    "i64": stored("I64", (5, 5)),
    "f64": stored("F64", (3,)),
    "scalar": stored("F32", ()),
    "large": stored("U8", (96 * MIB + 13,)),
    "last": stored("BF16", (7,)),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "model.safetensors", TENSORS)


def differing(loaded: dict[str, torch.Tensor], device: torch.device) -> list[str]:
    """Names of the tensors that are not what the file holds."""
    return [
        name
        for name, tensor in TENSORS.items()
        if loaded[name].device != device or loaded[name].shape != tensor.shape or raw(loaded[name].cpu()) != tensor.data
    ]


def load(streamer: SafetensorsStreamer, path: Path, device: torch.device) -> dict[str, torch.Tensor]:
    streamer.stream_files([str(path)], device=str(device))
    return dict(streamer.get_tensors())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("limit", ["-1", "0", str(8 * MIB)])
def test_every_dtype_lands_right_with_every_limit(
    streamer: SafetensorsStreamer,
    checkpoint: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    loaded = load(streamer, checkpoint, device)
    assert list(loaded) == list(TENSORS)
    assert differing(loaded, device) == []


@pytest.mark.usefixtures("nothing_left")
def test_a_real_model_is_what_safetensors_loads(
    streamer: SafetensorsStreamer,
    model: Path,  # noqa: F811
    device: torch.device,
) -> None:
    theirs = safetensors.torch.load_file(model, device=str(device))
    ours = load(streamer, model, device)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.usefixtures("nothing_left")
def test_torch_accounts_for_the_memory(streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device) -> None:
    before = torch.cuda.memory_allocated(device)
    loaded = load(streamer, checkpoint, device)
    assert torch.cuda.memory_allocated(device) - before >= sum(len(tensor.data) for tensor in TENSORS.values())
    del loaded


@only_a_gpu("CuPy has a CUDA runtime of its own, which asks the driver for private tables")
@pytest.mark.usefixtures("nothing_left")
def test_cupy_is_left_alone(streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device) -> None:
    cupy = pytest.importorskip("cupy")
    theirs = cupy.cuda.get_allocator()
    loaded = load(streamer, checkpoint, device)
    assert cupy.cuda.get_allocator() == theirs
    assert cupy.get_default_memory_pool().used_bytes() == 0
    del loaded


@pytest.mark.usefixtures("nothing_left")
def test_tensors_are_torchs_own_kind(streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device) -> None:
    loaded = load(streamer, checkpoint, device)
    tensor = loaded["bf16"]
    assert type(tensor) is torch.Tensor
    assert tensor.is_contiguous()
    assert not tensor.requires_grad
    assert tensor.data_ptr() % tensor.element_size() == 0
    weight = tensor.float().requires_grad_()
    (weight @ weight.T).sum().backward()
    assert weight.grad is not None
    tensor.zero_()
    assert not tensor.any()
    del loaded["bf16"]
    assert [name for name in differing(loaded | {"bf16": tensor}, device) if name != "bf16"] == []


@pytest.mark.usefixtures("nothing_left")
def test_memory_is_given_back_as_tensors_are_dropped(
    streamer: SafetensorsStreamer, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A group is one of these tensors. Six slots of 8 MiB are staged.
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "4")
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", str(8 * MIB))
    tensors = {f"t{index}": stored("U8", (16 * MIB,), index) for index in range(32)}
    path = write(tmp_path / "many.safetensors", tensors)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    streamer.stream_files([str(path)], device=str(device))
    for _name, tensor in streamer.get_tensors():
        del tensor
    # Of 512 MiB, the group that is being taken, and those ahead of it: as much as is staged, and a group.
    assert torch.cuda.max_memory_allocated(device) - before <= (6 * 8 + 2 * 16) * MIB


@pytest.mark.usefixtures("nothing_left")
def test_a_ranks_parts_are_cut_on_the_gpu(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device
) -> None:
    whole = load(streamer, checkpoint, device)
    select = {"bf16": (1, 3, 700), "f32": (0, 5, 9), "large": (0, MIB, 40 * MIB), "i64": (1, 2, 2)}
    streamer.stream_file(checkpoint, device=str(device), select=select)
    for name, tensor in streamer.get_tensors():
        dim, start, stop = select.get(name, (0, 0, 0))
        expected = whole[name].narrow(dim, start, stop - start).contiguous() if name in select else whole[name]
        assert tensor.device == device
        assert tensor.is_contiguous()
        assert tensor.shape == expected.shape
        assert raw(tensor.cpu()) == raw(expected.cpu())


@pytest.mark.usefixtures("nothing_left")
def test_a_load_that_is_abandoned_leaves_nothing_and_the_next_one_works(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device
) -> None:
    streamer.stream_files([str(checkpoint)], device=str(device))
    name, tensor = next(streamer.get_tensors())
    assert raw(tensor.cpu()) == TENSORS[name].data
    del tensor
    assert differing(load(streamer, checkpoint, device), device) == []


@only_a_gpu("cuFile reads into memory of a GPU's; an emulated cuFile is tests/io's")
@pytest.mark.usefixtures("nothing_left")
def test_gpudirect_loads_the_same_bytes(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_GDS", "1")
    try:
        loaded = load(streamer, checkpoint, device)
    except GdsUnavailableError as error:
        pytest.skip(str(error))
    assert differing(loaded, device) == []


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_casts_give_what_torch_gives_on_the_host(
    streamer: SafetensorsStreamer,
    tmp_path: Path,
    device: torch.device,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    every_16_bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    originals = {
        "bf16": every_16_bits.clone().view(torch.bfloat16),
        "f16": every_16_bits.view(torch.float16),
        "f8": torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn),
        "f32": torch.randint(-(2**31), 2**31 - 1, (1 << 20,), dtype=torch.int32).view(torch.float32),
        "i32": torch.arange(1000, dtype=torch.int32),
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(originals, path)
    streamer.stream_files([str(path)], device=str(device), dtype=dtype)
    loaded = dict(streamer.get_tensors())
    assert "cast on the host" not in caplog.text
    assert loaded["i32"].dtype == torch.int32
    for name, original in originals.items():
        expected = original.to(dtype) if original.is_floating_point() else original
        assert loaded[name].dtype == expected.dtype, name
        ours, theirs = loaded[name].cpu(), expected
        # A NaN has many bit patterns, and which of them a conversion keeps is the GPU's choice for torch too.
        numbers = ~theirs.isnan()
        assert torch.equal(ours.isnan(), theirs.isnan()), name
        assert raw(ours[numbers]) == raw(theirs[numbers]), name


def test_copies_of_host_tensors_survive_them(
    streamer: SafetensorsStreamer, checkpoint: Path, device: torch.device
) -> None:
    torch.zeros(1, device=device)
    streamer.stream_files([str(checkpoint)])
    on_device = {}
    for name, tensor in streamer.get_tensors():
        # The host tensor is dropped while its copy may be pending: its memory must stay until that is done.
        on_device[name] = tensor.to(device, non_blocking=True)
        del tensor
    torch.cuda.synchronize()
    assert differing(on_device, device) == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has fewer than two GPUs")
def test_each_gpu_of_a_machine_gets_what_it_was_asked_for(checkpoint: Path) -> None:
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        with SafetensorsStreamer() as streamer:
            assert differing(load(streamer, checkpoint, device), device) == []
    assert torch.cuda.current_device() == 0
