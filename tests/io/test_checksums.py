"""Checksums of a whole from its pieces: against known values and other implementations; sources that verify."""

import hashlib
import itertools
import random
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer.errors import ChecksumError, InterruptedReadError, MissingDependencyError
from runai_model_streamer.io.checksums import ALGORITHMS, Checksum, VerifiedSource, make_digest
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import SourceKind
from tests.io.contract import DATA, SIZE, SourceContract, read_at
from tests.sources import MemorySource

PATH = "s3://models/model.safetensors"

CHECK = {
    "CRC32": "cbf43926",
    "CRC32C": "e3069283",
    "CRC64NVME": "ae8b14860a799888",
    "MD5": "25f9e794323b453885f5181f1b624d0b",
    "SHA1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "SHA256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}
"""Algorithm -> its published check value: that of the digits 1 to 9."""

CRCS = ("CRC64NVME", "CRC32C", "CRC32")
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def whole(algorithm: str, data: bytes) -> bytes:
    found = make_digest(algorithm, len(data)).add(0, memoryview(data))
    assert found is not None
    return found


def test_every_algorithm_has_its_check_value() -> None:
    assert {algorithm: whole(algorithm, b"123456789").hex() for algorithm in ALGORITHMS} == CHECK


def test_without_the_library_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)
    with pytest.raises(MissingDependencyError, match=r"CRC64NVME: pip install -e '.\[verify\]'"):
        make_digest("CRC64NVME", 1)


def test_hashes_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)
    assert whole("MD5", b"abc") == hashlib.md5(b"abc", usedforsecurity=False).digest()


@given(st.binary(min_size=1, max_size=2000), st.sets(st.integers(1, 1999)), st.randoms())
def test_pieces_in_any_order_have_the_checksum_of_the_whole(data: bytes, cuts: set[int], chance: random.Random) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = list(itertools.pairwise(edges))
    chance.shuffle(pieces)
    for algorithm in CRCS:
        digest = make_digest(algorithm, len(data))
        found = [digest.add(start, memoryview(data)[start:end]) for start, end in pieces]
        assert found[:-1] == [None] * (len(pieces) - 1)
        assert found[-1] == whole(algorithm, data)
    assert whole("CRC32", data) == zlib.crc32(data).to_bytes(4, "big")


@every_algorithm
def test_an_empty_piece_changes_nothing(algorithm: str) -> None:
    digest = make_digest(algorithm, 3)
    digest.add(0, memoryview(b"ab"))
    digest.add(2, memoryview(b""))
    assert digest.add(2, memoryview(b"c")) == whole(algorithm, b"abc")


@every_algorithm
def test_a_piece_that_comes_twice_changes_nothing(algorithm: str) -> None:
    digest = make_digest(algorithm, 6)
    digest.add(0, memoryview(b"ab"))
    digest.add(0, memoryview(b"ab"))
    digest.add(2, memoryview(b"cd"))
    digest.add(2, memoryview(b"cd"))
    assert digest.add(4, memoryview(b"ef")) == whole(algorithm, b"abcdef")


@every_algorithm
def test_many_threads_that_begin_in_order_compute_it(algorithm: str) -> None:
    digest = make_digest(algorithm, SIZE)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: digest.add(at, memoryview(DATA)[at : at + 10_007]), range(0, SIZE, 10_007)))
    assert [value for value in found if value is not None] == [whole(algorithm, DATA)]


def test_whoever_waits_for_the_pieces_before_is_woken_by_a_stop() -> None:
    digest = make_digest("MD5", 10)
    errors: list[InterruptedReadError] = []

    def wait() -> None:
        try:
            digest.add(5, memoryview(b"later"))
        except InterruptedReadError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    digest.stop()
    thread.join(30)
    assert len(errors) == 1


class TestVerifiedSource(SourceContract):
    kind = SourceKind.OBJECT

    @pytest.fixture
    def path(self) -> str:
        return PATH

    @pytest.fixture
    def source(self, path: str) -> Iterator[Source]:
        checksum = Checksum("CRC64NVME", whole("CRC64NVME", DATA))
        with closing(VerifiedSource(MemorySource(path, DATA, kind=self.kind), checksum)) as source:
            yield source


def verified(algorithm: str, data: bytes = DATA) -> tuple[VerifiedSource, MemorySource]:
    inner = MemorySource(PATH, data, kind=SourceKind.OBJECT)
    return VerifiedSource(inner, Checksum(algorithm, whole(algorithm, DATA))), inner


def damaged(position: int) -> bytes:
    data = bytearray(DATA)
    data[position] ^= 1
    return bytes(data)


@every_algorithm
def test_what_matches_is_read(algorithm: str) -> None:
    source, _ = verified(algorithm)
    assert read_at(source, 0, 8) + read_at(source, 8, 1000) + read_at(source, 1008, SIZE - 1008) == DATA


@every_algorithm
@pytest.mark.parametrize("position", [0, 7, 8, 100_000, SIZE - 1])
def test_one_bit_that_differs_is_refused_by_the_last_read(algorithm: str, position: int) -> None:
    source, _ = verified(algorithm, damaged(position))
    read_at(source, 0, 8)
    read_at(source, 8, 1000)
    with pytest.raises(ChecksumError) as caught:
        read_at(source, 1008, SIZE - 1008)
    message = str(caught.value)
    assert message.startswith(f"{PATH}: its {SIZE} bytes do not have the checksum")
    assert f"{algorithm} is {whole(algorithm, damaged(position)).hex()}" in message
    assert f"should be {whole(algorithm, DATA).hex()}" in message
    assert ("ETags" in message) == (algorithm == "MD5")


def test_the_read_that_brings_the_last_missing_byte_fails_wherever_it_is() -> None:
    source, _ = verified("CRC32C", damaged(SIZE - 1))
    read_at(source, 1000, SIZE - 1000)
    with pytest.raises(ChecksumError):
        read_at(source, 0, 1000)


def test_what_is_not_read_whole_is_not_refused() -> None:
    source, _ = verified("CRC32C", damaged(5))
    assert read_at(source, 0, SIZE - 1) == damaged(5)[:-1]


@every_algorithm
def test_once_verification_is_skipped_anything_is_read_in_any_order(algorithm: str) -> None:
    source, _ = verified(algorithm, damaged(5))
    source.skip_verification()
    assert read_at(source, 1000, SIZE - 1000) + read_at(source, 0, 1000) == damaged(5)[1000:] + damaged(5)[:1000]


def test_an_interrupt_reaches_the_inner_source_and_who_waits() -> None:
    source, inner = verified("MD5")
    source.interrupt()
    with pytest.raises(InterruptedReadError):
        read_at(inner, 0, 8)
    with pytest.raises(InterruptedReadError):
        read_at(source, 8, 8)


def test_closing_closes_the_inner_source() -> None:
    source, inner = verified("CRC32C")
    source.close()
    assert inner.closed == 1
