"""Sends and receives the one message that says why a rank ended a load early."""

import contextlib
import threading
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
import torch

from runai_model_streamer.distributed.ranks.channel import Channel
from runai_model_streamer.io.paths import as_unicode

NOTICE_BYTES: Final = 2048
"""Size of the message."""

_MAX_RANKS: Final = 200
"""Maximum ranks named in one message."""

_LONG: Final = timedelta(days=1)

_NOTICE_TAG: Final = 0
_END_TAG: Final = 1
_READY_TAG: Final = 2


class Reason(NamedTuple):
    """Why a load ended early."""

    rank: int
    """The rank that caused it."""
    text: str
    """What it did; follows "rank 3"."""


class TimedOut(NamedTuple):
    """The sender timed out."""

    waited: tuple[int, ...]
    """The ranks that it waited for, the longest wait first."""
    accused: tuple[int, ...]
    """Those of them that it waited for alone. A wait for any of several ranks accuses none of them."""


def nothing() -> torch.Tensor:
    """Make an empty message, which says only that it has arrived."""
    return torch.empty(0, dtype=torch.uint8, device="cpu")


def _written(notice: Reason | TimedOut) -> torch.Tensor:
    if isinstance(notice, TimedOut):
        said = orjson.dumps({"waited": notice.waited[:_MAX_RANKS], "accused": notice.accused[:_MAX_RANKS]})
    else:
        text = as_unicode(notice.text)
        while len(said := orjson.dumps({"rank": notice.rank, "text": text})) > NOTICE_BYTES:
            text = text[: len(text) * 3 // 4]
    return torch.frombuffer(bytearray(said.ljust(NOTICE_BYTES, b"\0")), dtype=torch.uint8)


def _read(message: torch.Tensor) -> Reason | TimedOut:
    said = orjson.loads(bytes(message.numpy()).rstrip(b"\0"))
    if "waited" in said:
        return TimedOut(tuple(said["waited"]), tuple(said["accused"]))
    return Reason(int(said["rank"]), str(said["text"]))


class Listener:
    """Receives one rank's message, if it ever sends one, and sends it this rank's.

    The receive is posted at once. An empty message follows, and only that one is waited for (see `peers`). The wait
    runs in a thread, made at the first question: a wait with a timeout would at its end close the connections of the
    whole group. The thread ends with the connection.

    Each rank announces that it listens. A message to a listening rank is on its way when the send call returns.
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
        """The message received."""
        self.dead = False
        """Whether the connection closed without a message."""

    def tell(self, notice: Reason | TimedOut) -> None:
        """Send this rank's message, unless the connection has closed."""
        with contextlib.suppress(RuntimeError):
            for data, tag in ((_written(notice), _NOTICE_TAG), (nothing(), _END_TAG)):
                self._sent.append(self._channel.isend(data, self._rank, tag))

    def wait_until_told(self, seconds: float) -> None:
        """Wait until the message of `tell` is on its way, or the connection has closed.

        It does not wait for the sends themselves: gloo would not report that one has failed (see `peers`).
        """
        with contextlib.suppress(RuntimeError):
            self._ready.wait(timedelta(seconds=seconds))

    def heard(self, seconds: float) -> bool:
        """Wait for the message. Return whether it has arrived, or never will. Not from two threads at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name=f"runai-listener-{self._rank}", daemon=True)
            self._thread.start()
        return self._heard.wait(seconds)

    def close(self) -> None:
        """Release all messages, so that the connection closes. Idempotent."""
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
