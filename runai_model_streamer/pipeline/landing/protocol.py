"""The protocol of a landing: memory for groups, a place for each read, tensors of what has landed."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch

from runai_model_streamer.io.source import Source
from runai_model_streamer.pipeline.plan.groups import Group, Step
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock


class Leased(Protocol):
    """Memory that a landing has given to one group."""

    @property
    def group(self) -> Group:
        """The group that has it."""
        ...


LeaseT = TypeVar("LeaseT", bound=Leased)


class Landing(Protocol[LeaseT]):
    """Memory for groups, a place for each read, and tensors of what has landed.

    One reader at a time calls `lease`, in plan order, before any read of the group. The reader of a step calls `read`,
    and the reader of a group's last step `ready`. The consumer calls the other methods.
    """

    @property
    def extra_stage(self) -> str | None:
        """The stage of `tally.reader.STAGES` that `read` spends time on after the source's read; None for none."""
        ...

    @property
    def waits(self) -> WaitClock:
        """Time that `lease` waited for memory, or for the caller."""
        ...

    @property
    def peak(self) -> int:
        """Maximum bytes of host memory held at once, as counted against the limit. From any thread."""
        ...

    def reads_at_once(self, length: int) -> int:
        """Return how many reads of so many bytes may be in flight, once their groups have memory."""
        ...

    def lease(self, group: Group, storage_bound: bool) -> LeaseT:
        """Wait for memory for the group, and lease it. Raise `Stopped` if the load ends meanwhile.

        `storage_bound`: storage is the bottleneck, and idles while readers wait here.
        """
        ...

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes to their place, or to memory that the landing copies them from."""
        ...

    def ready(self, lease: LeaseT) -> None:
        """Finish the group, all of whose steps have been read. Called once."""
        ...

    def take(self, group: Group, lease: LeaseT | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Make the tensors of a complete group, in file order, in batches. The caller then owns the group's memory.

        A group without bytes has no lease. Each batch is made in the caller's thread, when the caller asks for it.
        """
        ...

    def await_group(self, index: int) -> None:
        """Say that the consumer waits for this group."""
        ...

    def release(self, index: int) -> None:
        """Say that the caller got a tensor of group `index`. It has dropped earlier groups by now, or keeps them."""
        ...

    def close(self) -> None:
        """Release what the caller does not use. No reader may run, except one that hangs in a read.

        Raises:
            StreamerError: something could not be released, or had failed. Everything else is released.
        """
        ...
