"""The plugin for vLLM, which calls `register` in each of its processes: docs/engines.md.

It registers the loader of `vllm_loader` under a load format of its own, and its loaders instead of vLLM's own where
`RUNAI_STREAMER_VLLM` asks for it. In a vLLM that it does not know, vLLM's own are used, and one warning says so.
"""

import functools
import importlib
import logging
from typing import Any, Final

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import StreamerError

RELEASES: Final = ("0.28", "0.29", "0.30", "0.31", "0.32", "0.33")
"""Releases of vLLM whose code the loader is tested with (tests/engines/test_vllm_plugin.py)."""

OWN_FORMAT: Final = "runai_streamer_cuda"
VLLMS_FORMAT: Final = "runai_streamer"
SHARDED_FORMAT: Final = "runai_streamer_sharded"

_log: Final = logging.getLogger("vllm.runai_model_streamer")
"""vLLM shows only what is logged below its own logger."""


def register() -> None:
    """Register the loader with vLLM. Never raises, since that would end vLLM."""
    replace = False
    try:
        replace = LoadConfig.from_environment().vllm
        _register(replace)
    except StreamerError as error:  # of a setting, which ends the load too
        _warn(str(error))
    except Exception as error:
        tell = _warn if replace else _log.debug
        tell(f"this vLLM has no place for a loader ({type(error).__name__}: {error})")


def _register(replace: bool) -> None:
    loaders = importlib.import_module("vllm.model_executor.model_loader")
    stock: Any = loaders.RunaiModelStreamerLoader
    ours, doubt = _loaders()
    if doubt and replace:
        _warn(doubt)
    loaders.register_model_loader(OWN_FORMAT)(_with_warning(stock, doubt) if doubt else ours.StreamerLoader)
    if replace and not doubt:
        loaders.register_model_loader(VLLMS_FORMAT)(ours.StreamerLoader)
        loaders.register_model_loader(SHARDED_FORMAT)(ours.ShardedLoader)


def _loaders() -> tuple[Any, str]:
    """Return the module of the loaders, and why it cannot be used: "" if it can."""
    version = ".".join(map(str, importlib.import_module("vllm.version").__version_tuple__[:2]))
    if version not in RELEASES:
        return None, f"vLLM {version} is not one of the releases that it knows ({RELEASES[0]} to {RELEASES[-1]})"
    try:
        return importlib.import_module("runai_model_streamer.engines.vllm_loader"), ""
    except (ImportError, AttributeError) as error:
        return None, f"this vLLM {version} lacks what the loaders need ({error})"


def _with_warning(stock: Any, doubt: str) -> Any:
    """Return vLLM's own loader, which serves a load format of ours and says so."""

    class StockLoader(stock):  # type: ignore[misc]
        def __init__(self, load_config: Any) -> None:
            _warn(doubt)
            super().__init__(load_config)

    return StockLoader


@functools.cache
def _warn(reason: str) -> None:
    _log.warning("[RunAI Streamer] The plugin is off: %s. vLLM's own loader is used.", reason)
