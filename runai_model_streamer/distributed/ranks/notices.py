"""The one message that a rank sends to another when it ends a load early."""

import contextlib
import threading
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
import torch

from runai_model_streamer.distributed.ranks.channel import Channel
from runai_model_streamer.io.paths import as_unicode

NOTICE_BYTES: Final = 2048
"""Of the message."""

_MAX_RANKS: Final = 200
"""Named in one message."""

_LONG: Final = timedelta(days=1)

_NOTICE_TAG: Final = 0
_END_TAG: Final = 1
_READY_TAG: Final = 2


class Reason(NamedTuple):
    """Why a load ended early."""

    rank: int
    """Whose fault it is."""
    text: str
    """Goes on from "rank 3"."""


class TimedOut(NamedTuple):
    """The sender timed out."""

    waited: tuple[int, ...]
    """For whom, the longest wait first."""


def nothing() -> torch.Tensor:
    """An empty message, which says only that it is there."""
    return torch.empty(0, dtype=torch.uint8, device="cpu")


def _written(notice: Reason | TimedOut) -> torch.Tensor:
    if isinstance(notice, TimedOut):
        said = orjson.dumps({"waited": notice.waited[:_MAX_RANKS]})
    else:
        text = as_unicode(notice.text)
        while len(said := orjson.dumps({"rank": notice.rank, "text": text})) > NOTICE_BYTES:
            text = text[: len(text) * 3 // 4]
    return torch.frombuffer(bytearray(said.ljust(NOTICE_BYTES, b"\0")), dtype=torch.uint8)


def _read(message: torch.Tensor) -> Reason | TimedOut:
    said = orjson.loads(bytes(message.numpy()).rstrip(b"\0"))
    if "waited" in said:
        return TimedOut(tuple(said["waited"]))
    return Reason(int(said["rank"]), str(said["text"]))


class Listener:
    """Receives the message of one rank, if it ever sends it, and sends it this rank's.

    The receive is posted at once; an empty message follows, which alone is waited for (see `peers`). Only who asks
    makes a thread wait: a wait of limited time would, at its end, close the connections of the whole group. The thread
    ends with the connection.

    Each rank tells that it listens. What is sent to one that does is on its way when the call to send it returns.
    """

    def __init__(self, rank: int, channel: Channel) -> None:
        self._rank = rank
        self._notice = torch.zeros(NOTICE_BYTES, dtype=torch.uint8, device="cpu")
        self._channel = channel
        self._bytes: Any = channel.irecv(self._notice, rank, _NOTICE_TAG)
        self._end: Any = channel.irecv(nothing(), rank, _END_TAG)
        self._ready: Any = channel.irecv(nothing(), rank, _READY_TAG)
        self._sent: list[Any] = [channel.isend(nothing(), rank, _READY_TAG)]
        self._heard = threading.Event()
        self._thread: threading.Thread | None = None
        self.said: Reason | TimedOut | None = None
        """The message."""
        self.dead = False
        """Whether the connection has closed without one."""

    def tell(self, notice: Reason | TimedOut) -> None:
        """Send the message, unless the connection has closed."""
        with contextlib.suppress(RuntimeError):
            for data, tag in ((_written(notice), _NOTICE_TAG), (nothing(), _END_TAG)):
                self._sent.append(self._channel.isend(data, self._rank, tag))

    def wait_until_told(self, seconds: float) -> None:
        """Wait until what `tell` has sent is on its way, or the connection has closed.

        Not for the sends themselves: gloo would not tell that one has failed (see `peers`).
        """
        with contextlib.suppress(RuntimeError):
            self._ready.wait(timedelta(seconds=seconds))

    def heard(self, seconds: float) -> bool:
        """Whether the message is there, or will never be. Not from two threads at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name=f"runai-listener-{self._rank}", daemon=True)
            self._thread.start()
        return self._heard.wait(seconds)

    def close(self) -> None:
        """Forget all messages, so that the connection closes. Idempotent."""
        self._bytes = self._ready = None
        if self._thread is None:
            self._end = None
        self._sent.clear()

    def _listen(self) -> None:
        try:
            self._end.wait(_LONG)
            self.said = _read(self._notice)
        except RuntimeError:
            self.dead = True
        self._heard.set()
