"""What the driver is asked for: on streams of the caller's, for copies, and by threads that read."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from runai_model_streamer.errors import CudaError
from runai_model_streamer.pipeline.cuda.driver import CudaDriver

LEGACY = 1
"""CU_STREAM_LEGACY."""


class Recording:
    """An API that succeeds, and remembers the arguments of calls."""

    CUDA_VERSION = 13000
    CUdeviceptr = CUstreamCaptureMode = int
    CUmemcpyAttributes = SimpleNamespace
    CUmemcpySrcAccessOrder = SimpleNamespace(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM=1)

    def __init__(self, version: int = 13000, refused: int = 0) -> None:
        self._version = version
        self._refused = refused
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[int, Any]:
            self.calls.append((name, arguments))
            if name == "cuMemcpyBatchAsync":
                return self._refused, 0
            if name == "cuDeviceGetPCIBusId":
                return 0, b"0000:C1:00.0\0"
            return 0, self._version if name == "cuDriverGetVersion" else 0

        return call


@pytest.mark.parametrize(("handle", "asked"), [(0, LEGACY), (77, 77)])
def test_the_callers_default_stream_is_named_so_that_no_setting_changes_its_meaning(handle: int, asked: int) -> None:
    api = Recording()
    driver = CudaDriver(0, api)
    api.calls.clear()
    driver.record_for_caller(5, handle)
    driver.make_caller_wait(handle, 5)
    assert api.calls == [
        ("cuStreamIsCapturing", (asked,)),
        ("cuEventRecord", (5, asked)),
        ("cuStreamIsCapturing", (asked,)),
        ("cuStreamWaitEvent", (asked, 5, 0)),
    ]


ONE_BY_ONE = [("cuMemcpyHtoDAsync", (1, 10, 100, 7)), ("cuMemcpyHtoDAsync", (2, 20, 200, 7))]


def copies_of(
    api: Recording, targets: list[int], sources: list[int], sizes: list[int]
) -> list[tuple[str, tuple[Any, ...]]]:
    """The calls by which a driver on this API copies to these addresses."""
    driver = CudaDriver(0, api)
    api.calls.clear()
    driver.copy_to_device(targets, sources, sizes, 7)
    return api.calls


def test_several_copies_are_one_call() -> None:
    ((name, arguments),) = copies_of(Recording(), [1, 2], [10, 20], [100, 200])
    in_stream_order = SimpleNamespace(srcAccessOrder=1)
    assert (name, arguments) == (
        "cuMemcpyBatchAsync",
        ([1, 2], [10, 20], [100, 200], 2, [in_stream_order], [0], 1, 7),
    )


def test_one_copy_is_the_plain_call() -> None:
    assert copies_of(Recording(), [1], [10], [100]) == ONE_BY_ONE[:1]


def test_a_driver_older_than_the_bindings_is_asked_for_each_copy() -> None:
    assert copies_of(Recording(version=12090), [1, 2], [10, 20], [100, 200]) == ONE_BY_ONE


def test_a_platform_without_batches_is_asked_once() -> None:
    api = Recording(refused=801)
    driver = CudaDriver(0, api)
    api.calls.clear()
    for _ in range(2):
        driver.copy_to_device([1, 2], [10, 20], [100, 200], 7)
    assert [name for name, _ in api.calls] == ["cuMemcpyBatchAsync"] + ["cuMemcpyHtoDAsync"] * 4


def test_an_error_of_several_copies_names_the_call() -> None:
    with pytest.raises(CudaError, match="cuMemcpyBatchAsync failed with error 700"):
        copies_of(Recording(refused=700), [1, 2], [10, 20], [100, 200])


def test_a_thread_that_reads_sets_its_context_once() -> None:
    api = Recording()
    driver = CudaDriver(0, api)
    api.calls.clear()

    def read() -> None:
        for _ in range(3):
            driver.attach()

    for _ in range(2):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert [name for name, _ in api.calls] == ["cuThreadExchangeStreamCaptureMode", "cuCtxSetCurrent"] * 2
