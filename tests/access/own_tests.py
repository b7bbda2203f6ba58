"""safetensors' own tests, with this package's `load_file` and `safe_open` in place of its own.

    python -m tests.access.own_tests FOLDER ARGUMENT...

FOLDER is `bindings/python/tests` of a checkout of safetensors; the arguments are pytest's. Its other functions, such as
`save_file`, stay its own.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import safetensors
import safetensors.torch
import torch

from runai_model_streamer import load_file, safe_open

FILES: Final = ("test_pt_comparison.py", "test_pt_model.py", "test_simple.py", "test_multithreaded.py")
"""Those that call one of the two for torch. The others are about NumPy, JAX, TensorFlow, Paddle and MLX, about writing,
and about ways in which safetensors itself reads (`backend="pread"`)."""

LEFT_OUT: Final = {
    "test_deserialization_metadata": "one of this name opens with framework='np': this package makes tensors of torch",
    "test_numpy": "NumPy's arrays",
    "test_multithreaded_roundtripping_numpy": "NumPy's arrays",
    "test_get_correctly_dropped": "after the end keys() has to fail, with safetensors' own error",
    "test_file_not_found": "the whole message is compared; it is a FileNotFoundError here too",
}
"""Part of a test's name -> why it is not run."""


class _Chosen:
    """Leaves tests out, by name."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect what `LEFT_OUT` names; of the two tests about metadata, only the one for NumPy."""
        out = [each for each in items if any(name in each.name for name in LEFT_OUT) and not _is_for_torch(each)]
        config.hook.pytest_deselected(items=out)
        items[:] = [each for each in items if each not in out]


def _is_for_torch(item: pytest.Item) -> bool:
    return item.name == "test_deserialization_metadata" and "test_pt_comparison" in item.nodeid


def _load_file(
    filename: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    backend: str = "",  # safetensors' load_model, which is run as it is, passes it
) -> dict[str, torch.Tensor]:
    return load_file(filename, device)


def main(arguments: Sequence[str]) -> int:
    """Run the tests of a checkout. Returns pytest's exit status."""
    folder, *others = arguments
    vars(safetensors)["safe_open"] = safe_open
    vars(safetensors.torch)["load_file"] = _load_file
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "tests" / "data").mkdir(parents=True)  # where they write
        for name in FILES:
            (Path(place) / name).write_bytes((Path(folder) / name).read_bytes())
        options = ["-p", "no:cacheprovider", "--rootdir", place, "-c", "/dev/null", *others]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            return pytest.main([*options, *FILES], plugins=[_Chosen()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
