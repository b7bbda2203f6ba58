"""vLLM's own code for loading models, cut out of a release, as modules that can be imported without the rest of vLLM.

Its loaders and what they call are real. Around them is what a test decides: the platform, the configuration, the groups
of ranks.
"""

import __future__

import abc
import ast
import dataclasses
import functools
import importlib
import json
import logging
import os
import re
import sys
import time
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import torch

import runai_model_streamer

OURS: Final = "runai_model_streamer.engines.vllm_loader"
LOADERS: Final = "vllm.model_executor.model_loader"
ANNOTATIONS: Final = __future__.annotations.compiler_flag


@dataclasses.dataclass
class LoadConfig:
    """vLLM's, as far as its loader for `runai_streamer` reads it."""

    load_format: str = "runai_streamer"
    model_loader_extra_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    device: str | None = None
    use_tqdm_on_load: bool = True
    download_dir: str | None = None
    ignore_patterns: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class ModelConfig:
    """The same of a model. `experts` is for the test."""

    model: str
    model_weights: str = ""
    revision: str | None = None
    runner_type: str = "generate"
    is_moe: bool = False
    experts: int = 0

    def get_num_experts(self) -> int:
        return self.experts


class Group:
    """A group of ranks, such as vLLM's for tensor parallelism."""

    def __init__(self, name: str, size: int = 1, rank: int = 0) -> None:
        self.cpu_group = name
        self.world_size = size
        self.rank_in_group = rank


class Vllm:
    """The modules of one release, in `sys.modules`, and what a test may set or ask.

    Args:
        folder: of the release, as `tests.engines.releases` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cuda_device: int | None = None
        """What is current; None on a machine without CUDA."""
        self.groups = {name: Group(name) for name in ("dp", "pp", "tp", "pcp")}
        self.parallel = types.SimpleNamespace(
            enable_expert_parallel=False,
            enable_ep_weight_filter=False,
            enable_eplb=False,
            data_parallel_size=1,
            tensor_parallel_size=1,
            prefill_context_parallel_size=1,
            expert_placement_strategy="linear",
        )
        self.bars: list[dict[str, Any]] = []
        """The arguments of each progress bar, with `done`, the number of tensors that passed."""
        self._make()

    def loader(self, load_format: str, **config: Any) -> Any:
        """What vLLM makes for a load format."""
        found: Any = importlib.import_module(LOADERS)
        return found.get_model_loader(LoadConfig(load_format, **config))

    @property
    def stock(self) -> Any:
        """vLLM's own loader."""
        return sys.modules[f"{LOADERS}.runai_streamer_loader"].RunaiModelStreamerLoader

    def _make(self) -> None:
        log = logging.getLogger("vllm.loader")
        stubs: dict[str, dict[str, Any]] = {
            "transformers.utils": {"SAFE_WEIGHTS_INDEX_NAME": "model.safetensors.index.json"},
            "vllm.config": {
                "ModelConfig": ModelConfig,
                "get_current_vllm_config": lambda: types.SimpleNamespace(parallel_config=self.parallel),
            },
            "vllm.config.load": {"LoadConfig": LoadConfig},
            "vllm.logger": {"init_logger": lambda _: _Logger(log)},
            "vllm.distributed": {
                **{f"get_{name}_group": functools.partial(self.groups.get, name) for name in self.groups},
                "get_world_group": lambda: Group("world"),
                "get_tensor_model_parallel_rank": lambda: self.groups["tp"].rank_in_group,
                "get_pipeline_model_parallel_rank": lambda: self.groups["pp"].rank_in_group,
            },
            "vllm.platforms": {
                "current_platform": types.SimpleNamespace(
                    is_cuda=lambda: self.cuda_device is not None,
                    is_cuda_alike=lambda: self.cuda_device is not None,
                    current_device=lambda: self.cuda_device,
                )
            },
            "vllm.transformers_utils.repo_utils": {"resolve_revision": lambda _, revision: revision},
            "vllm.transformers_utils.s3_utils": {"glob": None},
            "vllm.transformers_utils.utils": {"is_s3": lambda path: path.startswith("s3://")},
            "vllm.transformers_utils.runai_utils": {
                "is_runai_obj_uri": lambda path: path.startswith("s3://"),
                "list_safetensors": runai_model_streamer.list_safetensors,
                "runai_pull_files": runai_model_streamer.pull_files,
            },
        }
        sys.modules["regex"] = re
        for name, names in stubs.items():
            self._module(name).__dict__.update(names)
        self._whole("vllm._version")
        self._whole("vllm.version")
        around: dict[str, Any] = {"torch": torch, "nn": torch.nn, "os": os, "time": time, "logger": _Logger(log)}
        around |= {"dataclasses": dataclasses, "cast": cast, "instrument": lambda **_: lambda call: call}
        around |= {"Callable": Callable, "Generator": Generator, "Iterable": Iterable}
        self._whole(f"{LOADERS}.ep_weight_filter")
        self._cut(
            f"{LOADERS}.base_loader", around | {"ABC": abc.ABC, "abstractmethod": abc.abstractmethod}, "BaseModelLoader"
        )
        self._cut(
            f"{LOADERS}.weight_utils",
            around
            | {
                "SafetensorsStreamer": runai_model_streamer.SafetensorsStreamer,
                "current_platform": sys.modules["vllm.platforms"].current_platform,
                "tqdm": self._bar,
                "json": json,
                **dict.fromkeys(("download_safetensors_index_file_from_hf", "download_weights_from_hf")),
            },
            "runai_safetensors_weights_iterator",
            "enable_tqdm",
            "_BAR_FORMAT",
            "filter_safetensors_files_by_weight_name",
        )
        base = {"BaseModelLoader": sys.modules[f"{LOADERS}.base_loader"].BaseModelLoader}
        experts = {"compute_local_expert_ids": sys.modules[f"{LOADERS}.ep_weight_filter"].compute_local_expert_ids}
        self._cut(f"{LOADERS}.default_loader", around | base | experts, "DefaultModelLoader")
        self._whole(f"{LOADERS}.runai_streamer_loader")
        self._whole(f"{LOADERS}.sharded_state_loader")
        others = ("Dummy", "ModelExpress", "Tensorizer", "Ipc")
        loaders: dict[str, Any] = dict.fromkeys((f"{each}Loader" for each in others), object)
        loaders |= dict.fromkeys((f"{each}ModelLoader" for each in others), object)
        loaders["DefaultModelLoader"] = sys.modules[f"{LOADERS}.default_loader"].DefaultModelLoader
        loaders["RunaiModelStreamerLoader"] = self.stock
        loaders["ShardedStateLoader"] = sys.modules[f"{LOADERS}.sharded_state_loader"].ShardedStateLoader
        wanted = ("register_model_loader", "get_model_loader", "_LOAD_FORMAT_TO_MODEL_LOADER")
        self._cut(LOADERS, around | base | loaders | {"LoadConfig": LoadConfig, "Literal": Literal}, *wanted)

    def _bar(self, tensors: Iterable[Any], **arguments: Any) -> Iterator[Any]:
        self.bars.append(arguments | {"done": 0})
        bar = self.bars[-1]
        for each in tensors:
            bar["done"] += 1
            yield each

    def _module(self, name: str) -> types.ModuleType:
        """Make a module, and the packages that it is in."""
        if name in sys.modules:
            return sys.modules[name]
        made = types.ModuleType(name)
        made.__path__ = []
        sys.modules[name] = made
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(self._module(parent), last, made)
        return made

    def _file(self, name: str) -> Path:
        path = self._folder.joinpath(*name.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def _whole(self, name: str) -> None:
        made = self._module(name)
        made.__package__ = name.rpartition(".")[0]
        exec(_compiled(self._file(name)), made.__dict__)

    def _cut(self, name: str, around: dict[str, Any], *wanted: str) -> None:
        """Run the definitions of these names, as far as the release has them."""
        made = self._module(name)
        made.__dict__.update(around)
        exec(_compiled(self._file(name), wanted), made.__dict__)


class _Logger:
    """vLLM's loggers have a method more than others."""

    def __init__(self, log: logging.Logger) -> None:
        self.info_once = log.info
        self.info = log.info
        self.warning = log.warning
        self.debug = log.debug


@functools.cache
def _compiled(file: Path, wanted: tuple[str, ...] = ()) -> Any:
    """The whole module, or the definitions of these names with their annotations left as text."""
    text = file.read_text(encoding="utf-8")
    if not wanted:
        return compile(text, str(file), "exec")
    body = [node for node in ast.parse(text).body if _names_of(node) & set(wanted)]
    return compile(ast.Module(body, []), str(file), "exec", flags=ANNOTATIONS)


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {ast.unparse(target) for target in node.targets}
    if isinstance(node, ast.AnnAssign):
        return {ast.unparse(node.target)}
    return {str(getattr(node, "name", ""))}


Kind = TypeVar("Kind", bound=Vllm)


@contextmanager
def installed(folder: Path, kind: type[Kind]) -> Iterator[Kind]:
    """vLLM of this release, as if it were installed; without it again afterwards."""
    before = dict(sys.modules)
    assert not any(name.partition(".")[0] in ("vllm", "transformers") for name in before)
    try:
        yield kind(folder)
    finally:
        added = [name for name in sys.modules if name.partition(".")[0] in ("vllm", "transformers")]
        for name in [*added, OURS]:
            sys.modules.pop(name, None)
        if "regex" not in before:
            sys.modules.pop("regex", None)
