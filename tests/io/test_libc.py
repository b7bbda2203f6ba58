import os
from types import SimpleNamespace

import pytest

from runai_model_streamer.io.libc import kernel_release


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44-fc-v657", (6, 18)), ("4.18.0-553.el8_10.x86_64", (4, 18)), ("5.19", (5, 19)), ("unknown", (0, 0))],
)
def test_the_kernels_version_is_that_of_its_release(
    monkeypatch: pytest.MonkeyPatch, release: str, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    assert kernel_release() == version
