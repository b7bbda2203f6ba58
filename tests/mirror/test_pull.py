"""How much a pull holds at once."""

import pytest

from runai_model_streamer.config import LoadConfig, S3Config
from runai_model_streamer.mirror.pull import bounds
from runai_model_streamer.origins import SourceKind

MIB = 1 << 20


@pytest.mark.parametrize(("left", "held"), [(None, 128), (512 * MIB, 128), (16 << 30, 1024), (1 << 40, 400 * 8)])
def test_connections_to_a_store_take_a_sixteenth_of_the_memory_that_is_left(left: int | None, held: int) -> None:
    assert bounds(LoadConfig(), SourceKind.OBJECT, 400, left) == (8 * MIB, held * MIB)


def test_a_number_of_connections_that_is_set_gets_its_memory() -> None:
    config = LoadConfig(s3=S3Config(connections=64))
    assert bounds(config, SourceKind.OBJECT, 64, 0) == (8 * MIB, 512 * MIB)


@pytest.mark.parametrize(("limit", "chunk", "held"), [(100 * MIB, 8, 100), (4 * MIB, 4, 4), (0, 8, 8)])
def test_a_limit_is_kept(limit: int, chunk: int, held: int) -> None:
    config = LoadConfig(memory_limit=limit)
    assert bounds(config, SourceKind.OBJECT, 400, 1 << 40) == (chunk * MIB, held * MIB)


def test_files_are_read_as_before() -> None:
    assert bounds(LoadConfig(), SourceKind.FILE, 16, 1 << 40) == (8 * MIB, 128 * MIB)
