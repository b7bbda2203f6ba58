"""Connections between the ranks of a node: meeting, messages, and word of an end."""

import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from runai_model_streamer.distributed.ring.links import GOODBYE, READY, TAKEN, Links, Listener
from runai_model_streamer.distributed.ring.slots import create
from runai_model_streamer.ranges import PAGE

SOON = timedelta(seconds=20)
Events = queue.SimpleQueue[tuple[object, ...]]


def meet(count: int) -> list[dict[int, tuple[socket.socket, int]]]:
    """Ranks that have met, each in a thread of its own."""
    listeners = [Listener() for _ in range(count)]
    names = {index: (each.name, each.secret) for index, each in enumerate(listeners)}
    met: list[dict[int, tuple[socket.socket, int]]] = [{} for _ in range(count)]

    def one(index: int) -> None:
        others = {each: where for each, where in names.items() if each != index}
        file = create(index + 1, PAGE)
        with closing(listeners[index]):
            met[index] = listeners[index].meet(index, others, file, SOON)
        os.close(file)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return met


@pytest.mark.parametrize("count", [2, 8])
def test_each_rank_gets_the_memory_of_each_other(count: int) -> None:
    for index, met in enumerate(meet(count)):
        assert sorted(met) == [each for each in range(count) if each != index]
        for other, (link, file) in met.items():
            assert os.fstat(file).st_size == (other + 1) * PAGE
            assert not os.get_inheritable(file)
            os.close(file)
            link.close()


def test_a_process_that_does_not_know_the_secret_is_sent_away() -> None:
    with closing(Listener()) as listener, closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as stranger:
        stranger.connect(f"\0{listener.name}")
        file = create(1, PAGE)
        socket.send_fds(stranger, [bytes(32) + (1).to_bytes(4, "little")], [file])
        with pytest.raises(TimeoutError):
            listener.meet(0, {1: ("nobody", b"")}, file, timedelta(seconds=0.3))
        assert stranger.recv(1) == b""
        os.close(file)


def test_a_rank_that_listens_in_another_network_cannot_be_reached() -> None:
    file = create(1, PAGE)
    with closing(Listener()) as listener, pytest.raises(ConnectionRefusedError):
        listener.meet(1, {0: ("a name that no socket has", bytes(32))}, file, SOON)
    os.close(file)


class Pair:
    """Two ranks that are connected, and what the second one is told."""

    def __init__(self) -> None:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events: Events = queue.SimpleQueue()
        self.sender = Links({1: first}, 5.0, lambda *_: None, lambda *_: None)
        self.receiver = Links(
            {0: second},
            5.0,
            lambda *message: self.events.put(message),
            lambda other, _: self.events.put(("lost", other)),
        )
        self.receiver.start()

    def next(self) -> tuple[object, ...]:
        """The next event."""
        return self.events.get(timeout=20)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.sender.close()
    made.receiver.close()


def test_messages_come_in_order(pair: Pair) -> None:
    sent = [(READY, 1), (TAKEN, 1 << 40), (READY, 3)]
    for kind, number in sent:
        assert pair.sender.send(1, kind, number)
    assert [pair.next() for _ in sent] == [(0, kind, number) for kind, number in sent]


def test_a_connection_that_closes_without_a_goodbye_is_lost_and_what_was_sent_before_has_come(pair: Pair) -> None:
    pair.sender.send(1, READY, 7)
    pair.receiver.send(0, TAKEN, 9)  # not received: the sender then resets the connection
    pair.sender.close()
    assert [pair.next(), pair.next()] == [(0, READY, 7), ("lost", 0)]


def test_after_a_goodbye_nobody_minds_the_end(pair: Pair) -> None:
    pair.sender.send(1, GOODBYE)
    pair.sender.close()
    assert pair.next() == (0, GOODBYE, 0)
    pair.receiver.close()  # its thread has ended
    assert pair.events.empty()


def test_a_message_to_a_rank_that_has_gone_is_dropped(pair: Pair) -> None:
    pair.receiver.close()
    assert pair.sender.send(1, TAKEN, 1)


def test_a_rank_that_receives_nothing_is_not_waited_for_longer_than_the_timeout() -> None:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    links = Links({1: first}, 0.2, lambda *_: None, lambda *_: None)
    for _ in range(100_000):
        if not links.send(1, READY, 1):
            break
    else:
        pytest.fail("every message was sent")
    links.close()
    second.close()


def test_a_forked_child_does_not_keep_the_connection_of_its_parent(pair: Pair) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    pair.sender.close()
    assert pair.next() == ("lost", 0)
    os.close(write)
    os.waitpid(child, 0)
