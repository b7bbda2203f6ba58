"""What the driver is asked for on streams of the caller's."""

from typing import Any

import pytest

from runai_model_streamer.pipeline.cuda.driver import CudaDriver

LEGACY = 1
"""CU_STREAM_LEGACY."""


class Recording:
    """An API that succeeds, and remembers the arguments of calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[int, int]:
            self.calls.append((name, arguments))
            return 0, 0

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
