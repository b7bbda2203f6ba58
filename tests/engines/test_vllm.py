"""A real vLLM on the CPU loads and serves from disk and from S3: `make test-engines`. Without vLLM these tests skip."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.servers import MotoServer, moto_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="not installed: vllm (make test-engines)"
)

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 540.0
URL: Final = "s3://models/org/llama"


def run(endpoint: str, *arguments: str, **settings: str) -> Any:
    """What `vllm_program` prints last, in a process of its own, which knows the store."""
    environment = dict(os.environ) | settings
    environment |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }
    command = [sys.executable, "-m", "tests.engines.vllm_program", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    assert run("http://127.0.0.1:1", "models", str(folder)) == 3
    return folder


@pytest.fixture(scope="module")
def store(model: Path) -> Iterator[MotoServer]:
    with moto_server() as server:
        for path in model.iterdir():
            server.put("models", f"org/llama/{path.name}", path.read_bytes())
        yield server


@pytest.fixture(scope="module")
def expected(model: Path, store: MotoServer) -> Any:
    """Greedy tokens of vLLM with its own loader."""
    return run(store.endpoint, "tokens", str(model), "safetensors", "{}", VLLM_ENABLE_V1_MULTIPROCESSING="0")


LOADS: Final[dict[str, dict[str, Any]]] = {
    "disk": {},
    "disk, settings": {"concurrency": 4, "memory_limit": 1_000_000},
    "disk, more reads than there can be": {"concurrency": 2048},
    "disk, distributed in a group of one": {"distributed": True},
    "s3": {},
    "s3, settings": {"concurrency": 4, "memory_limit": 0, "distributed": True},
}


def test_every_parameter_is_that_of_its_own_loader(model: Path, store: MotoServer) -> None:
    loads: list[dict[str, Any]] = [{"model": str(model), "load_format": "safetensors"}]
    for name, extra in LOADS.items():
        source = URL if name.startswith("s3") else str(model)
        loads.append({"model": source, "load_format": "runai_streamer", "model_loader_extra_config": extra})
    # One process for all. Its worker looks through every module that is there, which numba's do not survive.
    own, *ours = run(store.endpoint, "parameters", json.dumps(loads), RUNAI_STREAMER_S3_TRANSPORT="boto3")
    assert len(own) > 30
    assert {name: found == own for name, found in zip(LOADS, ours, strict=True)} == dict.fromkeys(LOADS, True)


@pytest.mark.parametrize("multiprocessing", ["0", "1"], ids=["in this process", "in a process of its own"])
@pytest.mark.parametrize("source", ["disk", "s3"])
def test_the_engine_serves_the_tokens_of_its_own_loader(
    model: Path, store: MotoServer, expected: Any, source: str, multiprocessing: str
) -> None:
    path = URL if source == "s3" else str(model)
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": multiprocessing}
    assert len(expected) == 2
    assert run(store.endpoint, "tokens", path, "runai_streamer", "{}", **settings) == expected
