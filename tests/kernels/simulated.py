"""Runs the CUDA kernels in numba-cuda's simulator against the oracle: a process of its own, NUMBA_ENABLE_CUDASIM=1."""

import warnings

import numpy as np
import numpy.typing as npt
from numba import config, cuda

from runai_model_streamer.kernels import bits, device
from tests.kernels import oracle, samples


def sample(source: str) -> npt.NDArray[np.uint8]:
    """Elements spread over all values of the dtype, the special ones among them."""
    width = oracle.WIDTHS[source]
    values = samples.edges() if source == "F32" else np.frombuffer(samples.all_values(source), f"<u{width}")
    picked = np.concatenate([values[:12], values[:: max(len(values) // 250, 1)], values[-12:]])
    return np.frombuffer(picked.tobytes(), np.uint8)


def main() -> None:
    assert config.ENABLE_CUDASIM
    # Integers wrap, as they do on a GPU. The simulator's threads do not inherit NumPy's error state.
    warnings.filterwarnings("ignore", ".*overflow encountered", RuntimeWarning)
    for source, target in oracle.PAIRS:
        kernel, _ = device.cast_template(source, target)
        for offset in (0, 1):
            data = np.concatenate([np.zeros(offset, np.uint8), sample(source)])[offset:]
            count = len(data) // oracle.WIDTHS[source]
            made = np.zeros(count, f"<u{oracle.WIDTHS[target]}")
            cuda.jit(kernel)[2, 32](data, made)
            np.testing.assert_array_equal(made.view(np.uint8), oracle.cast(data, source, target))
        print(f"cast_{source}_{target}")
    assert bits.ITEM_SIZES == oracle.WIDTHS


if __name__ == "__main__":
    main()
