"""The plugin for SGLang, in the code of SGLang's own releases: `make test-releases` fetches it, else these tests skip.

SGLang's plugin registry is real, and so is the function that the plugin replaces.
"""

import ast
import functools
import importlib
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from runai_model_streamer.engines import sglang as plugin
from runai_model_streamer.errors import StreamerError
from tests.checkpoints import raw, stored, write
from tests.engines.releases import RELEASES, Release

SOURCES: Final = "ENGINE_SOURCES"
UTILS: Final = "sglang.srt.model_loader.weight_utils"
MARK: Final = "_sglang_runai_streamer_tensor"
TENSORS: Final = {"model.embed.weight": stored("BF16", [16, 8]), "model.norm.weight": stored("F32", [8])}


def is_known(release: Release) -> bool:
    if release.engine != "sglang":
        return False
    return plugin.OLDEST <= tuple(map(int, release.version.split("."))) <= plugin.NEWEST


KNOWN: Final = [each for each in RELEASES if is_known(each)]


@pytest.fixture(params=KNOWN, ids=str)
def sglang(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """SGLang's `weight_utils`, as far as this package is concerned, among the modules of this process."""
    folder = Path(os.environ.get(SOURCES) or "/nonexistent", str(request.param), "sglang")
    if not folder.is_dir():
        pytest.skip(f"no sources of {request.param}: make test-releases")
    before = dict(sys.modules)
    try:
        yield install(folder)
    finally:
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] == "sglang":
                del sys.modules[name]


def install(folder: Path) -> types.ModuleType:
    for name, file in {
        "sglang": None,
        "sglang._version": "_version.py",
        "sglang.version": "version.py",
        "sglang.srt": None,
        "sglang.srt.plugins": None,
        "sglang.srt.plugins.hook_registry": "srt/plugins/hook_registry.py",
        "sglang.srt.model_loader": None,
        UTILS: None,
    }.items():
        made = types.ModuleType(name)
        made.__path__ = []
        sys.modules[name] = made
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, made)
        if file:
            exec(compiled(folder / file, ()), made.__dict__)
    utils = sys.modules[UTILS]
    bars: list[dict[str, Any]] = []

    def bar(tensors: Iterator[Any], **arguments: Any) -> Iterator[Any]:
        bars.append(arguments | {"done": 0})
        for each in tensors:
            bars[-1]["done"] += 1
            yield each

    around = {"torch": torch, "tqdm": bar, "BAR_FORMAT": "{desc}", "is_cuda_alike": lambda: False, "bars": bars}
    utils.__dict__.update(around, RUNAI_STREAMER_TENSOR_ATTR=MARK)
    text = "\n".join(f"from typing import {name}" for name in ("Dict", "Generator", "List", "Optional", "Tuple"))
    exec(text, utils.__dict__)
    names = ("runai_safetensors_weights_iterator",)
    exec(compiled(folder / "srt/model_loader/weight_utils.py", names), utils.__dict__)
    return utils


@functools.cache
def compiled(file: Path, names: tuple[str, ...]) -> Any:
    """The whole module, or the definitions of these names."""
    text = file.read_text(encoding="utf-8")
    if not names:
        return compile(text, str(file), "exec")
    body = [node for node in ast.parse(text).body if getattr(node, "name", None) in names]
    assert len(body) == len(names)
    return compile(ast.Module(body, []), str(file), "exec")


@pytest.fixture(autouse=True)
def _warnings_come_again() -> None:
    plugin._warn.cache_clear()  # noqa: SLF001


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_SGLANG", "1")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(write(tmp_path / "model.safetensors", TENSORS))


def start() -> None:
    """What SGLang does as each of its processes starts."""
    plugin.register()
    registry: Any = importlib.import_module("sglang.srt.plugins.hook_registry")
    registry.HookRegistry.apply_hooks()


def is_ours(utils: Any) -> bool:
    return hasattr(utils.runai_safetensors_weights_iterator, "__wrapped__")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_sglang_finds_it_among_its_plugins() -> None:
    (found,) = entry_points(group="sglang.srt.plugins", name="runai_streamer_cuda")
    assert found.load() is plugin.register


def test_unasked_it_changes_nothing(sglang: Any) -> None:
    start()
    assert not is_ours(sglang)


def test_asked_it_gives_every_tensor_without_the_mark_that_makes_models_copy(
    sglang: Any, asked: None, file: str
) -> None:
    stock = dict(sglang.runai_safetensors_weights_iterator([file]))
    start()
    assert is_ours(sglang)
    ours = dict(sglang.runai_safetensors_weights_iterator([file]))
    assert {name: raw(tensor) for name, tensor in ours.items()} == {name: each.data for name, each in TENSORS.items()}
    assert [hasattr(tensor, MARK) for found in (stock, ours) for tensor in found.values()] == [True, True, False, False]
    assert not any(hasattr(tensor.untyped_storage(), MARK) for tensor in ours.values())


def test_modules_that_imported_the_function_before_get_ours(sglang: Any, asked: None) -> None:
    earlier = types.ModuleType("sglang.connector")
    earlier.iterator = sglang.runai_safetensors_weights_iterator  # type: ignore[attr-defined]
    sys.modules[earlier.__name__] = earlier
    start()
    assert earlier.iterator is sglang.runai_safetensors_weights_iterator


def test_tensors_go_to_the_models_device_also_where_ranks_do_not_share(sglang: Any, asked: None, file: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("would load onto the GPU")
    start()
    assert len(list(sglang.runai_safetensors_weights_iterator([file], False, "cpu"))) == len(TENSORS)
    with pytest.raises(StreamerError, match="cuda:7"):
        next(sglang.runai_safetensors_weights_iterator([file], False, "cuda:7"))


def test_its_own_bar_and_the_log_show_the_load(
    sglang: Any, asked: None, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    list(sglang.runai_safetensors_weights_iterator([file], True))
    start()
    caplog.set_level(logging.INFO)
    list(sglang.runai_safetensors_weights_iterator([file], True))
    first, second = sglang.bars
    assert first == second
    (line,) = [record.getMessage() for record in caplog.records if record.name == plugin.__name__]
    assert line.startswith("[RunAI Streamer] loaded: 2 of 2 tensors")


def test_a_release_that_it_does_not_know_keeps_its_own_function(
    sglang: Any, asked: None, caplog: pytest.LogCaptureFixture
) -> None:
    sys.modules["sglang.version"].__version__ = "0.6.0"  # type: ignore[attr-defined]
    start()
    assert not is_ours(sglang)
    (warning,) = warnings_of(caplog)
    assert "SGLang 0.6.0 is not one of the releases that it knows (0.5.12 to 0.5.23)" in warning


def test_so_does_one_without_a_name_or_with_other_arguments(
    sglang: Any, asked: None, caplog: pytest.LogCaptureFixture
) -> None:
    bar, sglang.tqdm = sglang.tqdm, None
    del sglang.tqdm
    start()
    sglang.tqdm = bar
    sglang.runai_safetensors_weights_iterator = lambda files: files
    start()
    assert not is_ours(sglang)
    assert [re.sub(r"0\.5\.\d+", "X", warning).partition(": ")[2] for warning in warnings_of(caplog)] == [
        "this SGLang X lacks tqdm. SGLang's own function is used.",
        "runai_safetensors_weights_iterator of this SGLang X takes other arguments. SGLang's own function is used.",
    ]


def test_without_sglang_it_does_not_raise(asked: None, caplog: pytest.LogCaptureFixture) -> None:
    if importlib.util.find_spec("sglang"):
        pytest.skip("SGLang is installed")
    plugin.register()
    (warning,) = warnings_of(caplog)
    assert "No module named 'sglang'" in warning


def test_a_setting_that_cannot_be_read_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_SGLANG", "perhaps")
    plugin.register()
    (warning,) = warnings_of(caplog)
    assert "RUNAI_STREAMER_SGLANG='perhaps' cannot be used" in warning
