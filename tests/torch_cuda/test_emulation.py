"""The emulated runtime and what stands in for kernels: when they run, and what is reported."""

import ctypes
import threading

import pytest
import torch

from tests.checkpoints import raw
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.testing import emulated_torch
from tests.torch_cuda.loads import DEVICE, MIB, has_context, sleep

NEW = 0xA5
"""What new memory of a device holds."""


def runtime() -> ctypes.CDLL:
    return ctypes.CDLL("libcudart.so.13")


def bytes_of(tensor: torch.Tensor) -> bytes:
    """What is there now, with nothing waited for."""
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)


@emulated_torch(modes=("lazy",))
def test_fills_run_late_and_in_stream_order(emulator: Emulator) -> None:
    tensor = torch.empty(8, dtype=torch.uint8, device=DEVICE)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        tensor.fill_(3)
        tensor[:4].fill_(4)
    assert bytes_of(tensor) == bytes([NEW] * 8)
    side.synchronize()
    assert bytes_of(tensor) == b"\4\4\4\4\3\3\3\3"


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.complex128], ids=str
)
@emulated_torch(modes=("lazy",))
def test_fills_are_of_any_dtype(emulator: Emulator, dtype: torch.dtype) -> None:
    assert raw(torch.ones(1001, dtype=dtype, device=DEVICE).cpu()) == raw(torch.ones(1001, dtype=dtype))


@emulated_torch(modes=("lazy",))
def test_a_fill_may_leave_out_some(emulator: Emulator) -> None:
    tensor = torch.zeros(2, 4, dtype=torch.uint8, device=DEVICE)
    tensor[:, 1:3].fill_(7)
    assert tensor.tolist() == [[0, 7, 7, 0]] * 2


@emulated_torch(modes=("lazy",))
def test_sleep_holds_back_what_comes_behind_it(emulator: Emulator) -> None:
    sleep()
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    assert torch.cuda.current_stream().query()


@emulated_torch(modes=("lazy",))
def test_a_fill_that_nothing_orders_is_a_race(emulator: Emulator) -> None:
    tensor = torch.empty(8, dtype=torch.uint8, device=DEVICE)
    for side in (torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(side):
            tensor.fill_(1)
    assert [misuse.kind for misuse in emulator.take_misuses()] == ["race"]


@emulated_torch(modes=("lazy",))
def test_memory_given_to_two_streams_without_record_stream_is_a_race(emulator: Emulator) -> None:
    side, kept = torch.cuda.Stream(), torch.empty(MIB, dtype=torch.uint8, device=DEVICE)
    dropped = torch.empty(MIB, dtype=torch.uint8, device=DEVICE)
    with torch.cuda.stream(side):
        kept.copy_(dropped)
    address = dropped.data_ptr()
    del dropped
    again = torch.empty(MIB, dtype=torch.uint8, device=DEVICE)
    assert again.data_ptr() == address
    again.fill_(1)
    assert [misuse.kind for misuse in emulator.take_misuses()] == ["race"]


@emulated_torch(modes=("lazy",))
def test_an_operator_without_a_kernel_waits_and_is_right(emulator: Emulator) -> None:
    tensor = torch.zeros(3, device=DEVICE)
    tensor.fill_(2)
    assert (tensor * 3 + tensor @ tensor).tolist() == [18.0] * 3
    weight = torch.ones(2, 2, device=DEVICE, requires_grad=True)
    (weight * 5).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[5.0] * 2] * 2


@emulated_torch(modes=("lazy",))
def test_an_output_that_is_too_small_is_made_larger(emulator: Emulator) -> None:
    out = torch.empty(0, device=DEVICE)
    torch.add(torch.ones(5, device=DEVICE), 1, out=out)
    assert out.tolist() == [2.0] * 5


@emulated_torch(modes=("lazy",))
def test_an_error_stays_the_threads_last_one_until_it_is_asked_for(emulator: Emulator) -> None:
    torch.cuda.init()
    library = runtime()
    emulator.fail("cuMemAlloc", 1, 2)
    assert library.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(MIB)) == 2
    assert [library.cudaPeekAtLastError(), library.cudaGetLastError(), library.cudaGetLastError()] == [2, 2, 0]


@emulated_torch(modes=("lazy",), devices=2)
def test_setting_a_device_makes_its_context_and_asking_for_one_does_not(emulator: Emulator) -> None:
    library, device = runtime(), ctypes.c_int(-1)
    assert library.cudaGetDevice(ctypes.byref(device)) == 0
    assert device.value == 0
    assert [has_context(index) for index in range(2)] == [False, False]
    assert library.cudaSetDevice(1) == 0
    assert [has_context(index) for index in range(2)] == [False, True]
    assert library.cudaGetDevice(ctypes.byref(device)) == 0
    assert device.value == 1


@emulated_torch(modes=("lazy",), devices=2)
def test_torch_sees_the_emulated_devices(emulator: Emulator) -> None:
    assert torch.cuda.device_count() == 2
    assert torch.cuda.get_device_name(1) == "Emulated CUDA device"
    assert torch.cuda.get_device_properties(1).total_memory == 8 << 30
    assert torch.cuda.mem_get_info(1)[1] == 8 << 30


@emulated_torch(modes=("lazy",))
def test_no_memory_is_torchs_own_error_which_names_the_device(emulator: Emulator) -> None:
    emulator.set_device_memory(4 * MIB)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="GPU 0"):
        torch.empty(64 * MIB, dtype=torch.uint8, device=DEVICE)


@emulated_torch(modes=("lazy",))
def test_a_graph_replays_what_torch_captured(emulator: Emulator) -> None:
    source, target = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        target.copy_(source)
    assert target.tolist() == [0.0] * 8
    source.fill_(5)
    graph.replay()
    assert target.tolist() == [5.0] * 8


@emulated_torch(modes=("lazy",))
def test_an_allocation_of_the_drivers_in_another_thread_breaks_torchs_capture(emulator: Emulator) -> None:
    torch.cuda.init()
    library = emulator.library

    def allocate() -> None:
        context = ctypes.c_void_p()
        library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        library.cuCtxSetCurrent(context)
        library.cuMemHostAlloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(MIB), 0)

    def capture() -> None:
        thread = threading.Thread(target=allocate)
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.empty(8, device=DEVICE).copy_(torch.empty(8, device=DEVICE))
            thread.start()
            thread.join()

    with pytest.raises(torch.AcceleratorError, match="previous error during capture"):
        capture()
