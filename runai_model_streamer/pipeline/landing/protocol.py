"""What a landing is: the protocol that each way to land bytes follows."""

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
        """Whose it is."""
        ...


LeaseT = TypeVar("LeaseT", bound=Leased)


class Landing(Protocol[LeaseT]):
    """Memory for groups, a place for each read, and tensors of what has landed.

    `lease` is called by one reader at a time, in plan order, before any read of the group; `read` by the reader of a
    step; `ready` by the reader of a group's last one; the other methods by the consumer.
    """

    @property
    def extra_stage(self) -> str | None:
        """What `read` spends time on beside the source's own: a stage of `reader.STAGES`. None: nothing."""
        ...

    @property
    def waits(self) -> WaitClock:
        """How long `lease` has waited for memory, or for the caller."""
        ...

    @property
    def peak(self) -> int:
        """Most bytes of host memory held at once, as they count against the limit. From any thread."""
        ...

    def lease(self, group: Group, storage_bound: bool) -> LeaseT:
        """Memory for the group; waits for it. Raises `Stopped` when the load ends meanwhile.

        `storage_bound`: reads wait for storage, which has nothing to do while readers wait here.
        """
        ...

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes to where they belong, or to where the landing takes them on from."""
        ...

    def ready(self, lease: LeaseT) -> None:
        """All steps of the group have been read; called once, by the reader of the last one."""
        ...

    def take(self, group: Group, lease: LeaseT | None) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """The tensors of a complete group, in file order, in batches; its memory goes with them to the caller.

        No lease for a group without bytes. Each batch is made in the caller's thread, when it is asked for.
        """
        ...

    def await_group(self, index: int) -> None:
        """The consumer waits for this group."""
        ...

    def release(self, index: int) -> None:
        """The caller has been given a tensor of group `index`, so it has let go of earlier ones, or keeps them."""
        ...

    def close(self) -> None:
        """Release what the caller does not use. No reader is running, but for one that hangs in a read.

        Raises:
            StreamerError: something could not be released, or turned out to have failed. All the rest is released.
        """
        ...
