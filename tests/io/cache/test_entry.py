"""One version of an object in the cache: its pieces, who uses it, and when it is trusted."""

import os
import random
from pathlib import Path

import pytest

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.cache.bytes_at import allocate
from runai_model_streamer.io.cache.entry import MUCH, Entry
from runai_model_streamer.io.cache.files import find_entries, holds_beginning, promised, remove_entry
from runai_model_streamer.io.cache.journal import About
from runai_model_streamer.ranges import PAGE, ByteRange
from tests.io.cache.objects import entry_at
from tests.io.contract import make_buffer

SIZE = 50 * PAGE + 17
DATA = random.Random(5).randbytes(SIZE)
ABOUT = About("s3://models/model", '"etag"', SIZE)
WHOLE = ByteRange(0, SIZE)


def opened(folder: Path, boot: int = 7, direct: DirectIO = DirectIO.AUTO) -> Entry:
    entry = entry_at(folder, ABOUT, boot, direct)
    assert entry is not None
    return entry


def write(entry: Entry, start: int, end: int, shift: int = 0, longest: int | None = None) -> None:
    view = make_buffer(end - start, (start + shift) % PAGE)
    view[:] = DATA[start:end]
    assert entry.write(start, view, longest) == end - start


def disk_bytes(folder: Path) -> int:
    return (folder / "one.data").stat().st_blocks * 512


def bytes_of(entry: Entry, start: int, end: int) -> bytes:
    view = memoryview(bytearray(end - start))
    entry.read(start, view)
    return bytes(view)


@pytest.mark.parametrize("direct", DirectIO)
@pytest.mark.parametrize("shift", [0, 9])
@pytest.mark.parametrize("span", [(0, SIZE), (PAGE, 3 * PAGE), (5, 10), (PAGE - 1, 9 * PAGE + 1), (7 * PAGE + 3, SIZE)])
def test_what_is_written_is_there_for_the_next_one(
    tmp_path: Path, span: tuple[int, int], shift: int, direct: DirectIO
) -> None:
    entry = opened(tmp_path, direct=direct)
    write(entry, *span, shift)
    entry.close()
    again = opened(tmp_path)
    assert again.bytes == span[1] - span[0]
    assert bytes_of(again, *span) == DATA[slice(*span)]
    assert again.trusted
    again.close()


def test_bytes_are_written_at_once_and_recorded_in_pieces(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 100, SIZE, longest=20 * PAGE)
    first, *others, last = entry.pieces()
    assert (first.start, last.end) == (100, SIZE)
    assert all(piece.end % PAGE == 0 for piece in (first, *others))
    assert all(piece.end - piece.start <= 20 * PAGE for piece in entry.pieces())
    entry.close()
    again = opened(tmp_path, boot=8)
    for piece in again.pieces():
        assert again.compare(piece, memoryview(bytes_of(again, piece.start, piece.end)))
    again.close()


def test_the_first_pieces_are_written_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    entry.keep(45 * PAGE)
    view = make_buffer(SIZE, 0)
    view[:] = DATA
    assert entry.write(0, view, 20 * PAGE) == 34 * PAGE
    assert [(piece.start, piece.end) for piece in entry.pieces()] == [(0, 17 * PAGE), (17 * PAGE, 34 * PAGE)]
    assert bytes_of(entry, 0, 34 * PAGE) == DATA[: 34 * PAGE]
    entry.close()


def test_files_are_private_to_their_owner_and_as_long_as_the_object(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "one.data").stat().st_size == SIZE


@pytest.mark.parametrize("direct", DirectIO)
def test_room_that_was_allocated_for_an_object_is_given_back_at_the_end(tmp_path: Path, direct: DirectIO) -> None:
    large = About("s3://models/large", '"etag"', 64 * MUCH)
    for written in (0, 1):  # the second time after a load that was killed
        entry = entry_at(tmp_path, large, direct=direct)
        assert entry is not None
        view = make_buffer(MUCH, 0)
        view[:] = bytes([written]) * MUCH
        assert entry.write(written * MUCH, view)
        if not written:
            allocate(entry.fd, large.size)
            assert disk_bytes(tmp_path) == large.size
        entry.close()
        assert (written + 1) * MUCH <= disk_bytes(tmp_path) < (written + 3) * MUCH
    again = entry_at(tmp_path, large)
    assert again is not None
    assert again.trusted
    view = make_buffer(2 * MUCH, 0)
    again.read(0, view)
    assert view == bytes(MUCH) + b"\1" * MUCH
    again.close()


def test_no_room_is_allocated_for_an_object_that_only_a_part_of_may_be_kept(tmp_path: Path) -> None:
    entry = entry_at(tmp_path, About("s3://models/large", '"etag"', 64 * MUCH), direct=DirectIO.ALWAYS)
    assert entry is not None
    entry.keep(4 * MUCH)
    assert entry.write(0, make_buffer(MUCH, 0))
    assert disk_bytes(tmp_path) < 4 * MUCH
    entry.close()


def test_an_entry_that_was_sealed_whole_is_opened_by_its_last_record(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 0, PAGE)
    write(entry, PAGE, SIZE)
    entry.close()
    again = opened(tmp_path)
    assert again.complete
    assert again.trusted
    assert len(again.pieces()) == 1
    again.close()
    assert holds_beginning(f"{tmp_path}/one", 256 << 10)


def test_after_another_boot_pieces_are_compared(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 0, SIZE)
    entry.close()
    again = opened(tmp_path, boot=8)
    (piece,) = again.doubted(WHOLE)
    assert again.compare(piece, memoryview(DATA))
    assert again.trusted
    again.close()
    assert opened(tmp_path, boot=8).trusted


def test_after_anybody_wrote_to_the_file_pieces_are_compared_even_if_its_time_was_put_back(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 0, SIZE)
    entry.close()
    data = tmp_path / "one.data"
    were = data.stat()
    with data.open("r+b") as file:
        file.seek(100)
        file.write(bytes([DATA[100] ^ 1]))
    os.utime(data, ns=(were.st_atime_ns, were.st_mtime_ns))
    again = opened(tmp_path)
    (piece,) = again.doubted(WHOLE)
    assert not again.compare(piece, memoryview(bytes_of(again, 0, SIZE)))
    assert not again.has(ByteRange(100, 101))
    again.close()
    assert opened(tmp_path).bytes == 0


def test_pieces_that_were_not_compared_stay_doubted(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 0, PAGE)
    write(entry, PAGE, SIZE)
    entry.close()
    again = opened(tmp_path, boot=8)
    again.compare(again.doubted(ByteRange(0, 1))[0], memoryview(DATA)[:PAGE])
    again.close()
    assert len(opened(tmp_path, boot=8).doubted(WHOLE)) == 2


def test_one_learns_what_another_has_written_and_compares_it(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    write(one, 0, PAGE)
    assert not other.has(ByteRange(0, PAGE))
    other.refresh()
    assert other.has(ByteRange(0, PAGE))
    assert not other.trusted
    one.close()
    other.close()


def test_a_range_is_claimed_by_one_only_until_it_is_released(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert one.claim(0, 100)
    assert not other.claim(50, 150)
    one.release(50, 100)
    assert other.claim(50, 150)
    one.close()
    other.close()


def test_an_entry_knows_whether_others_use_it(tmp_path: Path) -> None:
    one = opened(tmp_path)
    found = [one.shared]
    other = opened(tmp_path)
    found.append(one.shared)
    other.close()
    found.append(one.shared)
    assert found == [False, True, False]
    one.close()


def test_an_entry_that_is_used_is_not_removed(tmp_path: Path) -> None:
    stem = f"{tmp_path}/one"
    entry = opened(tmp_path)
    write(entry, 0, SIZE)
    assert remove_entry(stem) is None
    entry.close()
    assert (remove_entry(stem) or 0) >= SIZE
    assert list(tmp_path.iterdir()) == []
    assert remove_entry(stem) is None


def test_who_uses_an_entry_may_keep_all_of_its_object_unless_there_is_no_room(tmp_path: Path) -> None:
    stem = f"{tmp_path}/one"
    entry = opened(tmp_path)
    assert promised(stem) == SIZE
    entry.keep(4 * PAGE)
    assert promised(stem) == 4 * PAGE
    other = opened(tmp_path)
    other.keep(4 * PAGE)
    assert (entry.budget, other.budget) == (4 * PAGE, 0)
    write(entry, 0, PAGE)
    assert not entry.write(PAGE, make_buffer(2 * PAGE))
    assert entry.bytes == PAGE
    entry.close()
    other.close()
    assert promised(stem) is None


def test_a_data_file_without_its_bytes_gets_a_new_journal(tmp_path: Path) -> None:
    entry = opened(tmp_path)
    write(entry, 0, SIZE)
    entry.close()
    (tmp_path / "one.data").unlink()
    again = opened(tmp_path)
    assert again.bytes == 0
    again.close()


def test_there_is_no_entry_without_its_journal(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "one.index").unlink()
    assert entry_at(tmp_path, None) is None
    opened(tmp_path).close()
    assert entry_at(tmp_path, None) is not None


def test_entries_come_in_the_order_of_their_last_use(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        (tmp_path / f"{name}.data").write_bytes(b"1")
        (tmp_path / f"{name}.index").write_bytes(b"1")
        os.utime(tmp_path / f"{name}.index", (number, number))
    assert [Path(each.stem).name for each in find_entries(str(tmp_path))] == ["a", "c", "b"]
    assert [Path(each.stem).name for each in find_entries(str(tmp_path), "c")] == ["c"]
