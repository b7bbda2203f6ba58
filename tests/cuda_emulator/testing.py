"""Tests on emulated CUDA: each runs in a process of its own, where libcuda.so.1 is the emulator.

    from tests.cuda_emulator import Emulator
    from tests.cuda_emulator.testing import emulated, needs

    @needs("cuda.core")                             # skips, saying so, where it is not installed
    @emulated()                                     # once for each mode: lazy, eager, random
    def test_a_thing(emulator: Emulator, tmp_path: Path) -> None:
        ...
        assert emulator.leaks() == {}

With `@emulated_torch()` in place of `@emulated()` PyTorch's CUDA build runs on it too, on an emulated runtime.

The process is pytest's on that one test, so fixtures, parameters and assertions are as ever. It has a hard time limit:
a library that spins on a driver it does not like fails its test. A test also fails if misuses were reported that it
did not expect, that is, did not take with `emulator.take_misuses()`.
"""

import ctypes
import functools
import importlib.util
import inspect
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pytest

from tests.cuda_emulator import MODES, Emulator, Mode, NoCompilerError, build, environment
from tests.cuda_emulator.starter import Starter, at_start
from tests.cuda_emulator.torch_libraries import RUNTIME

_INSIDE: Final = "CUDA_EMULATOR_TEST"
"""Set in the test's own process."""


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips a test where one of these modules is not installed. Only the packages that they are in are imported."""
    missing = [module for module in modules if not _is_installed(module)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


Test: TypeAlias = Callable[..., None]
Allocator = Literal["native", "expandable", "async"]
_ALLOCATORS: Final[Mapping[Allocator, str]] = {
    "native": "",
    "expandable": "expandable_segments:True",
    "async": "backend:cudaMallocAsync",
}
"""What PYTORCH_CUDA_ALLOC_CONF says for each."""


def emulated(*, modes: Sequence[Mode] = MODES, seconds: float = 180.0) -> Callable[[Test], Test]:
    """Runs a test function, which has a parameter `emulator`, in its own process, once for each mode.

    seconds: the hard limit of that process, its start included. Below this decorator goes what makes the test function
    (hypothesis' `given`), above it what pytest reads (marks, parameters).
    """

    def variables(folders: pytest.TempPathFactory) -> dict[str, str]:
        return environment(_emulator_folder(folders))

    return _in_its_own_process(modes, variables, seconds)


def emulated_torch(
    *,
    modes: Sequence[Mode] = MODES,
    devices: int = 1,
    allocator: Allocator = "native",
    seconds: float = 180.0,
) -> Callable[[Test], Test]:
    """Like `emulated`, with the CUDA build of torch, which runs on an emulated runtime (`make test-torch`).

    Where torch is another one, or runs on another runtime, the test is skipped. Its process is forked off one that has
    imported torch and installed `torch_operators`.

    devices: how many there are. allocator: torch's own, that with expandable segments, or cudaMallocAsync.
    """

    def variables(_: pytest.TempPathFactory) -> dict[str, str]:
        configured = {"PYTORCH_CUDA_ALLOC_CONF": _ALLOCATORS[allocator]} if _ALLOCATORS[allocator] else {}
        return {**os.environ, "CUDA_EMULATOR_DEVICES": str(devices), **configured}

    mark = pytest.mark.skipif(
        not torch_is_emulated(), reason="PyTorch's CUDA build on the emulated runtime: make test-torch"
    )
    decorate = _in_its_own_process(modes, variables, seconds)
    return lambda test: mark(decorate(test))


@functools.cache
def torch_is_emulated() -> bool:
    """Whether torch is a CUDA build here, and runs on the emulated runtime."""
    import torch

    return torch.version.cuda is not None and hasattr(ctypes.CDLL(RUNTIME), "emulator_runtime")


def _in_its_own_process(
    modes: Sequence[Mode], variables: Callable[[pytest.TempPathFactory], dict[str, str]], seconds: float
) -> Callable[[Test], Test]:
    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run(*, request: pytest.FixtureRequest, emulator_mode: Mode, **arguments: Any) -> None:
            if os.environ.get(_INSIDE):
                if "request" in signature.parameters:
                    arguments["request"] = request
                _run_here(test, emulator_mode, arguments)
            else:
                _run_in_process(request, variables(request.getfixturevalue("tmp_path_factory")), seconds)

        own = [parameter for name, parameter in signature.parameters.items() if name != "emulator"]
        names = ("request", "emulator_mode") if "request" not in signature.parameters else ("emulator_mode",)
        added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        parametrized: Test = pytest.mark.parametrize("emulator_mode", modes)(run)
        return parametrized

    return decorate


def _run_here(test: Callable[..., None], mode: Mode, arguments: dict[str, Any]) -> None:
    emulator = Emulator.attach()
    emulator.set_mode(mode)
    test(emulator=emulator, **arguments)
    if misuses := emulator.take_misuses():
        lines = "\n".join(f"{misuse.kind}: {misuse.text}" for misuse in misuses)
        pytest.fail(f"misuse of CUDA that the test did not expect:\n{lines}", pytrace=False)


def _run_in_process(request: pytest.FixtureRequest, variables: dict[str, str], seconds: float) -> None:
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    folder = folders.mktemp("emulated")
    report, log = folder / "report.xml", folder / "output.txt"
    arguments = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--rootdir={request.config.rootpath}"]
    if request.config.inipath is not None:
        arguments += ["-c", str(request.config.inipath)]
    # Where the threads stand is worth more than that it took too long.
    arguments += ["-o", f"faulthandler_timeout={seconds * 0.8}", f"--basetemp={folder / 'tmp'}"]
    # Not the whole node id: of a file outside the root it has no path.
    arguments.append(f"{request.path}::{request.node.nodeid.partition('::')[2]}")
    variables |= {_INSIDE: "1"}
    status = _starter(request.config, variables).run_pytest(arguments, variables, log, seconds)
    if status is None:
        pytest.fail(f"still running after {seconds} s on the emulated driver:\n{_tail(log)}", pytrace=False)
    if status:
        pytest.fail(f"on the emulated driver (exit status {status}):\n{_tail(log)}", pytrace=False)
    cases = ElementTree.parse(report).findall(".//testcase")
    assert len(cases) == 1, f"{request.node.nodeid} named {len(cases)} tests"
    skipped = cases[0].find("skipped")
    if skipped is not None:
        pytest.skip(skipped.get("message", ""))


_STARTERS: Final = pytest.StashKey[dict[frozenset[tuple[str, str]], Starter]]()


def _starter(config: pytest.Config, variables: Mapping[str, str]) -> Starter:
    """The one for these variables; it ends with the session."""
    starters = config.stash.setdefault(_STARTERS, {})
    kind = frozenset(at_start(variables).items())
    if kind not in starters:
        starters[kind] = Starter(variables, config.rootpath)
        config.add_cleanup(starters[kind].close)
    return starters[kind]


def _tail(log: Path, characters: int = 20_000) -> str:
    return log.read_text(errors="replace")[-characters:]


@functools.cache
def _build_once(folder: Path) -> Path | NoCompilerError:
    try:
        return build(folder)
    except NoCompilerError as error:
        return error


def _emulator_folder(folders: pytest.TempPathFactory) -> Path:
    """The emulator of this session; skips where this machine cannot build it."""
    built = _build_once(folders.getbasetemp() / "cuda_emulator")
    if isinstance(built, NoCompilerError):
        pytest.skip(str(built))
    return built
