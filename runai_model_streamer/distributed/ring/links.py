"""Connects the ranks of a node: carries short messages and the ring's memory, and shows when a process ends.

The connections are Unix sockets in the abstract namespace, which never leave a file. Each rank listens under a random
name. It sends the name to the others over torch.distributed, with a secret that it requires of each connection. Ranks
in different network namespaces (other containers, other pods) cannot connect.
"""

import contextlib
import hmac
import os
import secrets
import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

_MESSAGE: Final = struct.Struct("<BQ")
_HELLO: Final = struct.Struct("<32sI")

READY: Final = 1
"""The block is in its slot."""
TAKEN: Final = 2
"""The sender no longer needs the block."""
GOODBYE: Final = 3
"""The sender has all that it needs, and its slots hold all that others need of it."""

OnMessage = Callable[[int, int, int], None]
"""Called with the index of the sender, the kind of the message and the block's number."""


class Listener:
    """Accepts the connections of the node's other ranks.

    Raises:
        OSError: this machine has no such sockets.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.name = f"runai-streamer-{secrets.token_hex(16)}"
            self._socket.bind(f"\0{self.name}")
            self._socket.listen(256)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._socket.close()

    def meet(
        self, index: int, others: Mapping[int, tuple[str, bytes]], file: int, timeout: timedelta
    ) -> dict[int, tuple[socket.socket, int]]:
        """Connect with each other rank, and exchange descriptors of memory.

        Args:
            index: this rank's index.
            others: index -> name and secret of each other rank's listener.
            file: the descriptor to send; it stays the caller's.
            timeout: maximum time for all of it.

        Returns:
            Index -> connection and the other's descriptor. The caller must close both.

        Raises:
            OSError: a rank cannot be reached, or did not answer in time.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        met: dict[int, tuple[socket.socket, int]] = {}
        opened: list[socket.socket] = []
        try:
            asked = {}
            for other in sorted(each for each in others if each < index):
                name, secret = others[other]
                link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                opened.append(link)
                link.settimeout(_left(deadline))
                link.connect(f"\0{name}")
                socket.send_fds(link, [_HELLO.pack(secret, index)], [file])
                asked[other] = link
            expected = {each for each in others if each > index}
            while expected:
                self._socket.settimeout(_left(deadline))
                link, _ = self._socket.accept()
                opened.append(link)
                link.settimeout(_left(deadline))
                newcomer = self._welcome(link, expected)
                if newcomer is None:
                    opened.remove(link)
                    link.close()
                    continue
                other, theirs = newcomer
                expected.remove(other)
                met[other] = (link, theirs)
                socket.send_fds(link, [_HELLO.pack(self.secret, index)], [file])
            for other, link in asked.items():
                link.settimeout(_left(deadline))
                _, theirs = _received(link)
                met[other] = (link, theirs)
        except BaseException:
            for link in opened:
                link.close()
            for _, theirs in met.values():
                os.close(theirs)
            raise
        return met

    def _welcome(self, link: socket.socket, expected: set[int]) -> tuple[int, int] | None:
        """Return the rank that has connected, and its descriptor; None for a process that does not know the secret."""
        try:
            hello, theirs = _received(link)
        except OSError:
            return None
        secret, other = _HELLO.unpack(hello)
        if not hmac.compare_digest(secret, self.secret) or other not in expected:
            os.close(theirs)
            return None
        return other, theirs


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the ranks of the node did not connect in time")
    return left


def _received(link: socket.socket) -> tuple[bytes, int]:
    hello, files, _, _ = socket.recv_fds(link, _HELLO.size, 4)
    if len(hello) != _HELLO.size or len(files) != 1:
        for file in files:
            os.close(file)
        raise ConnectionError("another rank sent no memory")
    os.set_inheritable(files[0], False)
    return hello, files[0]


class Links:
    """Messages to and from the other ranks of the node. Sending is thread safe.

    A thread receives. It uses no CPU while no message comes, and ends with the connections.

    Args:
        sockets: index of each rank -> its connection; closed with this.
        timeout: maximum seconds to send a message.
        received: called in the thread for each message.
        lost: called in the thread with the index of a rank whose connection closed without a goodbye, and the reason.
    """

    def __init__(
        self,
        sockets: Mapping[int, socket.socket],
        timeout: float,
        received: OnMessage,
        lost: Callable[[int, str], None],
    ) -> None:
        self._sockets = dict(sockets)
        self._received, self._lost = received, lost
        seconds = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
        for each in self._sockets.values():
            each.setblocking(True)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self._thread: threading.Thread | None = None
        _open.add(self)

    def start(self) -> None:
        """Begin to receive."""
        if self._sockets:
            self._thread = threading.Thread(target=self._listen, name="runai-ring", daemon=True)
            self._thread.start()

    def send(self, other: int, kind: int, number: int = 0) -> bool:
        """Send a message. Return False if it cannot be sent in time. Ignore a rank that has gone."""
        try:
            self._sockets[other].send(_MESSAGE.pack(kind, number), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            pass  # if it went without a goodbye, `lost` is called
        return True

    def _listen(self) -> None:
        poll = select.poll()
        by_file = {each.fileno(): other for other, each in self._sockets.items()}
        left: set[int] = set()
        for file in by_file:
            poll.register(file, select.POLLIN)
        while by_file:
            for file, _ in poll.poll():
                other = by_file[file]
                try:
                    message = self._sockets[other].recv(_MESSAGE.size, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                except OSError as error:  # reported once, before messages that are still to be received
                    if isinstance(error, ConnectionResetError):
                        continue
                    message, why = b"", str(error)
                else:
                    why = "its connection has closed"
                if message:
                    kind, number = _MESSAGE.unpack(message)
                    if kind == GOODBYE:
                        left.add(other)
                    self._received(other, kind, number)
                    continue
                poll.unregister(file)
                del by_file[file]
                if other not in left:
                    self._lost(other, why)

    def close_in_child(self) -> None:
        """Close the child's copies of the connections, so that the others notice when the parent ends."""
        for each in self._sockets.values():
            each.close()

    def hang_up(self) -> None:
        """Shut down all connections, for both sides: the others notice at once. Idempotent."""
        for each in self._sockets.values():
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, and end the thread, which must not call this. Idempotent."""
        self.hang_up()
        if self._thread is not None:
            self._thread.join()
        for each in self._sockets.values():
            each.close()


_open: "weakref.WeakSet[Links]" = weakref.WeakSet()


def _close_in_child() -> None:
    for links in _open:
        links.close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
