"""A backend of torch.distributed for tests: its broadcasts run late, through torch's store, and tell each misuse.

As with NCCL, a broadcast runs when all ranks have issued it, in the order of the calls, behind the work of the stream
that is current at the call. Until then it owns the memory. It never runs if a rank does not issue it.
"""

import atexit
import contextlib
import hashlib
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist

NAME: Final = "checked"

_POISON: Final = 0xEE

behind = threading.local()
"""`event`: what the next broadcast of this thread waits for, in place of the current stream's work."""


_groups: "Final[weakref.WeakSet[Checked]]" = weakref.WeakSet()
_threads: Final[weakref.WeakSet[threading.Thread]] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """End all threads: Python's end while one is inside torch would end the process by SIGABRT."""
    for group in list(_groups):
        group.abort()
    for thread in list(_threads):
        thread.join(10.0)


class AbortedError(RuntimeError):
    """The group was aborted."""


class CheckedWork(dist.Work):
    """One broadcast."""

    def __init__(self, tensor: torch.Tensor, root: int) -> None:
        super().__init__()
        self.tensor, self.root = tensor, root
        self.begun: Any = None
        self.ran: Any = None
        self.over = threading.Event()
        self.error: RuntimeError | None = None

    def is_completed(self) -> bool:
        return self.over.is_set() and (self.ran is None or self.ran.query())

    def wait(self, timeout: Any = None) -> bool:
        self.over.wait()
        if self.error is not None:
            raise self.error
        if self.ran is not None:
            torch.cuda.current_stream().wait_event(self.ran)
        return True


class Checked(dist.ProcessGroup):
    """The group of one rank.

    Args:
        store: where the ranks meet.
        rank: among `size`.
        size: of the group.
        seed: how late broadcasts run.
        told: called with each misuse.
        longest: seconds until a broadcast that a rank has not issued is a misuse.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        seed: int = 0,
        told: Callable[[str], object] = print,
        longest: float = 60.0,
    ) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # torch's own tests do so, too
        self._store, self._rank, self._size = store, rank, size
        self._random, self._told, self._longest = random.Random(seed), told, longest
        self._queue: queue.SimpleQueue[CheckedWork | None] = queue.SimpleQueue()
        self._aborted = threading.Event()
        self._stream: Any = None
        self._barriers = 0
        self.issued: list[tuple[int, int]] = []
        """Root and bytes of each broadcast, in the order of the calls."""
        arguments = (weakref.ref(self), self._queue)
        thread = threading.Thread(target=_serve, args=arguments, name="checked-backend", daemon=True)
        _groups.add(self)
        _threads.add(thread)
        thread.start()

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        return NAME

    def broadcast(self, tensors: Any, options: Any = None, *_: Any) -> CheckedWork:
        (tensor,) = tensors
        work = CheckedWork(tensor, options.rootRank)
        self.issued.append((work.root, tensor.numel()))
        if tensor.is_cuda:
            work.begun = torch.cuda.current_stream(tensor.device).record_event()
        else:
            work.begun, behind.event = getattr(behind, "event", None), None
            if work.root != self._rank:
                tensor.fill_(_POISON)  # it is the broadcast's from now on: nobody may be reading it
        self._queue.put(work)
        return work

    def barrier(self, *_: Any, **__: Any) -> CheckedWork:
        work = CheckedWork(torch.empty(0), -1)
        self._store.add("barriers", 1)
        self._barriers += 1
        while self._store.add("barriers", 0) < self._barriers * self._size:
            time.sleep(0.01)
        work.over.set()
        return work

    def abort(self) -> None:
        self._aborted.set()
        self._queue.put(None)

    shutdown = abort

    def __del__(self) -> None:
        self._queue.put(None)

    def run(self, number: int, work: CheckedWork) -> None:
        """Run a broadcast, in the group's thread."""
        try:
            self._transfer(number, work)
        except RuntimeError as error:
            work.error = error
            if not isinstance(error, AbortedError):
                self._told(str(error))
        work.tensor = torch.empty(0)
        work.over.set()

    def _transfer(self, number: int, work: CheckedWork) -> None:
        tensor, mine = work.tensor, f"{work.root} {work.tensor.numel()}"
        self._store.set(f"{number} of {self._rank}", mine)
        for other in range(self._size):
            theirs = self._get(f"{number} of {other}").decode()
            if theirs != mine:
                raise RuntimeError(f"order: broadcast {number}: rank {self._rank} has {mine}, rank {other} {theirs}")
        if self._rank == work.root:
            self._send(number, work, tensor)
        else:
            self._receive(number, work, tensor)

    def _send(self, number: int, work: CheckedWork, tensor: torch.Tensor) -> None:
        if tensor.is_cuda:
            with self._on_stream(work):
                data = tensor.cpu()
            self._end(work)
        else:
            if work.begun is not None:
                work.begun.wait()
            before = _digest(tensor)
            time.sleep(self._random.random() * 5e-4)
            data = tensor.clone()
            if _digest(data) != before:
                raise RuntimeError(f"lifetime: what broadcast {number} sends changed while it was in flight")
        self._store.set(f"{number}", data.numpy().tobytes())

    def _receive(self, number: int, work: CheckedWork, tensor: torch.Tensor) -> None:
        data = torch.frombuffer(bytearray(self._get(f"{number}")), dtype=torch.uint8)
        if tensor.is_cuda:
            with self._on_stream(work):
                tensor.copy_(data.pin_memory(), non_blocking=True)
            self._end(work)
            return
        time.sleep(self._random.random() * 5e-4)
        if not bool((tensor == _POISON).all()):
            raise RuntimeError(f"lifetime: what broadcast {number} fills was written to while it was in flight")
        tensor.copy_(data)

    @contextlib.contextmanager
    def _on_stream(self, work: CheckedWork) -> Any:
        device = work.tensor.device
        with torch.cuda.device(device):
            self._stream = self._stream or torch.cuda.Stream()
            self._stream.wait_event(work.begun)
            with torch.cuda.stream(self._stream):
                yield

    def _end(self, work: CheckedWork) -> None:
        work.ran = self._stream.record_event()

    def _get(self, key: str) -> bytes:
        deadline = time.monotonic() + self._longest
        while not self._store.check([key]):
            if self._aborted.is_set():
                raise AbortedError("aborted")
            if time.monotonic() > deadline:
                raise RuntimeError(f"order: {key} never came to rank {self._rank}")
            time.sleep(1e-4)
        return bytes(self._store.get(key))


def _serve(group: "weakref.ref[Checked]", queued: "queue.SimpleQueue[CheckedWork | None]") -> None:
    """Run all that is queued, and end with the group."""
    number = 0
    while (work := queued.get()) is not None and (found := group()) is not None:
        found.run(number, work)
        number += 1
        del found, work


def _digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.numpy().tobytes()).digest()


def register(make: Callable[..., dist.ProcessGroup] = Checked) -> None:
    """Let torch know the backend, for host memory and CUDA."""
    dist.Backend.register_backend(NAME, lambda store, rank, size, _: make(store, rank, size), devices=["cpu", "cuda"])
