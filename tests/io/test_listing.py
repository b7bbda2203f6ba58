"""Local folders and names: what is listed, and what is chosen."""

import os
from pathlib import Path

import pytest

from runai_model_streamer.errors import (
    AccessDeniedError,
    ArgumentTypeError,
    NotDirectoryError,
    NotFoundError,
    ReadError,
)
from runai_model_streamer.io.files.listing import list_folder
from runai_model_streamer.io.listing import Patterns


def everything(_: str) -> bool:
    return True


def names(folder: Path, *, recursive: bool) -> list[str]:
    return [entry.name for entry in list_folder(str(folder), everything, recursive=recursive)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.json", "a.json", "B.json", "deep/er/c.json", "deep/d.json", "empty/"):
        path = tmp_path / "model" / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return tmp_path / "model"


def test_files_are_sorted_by_name(folder: Path) -> None:
    assert names(folder, recursive=False) == ["B.json", "a.json", "b.json"]


def test_folders_below_are_listed_with_slashes(folder: Path) -> None:
    expected = ["B.json", "a.json", "b.json", "deep/d.json", "deep/er/c.json"]
    assert names(folder, recursive=True) == expected


@pytest.mark.parametrize("end", ["", "/"])
def test_an_entry_has_the_path_the_size_and_the_time(folder: Path, end: str) -> None:
    os.utime(folder / "a.json", ns=(1, 1_700_000_000_123_456_789))
    (found,) = list_folder(f"{folder}{end}", lambda name: name == "a.json", recursive=True)
    assert found == (f"{folder}/a.json", "a.json", 6, 1_700_000_000_123_456_789)


def test_a_path_stays_relative_where_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (found,) = list_folder("model", lambda name: name == "a.json", recursive=False)
    assert found.path == "model/a.json"


def test_links_to_files_and_folders_are_followed(folder: Path) -> None:
    (folder / "linked.json").symlink_to(folder / "a.json")
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "x.json").write_text("12345")
    (folder / "over").symlink_to(folder.parent / "other")
    found = {entry.name: entry.size for entry in list_folder(str(folder), everything, recursive=True)}
    assert found["linked.json"] == 6
    assert found["over/x.json"] == 5


def test_a_folder_that_links_to_one_above_it_is_an_error(folder: Path) -> None:
    (folder / "deep" / "loop").symlink_to(folder)
    with pytest.raises(ReadError, match="deep/loop: is a symbolic link to a folder that it lies in"):
        names(folder, recursive=True)


def test_a_wanted_link_to_nothing_is_an_error(folder: Path) -> None:
    (folder / "gone.json").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match=r"gone.json: is a symbolic link to nowhere, which is not there"):
        names(folder, recursive=False)


def test_an_unwanted_link_to_nothing_is_none(folder: Path) -> None:
    (folder / "gone.json").symlink_to("nowhere")
    assert [e.name for e in list_folder(str(folder), lambda name: name == "a.json", recursive=False)] == ["a.json"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nope: no such folder"):
        names(tmp_path / "nope", recursive=False)


def test_a_folder_that_is_a_link_to_nothing_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(NotFoundError, match="link: is a symbolic link to gone, which is not there"):
        names(tmp_path / "link", recursive=False)
    with pytest.raises(NotFoundError, match=r"below: .*link is a symbolic link to gone, which is not there"):
        names(tmp_path / "link" / "below", recursive=False)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(NotDirectoryError, match=r"a.json: is a file, not a folder; stream_file takes it"):
        names(folder / "a.json", recursive=False)


def test_a_folder_that_may_not_be_read_is_an_error(folder: Path) -> None:
    (folder / "deep").chmod(0)
    try:
        if os.access(folder / "deep", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(AccessDeniedError, match="deep: this user may not read it"):
            names(folder, recursive=True)
    finally:
        (folder / "deep").chmod(0o755)


@pytest.mark.parametrize(
    ("allow", "ignore", "chosen"),
    [
        (None, None, ["a.json", "A.JSON", "deep/b.json", "deep/c.bin"]),
        (None, [], ["a.json", "A.JSON", "deep/b.json", "deep/c.bin"]),
        ([], None, []),
        (["*.json"], None, ["a.json", "deep/b.json"]),
        (["*.json", "*.bin"], ["deep/b*"], ["a.json", "deep/c.bin"]),
        (None, ["*.json"], ["A.JSON", "deep/c.bin"]),
        (["a.json"], None, ["a.json"]),
        (["deep/*"], None, ["deep/b.json", "deep/c.bin"]),
        (["?.json"], None, ["a.json"]),
        (["[!a].JSON"], None, ["A.JSON"]),
        (["*.json"], ["*"], []),
    ],
)
def test_patterns_choose(allow: list[str] | None, ignore: list[str] | None, chosen: list[str]) -> None:
    patterns = Patterns.of(allow, ignore)
    assert [name for name in ("a.json", "A.JSON", "deep/b.json", "deep/c.bin") if patterns.chooses(name)] == chosen


@pytest.mark.parametrize(
    ("allow", "ignore", "chosen"),
    [
        (["models/llama/*.json"], None, ["a.json", "deep/b.json"]),
        (["models/llama/?.json"], None, ["a.json"]),
        (["deep/*"], None, ["deep/b.json"]),
        (["llama/*"], None, []),
        (None, ["models/llama/deep/*"], ["a.json"]),
        (None, ["deep/*"], ["a.json"]),
        (["a.json"], ["models/*"], []),
    ],
)
def test_a_pattern_may_match_the_whole_key(
    allow: list[str] | None, ignore: list[str] | None, chosen: list[str]
) -> None:
    patterns = Patterns.of(allow, ignore)
    assert [name for name in ("a.json", "deep/b.json") if patterns.chooses(name, "models/llama/")] == chosen


@pytest.mark.parametrize("wrong", ["*.json", b"*.bin", [1], 7])
def test_patterns_that_are_no_list_of_str_are_refused(wrong: object) -> None:
    with pytest.raises(ArgumentTypeError, match="allow_pattern"):
        Patterns.of(wrong, None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="ignore_pattern"):
        Patterns.of(None, wrong)  # type: ignore[arg-type]
