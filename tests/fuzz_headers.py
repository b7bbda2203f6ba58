"""Headers that lie: made at random, or broken at random, and what `read_header` and safetensors say of them.

By hand: `python tests/fuzz_headers.py --count 100000 --seed 1`. The tests of `io.safetensors` use the same makers.
"""

import argparse
import copy
import json
import random
import resource
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import safetensors

from runai_model_streamer.checkpoint.header import MAX_HEADER_BYTES, Header, read_header
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS
from runai_model_streamer.errors import HeaderError
from tests.sources import MemorySource

Judged = dict[str, tuple[str, tuple[int, ...], bytes]]
"""For each tensor its dtype, shape and bytes."""

# Its annotations are in comments.
deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize

STRICTER: Final = (
    # The format forbids equal keys; safetensors finds only some of them and takes the last of the others.
    "twice in one object",
    # The format says that a header begins with {; safetensors skips white space in front of it.
    "should start with '{'",
    # How Rust's serde reads a struct and an enum, ["U8", [1], [0, 1]] and {"U8": null}; not in the format.
    "not an object with",
    "dtype {",
    # Empty tensors with sizes that neither NumPy nor torch can hold.
    "larger than 2**63 - 1 elements",
)
"""In messages of what we refuse and safetensors takes."""

KINDS: Final = (
    *STRICTER,
    *("is empty", "or cut short", "is incomplete: ", "is incomplete, or not", "more than its header describes"),
    *("is not a safetensors file: it starts", "so its header would have", "not UTF-8", "not JSON", "nested more than"),
    *("__metadata__", "its entry has no", "is not one of the format's", "list of whole numbers"),
    *("are not a start and an end", "does not end on a whole byte", "but data_offsets"),
    *("belong to no tensor", "ends only at"),
)
"""What our messages say, for counting."""

_NUMBERS: Final = (*range(4), 255, *(2**n for n in (31, 56, 62, 63, 64, 99)), 2**63 - 1, 2**64 - 1, -1, -(2**63))
_ODD: Final[list[Any]] = json.loads(
    '[null, true, false, 0.0, -0.0, 1.0, 1e300, "", "1", "U8", "F32", "F4", "dtype", [], {}, [0, 0], [[1]], {"a": 1}]'
)
_NAMES: Final = ("a", "b", "dtype", "shape", "data_offsets", "__metadata__", "", 'é\n"\\', "w" * 300, "layers.0-1")
_SNIPPETS: Final = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0064", b"\\ud800", b"\\\\", b'\\"', b" ", b"\n", b"\0"),
    *(b"-", b"-0", b"0", b"1", b"9" * 25, b"e5", b".0", b"true", b"NaN", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b'"dtype":"U8",', b'"data_offsets":[0,0],', b'"a":{},', b'"x":' + b"[" * 200, b"[" * 2000, b"]" * 130),
)


def make(header: bytes | str, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of this header and data; `length` is what it says of the header's length, if not the truth."""
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def valid(rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """A right header and its data."""
    entries: dict[str, Any] = {}
    end = 0
    for index in range(rng.choice((0, 1, 1, 2, 3, 5))):
        name = rng.choice(_NAMES) if rng.random() < 0.3 else f"layers.{index}.weight"
        dtype = rng.choice(list(DTYPE_BITS))
        shape = [rng.choice((0, 1, 2, 3)) for _ in range(rng.choice((0, 1, 2)))] + [4] * (DTYPE_BITS[dtype] % 8 > 0)
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
        if name not in (*entries, "__metadata__"):
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + bits // 8]}
            end += bits // 8
    items = list(entries.items())
    rng.shuffle(items)
    if rng.random() < 0.3:
        items.insert(rng.randrange(len(items) + 1), ("__metadata__", {rng.choice(_NAMES): rng.choice(_NAMES)}))
    return dict(items), rng.randbytes(end)


def dump(rng: random.Random, header: Any) -> bytes:
    """One of the many ways to write it as JSON."""
    separators = rng.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r")))
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5, separators=separators)
    return text.encode() + b" " * rng.choice((0, 0, 0, 1, 7))


def broken(rng: random.Random) -> bytes:
    """A file that is wrong somewhere, or by chance is not."""
    header, data = valid(rng)
    length = None
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        _break_object(rng, header)
    raw = bytearray(dump(rng, header))
    if rng.random() < 0.15:
        _repeat_key(rng, raw)
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 1, 4))):
        _break_bytes(rng, raw)
    match rng.randrange(24):
        case 0:
            length = rng.choice((*_NUMBERS, len(raw) - 1, len(raw) + 1, MAX_HEADER_BYTES + 1)) % 2**64
        case 1:
            data = data[: rng.randrange(len(data) + 1)]
        case 2:
            data += rng.randbytes(rng.choice((1, 8)))
        case 3:
            whole = make(bytes(raw), data)
            return whole[: rng.randrange(len(whole) + 1)]
        case 4:
            return rng.choice((b"PK\x03\x04", b"GGUF", b"<html>", b"version https", b"\x80\x02}", b"")) + bytes(raw)
    return make(bytes(raw), data, length)


def _break_object(rng: random.Random, header: dict[str, Any]) -> None:
    name = rng.choice([*header, *header, "a"])
    entry = header.get(name)
    odd = copy.deepcopy(rng.choice((*_NUMBERS, *_ODD)))
    if not isinstance(entry, dict) or rng.random() < 0.1:
        header[name] = odd
        return
    key = rng.choice([*entry, *entry, "dtype", "extra"])
    match rng.randrange(5), entry.get(key):
        case 0, list(numbers) if numbers:
            numbers[rng.randrange(len(numbers))] = odd
        case 1, list(numbers):
            numbers.insert(rng.randrange(len(numbers) + 1), odd)
        case 2, _:
            entry.pop(key, None)
        case 3, _:
            entry["extra"] = json.loads("[" * (depth := rng.choice((1, 9, 124, 125, 126, 127, 300))) + "]" * depth)
        case _, list([int(start), int(end)]) if key == "data_offsets":
            step = rng.choice((-1, 1, 4, 2**63))
            entry[key] = [start + step, end + step]
        case _:
            entry[key] = odd


def _repeat_key(rng: random.Random, raw: bytearray) -> None:
    """Write one key of one object a second time, with the same value or another, in clear or escaped."""
    opened = [at for at, byte in enumerate(raw) if byte == ord("{")]
    at = rng.choice(opened)
    key = raw[at + 1 :].split(b":")[0].strip()
    value = rng.choice((b"null", b"5", b'"U8"', b"{}", b"[0,0]", b'{"dtype":"U8","shape":[],"data_offsets":[0,1]}'))
    if key.startswith(b'"') and len(key) > 2:
        if rng.random() < 0.5:
            key[1:2] = b"\\u%04x" % key[1]
        raw[at + 1 : at + 1] = key + b":" + value + b","


def _break_bytes(rng: random.Random, raw: bytearray) -> None:
    at = rng.randrange(len(raw) + 1)
    other = rng.randrange(len(raw) + 1)
    match rng.randrange(4):
        case 0:
            raw[at:at] = rng.choice(_SNIPPETS)
        case 1:
            del raw[at : at + rng.choice((1, 1, 5, 40))]
        case 2:
            raw[at:at] = raw[min(at, other) : max(at, other)]
        case 3 if at < len(raw):
            raw[at] = rng.randrange(256)


def theirs(data: bytes) -> Judged | None:
    """What safetensors makes of a file; None where it refuses it."""
    try:
        found = deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found}


def as_judged(data: bytes, header: Header) -> Judged:
    """A header of ours in the form of `theirs`."""
    return {tensor.name: (tensor.dtype, tensor.shape, data[tensor.start : tensor.end]) for tensor in header.tensors}


def check(data: bytes) -> str:
    """Hold `read_header` against safetensors on one file, and return what came of it.

    Raises:
        AssertionError: they disagree where they should not. Anything else that `read_header` raises comes through.
    """
    expected = theirs(data)
    header, message = None, ""
    try:
        header = read_header(MemorySource("model.safetensors", data))
    except HeaderError as error:
        message = str(error)
    if header:
        assert expected == as_judged(data, header), f"safetensors judges differently: {data!r}"
        return "accepted"
    assert "model.safetensors" in message
    assert len(message) < 1500
    kind = next((kind for kind in KINDS if kind in message), "other")
    # 2**63 to 2**64 - 1 are whole numbers for safetensors, in the shapes of empty tensors.
    huge = kind == "list of whole numbers" and any(str(n).encode() in data for n in (2**63, 2**64 - 1))
    assert expected is None or kind in STRICTER or huge, f"safetensors takes what we refuse: {message}"
    return f"refused: {kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    for _ in range(options.count // 100):  # before the first look at the memory: caches fill
        check(broken(rng))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(options.count):
        whole = number % 20 == 0
        header, payload = valid(rng)
        data = make(dump(rng, header), payload) if whole else broken(rng)
        try:
            outcome = check(data)
        except BaseException:
            sys.stderr.write(f"number {number} of seed {options.seed}: {data!r}\n")
            raise
        assert not whole or outcome == "accepted"
        outcomes[outcome] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    peak = _peak_of_lies(rng, options.count // 10)
    lines = [f"{times:8}  {outcome}" for outcome, times in outcomes.most_common()]
    lines += [
        f"{outcomes.total():8}  headers of seed {options.seed} in {time.monotonic() - began:.0f} s: only HeaderError",
        f"{options.count // 10:8}  more with lying lengths: never more than {peak} bytes allocated (tracemalloc)",
        f"peak RSS grew by {grown} KiB from the first 1% to the last",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    assert peak < 1 << 20
    assert grown < 64 << 10


def _peak_of_lies(rng: random.Random, count: int) -> int:
    """The most bytes ever allocated while headers say that they are longer than their files."""
    tracemalloc.start()
    for _ in range(count):
        length = rng.choice((rng.randrange(3, 2**64), rng.randrange(3, MAX_HEADER_BYTES), MAX_HEADER_BYTES, 2**64 - 1))
        source = MemorySource("model.safetensors", make(b"{}", b"", length))
        try:
            read_header(source)
        except HeaderError:
            assert source.reads == [(0, 8)]
        else:
            raise AssertionError(f"a header of {length} bytes in a file of 10")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
