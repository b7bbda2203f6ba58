"""Casts tensors on the GPU, with kernels compiled for the device of a load."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from runai_model_streamer.errors import CudaError
from runai_model_streamer.installation import install_command
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Cast

_log = logging.getLogger(__name__)

Kernel: TypeAlias = Callable[[int, int, int, int], None]
"""Queues a cast. Arguments: address to cast from, address to cast to, number of elements, stream."""


class DeviceCast:
    """The kernels that cast tensors to one dtype, on one device.

    Args:
        target: the dtype to cast to, by its name in the format.
        kernels: dtype to cast from, by its name in the format -> kernel.
    """

    def __init__(self, target: str, kernels: Mapping[str, Kernel]) -> None:
        self.target = target
        self._kernels = kernels

    def queue(self, casts: Iterable[Cast], stream: int) -> None:
        """Queue casts on a stream. Call it in the device's context.

        Raises:
            CudaError: a kernel cannot be launched.
        """
        for cast in casts:
            try:
                self._kernels[cast.dtype](cast.source, cast.target, cast.elements, stream)
            except Exception as error:  # the errors of numba, cuda.core and the driver have no common base
                raise CudaError(f"a cast from {cast.dtype} to {self.target} failed on the GPU: {error}") from error


Compiler: TypeAlias = Callable[[CudaDriver, str, Iterable[str]], Mapping[str, Kernel]]
"""Compiles the kernels that cast to a dtype. Returns: dtype to cast from -> kernel."""


def compile_casts(driver: CudaDriver, target: str, sources: Iterable[str]) -> Mapping[str, Kernel]:
    """Compile the kernels with numba-cuda, for the device of the driver."""
    from runai_model_streamer.kernels import device

    with driver.current():
        return {source: device.cast(source, target) for source in sorted(sources)}


def device_cast(
    driver: CudaDriver, target: str, sources: Iterable[str], compiler: Compiler = compile_casts
) -> DeviceCast | None:
    """Compile the kernels that cast `sources` to `target`. If that fails, log the reason and return None.

    Args:
        driver: the device's driver, used during this call only.
        target: the dtype to cast to, by its name in the format.
        sources: the dtypes to cast from.
        compiler: compiles the kernels.
    """
    try:
        kernels = compiler(driver, target, sources)
    except ImportError as error:
        _log.info(
            "Tensors are cast on the host: numba-cuda cannot be imported (%s): %s (or [cuda12])",
            error,
            install_command("cuda13"),
        )
    except CudaError:
        raise
    except Exception as error:  # a GPU, driver or toolkit that numba-cuda does not support fails in many ways
        _log.warning("Tensors are cast on the host: numba-cuda cannot compile for this GPU: %s", error)
    else:
        return DeviceCast(target, kernels)
    return None
