"""Slots in a device's memory, the uploads into them, and the broadcasts between them."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch

from runai_model_streamer.distributed.device.group import DeviceGroup

_leaked: Final[list[object]] = []
"""Memory that a broadcast may still write to, because aborting it has not ended it."""


class Lane:
    """Slots of one device, with a stream for uploads and one for broadcasts.

    Broadcasts run in order, so an upload on their stream would hold up all that come after it, on all ranks.

    Args:
        device: where the slots are; the host has no streams, and an upload there is a copy.
        count: number of slots.
        size: bytes of a slot.
        group: the ranks that broadcast; closed with this.

    Raises:
        RuntimeError: from here and from most methods: torch cannot do it.
    """

    def __init__(self, device: torch.device, count: int, size: int, group: DeviceGroup) -> None:
        self.count, self._device, self._size, self._group = count, device, size, group
        self._uploads: torch.cuda.Stream | None = None
        self._broadcasts: torch.cuda.Stream | None = None
        self._uploaded: dict[int, torch.cuda.Event] = {}
        if device.type == "cuda":
            with torch.cuda.device(device):
                self._uploads, self._broadcasts = torch.cuda.Stream(), torch.cuda.Stream()
                self._memory = torch.empty(count * size, dtype=torch.uint8, device=device)
                # Work queued earlier may still use this memory: torch hands it out in the order of this stream.
                allocated = torch.cuda.current_stream().record_event()
                self._uploads.wait_event(allocated)
                self._broadcasts.wait_event(allocated)
        else:
            self._memory = torch.empty(count * size, dtype=torch.uint8, device=device)

    @contextlib.contextmanager
    def _on(self, stream: torch.cuda.Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            yield

    def _part(self, slot: int, start: int, length: int) -> torch.Tensor:
        place = slot * self._size + start
        return self._memory[place : place + length]

    def upload(self, slot: int, memory: memoryview) -> None:
        """Queue the copy of this rank's bytes into a slot. The bytes are read until the slot's broadcast has run."""
        with self._on(self._uploads):
            source = torch.frombuffer(memory, dtype=torch.uint8)
            self._part(slot, 0, len(memory)).copy_(source, non_blocking=True)
            if self._uploads is not None:
                self._uploaded[slot] = self._uploads.record_event()

    def broadcast(self, slot: int, length: int, root: int) -> Any:
        """Queue the broadcast of a slot from the rank `root` of the group, behind the slot's upload, if it has one.

        Returns:
            torch's `Work`, for `has_run`.
        """
        with self._on(self._broadcasts):
            uploaded = self._uploaded.pop(slot, None)
            if uploaded is not None and self._broadcasts is not None:
                self._broadcasts.wait_event(uploaded)
            return self._group.broadcast(self._part(slot, 0, length), root)

    def has_run(self, work: Any) -> bool:
        """Return whether a broadcast has run. Do not wait for it.

        Raises:
            RuntimeError: it has failed.
        """
        if not work.is_completed():
            return False
        with self._on(self._broadcasts):
            work.wait()  # raises what went wrong
        return True

    def bytes_of(self, slot: int, start: int, length: int) -> memoryview | torch.Tensor:
        """Return bytes of a slot: a tensor on the device, or host memory."""
        part = self._part(slot, start, length)
        return part if self._uploads is not None else part.numpy().data

    def abort(self) -> None:
        """End all broadcasts; see `DeviceGroup.abort`."""
        self._group.abort()

    def leak(self) -> None:
        """Keep the memory and the group for as long as the process runs."""
        _leaked.append((self._memory, self._group))

    def drain(self) -> None:
        """Wait until all uploads have run, so that nothing reads this rank's host memory any more."""
        if self._uploads is not None:
            self._uploads.synchronize()

    def close(self) -> None:
        """Release the group and the memory, once all has been drained and nothing reads from the slots."""
        self._group.close()
        self._memory = torch.empty(0, dtype=torch.uint8, device="cpu")
