"""One load of local files in a process of its own; loaders.py describes the worker's talk with its parent."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import read_header
from benchmarks.files import limits
from benchmarks.loaders import OPENERS, Check, Opener, Prepared, bytes_of, load_and_drop, version
from benchmarks.span import Span

PAGE = 4096
DTYPES = {"U8": "uint8", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I64": "int64"}


def _touch(tensor: Any) -> None:
    # A loader that maps the file has read nothing until somebody touches every page.
    bytes_of(tensor)[::PAGE].sum()


def _parameters(files: Sequence[str]) -> dict[str, Any]:
    """A parameter for each tensor, already touched, as a model that was built before its weights came has them."""
    torch = importlib.import_module("torch")
    return {
        tensor.name: torch.nn.Parameter(
            torch.zeros(tensor.shape, dtype=getattr(torch, DTYPES[tensor.dtype])).fill_(1), requires_grad=False
        )
        for path in files
        for tensor in read_header(Path(path))
    }


def _load(job: dict[str, Any], opener: Opener, parameters: dict[str, Any]) -> dict[str, Any]:
    use, touch = job["use"], job.get("touch", False)
    check = Check(job["files"]) if job.get("check") else None
    kept: dict[str, Any] = {}
    span = Span()
    with opener(job["files"]) as stream:
        for name, tensor in stream:
            if span.first_s is None:
                span.first_s = time.perf_counter() - span.start
            if use == "copied":
                parameters[name].data.copy_(tensor)
            elif use == "kept":
                kept[name] = tensor
            if touch:
                _touch(tensor)
            if check is not None and use == "dropped":
                check.see(name, tensor)
        result = span.end()
    if check is not None:
        # Only now for what was kept or copied: memory that was handed out twice would show here.
        for name, tensor in (kept if use == "kept" else parameters).items():
            check.see(name, tensor)
        result["checked"] = check.finish()
    return result


def prepare(job: dict[str, Any]) -> Prepared:
    """Import the loader, load the tiny checkpoint unless the load is a first one, and make the parameters."""
    started = time.perf_counter()
    if job["loader"] in limits.NAMES:

        def run_limit() -> dict[str, Any]:
            files = [Path(path) for path in job["files"]]
            work = limits.prepare(job["loader"], files, limits.Shape(**job["shape"]))
            span = Span()
            work()
            return span.end()

        return {}, run_limit
    importlib.import_module("torch")
    opener = OPENERS[job["loader"]]()
    first = job.get("first", False)

    def run() -> dict[str, Any]:
        if not first:
            load_and_drop(opener, job["tiny"])
        return _load(job, opener, parameters)

    if not first:
        load_and_drop(opener, job["tiny"])
    ready = {"import_s": time.perf_counter() - started, "version": version(job["loader"])}
    parameters = _parameters(job["files"]) if job["use"] == "copied" else {}
    return ready, run
