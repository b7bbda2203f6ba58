"""The libraries on which the CUDA build of torch runs here: the emulated ones, and stubs for all others.

    build_for_torch(folder, site_packages)  # then a process with `environment(folder)` imports torch, and uses it

Torch is installed alone (`pip install --no-deps`, 1.2 GB; with its CUDA libraries it is 5.4 GB): of the libraries that
it is linked with, `libcudart.so.13` is ours, and cuBLAS, cuDNN, NCCL and the like are stubs. A stub has the names that
the installed torch asks for; a call of one ends the process with its name. What torch asks for of the runtime and ours
does not have says its name too, and fails: so does a torch that is newer than this.
"""

import contextlib
import ctypes
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cuda_emulator import LIBRARY, SOURCES, build, compile_library
from tests.cuda_emulator.elf import Import, SharedLibrary

RUNTIME: Final = "libcudart.so.13"
NVML: Final = "libnvidia-ml.so.1"
_NVIDIAS: Final = re.compile(r"lib(cu|nv|nccl)")


class TorchError(Exception):
    """The torch that is installed is not one for which this can be done."""


def build_for_torch(folder: Path, site_packages: Path) -> Path:
    """Build all of them into a folder and return it.

    Raises:
        NoCompilerError: this machine cannot build them.
        TorchError: no torch of CUDA 13 is there, or it brought its own CUDA runtime, which it would prefer.
    """
    libraries = _libraries_of_torch(site_packages)
    build(folder)
    emulated = [f"-L{folder}", f"-l:{LIBRARY}", "-Wl,-rpath,$ORIGIN"]
    compile_library(folder / NVML, sorted((SOURCES / "libnvml").glob("*.c")), emulated)
    wanted = _wanted(libraries)
    _build_runtime(folder, wanted.pop(RUNTIME), emulated)
    for name, imports in wanted.items():
        _build_stub(folder / name, imports)
    return folder


def _libraries_of_torch(site_packages: Path) -> list[SharedLibrary]:
    paths = [path for path in sorted((site_packages / "torch/lib").glob("lib*.so*")) if not path.is_symlink()]
    libraries = [SharedLibrary(path) for path in paths]
    if not any(RUNTIME in library.needed for library in libraries):
        raise TorchError(f"no PyTorch for {RUNTIME} is installed in {site_packages}")
    real = list(site_packages.glob(f"nvidia/*/lib/{RUNTIME}"))
    if real:
        raise TorchError(f"PyTorch would take {real[0]} before the emulated one: install torch with --no-deps")
    return libraries


def _wanted(libraries: Sequence[SharedLibrary]) -> dict[str, set[Import]]:
    """What torch imports, by the library of NVIDIA's that is to have it."""
    wanted: dict[str, set[Import]] = defaultdict(set)
    defined = {name for library in libraries for name in library.defined}
    system = _system_libraries(libraries)
    for library in libraries:
        nvidias = [name for name in library.needed if _NVIDIAS.match(name)]
        for name in nvidias:
            wanted[name] |= {symbol for symbol in library.imports if symbol.library == name}
        # Of a name without a version nothing says where it is from; any library that is loaded will do.
        loose = {symbol for symbol in library.imports if not symbol.version and symbol.name not in defined}
        others = [name for name in nvidias if name != RUNTIME]
        if others:
            wanted[others[0]] |= {symbol for symbol in loose if not any(hasattr(one, symbol.name) for one in system)}
    wanted.pop(LIBRARY, None)
    return wanted


def _system_libraries(libraries: Sequence[SharedLibrary]) -> list[ctypes.CDLL]:
    """Those that torch needs and that are neither NVIDIA's nor torch's own: the C library, that of C++ and the like."""
    found = []
    for name in sorted({name for library in libraries for name in library.needed if not _NVIDIAS.match(name)}):
        with contextlib.suppress(OSError):
            found.append(ctypes.CDLL(name))
    return found


def _build_runtime(folder: Path, wanted: set[Import], emulated: list[str]) -> None:
    target, sources = folder / RUNTIME, sorted((SOURCES / "libcudart").glob("*.c"))
    map_ = folder / f"{RUNTIME}.map"
    map_.write_text(f"{RUNTIME} {{ global: *; }};\n")
    options = [*emulated, f"-Wl,--version-script={map_}"]
    compile_library(target, sources, options)
    missing = sorted({symbol.name for symbol in wanted} - SharedLibrary(target).defined)
    extra = folder / f"{RUNTIME}.missing.c"
    lines = [f'EXPORT int {name}(void) {{ return not_emulated("function", "{name}"); }}' for name in missing]
    extra.write_text(f'#include "{SOURCES / "libcudart" / "runtime.h"}"\n' + "\n".join(lines) + "\n")
    compile_library(target, [*sources, extra], options)


_STUB: Final = """
#include <stdio.h>
#include <stdlib.h>
static void end(const char *name) {
    fprintf(stderr, "%s was called, which is a stub: it is not emulated\\n", name);
    abort();
}
"""


def _build_stub(target: Path, imports: set[Import]) -> None:
    names = sorted({symbol.name for symbol in imports})
    source = target.with_name(target.name + ".c")
    functions = [f'__attribute__((visibility("default"))) void {name}(void) {{ end("{name}"); }}' for name in names]
    # One that is there for its name alone has no function.
    source.write_text(_STUB + "void (*const used)(const char *) = end;\n" + "\n".join(functions) + "\n")
    nodes: Mapping[str, set[str]] = {
        version: {symbol.name for symbol in imports if symbol.version == version}
        for version in sorted({symbol.version for symbol in imports if symbol.version})
    }
    options = ["-fno-builtin", "-w"]
    if nodes:
        map_ = target.with_name(target.name + ".map")
        map_.write_text("".join(f"{node} {{ global: {'; '.join(sorted(nodes[node]))}; }};\n" for node in nodes))
        options.append(f"-Wl,--version-script={map_}")
    compile_library(target, [source], options)
