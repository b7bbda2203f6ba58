"""The plugin for vLLM, in the code of vLLM's own releases: `make test-releases` fetches it, else these tests skip."""

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from runai_model_streamer.engines import vllm as plugin
from runai_model_streamer.errors import HeaderError, StreamerError
from tests.checkpoints import raw, stored, write
from tests.engines.clones import Clones
from tests.engines.releases import RELEASES
from tests.engines.vllm_modules import LOADERS, OURS, Group, ModelConfig, Vllm, installed
from tests.servers import FaultServer

SOURCES: Final = "ENGINE_SOURCES"
URL: Final = "s3://models/org/moe"
EXPERTS: Final = 4
EXPERT: Final = [256, 256]
"""Four are more than what is read together with a header."""
SHARDS: Final = {
    "model-00001-of-00002.safetensors": {
        "model.embed.weight": stored("BF16", [16, 8]),
        "model.layers.0.norm.weight": stored("F32", []),
        **{f"model.layers.0.mlp.experts.{index}.up_proj.weight": stored("BF16", EXPERT) for index in range(EXPERTS)},
        "model.layers.0.mlp.experts.3.up_proj.weight_scale": stored("F32", [1]),
    },
    "model-00002-of-00002.safetensors": {"mtp.weight": stored("F16", [32, 8]), "mtp.bias": stored("F16", [8])},
}
TENSORS: Final = {name: value for shard in SHARDS.values() for name, value in shard.items()}
KNOWN: Final = [
    each for each in RELEASES if each.engine == "vllm" and each.version.rpartition(".")[0] in plugin.RELEASES
]


@pytest.fixture(params=KNOWN, ids=str)
def vllm(request: pytest.FixtureRequest) -> Iterator[Vllm]:
    folder = Path(os.environ.get(SOURCES) or "/nonexistent", str(request.param))
    if not folder.is_dir():
        pytest.skip(f"no sources of {request.param}: make test-releases")
    with installed(folder, Vllm) as found:
        yield found


@pytest.fixture(autouse=True)
def _warnings_come_again() -> None:
    plugin._warn.cache_clear()  # noqa: SLF001


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_VLLM", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe")
    for name, tensors in SHARDS.items():
        write(folder / name, tensors)
    index = {"weight_map": {tensor: name for name, tensors in SHARDS.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write(folder / "consolidated.safetensors", TENSORS)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[FaultServer]:
    with FaultServer() as server:
        for path in folder.iterdir():
            server.put("models", f"org/moe/{path.name}", path.read_bytes())
        yield server


@pytest.fixture
def store(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return server


class Model(torch.nn.Module):
    """Copies what it is given, as vLLM's models do."""

    def __init__(self, unused: Callable[[str], bool] | None = None) -> None:
        super().__init__()
        self.given: dict[str, torch.Tensor] = {}
        if unused is not None:
            self.is_unused_checkpoint_weight = unused

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            self.given[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)


def loaded(loader: Any, config: ModelConfig, model: Model | None = None) -> set[str]:
    """Load, compare every tensor, and return their names."""
    model = model or Model()
    loader.load_weights(model, config)
    for name, tensor in model.given.items():
        assert (list(tensor.shape), raw(tensor)) == (list(TENSORS[name].shape), TENSORS[name].data)
    return set(model.given)


class TestRegistering:
    def test_vllm_finds_it_among_its_plugins(self) -> None:
        (found,) = entry_points(group="vllm.general_plugins", name="runai_streamer_cuda")
        assert found.load() is plugin.register

    def test_unasked_it_is_a_load_format_of_its_own_alone(self, vllm: Vllm) -> None:
        plugin.register()
        assert type(vllm.loader("runai_streamer")) is vllm.stock
        assert type(vllm.loader("runai_streamer_cuda")).__module__ == OURS
        assert type(vllm.loader("runai_streamer_sharded")).__module__ != OURS

    def test_asked_it_takes_the_place_of_vllms_own(self, vllm: Vllm, asked: None) -> None:
        plugin.register()
        assert type(vllm.loader("runai_streamer")).__module__ == OURS
        assert type(vllm.loader("runai_streamer_cuda")).__module__ == OURS
        assert type(vllm.loader("runai_streamer_sharded")).__module__ == OURS

    def test_a_second_call_changes_nothing(self, vllm: Vllm, asked: None) -> None:
        plugin.register()
        plugin.register()
        assert type(vllm.loader("runai_streamer")).__module__ == OURS

    def test_a_release_that_it_does_not_know_keeps_its_own_loader(
        self, vllm: Vllm, asked: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        sys.modules["vllm.version"].__version_tuple__ = (0, 34, 0)  # type: ignore[attr-defined]
        plugin.register()
        assert type(vllm.loader("runai_streamer")) is vllm.stock
        assert isinstance(vllm.loader("runai_streamer_cuda"), vllm.stock)
        (warning,) = warnings_of(caplog)
        assert "vLLM 0.34 is not one of the releases that it knows (0.28 to 0.33)" in warning

    def test_unasked_it_warns_of_such_a_release_only_where_its_load_format_is_used(
        self, vllm: Vllm, caplog: pytest.LogCaptureFixture
    ) -> None:
        sys.modules["vllm.version"].__version_tuple__ = (0, 34, 0)  # type: ignore[attr-defined]
        plugin.register()
        assert warnings_of(caplog) == []
        vllm.loader("runai_streamer_cuda")
        vllm.loader("runai_streamer_cuda")
        assert len(warnings_of(caplog)) == 1

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("default_loader", "DefaultModelLoader"),
            ("weight_utils", "tqdm"),
            ("ep_weight_filter", "should_skip_weight"),
        ],
    )
    def test_a_vllm_without_a_name_that_it_needs_keeps_its_own_loader(
        self, vllm: Vllm, asked: None, caplog: pytest.LogCaptureFixture, module: str, name: str
    ) -> None:
        delattr(sys.modules[f"{LOADERS}.{module}"], name)
        plugin.register()
        assert type(vllm.loader("runai_streamer")) is vllm.stock
        (warning,) = warnings_of(caplog)
        assert name in warning

    def test_without_vllm_it_does_not_raise(self, asked: None, caplog: pytest.LogCaptureFixture) -> None:
        if "vllm" in sys.modules or importlib.util.find_spec("vllm"):
            pytest.skip("vLLM is installed")
        plugin.register()
        (warning,) = warnings_of(caplog)
        assert "No module named 'vllm'" in warning

    def test_a_setting_that_cannot_be_read_is_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VLLM", "perhaps")
        plugin.register()
        (warning,) = warnings_of(caplog)
        assert "RUNAI_STREAMER_VLLM='perhaps' cannot be used" in warning


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "vllm.runai_model_streamer" and record.levelno >= logging.WARNING
    ]


class TestLoading:
    @pytest.fixture(autouse=True)
    def _registered(self, vllm: Vllm, asked: None) -> None:
        plugin.register()

    def test_a_model_gets_every_tensor_of_its_index_from_disk(self, vllm: Vllm, folder: Path) -> None:
        assert loaded(vllm.loader("runai_streamer"), ModelConfig(str(folder))) == TENSORS.keys()

    def test_and_from_object_storage(self, vllm: Vllm, folder: Path, store: FaultServer) -> None:
        config = ModelConfig(str(folder / "nowhere"), model_weights=URL)
        assert loaded(vllm.loader("runai_streamer"), config) == TENSORS.keys()

    def test_no_tensor_is_cloned(self, vllm: Vllm, folder: Path) -> None:
        def clones(loader: Any) -> int:
            counted = Clones()
            with counted:
                loaded(loader, ModelConfig(str(folder)))
            return counted.count

        ours, stock = vllm.loader("runai_streamer"), vllm.stock(vllm.loader("runai_streamer").load_config)
        assert (clones(ours), clones(stock)) == (0, len(TENSORS))

    def test_tensors_that_are_kept_stay_as_they_are(self, vllm: Vllm, folder: Path) -> None:
        class Keeper(Model):
            def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
                self.given = dict(weights)

        assert loaded(vllm.loader("runai_streamer"), ModelConfig(str(folder)), Keeper()) == TENSORS.keys()

    @pytest.mark.parametrize("rank", [0, 1])
    def test_weights_of_other_ranks_experts_are_not_read(
        self, vllm: Vllm, store: FaultServer, caplog: pytest.LogCaptureFixture, rank: int
    ) -> None:
        vllm.parallel.enable_expert_parallel = vllm.parallel.enable_ep_weight_filter = True
        vllm.parallel.tensor_parallel_size = 2
        vllm.groups["tp"] = Group("tp", 2, rank)
        caplog.set_level(logging.INFO)
        config = ModelConfig("", model_weights=URL, is_moe=True, experts=EXPERTS)
        others = {index for index in range(EXPERTS) if index // 2 != rank}
        left_out = {f"model.layers.0.mlp.experts.{index}.up_proj.weight" for index in others}
        assert loaded(vllm.loader("runai_streamer"), config) == TENSORS.keys() - left_out
        size = sum(len(TENSORS[name].data) for name in TENSORS.keys() - left_out)
        assert f"loaded: {len(TENSORS) - 2} of {len(TENSORS) - 2} tensors, {size / 1e3:.0f} kB" in caplog.text

    def test_without_the_filter_every_rank_gets_all_experts(self, vllm: Vllm, folder: Path) -> None:
        vllm.parallel.enable_expert_parallel = True
        vllm.parallel.tensor_parallel_size = 2
        vllm.groups["tp"] = Group("tp", 2, 1)
        config = ModelConfig(str(folder), is_moe=True, experts=EXPERTS)
        assert loaded(vllm.loader("runai_streamer"), config) == TENSORS.keys()

    def test_a_draft_model_gets_only_what_it_uses(self, vllm: Vllm, store: FaultServer) -> None:
        draft = Model(unused=lambda name: not name.startswith("mtp."))
        config = ModelConfig("", model_weights=URL, runner_type="draft")
        before = len(store.requests)
        assert loaded(vllm.loader("runai_streamer"), config, draft) == {"mtp.weight", "mtp.bias"}
        reads = [request.span for request in store.requests[before:] if "00001" in request.target]
        assert reads == [(0, (256 << 10) - 1)]  # its header

    def test_vllms_own_bar_shows_the_progress(self, vllm: Vllm, folder: Path) -> None:
        loaded(vllm.loader("runai_streamer"), ModelConfig(str(folder)))
        loaded(vllm.loader("runai_streamer", use_tqdm_on_load=False), ModelConfig(str(folder)))
        ours = vllm.bars[0]
        loaded(vllm.stock(vllm.loader("runai_streamer").load_config), ModelConfig(str(folder)))
        assert ours == vllm.bars[2]
        assert ours["done"] == len(TENSORS)
        assert [bar["disable"] for bar in vllm.bars] == [False, True, False]

    def test_vllms_log_has_the_report_on_one_line(
        self, vllm: Vllm, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        loaded(vllm.loader("runai_streamer"), ModelConfig(str(folder)))
        (line,) = [record.getMessage() for record in caplog.records if record.name == "vllm.runai_model_streamer"]
        assert line.startswith(f"[RunAI Streamer] loaded: {len(TENSORS)} of {len(TENSORS)} tensors, 525 kB, to cpu; ")
        assert "; memory: " in line
        assert "\n" not in line

    def test_ranks_that_each_read_an_object_are_told_how_to_share(
        self, vllm: Vllm, store: FaultServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
        try:
            for _ in range(2):
                loaded(vllm.loader("runai_streamer"), ModelConfig("", model_weights=URL))
        finally:
            torch.distributed.destroy_process_group()
        (told,) = [record.getMessage() for record in caplog.records if "distributed" in record.getMessage()]
        assert told.startswith(f"[RunAI Streamer] Each of 8 ranks reads {URL}.")
        assert told.endswith("""--model-loader-extra-config '{"distributed": true}'""")

    def test_a_reload_gets_every_tensor_again_where_vllm_can_reload(self, vllm: Vllm, folder: Path) -> None:
        loader = vllm.loader("runai_streamer")
        assert hasattr(loader, "get_all_weights") == hasattr(vllm.stock, "get_all_weights")
        if hasattr(loader, "get_all_weights"):
            weights = loader.get_all_weights(ModelConfig(str(folder)), Model())
            assert {name: raw(tensor) for name, tensor in weights} == {
                name: value.data for name, value in TENSORS.items()
            }

    def test_a_broken_file_ends_the_load_with_our_error(self, vllm: Vllm, tmp_path: Path, folder: Path) -> None:
        whole = (folder / "model-00002-of-00002.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[:-1])
        with pytest.raises(HeaderError, match=r"model\.safetensors"):
            loaded(vllm.loader("runai_streamer"), ModelConfig(str(tmp_path)))

    def test_a_model_that_raises_ends_the_load(self, vllm: Vllm, folder: Path) -> None:
        taken = []

        class Wrong(Model):
            def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
                taken.append(weights)
                next(weights)
                raise KeyError("no parameter of that name")

        with pytest.raises(KeyError):
            vllm.loader("runai_streamer").load_weights(Wrong(), ModelConfig(str(folder)))
        assert list(taken[0]) == []

    def test_vllms_options_are_checked_as_vllm_does(self, vllm: Vllm, folder: Path) -> None:
        with pytest.raises(ValueError, match="Unexpected extra config keys"):
            vllm.loader("runai_streamer", model_loader_extra_config={"concurency": 4})
        shared = vllm.loader("runai_streamer", model_loader_extra_config={"distributed": True})
        assert loaded(shared, ModelConfig(str(folder))) == TENSORS.keys()


class TestSharded:
    """What vLLM has saved of each rank."""

    @pytest.fixture(autouse=True)
    def _registered(self, vllm: Vllm, asked: None) -> None:
        plugin.register()
        vllm.groups["tp"] = Group("tp", 2, 1)

    class Layer(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((64, 32), value), requires_grad=False)
            self.register_buffer("scale", torch.full((1,), value))

    @pytest.fixture
    def saved(self, vllm: Vllm, tmp_path: Path) -> Path:
        for rank in (0, 1):
            vllm.groups["tp"] = Group("tp", 2, rank)
            sys.modules[f"{LOADERS}.sharded_state_loader"].ShardedStateLoader.save_model(
                self.Layer(float(rank + 1)), str(tmp_path), max_size=8192
            )
        return tmp_path

    def test_a_rank_gets_what_was_saved_of_it_and_no_tensor_is_cloned(self, vllm: Vllm, saved: Path) -> None:
        assert len(list(saved.iterdir())) == 4
        model = self.Layer(0.0)
        with Clones() as counted:
            vllm.loader("runai_streamer_sharded").load_weights(model, ModelConfig(str(saved)))
        assert {value.unique().item() for value in model.state_dict().values()} == {2.0}
        assert counted.count == 0
        assert vllm.bars[-1]["done"] == 2

    def test_a_broken_file_ends_the_load_with_our_error(self, vllm: Vllm, saved: Path) -> None:
        path = saved / "model-rank-1-part-0.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(HeaderError, match=r"model-rank-1-part-0\.safetensors"):
            vllm.loader("runai_streamer_sharded").load_weights(self.Layer(0.0), ModelConfig(str(saved)))


class TestPlaces:
    @pytest.fixture(autouse=True)
    def _registered(self, vllm: Vllm, asked: None) -> None:
        plugin.register()

    def test_tensors_go_to_the_current_device_of_cuda(self, vllm: Vllm, folder: Path) -> None:
        if torch.cuda.is_available():
            pytest.skip("would load onto the GPU")
        vllm.cuda_device = 7
        with pytest.raises(StreamerError, match="cuda:7"):
            loaded(vllm.loader("runai_streamer"), ModelConfig(str(folder)))

    def test_and_to_the_host_where_vllm_is_told_to_load_there(self, vllm: Vllm, folder: Path) -> None:
        vllm.cuda_device = 7
        assert loaded(vllm.loader("runai_streamer", device="cpu"), ModelConfig(str(folder))) == TENSORS.keys()

    @pytest.mark.parametrize(
        ("runner", "reload", "stages", "engines", "expected"),
        [
            ("generate", False, 2, 2, None),
            ("generate", True, 2, 1, None),
            ("generate", True, 1, 2, "tp"),
            ("draft", False, 1, 2, None),
            ("draft", False, 2, 1, "tp"),
        ],
    )
    def test_the_ranks_that_share_a_load_are_those_that_load_now(
        self, vllm: Vllm, runner: str, reload: bool, stages: int, engines: int, expected: str | None
    ) -> None:
        vllm.groups["pp"], vllm.groups["dp"] = Group("pp", stages), Group("dp", engines)
        ours: Any = importlib.import_module(OURS)
        assert ours.loading_group(ModelConfig("", runner_type=runner), reload=reload) == expected
