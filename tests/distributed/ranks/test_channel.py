"""A gloo group of some ranks."""

import queue
import threading

import pytest

from runai_model_streamer.distributed.ranks.channel import Channel

Released = queue.SimpleQueue[threading.Thread]


class PlayedGroup:
    """Says which thread releases it."""

    def __init__(self, released: Released) -> None:
        self._released = released

    def __del__(self) -> None:
        self._released.put(threading.current_thread())


class PlayedChannel(Channel):
    """A channel over a group that is played."""

    def __init__(self, released: Released) -> None:
        self._group = PlayedGroup(released)


def test_a_caller_does_not_wait_until_gloo_has_released_a_group() -> None:
    released: Released = queue.SimpleQueue()
    channel = PlayedChannel(released)
    channel.close()
    channel.close()
    thread = released.get(timeout=60)
    assert thread is not threading.current_thread()
    assert not thread.daemon  # the interpreter does not end in the middle of it
    assert released.empty()


def test_a_message_on_a_closed_channel_is_an_error() -> None:
    channel = PlayedChannel(queue.SimpleQueue())
    channel.close()
    with pytest.raises(RuntimeError, match="the group is closed"):
        channel.irecv(None, 1, 2)  # type: ignore[arg-type]
