"""Prints the constraints for an environment with the oldest releases that pyproject.toml allows: `make test-oldest`.

Of what the package itself needs, each lower bound; of what its tests need, the pins of constraints.txt. Two packages
keep their pins: PyTorch, since its older wheels bring GBs of CUDA libraries, and typing-extensions, since moto needs a
newer one.
"""

import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
EXTRAS: Final = ("cast", "cli", "s3", "verify")
AS_PINNED: Final = ("torch", "typing-extensions", "runai-model-streamer-cuda")


def constraints() -> list[str]:
    """One line for each distribution."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    oldest = {
        canonicalize_name(needed.name): f"{needed.name}=={bound.version}"
        for needed in map(Requirement, lines)
        for bound in needed.specifier
        if bound.operator == ">=" and canonicalize_name(needed.name) not in AS_PINNED
    }
    kept = [pin for pin in pins if pin and pin[0] != "#" and canonicalize_name(Requirement(pin).name) not in oldest]
    return sorted([*oldest.values(), *kept])


if __name__ == "__main__":
    print("\n".join(constraints()))
