"""Models of the Hub: resolved once, read from the CDN in ranges of one commit, with links that run out."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runai_model_streamer import ObjectStorageModel, SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.cli.main import main
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ArgumentError, ChecksumError, IsDirectoryError, SourceChangedError
from runai_model_streamer.io.hub.location import HubLocation
from runai_model_streamer.io.storage import Storage
from tests.io.hub.servers import COMMIT, OLD_COMMIT, TOKEN, Hub
from tests.io.models import SHARDS, loaded, same
from tests.servers import change, cut_short, garbage, refuse, reset_at_once

pytestmark = pytest.mark.usefixtures("waits")


@pytest.fixture
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


class TestLoad:
    def test_the_shards_that_the_index_names_are_listed_at_their_commit(self, hub: Hub) -> None:
        assert list_safetensors("hf://org/model") == [f"hf://org/model@{COMMIT}/{shard}" for shard in SHARDS]

    @pytest.mark.parametrize("limit", ["-1", "0", "1000000"])
    def test_a_model_of_three_shards_is_loaded_bit_for_bit_under_each_limit(
        self, hub: Hub, folder: Path, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
        assert same(loaded(list_safetensors("hf://org/model")), folder)

    def test_a_load_resolves_each_file_once(self, hub: Hub) -> None:
        urls = list_safetensors("hf://org/model")
        hub.hub.clear()
        loaded(urls)
        assert len(hub.asked("/resolve/")) == 3
        assert hub.asked("/api/") == []  # a commit needs no resolving

    def test_a_branch_is_resolved_to_its_commit_once_for_all_files(self, hub: Hub) -> None:
        loaded([f"hf://org/model/{shard}" for shard in SHARDS])
        assert len(hub.asked("/api/")) == 1
        assert len(hub.asked(f"/resolve/{COMMIT}/")) == 3

    @pytest.mark.parametrize(
        ("revision", "commit"), [("v1", OLD_COMMIT), ("refs/pr/1", COMMIT), ("refs%2Fpr%2F1", COMMIT)]
    )
    def test_a_revision_is_resolved(self, hub: Hub, revision: str, commit: str) -> None:
        loaded([f"hf://org/model@{revision}/{SHARDS[0]}"])
        assert len(hub.asked(f"/resolve/{commit}/")) == 1

    def test_a_retry_goes_on_from_the_byte_that_had_landed(self, hub: Hub, folder: Path) -> None:
        hub.cdn.script(cut_short(300_000), reset_at_once(), refuse(503, "SlowDown"))
        assert same(loaded(list_safetensors("hf://org/model")), folder)

    @pytest.mark.parametrize("seed", range(4))
    def test_any_mix_of_passing_faults_of_the_cdn_ends_with_every_byte_right(
        self, hub: Hub, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # All of them may meet one range.
        monkeypatch.setenv("RUNAI_STREAMER_S3_MAX_RETRIES", "4")
        chance = random.Random(seed)
        faults = [refuse(503, ""), refuse(429, ""), cut_short(chance.randrange(200_000)), reset_at_once(), garbage()]
        urls = list_safetensors("hf://org/model")
        hub.cdn.script(*(chance.choice(faults) for _ in range(4)))
        assert same(loaded(urls), folder)

    def test_another_rank_opens_what_one_has_opened(self, hub: Hub, folder: Path) -> None:
        first, other = (Storage(LoadConfig.from_environment(), None, shared=False) for _ in range(2))
        try:
            source = first.open(f"hf://org/model/{SHARDS[0]}")
            known = other.open_known(f"hf://org/model/{SHARDS[0]}", source.size, source.version)
            memory = bytearray(source.size)
            known.read_into(0, memoryview(memory))
            assert memory == (folder / SHARDS[0]).read_bytes()
            assert hub.cdn.requests[-1].headers["If-Match"] == source.version
        finally:
            first.close()
            other.close()

    def test_the_api_is_asked_again_when_it_fails(self, hub: Hub, folder: Path) -> None:
        hub.hub.script(refuse(503, ""), refuse(500, ""))
        assert same(loaded(list_safetensors("hf://org/model")), folder)

    def test_a_file_that_is_replaced_on_the_cdn_is_an_error(self, hub: Hub) -> None:
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        try:
            source = storage.open(f"hf://org/model/{SHARDS[0]}")
            hub.cdn.script(change(b"other" * 100_000))
            with pytest.raises(SourceChangedError):
                source.read_into(300_000, memoryview(bytearray(1000)))
        finally:
            storage.close()


@pytest.mark.usefixtures("_token")
class TestToken:
    def test_it_never_reaches_the_host_of_the_cdn(self, hub: Hub, folder: Path) -> None:
        hub.private = hub.gated = True
        assert same(loaded(list_safetensors("hf://org/model")), folder)
        assert hub.cdn.requests
        assert not any("Authorization" in request.headers for request in hub.cdn.requests)
        assert not any(TOKEN in str(request) for request in hub.cdn.requests)
        sent = {request.headers.get("Authorization") for request in hub.asked("/resolve/")}
        assert sent == {f"Bearer {TOKEN}"}

    def test_a_link_that_runs_out_in_the_middle_of_a_load_is_renewed(self, hub: Hub, folder: Path) -> None:
        storage = Storage(LoadConfig.from_environment(), None, shared=False)
        data = (folder / SHARDS[0]).read_bytes()
        memory = bytearray(len(data))
        try:
            source = storage.open(f"hf://org/model/{SHARDS[0]}")
            for start in range(0, len(data), 100_000):
                hub.expire()
                source.read_into(start, memoryview(memory)[start : start + 100_000])
        finally:
            storage.close()
        assert memory == data
        assert len(hub.asked("/resolve/")) == 4  # of the opening, and of the three reads beyond what it brought
        assert not any(TOKEN in str(request) for request in hub.cdn.requests)


class TestListing:
    def test_files_are_pulled_by_their_patterns_with_subfolders(self, hub: Hub, folder: Path, tmp_path: Path) -> None:
        pull_files("hf://org/model", tmp_path / "pulled", ignore_pattern=["original/*", "consolidated*"])
        pulled = {str(path.relative_to(tmp_path / "pulled")) for path in (tmp_path / "pulled").rglob("*.*")}
        assert pulled == {*SHARDS, "config.json", "tokenizer.json", "model.safetensors.index.json"}
        for name in pulled:
            assert (tmp_path / "pulled" / name).read_bytes() == (folder / name).read_bytes()

    def test_a_folder_of_a_repository_is_listed(self, hub: Hub) -> None:
        assert list_safetensors("hf://org/model/original") == [f"hf://org/model@{COMMIT}/original/model.safetensors"]

    def test_what_is_there_is_not_pulled_again(self, hub: Hub, tmp_path: Path) -> None:
        pull_files("hf://org/model", tmp_path / "pulled")
        hub.hub.clear()
        pull_files("hf://org/model", tmp_path / "pulled")
        assert hub.asked("/resolve/") == []

    def test_a_node_pulls_it_once_from_the_hub(self, hub: Hub, tmp_path: Path) -> None:
        with ObjectStorageModel("hf://org/model", tmp_path / "copy") as model:
            model.pull_files(allow_pattern=["*.json"])
        assert (tmp_path / "copy" / "config.json").read_text() == '{"a": 1}'

    def test_the_command_lists_loads_verifies_and_pulls_it(
        self, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ls", "hf://org/model"]) == 0
        assert "3 files" in capsys.readouterr().out
        assert main(["load", f"hf://org/model/{SHARDS[0]}"]) == 0
        capsys.readouterr()
        assert main(["verify", "hf://org/model"]) == 0
        assert "SHA256 matches" in capsys.readouterr().out
        assert main(["pull", "hf://org/model", str(tmp_path / "pulled")]) == 0
        assert "8 files" in capsys.readouterr().out

    def test_doctor_says_whether_it_answers(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        main(["doctor", "hf://org/model", "hf://org/missing"])
        out = capsys.readouterr().out
        assert "hf://org/model answers: 8 files" in out
        assert "there is no repository org/missing" in out


class TestVerify:
    def test_a_file_with_the_sha256_of_the_hub_is_loaded(
        self, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        assert same(loaded(list_safetensors("hf://org/model")), folder)

    def test_a_damaged_file_is_an_error(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "1")
        data = hub.files[SHARDS[0]]
        damaged = data[:-1] + bytes([data[-1] ^ 1])
        hub.cdn.choose = lambda request: change(damaged, conditions=False)
        with pytest.raises(ChecksumError, match="SHA256 is"):
            loaded([f"hf://org/model/{SHARDS[0]}"])


class TestCache:
    """Files that huggingface_hub has downloaded."""

    @pytest.fixture
    def fill(self, hub: Hub, folder: Path, tmp_path: Path) -> Callable[..., None]:
        """Lay files into the cache as huggingface_hub does."""

        def fill(*names: str, commit: str = COMMIT) -> None:
            cache = tmp_path / "cache" / "models--org--model"
            (cache / "refs").mkdir(parents=True, exist_ok=True)
            (cache / "refs" / "main").write_text(commit)
            for name in names:
                blob = cache / "blobs" / re.sub(r"\W", "-", name)
                blob.parent.mkdir(exist_ok=True)
                blob.write_bytes((folder / name).read_bytes())
                link = cache / "snapshots" / commit / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)

        return fill

    def test_a_file_in_it_is_read_there(self, hub: Hub, folder: Path, fill: Callable[..., None]) -> None:
        fill(SHARDS[0], SHARDS[1])
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([f"hf://org/model/{shard}" for shard in SHARDS])
            found = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
            origins = streamer.report.bytes_from
        assert same(found, folder)
        assert len(hub.asked("/resolve/")) == 1
        assert origins.object_storage < (folder / SHARDS[2]).stat().st_size + 1

    def test_a_file_of_another_commit_is_not(self, hub: Hub, folder: Path, fill: Callable[..., None]) -> None:
        fill(*SHARDS, commit=OLD_COMMIT)
        assert same(loaded([f"hf://org/model/{shard}" for shard in SHARDS]), folder)
        assert len(hub.asked("/resolve/")) == 3

    def test_a_commit_that_is_all_there_takes_no_request(
        self, hub: Hub, folder: Path, fill: Callable[..., None]
    ) -> None:
        fill(*SHARDS)
        assert same(loaded([f"hf://org/model@{COMMIT}/{shard}" for shard in SHARDS]), folder)
        assert hub.hub.requests == []

    def test_offline_it_is_all_there_is(
        self, hub: Hub, folder: Path, fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        fill(*SHARDS, "model.safetensors.index.json")
        assert same(loaded(list_safetensors("hf://org/model")), folder)
        with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE is set; run `hf download org/model`"):
            loaded(["hf://org/model/consolidated.safetensors"])
        with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
            list_safetensors("hf://org/another")
        assert hub.hub.requests == []


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("hf://org/model", ("org/model", "main", "")),
        ("hf://org/model/", ("org/model", "main", "")),
        ("hf://org/model@v1", ("org/model", "v1", "")),
        ("hf://org/model@v1/a/b.safetensors", ("org/model", "v1", "a/b.safetensors")),
        ("hf://org/model.v2@refs/pr/7/a", ("org/model.v2", "refs/pr/7", "a")),
        ("hf://org/model@feature%2Fx/a", ("org/model", "feature/x", "a")),
        ("hf://org/model/a@b", ("org/model", "main", "a@b")),
    ],
)
def test_a_url_names_a_repository_a_revision_and_a_file(url: str, location: tuple[str, str, str]) -> None:
    assert HubLocation.of(url) == location


@pytest.mark.parametrize("url", ["hf://model", "hf://", "hf:///model", "hf://org/model@", "hf://datasets/org"])
def test_what_is_no_model_is_told(url: str) -> None:
    with pytest.raises(ArgumentError, match="write hf://org/model, hf://org/model@revision or hf://org/model/file"):
        HubLocation.of(url)


@pytest.mark.parametrize("url", ["hf://org/model", "hf://org/model/folder/"])
def test_a_repository_is_no_file(url: str) -> None:
    with pytest.raises(IsDirectoryError, match="list_safetensors lists them"):
        HubLocation.of_file(url)
