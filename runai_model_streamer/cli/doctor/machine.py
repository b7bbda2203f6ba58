"""The checks of `doctor` for this machine and this Python."""

import importlib
import importlib.util
import os
import platform
import resource
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import runai_model_streamer
from runai_model_streamer.cli.interrupts import ended_by_ctrl_c
from runai_model_streamer.config import GdsMode, LoadConfig
from runai_model_streamer.errors import ConfigError, MissingDependencyError
from runai_model_streamer.installation import NAME, clash, install_command
from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.io.files import cufile
from runai_model_streamer.io.files.page_cache import PageCache
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.settings.variables import (
    clamped_in_environment,
    settings_in_environment,
    unknown_in_environment,
)

Status: TypeAlias = Literal["ok", "warning", "error"]

_FEW_FILES: Final = 1024
"""Limit of descriptors that earns a warning. A file of a load takes up to two, a read of an object one."""

_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_DRIVERS: Final = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""With NVIDIA's driver, one of these exists; under WSL it is the last."""


class Check(NamedTuple):
    """The result of one check."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """The fix; "" if none is needed."""


def python() -> Iterator[Check]:
    """Check the interpreter, this package, and other packages of the same name."""
    system = f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {_cpus()}"
    yield Check("python", "ok", system)
    where = os.path.dirname(runai_model_streamer.__file__)
    yield Check("package", "ok", f"{NAME} {runai_model_streamer.__version__} in {where}")
    if found := clash():
        yield Check("clash", "error", found.problem, found.remedy)
    else:
        yield Check("clash", "ok", "no other package is imported as runai_model_streamer")


def _cpus() -> str:
    usable, all_of_them = usable_cpus(), os.cpu_count() or 1
    return f"{all_of_them} CPUs" if usable == all_of_them else f"{usable} of {all_of_them} CPUs"


def settings() -> Iterator[Check]:
    """Check the library's variables in the environment."""
    try:
        LoadConfig.from_environment()
    except ConfigError as error:
        yield Check("settings", "error", error.summary, error.remedy)
        return
    told = " ".join(f"{name}={_shown(value)}" for name, value in settings_in_environment().items())
    yield Check("settings", "ok", told or "all at their defaults")
    for name, meant in unknown_in_environment().items():
        remedy = f"unset {name}" if meant is None else f"rename it to {meant}, or unset it"
        yield Check("settings", "warning", f"{name} is not a setting of this version, and is ignored", remedy)
    for name, maximum in clamped_in_environment().items():
        yield Check("settings", "warning", f"{name} is above its maximum", f"set it to {maximum} or less")


def _shown(value: str) -> str:
    """Return a setting's value, with `***` for a secret."""
    return "***" if isinstance(value, Secret) else _without_user(value)


def _without_user(value: str) -> str:
    """Return an endpoint's URL without user and password."""
    user, at, _ = urlsplit(value).netloc.rpartition("@")
    return value.replace(user + at, "***@", 1) if at else value


def gpu() -> Iterator[Check]:
    """Check torch, CUDA, the GPU packages and GPUDirect Storage."""
    with ended_by_ctrl_c():
        import torch

    yield Check("torch", "ok", f"torch {torch.__version__}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    has_driver = any(path.exists() for path in _DRIVERS)
    if not available:
        if torch.version.cuda is None and has_driver:
            remedy = "install a torch with CUDA (https://pytorch.org/get-started), to load onto the GPU"
            yield Check("cuda", "warning", "NVIDIA's driver is here, but torch is built without CUDA", remedy)
        elif torch.version.cuda is not None and has_driver:
            why = "".join(f": {warning.message}" for warning in said[:1])
            remedy = "see what nvidia-smi says; CUDA_VISIBLE_DEVICES may hide GPUs"
            yield Check("cuda", "warning", f"torch (CUDA {torch.version.cuda}) finds no GPU{why}", remedy)
        else:
            yield Check("cuda", "ok", "no NVIDIA GPU here: tensors are loaded into host memory")
        return
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if torch.version.cuda is None:
        yield Check("cuda", "ok", f"{names} (not CUDA): tensors are moved there one by one, from host memory")
        return
    yield Check("cuda", "ok", f"CUDA {torch.version.cuda}: {names}")
    extra = f"cuda{torch.version.cuda.partition('.')[0]}"
    yield _staging(extra)
    yield _gds()


def has_gpu() -> bool:
    """Return whether tensors can go to a CUDA device."""
    with ended_by_ctrl_c():
        import torch

    return torch.version.cuda is not None and torch.cuda.is_available()


def _staging(extra: str) -> Check:
    from runai_model_streamer.pipeline.cuda.driver import driver_api

    try:
        driver_api()
    except MissingDependencyError as error:
        what = f"tensors are moved to the GPU one by one, from host memory, which is slower: {error}"
        return Check("cuda packages", "warning", what, install_command(extra))
    return Check("cuda packages", "ok", f"cuda-bindings {_version('cuda-bindings')}: reads and copies overlap")


def _gds() -> Check:
    reason = cufile.no_driver()
    if reason is None:
        return Check("gpudirect", "ok", "GPUDirect Storage is there (--path tells of a folder)")
    try:
        required = LoadConfig.from_environment().gds is GdsMode.ALWAYS
    except ConfigError:
        required = False
    if required:
        return Check("gpudirect", "error", f"RUNAI_STREAMER_GDS=1, but {reason}", "unset RUNAI_STREAMER_GDS")
    what = f"not used, files are read through pinned host memory: {reason}"
    return Check("gpudirect", "warning", what, "see docs/gpu.md, GPUDirect Storage")


def packages() -> Iterator[Check]:
    """Check the packages of extras that suit any machine."""
    yield _package("numba", "numba", "cast", "casting while loading")
    yield _package("boto3", "boto3", "s3", "s3:// URLs")
    yield _package("google.auth", "google-auth", "gcs", "gs:// URLs")
    yield _package("azure.identity", "azure-identity", "azure", "az:// URLs by a login (a key needs no package)")
    yield _package("huggingface_hub", "huggingface_hub", "hub", "hf:// URLs")
    yield _package("awscrt", "awscrt", "verify", "checksums of objects (RUNAI_STREAMER_VERIFY=1)")
    yield _package("rich", "rich", "cli", "colours and progress of this command")


def _package(module: str, distribution: str, extra: str, use: str) -> Check:
    install = install_command(extra)
    if not _is_there(module):
        return Check(module, "ok", f"not installed; for {use}: {install}")
    try:
        importlib.import_module(module)
    except Exception as error:  # an incompatible package may raise anything
        reason = " ".join(str(error).split())
        return Check(module, "error", f"{_version(distribution)} cannot be imported: {reason}", install)
    return Check(module, "ok", f"{_version(distribution)}, for {use}")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it would be in
        return False


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def kernel() -> Iterator[Check]:
    """Check huge pages, the page cache and the process's limits."""
    yield huge_pages()
    descriptor = os.memfd_create("runai-streamer")
    try:
        call = PageCache(descriptor, os.fstat(descriptor)).call
    finally:
        os.close(descriptor)
    if call == "cachestat":
        yield Check("page cache", "ok", "cachestat reports cached bytes of files")
    elif call == "mincore":
        yield Check("page cache", "ok", "mincore reports cached bytes of files (cachestat, new in Linux 6.5, does not)")
    else:
        what = "the kernel does not report cached bytes of files: all reads go through the page cache"
        yield Check("page cache", "warning", what, "allow cachestat or mincore in the container's seccomp profile")
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def open_files(soft: int, hard: int) -> Check:
    """Check the limits of descriptors."""
    if soft < _FEW_FILES:
        what = f"at most {soft} at once, and each file of a load takes two"
        return Check("open files", "warning", what, f"ulimit -n {min(max(hard, soft), 65536)}")
    return Check("open files", "ok", f"at most {soft} at once")


def huge_pages(setting: Path = _HUGE_PAGES) -> Check:
    """Check the kernel's setting of transparent huge pages."""
    try:
        text = setting.read_text()
    except OSError:
        return Check("huge pages", "ok", "the kernel does not report whether it has them")
    mode = text.partition("[")[2].partition("]")[0]
    if mode in ("always", "madvise"):
        return Check("huge pages", "ok", f"{mode}: fresh memory costs few page faults")
    remedy = f"as root: echo madvise > {setting}"
    return Check("huge pages", "warning", f"{mode}: fresh memory costs a page fault for every 4 KiB", remedy)
