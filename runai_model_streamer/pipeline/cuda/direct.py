"""The interface of files that can be read straight into device memory, and the minimum size of such a read."""

from typing import Final, Protocol

MIN_DIRECT: Final = 256 << 10
"""Minimum average bytes of a read's tensors for GPUDirect, which needs a separate read for each tensor."""


class DeviceFile(Protocol):
    """A file that can be read straight into device memory; see `io.files.gds.GdsFile`."""

    def read_into_device(self, offset: int, pointer: int, length: int) -> None:
        """Read into device memory, which no work may use, and return when all bytes are there."""
        ...

    def close(self) -> None:
        """Close the file. No read may be in flight. Idempotent."""
        ...
