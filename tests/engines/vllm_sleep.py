"""vLLM's sleep mode, cut out of its release for CUDA: the allocator with its compiled part, and the worker's calls."""

import ast
import sys
import time
import types
from contextlib import contextmanager, nullcontext
from fnmatch import filter as fnmatch_filter
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

import torch
from typing_extensions import override

from tests.engines.releases import RELEASES, Release
from tests.engines.vllm_modules import ANNOTATIONS, ModelConfig, Vllm

RELEASE: Final[Release] = next(each for each in RELEASES if each.distribution == "vllm")
"""Of the other releases, builds for the CPU are fetched, which do not have `COMPILED`."""
COMPILED: Final = "vllm/cumem_allocator.abi3.so"
WORKER: Final = "vllm.v1.worker.gpu_worker"
METHODS: Final = frozenset(
    {
        "load_model",
        "reload_weights",
        "sleep",
        "sleep_mode_backend",
        "wake_up",
        "_get_sleep_parameters",
        "_maybe_get_memory_pool_context",
        "_restore_sleep_parameters",
        "_save_sleep_parameters",
        "_scoped_allocator_max_split",
    }
)
"""Of vLLM's worker."""


class SleepingVllm(Vllm):
    """The modules of the release, which runs on the first GPU, with its sleep mode."""

    @override
    def _make(self) -> None:
        super()._make()
        self.cuda_device = 0
        others = dict.fromkeys(("is_rocm", "is_xpu", "is_cpu"), lambda: False)
        sys.modules["vllm.platforms"].current_platform.__dict__.update(others)
        stubs: dict[str, dict[str, Any]] = {
            "vllm.envs": {"VLLM_CUDART_SO_PATH": None},
            "vllm.utils.torch_utils": {"PIN_MEMORY": True},
        }
        for name, names in stubs.items():
            self._module(name).__dict__.update(names)
        self._cut("vllm.utils.system_utils", {}, "find_loaded_library", "find_loaded_libraries")
        self._whole("vllm.distributed.device_communicators.cuda_wrapper")
        self._extension("vllm.cumem_allocator", self._folder / COMPILED)
        for name in ("", ".alloc_conf", ".cumem", ".sleep_mode_backend"):
            self._whole(f"vllm.device_allocator{name}")

    def _extension(self, name: str, path: Path) -> None:
        loader = ExtensionFileLoader(name, str(path))
        sys.modules[name] = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
        loader.exec_module(sys.modules[name])

    @property
    def allocator(self) -> Any:
        """vLLM's allocator."""
        return sys.modules["vllm.device_allocator.cumem"].CuMemAllocator.get_instance()

    def worker(self, config: ModelConfig, make: type[torch.nn.Module]) -> Any:
        """vLLM's worker, as far as `METHODS` go. Its `model_runner` makes, loads and reloads the model."""
        text = self._file(WORKER).read_text(encoding="utf-8")
        (found,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "Worker"]
        found.bases = []
        found.body = [node for node in found.body if getattr(node, "name", "") in METHODS]
        made = self._module(WORKER)
        made.__dict__.update(
            torch=torch,
            nn=torch.nn,
            time=time,
            contextmanager=contextmanager,
            nullcontext=nullcontext,
            fnmatch_filter=fnmatch_filter,
            format_gib=str,
            logger=sys.modules["vllm.logger"].init_logger(WORKER),
            current_platform=sys.modules["vllm.platforms"].current_platform,
            get_mem_allocator_instance=sys.modules["vllm.device_allocator"].get_mem_allocator_instance,
            set_current_vllm_config=nullcontext,
            set_torch_threads_for_runtime=lambda: None,
            has_ec_transfer=lambda: False,
            has_kv_transfer_group=lambda: False,
        )
        exec(compile(ast.Module([found], []), WORKER, "exec", flags=ANNOTATIONS), made.__dict__)
        worker: Any = made.Worker()
        worker.__dict__.update(
            _sleep_mode_backend=None,
            _sleep_saved_buffers={},
            _sleep_saved_draft_buffers={},
            _sleep_saved_parameters={},
            get_draft_model=lambda: None,
            synchronize_device=torch.accelerator.synchronize,
        )
        worker.model_config = types.SimpleNamespace(
            enable_sleep_mode=True,
            enable_cumem_allocator=True,
            enable_nccl_comm_suspend=False,
            sleep_mode_backend="cumem",
            sleep_preserve_parameter_names=None,
        )
        worker.vllm_config = types.SimpleNamespace(model_config=worker.model_config, weight_transfer_config=None)
        worker.model_runner = _Runner(self.loader("runai_streamer"), config, make)
        return worker


class _Runner:
    """In the place of vLLM's model runner: the model's loader is real."""

    def __init__(self, loader: Any, config: ModelConfig, make: type[torch.nn.Module]) -> None:
        self._loader, self._config, self._make = loader, config, make
        self.model: Any = None

    def load_model(self, load_dummy_weights: bool) -> None:
        assert not load_dummy_weights
        self.model = self._make()
        self._loader.load_weights(self.model, self._config)

    def reload_weights(self) -> None:
        self.model.load_weights(self._loader.get_all_weights(self._config, self.model))
