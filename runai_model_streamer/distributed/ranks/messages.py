"""The form of messages between ranks: their tags, and the pieces of one whose length the receiver does not know."""

from functools import partial
from typing import Final

import torch

TAGS: Final = 3
"""Tags of a message: its bytes, their end, the receiver's ack."""

POISON_TAG: Final = 0
FIRST_TAG: Final = 1
"""Of the first pieces of messages that all ranks exchange."""
REST_TAG: Final = FIRST_TAG + TAGS
_NUMBERED: Final = REST_TAG + TAGS
_MAX_MESSAGES: Final = 1 << 29

over: Final = partial(torch.frombuffer, dtype=torch.uint8)
"""Makes a tensor over host memory, which it keeps."""

_LENGTH: Final = 8
"""Bytes of the length, at the beginning of the first piece."""

FIRST: Final = 4096
"""Bytes of the first piece. Most messages fit, and then take one exchange between ranks, not two."""


def cut(message: bytes) -> tuple[bytes, bytes]:
    """Return the first piece and the rest, which is empty for a short message."""
    head = len(message).to_bytes(_LENGTH, "little") + message[: FIRST - _LENGTH]
    return head.ljust(FIRST, b"\0"), message[FIRST - _LENGTH :]


def length_of_rest(first: bytes) -> int:
    """Return the bytes of the message that are not in its first piece."""
    return max(_length(first) - (FIRST - _LENGTH), 0)


def joined(first: bytes, rest: bytes) -> bytes:
    """Return the message that `cut` has cut."""
    return first[_LENGTH : _LENGTH + _length(first)] + rest


def _length(first: bytes) -> int:
    return int.from_bytes(first[:_LENGTH], "little")


def tag_of(number: int) -> int:
    """Return the tag of a message that a rank sends under this number."""
    # A tag is used again only long after its previous message: at most one message for each reader is in flight.
    return _NUMBERED + TAGS * (number % _MAX_MESSAGES)
