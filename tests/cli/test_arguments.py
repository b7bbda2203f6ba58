"""Sizes as people write them, and settings that are there for one load."""

import argparse
import os

import pytest

from runai_model_streamer.cli.arguments import chunk, count, dtype, limit, seconds, size
from runai_model_streamer.settings.environment import environment


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("4194304", 4194304),
        ("100B", 100),
        ("256k", 256 << 10),
        ("256M", 256 << 20),
        ("256MiB", 256 << 20),
        ("256Mi", 256 << 20),
        ("9007199254740993", 9007199254740993),
        ("256 mib", 256 << 20),
        ("256MB", 256_000_000),
        ("1G", 1 << 30),
        ("1.5G", 3 << 29),
        ("1GB", 10**9),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes_are_read(text: str, wanted: int) -> None:
    assert size(text) == wanted


@pytest.mark.parametrize("text", ["", "G", "1Q", "-1", "1e9", "1 G B", "1,5G", "0x10", "1.5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size: use a number of bytes, or 256M, 1G, 1GiB"):
        size(text)


@pytest.mark.parametrize(("text", "wanted"), [("-1", -1), ("none", -1), ("Unlimited", -1), ("0", 0), ("1G", 1 << 30)])
def test_a_limit_may_be_none(text: str, wanted: int) -> None:
    assert limit(text) == wanted


@pytest.mark.parametrize(
    ("read", "text"),
    [(chunk, "0"), (count, "0"), (count, "-3"), (count, "many"), (seconds, "0"), (seconds, "inf"), (dtype, "int8")],
)
def test_numbers_out_of_range_are_refused(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)


@pytest.mark.parametrize("text", ["bf16", "bfloat16", "torch.bfloat16", "BF16"])
def test_dtypes_have_their_short_names(text: str) -> None:
    assert dtype(text) == "bfloat16"


def test_variables_are_set_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_A", "before")
    monkeypatch.delenv("RUNAI_B", raising=False)
    monkeypatch.setenv("RUNAI_C", "there")
    with environment({"RUNAI_A": "now", "RUNAI_B": "new", "RUNAI_C": None}):
        assert (os.environ["RUNAI_A"], os.environ["RUNAI_B"], "RUNAI_C" in os.environ) == ("now", "new", False)
    assert (os.environ["RUNAI_A"], "RUNAI_B" in os.environ, os.environ["RUNAI_C"]) == ("before", False, "there")
