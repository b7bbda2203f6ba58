"""What a fork leaves to a child process: the memory of its parent, and none of the threads."""

import os
import weakref
from collections.abc import Iterable
from typing import Protocol


class OwnProcess:
    """The process that made an object. A forked child has a copy of the object, and is another process."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child, forked since the object was made."""
        return os.getpid() != self._pid


class Holder(Protocol):
    """Something that holds memory which forked children do not have."""

    def missing_in_children(self) -> Iterable[object]:
        """Objects whose memory may not be mapped in a child that is forked now. Takes no lock."""
        ...


def keep_in_children(holder: Holder) -> None:
    """Let no forked child free what the holder names, which would unmap whatever has its addresses by then."""
    _holders.add(holder)


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()
_kept: list[object] = []


def _keep() -> None:
    for holder in _holders:
        _kept.extend(holder.missing_in_children())


os.register_at_fork(after_in_child=_keep)
