"""`io.gds` where GPUDirect cannot be used: `auto` goes another way and says so, `1` explains. Needs no CUDA package."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer.config import GdsMode
from runai_model_streamer.errors import GdsUnavailableError
from runai_model_streamer.io.files.cufile import no_driver
from runai_model_streamer.io.files.gds import open_gds
from runai_model_streamer.io.files.posix import FileSource
from runai_model_streamer.origins import SourceKind
from tests.sources import MemorySource

INSTALL = r"pip install -e '.\[cuda13\]'"


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(8192))
    return FileSource(str(path))


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """cuda-bindings is not installed."""
    no_driver.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings.cufile", None)
    yield
    no_driver.cache_clear()


@pytest.mark.usefixtures("no_package")
def test_auto_without_cuda_bindings_goes_another_way_and_says_why(
    source: FileSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="runai_model_streamer")
    assert open_gds(source, GdsMode.AUTO) is None
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert record.getMessage().startswith(f"{source.path}: no GPUDirect: cuda-bindings with cuFile is not installed")


@pytest.mark.usefixtures("no_package")
def test_1_without_cuda_bindings_names_the_file_and_what_to_install(source: FileSource) -> None:
    with pytest.raises(GdsUnavailableError, match=rf"{source.path}: RUNAI_STREAMER_GDS=1, .*{INSTALL}.*=auto"):
        open_gds(source, GdsMode.ALWAYS)


def test_0_does_not_even_look(source: FileSource, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="runai_model_streamer")
    assert open_gds(source, GdsMode.NEVER) is None
    assert caplog.records == []


def test_an_object_is_not_read_by_gpudirect() -> None:
    source = MemorySource("s3://bucket/model.safetensors", b"bytes", kind=SourceKind.OBJECT)
    assert open_gds(source, GdsMode.AUTO) is None
    with pytest.raises(GdsUnavailableError, match="local files only"):
        open_gds(source, GdsMode.ALWAYS)
