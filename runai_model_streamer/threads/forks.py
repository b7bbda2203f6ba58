"""Forks: a child process has its parent's memory, and none of its threads."""

import os
import weakref
from collections.abc import Iterable
from typing import Protocol


class OwnProcess:
    """Remembers which process created an object. A forked child has a copy of the object."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process was forked after the object was created."""
        return os.getpid() != self._pid


class Holder(Protocol):
    """An object that holds memory which forked children do not have."""

    def missing_in_children(self) -> Iterable[object]:
        """Return the objects whose memory a child forked now may not have mapped. Must take no lock."""
        ...


def keep_in_children(holder: Holder) -> None:
    """Keep forked children from freeing what the holder names: that would unmap other memory at the same addresses."""
    _holders.add(holder)


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()
_kept: list[object] = []


def _keep() -> None:
    for holder in _holders:
        _kept.extend(holder.missing_in_children())


os.register_at_fork(after_in_child=_keep)
