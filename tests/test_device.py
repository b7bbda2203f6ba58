"""Which device a name means, and what is said where there is none."""

import pytest
import torch

from runai_model_streamer.device import Gpus, resolve_device
from runai_model_streamer.errors import ArgumentError, DeviceError

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cpu:0", CPU, torch.device("cpu", 0), None], ids=repr)
def test_the_cpu_is_one_device(device: str | torch.device | None) -> None:
    assert resolve_device(device) == CPU


def test_the_cpu_is_the_cpu_whatever_the_callers_default_device() -> None:
    with torch.device("meta"):
        assert resolve_device("cpu") == resolve_device(None) == CPU


@pytest.mark.parametrize("device", ["", "bogus", "cuda:", "cuda:x", "cuda:-1", "CPU", "0", "cpu cuda"])
def test_a_name_that_torch_does_not_know_is_refused_with_what_to_use(device: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve_device(device)
    assert str(caught.value) == f'device {device!r} is unknown to torch; use "cpu" or "cuda:0"'


@pytest.mark.parametrize("device", [1.5, []], ids=repr)
def test_what_is_no_device_is_refused(device: object) -> None:
    with pytest.raises(ArgumentError, match="is unknown to torch"):
        resolve_device(device)  # type: ignore[arg-type]


def test_a_device_without_memory_is_refused() -> None:
    with pytest.raises(ArgumentError, match='device "meta" holds no bytes'):
        resolve_device("meta")


def test_a_device_that_this_machine_lacks_is_a_device_error_that_names_it() -> None:
    with pytest.raises(DeviceError, match=r'^device "mps:0" cannot be used: '):
        resolve_device("mps:0")


def test_an_error_of_torchs_is_told_in_a_line() -> None:
    with pytest.raises(DeviceError) as raised:
        resolve_device("mps:0")
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_without_cuda_in_torch_the_error_says_so(device: str) -> None:
    with pytest.raises(DeviceError) as caught:
        resolve_device(device, Gpus(is_built=lambda: False))
    assert str(caught.value) == (
        f'device "{device}": the installed torch {torch.__version__} is built without CUDA; '
        'install one with it, or stream to "cpu"'
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_without_a_gpu_the_error_says_so(device: str) -> None:
    with pytest.raises(DeviceError, match=f'^device "{device}": no GPU or no driver is found'):
        resolve_device(device, Gpus(is_built=lambda: True, is_available=lambda: False))


FOUR_GPUS = Gpus(is_built=lambda: True, is_available=lambda: True, device_count=lambda: 4, current_device=lambda: 2)
"""A torch that sees four GPUs, of which number 2 is the current one."""


@pytest.mark.parametrize(
    ("device", "index"), [("cuda", 2), (torch.device("cuda"), 2), ("cuda:0", 0), ("cuda:3", 3)], ids=repr
)
def test_bare_cuda_is_the_current_device_and_a_number_is_that_one(device: str | torch.device, index: int) -> None:
    assert resolve_device(device, FOUR_GPUS) == torch.device("cuda", index)


@pytest.mark.parametrize("device", ["cuda:4", "cuda:100"])
def test_a_number_beyond_the_last_gpu_is_a_device_error_with_their_count(device: str) -> None:
    with pytest.raises(DeviceError, match=f'^device "{device}": this process sees 4 GPUs, numbered from 0'):
        resolve_device(device, FOUR_GPUS)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_cannot_be_initialised_is_a_device_error(device: str) -> None:
    def fail() -> int:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    with pytest.raises(DeviceError, match=rf'^device "{device}" cannot be used: Cannot re-initialize CUDA') as caught:
        resolve_device(device, FOUR_GPUS._replace(current_device=fail))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_machine_with_a_gpu_bare_cuda_is_one_that_holds_tensors() -> None:
    device = resolve_device("cuda")
    assert device.index == torch.cuda.current_device()
    assert torch.empty(1, device=device).device == device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_machine_with_a_gpu_a_number_beyond_the_last_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="this process sees"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")
