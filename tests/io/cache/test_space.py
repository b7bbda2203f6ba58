"""Room in a cache: what is removed for it, and what never is."""

import os
import zlib
from pathlib import Path

from runai_model_streamer.config import DirectIO
from runai_model_streamer.io.cache.files import open_entry
from runai_model_streamer.io.cache.journal import About
from runai_model_streamer.io.cache.space import FREE, limit_of, make_room, shrink
from runai_model_streamer.ranges import PAGE


def put(folder: Path, name: str, used: int, pages: int = 10) -> None:
    """Make an entry that was used at this second, with all its bytes."""
    about = About(f"s3://models/{name}", '"etag"', pages * PAGE)
    entry = open_entry(f"{folder}/{name}", about, DirectIO.NEVER, zlib.crc32, 1)
    assert entry is not None
    assert entry.write(0, memoryview(bytearray(b"x" * pages * PAGE)))
    entry.close()
    os.utime(folder / f"{name}.index", (used, used))


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.data"))


def test_nothing_is_removed_where_there_is_room(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    assert make_room(str(tmp_path), f"{tmp_path}/b", 5 * PAGE, 15 * PAGE) == 5 * PAGE
    assert names(tmp_path) == ["a"]


def test_what_was_used_longest_ago_is_removed_first_and_no_more_than_needed(tmp_path: Path) -> None:
    for name, used in (("a", 3), ("b", 1), ("c", 2)):
        put(tmp_path, name, used)
    assert make_room(str(tmp_path), f"{tmp_path}/d", 10 * PAGE, 30 * PAGE) == 10 * PAGE
    assert names(tmp_path) == ["a", "c"]


def test_what_is_used_or_will_be_is_not_removed(tmp_path: Path) -> None:
    for name, used in (("a", 1), ("b", 2), ("c", 3)):
        put(tmp_path, name, used)
    using = open_entry(f"{tmp_path}/a", None, DirectIO.NEVER, zlib.crc32, 1)
    assert using is not None
    assert make_room(str(tmp_path), f"{tmp_path}/d", 20 * PAGE, 30 * PAGE, ["b"]) == 10 * PAGE
    assert names(tmp_path) == ["a", "b"]
    using.close()


def test_an_entry_makes_no_room_for_itself(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    assert make_room(str(tmp_path), f"{tmp_path}/a", 10 * PAGE, 10 * PAGE) == 10 * PAGE
    assert names(tmp_path) == ["a"]


def test_a_cache_without_a_size_leaves_a_part_of_the_file_system_free(tmp_path: Path) -> None:
    system = os.statvfs(tmp_path)
    whole = system.f_blocks * system.f_frsize
    assert limit_of(str(tmp_path), None, []) <= whole * (1 - FREE)
    assert limit_of(str(tmp_path), 5, []) == 5


def test_shrinking_goes_by_size_and_by_time(tmp_path: Path) -> None:
    for name, used in (("a", 1), ("b", 2), ("c", 3)):
        put(tmp_path, name, used)
    assert [Path(each.stem).name for each in shrink(str(tmp_path), 1 << 40, 2 * 10**9)] == ["a"]
    assert [Path(each.stem).name for each in shrink(str(tmp_path), 15 * PAGE)] == ["b"]
    assert shrink(str(tmp_path), 15 * PAGE) == []
    assert names(tmp_path) == ["c"]
