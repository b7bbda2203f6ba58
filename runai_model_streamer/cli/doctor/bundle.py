"""What `doctor --bundle` writes for a report of a bug: the checks, and what else tells one machine from another."""

import json
import os
import resource
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.errors import WriteError

_PROC: Final = Path("/proc")
_MEMORY: Final = ("MemTotal", "MemAvailable", "SwapTotal")
_LIMITS: Final = ("RLIMIT_AS", "RLIMIT_MEMLOCK", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK")


def write_bundle(path: str, checks: Sequence[Check], proc: Path = _PROC) -> None:
    """Write the checks and the facts of this machine as JSON. No secret is among them: checks never show one.

    Raises:
        WriteError: the file cannot be written.
    """
    text = json.dumps(_facts(proc) | {"checks": [check._asdict() for check in checks]}, indent=2)
    try:
        Path(path).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror}", where=path, errno=error.errno) from error


def _facts(proc: Path) -> dict[str, Any]:
    named = ((each.metadata["Name"], each.version) for each in distributions())
    return {
        "cpu": _values(proc / "cpuinfo").get("model name", ""),
        "cpus": os.cpu_count(),
        "memory": {name: text for name, text in _values(proc / "meminfo").items() if name in _MEMORY},
        "limits": {name: list(resource.getrlimit(getattr(resource, name))) for name in _LIMITS},
        "packages": dict(sorted(each for each in named if each[0])),
    }


def _values(path: Path) -> dict[str, str]:
    """Return the first value of each name in a file of `name: value` lines; none if it cannot be read."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
