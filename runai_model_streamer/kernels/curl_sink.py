"""What libcurl calls while it receives: compiled, so that no byte, and no look at the clock, waits for the GIL.

All three callbacks share one piece of memory, the sink, which its owner makes (`SINK_BYTES`, zeroed), prepares for
each request and reads afterwards: first `FIELDS` numbers of 64 bits, then three areas of bytes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numba import cfunc, types
from numba.np.numpy_support import carray

from runai_model_streamer.kernels.compiling import compile_kernel

# Numbers in the sink. Addresses and lengths are in bytes, times in nanoseconds of the monotonic clock.
BASE: Final = 0
"""Address of the sink itself."""
DESTINATION: Final = 1
"""Where the range goes, and ..."""
LENGTH: Final = 2
"""... how much fits."""
LANDED: Final = 3
STATUS: Final = 4
"""0 before an answer."""
ANSWERED: Final = 5
"""1 once the headers are complete."""
HEAD_LENGTH: Final = 6
TEXT_LENGTH: Final = 7
EXPECTED_LENGTH: Final = 8
RANGE_FITS: Final = 9
"""Content-Range: 0 there is none, 1 it begins as it must, 2 it does not."""
CANCELLED: Final = 10
"""Set by another thread to end the request."""
REASON: Final = 11
TIMEOUT: Final = 12
ANSWER_TIMEOUT: Final = 13
"""Until the headers are complete."""
MIN_BYTES: Final = 14
"""In each span of `TIMEOUT`."""
STARTED: Final = 15
MOVED_AT: Final = 16
MOVED: Final = 17
WINDOW_AT: Final = 18
WINDOW_MOVED: Final = 19
CLOCK: Final = 20
"""Two numbers, seconds and nanoseconds, for clock_gettime."""
WHOLE_FITS: Final = 22
"""1 where the body of a 200 without Content-Range may be what was asked for."""
BODY_LENGTH: Final = 23
"""As the headers say; -1 where they do not."""
FIELDS: Final = 24

# Why a callback ended a request.
UNFIT: Final = 1
"""Neither what was asked for nor a refusal: the headers say it all."""
TOO_LONG: Final = 2
TEXT_FULL: Final = 3
STALLED: Final = 4
SLOW: Final = 5
HEAD_FULL: Final = 6

# Areas, in bytes from the sink's start.
EXPECTED_AT: Final = 8 * FIELDS
"""How the value of Content-Range must begin."""
EXPECTED_BYTES: Final = 64
HEAD_AT: Final = EXPECTED_AT + EXPECTED_BYTES
HEAD_BYTES: Final = 64 << 10
TEXT_AT: Final = HEAD_AT + HEAD_BYTES
TEXT_BYTES: Final = 64 << 10
SINK_BYTES: Final = TEXT_AT + TEXT_BYTES

_CONTENT_RANGE: Final = np.frombuffer(b"content-range:", np.uint8)
_CONTENT_LENGTH: Final = np.frombuffer(b"content-length:", np.uint8)
_HTTP: Final = np.frombuffer(b"HTTP/", np.uint8)

_memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
_CLOCK_MONOTONIC: Final = 1


def _compiled(signature: Any) -> Callable[[Callable[..., int]], Any]:
    """`cfunc`, from numba's cache on disk where that can be used: compiling takes most of a second."""
    return partial(compile_kernel, partial(cfunc, signature))


# data, size, count, sink -> bytes taken; fewer than there were ends the request.
_RECEIVE: Final = types.int64(types.voidptr, types.int64, types.int64, types.voidptr)


@_compiled(types.int64(types.int64, types.int64, types.int64, types.voidptr))
def take_body(data: int, size: int, count: int, sink: Any) -> int:
    """CURLOPT_WRITEFUNCTION: bytes of the range to their destination, of a refusal to the text."""
    fields = carray(sink, FIELDS, np.int64)
    length = size * count
    if fields[CANCELLED] != 0:
        return 0
    if fields[STATUS] < 300:
        if fields[LANDED] + length > fields[LENGTH]:
            fields[REASON] = TOO_LONG
            return 0
        _memcpy(fields[DESTINATION] + fields[LANDED], data, length)
        fields[LANDED] += length
        return length
    kept = min(length, TEXT_BYTES - fields[TEXT_LENGTH])
    _memcpy(fields[BASE] + TEXT_AT + fields[TEXT_LENGTH], data, kept)
    fields[TEXT_LENGTH] += kept
    if kept < length:
        fields[REASON] = TEXT_FULL
        return 0
    return length


@_compiled(_RECEIVE)
def take_header(line: Any, size: int, count: int, sink: Any) -> int:
    """CURLOPT_HEADERFUNCTION: keep a line, and at the last one decide whether there is anything to receive."""
    fields = carray(sink, FIELDS, np.int64)
    area = carray(sink, SINK_BYTES, np.uint8)
    length = size * count
    text = carray(line, length, np.uint8)
    begins = length > len(_HTTP)
    for index in range(len(_HTTP)):
        begins = begins and text[index] == _HTTP[index]
    if begins:
        # A status line; there may have been another answer before it, such as 100 Continue.
        fields[STATUS] = fields[ANSWERED] = fields[HEAD_LENGTH] = fields[RANGE_FITS] = 0
        fields[BODY_LENGTH] = -1
        at = len(_HTTP)
        while at < length and text[at] != 32:
            at += 1
        for index in range(at + 1, min(at + 4, length)):
            if 48 <= text[index] <= 57:
                fields[STATUS] = fields[STATUS] * 10 + (np.int64(text[index]) - 48)
    if fields[ANSWERED] != 0:
        # A trailer of a body in chunks.
        return length
    if fields[HEAD_LENGTH] + length > HEAD_BYTES:
        fields[REASON] = HEAD_FULL
        return 0
    for index in range(length):
        area[HEAD_AT + fields[HEAD_LENGTH] + index] = text[index]
    fields[HEAD_LENGTH] += length
    if length <= 2 and (text[0] == 13 or text[0] == 10):
        if fields[STATUS] >= 200:
            fields[ANSWERED] = 1
            whole = fields[STATUS] == 200 and fields[WHOLE_FITS] != 0 and fields[RANGE_FITS] == 0
            if fields[STATUS] < 300 and (
                (fields[RANGE_FITS] != 1 and not whole) or fields[BODY_LENGTH] > fields[LENGTH]
            ):
                fields[REASON] = UNFIT
                return 0
        return length
    sized = length > len(_CONTENT_LENGTH)
    for index in range(len(_CONTENT_LENGTH)):
        if sized:
            letter = text[index]
            if 65 <= letter <= 90:
                letter += 32
            sized = letter == _CONTENT_LENGTH[index]
    if sized:
        fields[BODY_LENGTH] = 0
        for index in range(len(_CONTENT_LENGTH), length):
            if 48 <= text[index] <= 57 and fields[BODY_LENGTH] < 1 << 56:
                fields[BODY_LENGTH] = fields[BODY_LENGTH] * 10 + (np.int64(text[index]) - 48)
    named = length > len(_CONTENT_RANGE)
    for index in range(len(_CONTENT_RANGE)):
        if named:
            letter = text[index]
            if 65 <= letter <= 90:
                letter += 32
            named = letter == _CONTENT_RANGE[index]
    if named:
        at = len(_CONTENT_RANGE)
        while at < length and text[at] == 32:
            at += 1
        fits = at + fields[EXPECTED_LENGTH] <= length
        for index in range(fields[EXPECTED_LENGTH]):
            fits = fits and text[at + index] == area[EXPECTED_AT + index]
        fields[RANGE_FITS] = 1 if fits else 2
    return length


@_compiled(types.int32(types.voidptr, types.int64, types.int64, types.int64, types.int64))
def watch_progress(sink: Any, _total: int, _now: int, _upload_total: int, _upload_now: int) -> int:
    """CURLOPT_XFERINFOFUNCTION: end a request that is cancelled, stalls or drips. Called once a second or oftener."""
    fields = carray(sink, FIELDS, np.int64)
    if fields[CANCELLED] != 0:
        return 1
    _clock_gettime(_CLOCK_MONOTONIC, fields[BASE] + 8 * CLOCK)
    now = fields[CLOCK] * 1_000_000_000 + fields[CLOCK + 1]
    moved = fields[LANDED] + fields[TEXT_LENGTH]
    if fields[STARTED] == 0:
        fields[STARTED] = now
    if fields[ANSWERED] == 0:
        if now - fields[STARTED] >= fields[ANSWER_TIMEOUT]:
            fields[REASON] = STALLED
            return 1
    elif moved != fields[MOVED] or fields[MOVED_AT] == 0:
        if fields[MOVED_AT] == 0:
            fields[WINDOW_AT] = now
        fields[MOVED] = moved
        fields[MOVED_AT] = now
    elif now - fields[MOVED_AT] >= fields[TIMEOUT]:
        fields[REASON] = STALLED
        return 1
    if fields[WINDOW_AT] != 0 and now - fields[WINDOW_AT] >= fields[TIMEOUT]:
        if moved - fields[WINDOW_MOVED] < fields[MIN_BYTES]:
            fields[REASON] = SLOW
            return 1
        fields[WINDOW_AT] = now
        fields[WINDOW_MOVED] = moved
    return 0
