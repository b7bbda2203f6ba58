"""Marks of the tests here."""

import pytest

from tests.cuda_emulator.testing import torch_is_emulated


def only_a_gpu(reason: str) -> pytest.MarkDecorator:
    """What the emulated device cannot show, and why."""
    return pytest.mark.skipif(torch_is_emulated(), reason=f"only on a GPU: {reason}")
