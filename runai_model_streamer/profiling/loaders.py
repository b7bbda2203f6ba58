"""Measures other loaders of safetensors files next to this package, as far as they are installed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Final

from runai_model_streamer.errors import ArgumentError, StreamerError
from runai_model_streamer.profiling import foreign_loader
from runai_model_streamer.profiling.caches import evict, warm
from runai_model_streamer.profiling.measuring import Cache, Measurement, OneOrMore, Path, load_once, several

OURS: Final = "this package"

_ORIGINAL: Final = "runai-model-streamer"


class _Foreign:
    """Another loader, in a process of its own, which stays between loads."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", says: IO[bytes]) -> None:
        """`says` is the process's standard error."""
        self.name = name
        self._process = process
        self._says = says

    def load(self, paths: Sequence[str]) -> tuple[int, float, float]:
        """Return bytes, seconds and CPU seconds of one load.

        Raises:
            StreamerError: the loader failed.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(list(paths)) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._says.seek(0)
            last = self._says.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise StreamerError(f"{self.name} failed: {last}", remedy="measure where it is not installed")
        found = json.loads(line)
        return found["bytes"], found["seconds"], found["cpu"]


def measure_loaders(
    files: Path | Sequence[Path],
    *,
    cache: OneOrMore[Cache] = "warm",
    runs: int = 5,
    original: str | None = None,
) -> list[Measurement]:
    """Load local files with this package and with others, in turns: safetensors, fastsafetensors, the original.

    Loaders that are not installed are left out. Each tensor is dropped as the next one comes; safetensors' own are
    copied out of its mapping first, as they would be to be used. Every other loader runs in a process of its own, and
    has loaded the files once before. The CPU seconds are those of the whole process.

    Args:
        files: local paths.
        cache: see `measure`.
        runs: loads by each loader.
        original: the Python of an environment with runai-model-streamer, which has this package's import name; None to
            leave it out.

    Returns:
        A measurement for each state of the cache and loader, whose settings are "cache" and "loader".

    Raises:
        ArgumentError: there is nothing to measure.
        StreamerError: a load failed.
    """
    paths = [os.fspath(path) for path in ((files,) if isinstance(files, str | os.PathLike) else files)]
    if not paths or runs < 1:
        raise ArgumentError("there is nothing to measure", remedy="give at least one file, and one run", sep=": ")
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    with ExitStack() as stack:
        started = [stack.enter_context(_started(name, python)) for name, python in _pythons(original)]
        loaders = [(OURS, load_once), *((other.name, other.load) for other in started if other is not None)]
        for _, load in loaders:
            load(paths)
        for turn in range(runs):
            for state in several(cache):
                for offset in range(len(loaders)):
                    name, load = loaders[(turn + offset) % len(loaders)]
                    (evict if state == "cold" else warm)(paths)
                    found.setdefault((state, name), []).append(load(paths))
    return [
        Measurement(
            {"cache": state, "loader": name},
            done[0][0],
            tuple(seconds for _, seconds, _ in done),
            (),
            tuple(cpu for _, _, cpu in done),
        )
        for state in several(cache)
        for name, _ in loaders
        for done in [found[state, name]]
    ]


def _pythons(original: str | None) -> Iterator[tuple[str, str]]:
    """Yield each loader that may be installed, and the Python of its environment."""
    for name in foreign_loader.LOADERS:
        python = original if name == _ORIGINAL else sys.executable
        if python is not None:
            yield name, python


@contextmanager
def _started(name: str, python: str) -> Iterator[_Foreign | None]:
    """Start the loader; None if it is not installed."""
    # By path and isolated (-I): the current folder may be a checkout of this package.
    command = [python, "-I", foreign_loader.__file__, name]
    with (
        tempfile.TemporaryFile() as says,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=says, text=True) as process,
    ):
        assert process.stdout is not None
        version = process.stdout.readline().strip()
        yield _Foreign(f"{name} {version}", process, says) if version else None
