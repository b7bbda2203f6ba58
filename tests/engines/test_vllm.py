"""A real vLLM on the CPU loads and serves from disk and from S3: `make test-engines`. Without vLLM these tests skip.

With and without the plugin. vLLM's CPU backend runs the stages of a pipeline and expert parallelism only with a little
help of `vllm_program`, which its own loader for safetensors then gets too.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.engines.vllm_program import ANSWER
from tests.servers import FaultServer, Request, refuse, stall_before_headers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="not installed: vllm (make test-engines)"
)

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 1800.0
URL: Final = "s3://models/org/llama"
PLUGIN: Final = {"RUNAI_STREAMER_VLLM": "1"}
SHARED: Final = {"distributed": True}
IN_PROCESS: Final = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
REPORT: Final = re.compile(
    r"\[RunAI Streamer\] loaded: (?P<tensors>\d+ of \d+ tensors, [\d.]+ MB).*read from: (?P<origins>[^;]*)"
)
BYTES: Final = [
    "| load format | engine | bytes from S3 | each rank, as the plugin reports |",
    "| --- | --- | ---: | --- |",
]
"""A table of what each engine read, which is printed at the end."""


def start(endpoint: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start `vllm_program`, which knows the store."""
    environment = dict(os.environ) | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }
    command = [sys.executable, "-m", "tests.engines.vllm_program", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end(program: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output; a program that does not end is killed with all of its processes, and the test fails."""
    try:
        output, _ = program.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"did not end in {SECONDS} s:\n{stop(program)[-6000:]}")
    return program.returncode, output


def stop(program: subprocess.Popen[str]) -> str:
    """Kill a program that has not ended, with all of its processes; its output."""
    if program.poll() is not None:
        return ""
    parent = psutil.Process(program.pid)
    for process in [*parent.children(recursive=True), parent]:
        process.kill()
    return program.communicate()[0]


def run(endpoint: str, *arguments: str, **settings: str) -> tuple[Any, str]:
    """What `vllm_program` prints last, and all of its output."""
    status, output = end(start(endpoint, *arguments, **settings))
    assert status == 0, output[-8000:]
    # Python's own resource tracker may have the last word.
    answer = [line for line in output.splitlines() if line.startswith(ANSWER)][-1]
    return json.loads(answer.removeprefix(ANSWER)), output


def serve(store: FaultServer, model: str, load_format: str, *ask: str, **options: Any) -> dict[str, Any]:
    """Run an engine, with the plugin if `plugin` is in the options, and note the bytes that it reads in `BYTES`."""
    settings = PLUGIN if options.pop("plugin", False) else {}
    if options.pop("in_process", False):
        settings = settings | IN_PROCESS
    before = store.bytes_served
    asked = json.dumps({"model": model, "load_format": load_format, "ask": ask} | options)
    answer, output = run(store.endpoint, "serve", asked, **settings)
    read = store.bytes_served - before
    reports = [f"{match['tensors']}, from {match['origins']}" for match in REPORT.finditer(output)]
    shown = [f"{name}={value}" for name, value in options.items() if name != "save"]
    engine = ", ".join([Path(model).name, *shown, *ask])
    BYTES.append(f"| {load_format} | {engine} | {read:,} | {'; '.join(reports)} |")
    assert bool(reports) == bool(settings.get("RUNAI_STREAMER_VLLM") or load_format == "runai_streamer_cuda")
    return dict(answer) | {"bytes": read, "reports": reports}


@pytest.fixture(scope="module", autouse=True)
def _bytes_read(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print("\n" + "\n".join(BYTES))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assert run("http://127.0.0.1:1", "models", str(folder))[0] == [3, 2]
    return folder


@pytest.fixture(scope="module")
def llama(models: Path) -> str:
    return str(models / "llama")


@pytest.fixture(scope="module")
def store(models: Path) -> Iterator[FaultServer]:
    with FaultServer() as server:
        for path in models.rglob("*.*"):
            server.put("models", f"org/{path.relative_to(models)}", path.read_bytes())
        yield server


def size_of(llama: str) -> int:
    return sum(path.stat().st_size for path in Path(llama).glob("*.safetensors"))


@pytest.fixture(scope="module")
def alone(llama: str, store: FaultServer) -> Any:
    """Greedy tokens of vLLM with its loader for safetensors."""
    return serve(store, llama, "safetensors", "tokens", in_process=True)["tokens"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where vLLM saves what each of two ranks has, which `in_two` does."""
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def in_two(llama: str, store: FaultServer, sharded: Path) -> Any:
    """The same of two ranks of tensor parallelism."""
    options = {"in_process": True, "tensor_parallel_size": 2, "save": str(sharded)}
    found = serve(store, llama, "safetensors", "tokens", **options)["tokens"]
    for path in sharded.iterdir():
        store.put("models", f"org/sharded/{path.name}", path.read_bytes())
    return found


LOADS: Final[dict[str, dict[str, Any]]] = {
    "disk": {},
    "disk, settings": {"concurrency": 4, "memory_limit": 1_000_000},
    "disk, more reads than there can be": {"concurrency": 2048},
    "disk, distributed in a group of one": {"distributed": True},
    "s3": {},
    "s3, settings": {"concurrency": 4, "memory_limit": 0, "distributed": True},
    "disk, as saved by the rank": {},
}


@pytest.mark.parametrize("settings", [{}, PLUGIN], ids=["stock", "plugin"])
def test_every_parameter_is_that_of_its_own_loader(
    llama: str, store: FaultServer, tmp_path: Path, settings: dict[str, str]
) -> None:
    loads: list[dict[str, Any]] = [{"model": llama, "load_format": "safetensors", "save": str(tmp_path)}]
    for name, extra in LOADS.items():
        saved = "saved" in name
        source = str(tmp_path) if saved else URL if name.startswith("s3") else llama
        load_format = "runai_streamer_sharded" if saved else "runai_streamer"
        loads.append({"model": source, "load_format": load_format, "model_loader_extra_config": extra})
    # One process for all. Its worker looks through every module that is there, which numba's do not survive.
    given = settings | {"RUNAI_STREAMER_S3_TRANSPORT": "boto3"}
    (own, *ours), _ = run(store.endpoint, "parameters", json.dumps(loads), **given)
    assert len(own["parameters"]) > 30
    assert {name: found["parameters"] == own["parameters"] for name, found in zip(LOADS, ours, strict=True)} == (
        dict.fromkeys(LOADS, True)
    )
    assert {found["cloned"] > 0 for found in ours} == {not settings}


@pytest.mark.parametrize(
    ("plugin", "in_process"),
    [(False, True), (False, False), (True, False)],
    ids=["stock, in this process", "stock", "plugin"],
)
def test_the_engine_serves_the_tokens_of_its_own_loader_from_s3(
    store: FaultServer, alone: Any, plugin: bool, in_process: bool
) -> None:
    assert serve(store, URL, "runai_streamer", "tokens", plugin=plugin, in_process=in_process)["tokens"] == alone


@pytest.mark.parametrize("load_format", ["runai_streamer", "runai_streamer_cuda"], ids=["stock", "plugin"])
def test_it_serves_them_from_disk_and_after_its_weights_were_lost_and_loaded_again(
    llama: str, store: FaultServer, alone: Any, load_format: str
) -> None:
    found = serve(store, llama, load_format, "tokens", "reloaded", in_process=True)
    assert found["tokens"] == found["reloaded"] == alone


class TestRanks:
    @pytest.mark.parametrize(
        ("plugin", "shared"),
        [(False, False), (False, True), (True, False)],
        ids=["stock, each reads all", "stock, shared", "plugin, each reads all"],
    )
    def test_two_ranks_serve_the_tokens_of_two_ranks(
        self, llama: str, store: FaultServer, in_two: Any, plugin: bool, shared: bool
    ) -> None:
        options: dict[str, Any] = {"plugin": plugin, "in_process": True, "tensor_parallel_size": 2}
        options |= {"model_loader_extra_config": SHARED} if shared else {}
        found = serve(store, URL, "runai_streamer", "tokens", **options)
        assert found["tokens"] == in_two
        # Headers are read once more where ranks do not share.
        assert found["bytes"] // size_of(llama) == (1 if shared else 2)

    def test_two_ranks_that_share_with_the_plugin_serve_them_and_reload_together(
        self, llama: str, store: FaultServer, in_two: Any
    ) -> None:
        options = {"tensor_parallel_size": 2, "model_loader_extra_config": SHARED, "in_process": True}
        found = serve(store, URL, "runai_streamer", "tokens", "reloaded", plugin=True, **options)
        assert found["tokens"] == found["reloaded"] == in_two
        assert len(found["reports"]) == 4
        assert found["bytes"] // size_of(llama) == 2  # once for each load

    @pytest.mark.parametrize("plugin", [False, True], ids=["stock", "plugin"])
    def test_two_stages_serve_the_tokens_of_one(self, llama: str, store: FaultServer, alone: Any, plugin: bool) -> None:
        options = {"pipeline_parallel_size": 2, "in_process": True, "model_loader_extra_config": SHARED}
        found = serve(store, URL, "runai_streamer", "piped", plugin=plugin, **options)
        assert found["piped"] == alone
        assert found["bytes"] // size_of(llama) == 1

    def test_two_ranks_serve_with_the_experts_that_are_theirs(self, models: Path, store: FaultServer) -> None:
        options = {
            "tensor_parallel_size": 2,
            "enable_expert_parallel": True,
            "enable_ep_weight_filter": True,
            "in_process": True,
        }
        path = "s3://models/org/moe"
        own = serve(store, str(models / "moe"), "safetensors", "routed", **options)
        stock = serve(store, path, "runai_streamer", "routed", **options)
        ours = serve(store, path, "runai_streamer", "routed", plugin=True, **options)
        assert own["routed"] == stock["routed"] == ours["routed"]
        assert ours["bytes"] < 0.7 * stock["bytes"]

    @pytest.mark.parametrize("plugin", [False, True], ids=["stock", "plugin"])
    def test_two_ranks_each_read_what_was_saved_of_them(
        self, store: FaultServer, in_two: Any, sharded: Path, plugin: bool
    ) -> None:
        options = {"tensor_parallel_size": 2, "in_process": True}
        found = serve(store, "s3://models/org/sharded", "runai_streamer_sharded", "tokens", plugin=plugin, **options)
        assert found["tokens"] == in_two
        assert found["bytes"] // size_of(str(sharded)) == 1


def is_shard(request: Request) -> bool:
    return request.target.partition("?")[0].endswith(".safetensors")


def is_first(request: Request) -> bool:
    """A header, with the bytes that are read along with it."""
    return request.span is not None and request.span[0] == 0


class TestFailures:
    def failed(self, store: FaultServer, model: str, load_format: str = "runai_streamer", **options: Any) -> str:
        asked = json.dumps({"model": model, "load_format": load_format, "ask": []} | options)
        status, output = end(start(store.endpoint, "serve", asked, **PLUGIN))
        assert status not in (0, None)
        return output

    def test_a_truncated_shard(self, llama: str, store: FaultServer, tmp_path: Path) -> None:
        for path in Path(llama).iterdir():
            data = path.read_bytes()
            (tmp_path / path.name).write_bytes(data[:-1] if "00002" in path.name else data)
        output = self.failed(store, str(tmp_path))
        assert re.search(r"HeaderError: .*model-00002-of-00003\.safetensors", output), output[-6000:]

    def test_a_key_that_is_not_there(self, store: FaultServer) -> None:
        output = self.failed(store, "s3://models/org/nothing")
        assert "no key that begins with" in output, output[-6000:]

    def test_a_key_that_the_store_refuses(self, store: FaultServer) -> None:
        store.choose = lambda request: refuse(403, "AccessDenied") if is_shard(request) else None
        try:
            output = self.failed(store, URL)
        finally:
            store.choose = None
        assert re.search(r"AccessDeniedError: s3://models/org/llama/model-.*\.safetensors: access denied", output), (
            output[-6000:]
        )

    def test_a_rank_that_dies_while_it_loads(self, store: FaultServer) -> None:
        # Headers are served: the ranks wait for each other once they share the rest.
        store.choose = lambda request: stall_before_headers() if is_shard(request) and not is_first(request) else None
        options = {"model": URL, "load_format": "runai_streamer", "ask": [], "tensor_parallel_size": 2}
        program = start(store.endpoint, "serve", json.dumps(options | {"model_loader_extra_config": SHARED}), **PLUGIN)
        try:
            assert store.stalled.acquire(timeout=SECONDS)
            family = psutil.Process(program.pid).children(recursive=True)
            (victim,) = [each for each in family if "Worker_TP1" in "".join(each.cmdline())]
            victim.kill()
            status, output = end(program)
        finally:
            store.choose = None
            stop(program)
        assert status not in (0, None)
        assert "DistributedError: rank 1 died: its process has ended" in output, output[-6000:]
        assert "Engine core initialization failed" in output, output[-6000:]
