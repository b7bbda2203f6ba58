"""`runai-streamer doctor`."""

import importlib.metadata
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from runai_model_streamer.cli.doctor import machine
from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.doctor.storage import s3
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.files.device import device_of
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.s3.diagnosis import shorten
from runai_model_streamer.settings.units import size_text
from tests.cli.conftest import KEY_ID, Command, Done
from tests.io.files.local_files import require_local_disk
from tests.servers import FaultServer, aws_environment, refuse


def found(done: Done) -> dict[str, list[Check]]:
    """The checks by their names."""
    by_name: dict[str, list[Check]] = defaultdict(list)
    for each in done.document["checks"]:
        check = Check(**each)
        assert check.status in ("ok", "warning", "error")
        by_name[check.name].append(check)
    return by_name


@pytest.mark.usefixtures("aws_files")
def test_this_machine_is_looked_at(streamer: Command) -> None:
    done = streamer("doctor", "--json")
    names = found(done)
    wanted = {"python", "package", "clash", "settings", "torch", "cuda", "numba", "boto3", "huge pages", "page cache"}
    assert wanted | {"open files", "libcurl", "s3 credentials"} <= names.keys()
    (credentials,) = names["s3 credentials"]
    assert (credentials.status, credentials.detail) == ("ok", "none found")
    assert done.code == (0 if done.document["ok"] else 1)


@pytest.mark.usefixtures("aws_files")
def test_every_line_has_a_status_and_the_remedy_follows(streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURENCY", "4")
    lines = streamer("doctor").out.splitlines()
    assert lines[0].split() == ["STATUS", "CHECK", "FOUND"]
    (index,) = (number for number, line in enumerate(lines) if "RUNAI_STREAMER_CONCURENCY is not a setting" in line)
    assert lines[index].startswith("warning  settings")
    assert lines[index + 1].strip() == "-> rename it to RUNAI_STREAMER_CONCURRENCY, or unset it"


@pytest.mark.usefixtures("aws_files")
def test_settings_in_force_are_told(streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "4")
    monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", "http://user:planted-password@127.0.0.1:1")
    done = streamer("doctor", "--json")
    (check,) = found(done)["settings"]
    told = "RUNAI_STREAMER_CONCURRENCY=4 RUNAI_STREAMER_S3_ENDPOINT=http://***@127.0.0.1:1"
    assert (check.status, check.detail) == ("ok", told)
    assert "planted" not in done.everything


@pytest.mark.usefixtures("aws_files")
def test_a_setting_that_cannot_be_used_is_an_error(streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "many")
    done = streamer("doctor", "--json")
    (check,) = found(done)["settings"]
    assert (done.code, check.status) == (1, "error")
    assert check.detail == "RUNAI_STREAMER_CONCURRENCY='many' cannot be used"
    assert check.remedy == "set it to a whole number, at least 1"


@pytest.mark.usefixtures("aws_files")
def test_a_number_above_its_maximum_is_a_warning(streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "2000")
    _, check = found(streamer("doctor", "--json"))["settings"]
    assert (check.status, check.detail) == ("warning", "RUNAI_STREAMER_CONCURRENCY is above its maximum")
    assert check.remedy == "set it to 1024 or less"


class TestObjectStorage:
    def test_credentials_are_named_and_no_secret_is_shown(self, streamer: Command, server: FaultServer) -> None:
        for arguments in (["--json"], [], ["--debug"]):
            done = streamer("doctor", *arguments, "s3://models/llama")
            assert done.code == 0
            assert "planted" not in done.everything.lower()
            assert KEY_ID not in done.everything
            assert "AKIA...0001" in done.out
            assert "from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in done.out
            assert "temporary" in done.out
            assert f"{server.endpoint} (region us-east-1)" in done.out
            assert "s3://models/llama answers" in done.out

    def test_a_profile_is_named(self, streamer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = "[work]\naws_access_key_id = AKIAFROMPROFILE00001\naws_secret_access_key = planted-secret-of-profile\n"
        configuration = "[profile work]\nregion = eu-west-3\n"
        for name, value in aws_environment(tmp_path, configuration=configuration, credentials=keys).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_PROFILE", "work")
        done = streamer("doctor", "--json")
        names = found(done)
        assert names["s3 credentials"][0].detail == (
            "from profile 'work' (AWS_PROFILE chooses it) in AWS's credentials file, key AKIA...0001"
        )
        assert names["s3 endpoint"][0].detail.endswith("(region eu-west-3)")
        assert "planted" not in done.everything

    @pytest.mark.usefixtures("aws_files")
    def test_a_profile_that_is_not_there_is_an_error(self, streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        (check,) = found(streamer("doctor", "--json"))["s3 credentials"]
        assert (check.status, check.detail) == ("error", "object storage: there is no profile 'nobody'")
        assert check.remedy.startswith("Check AWS_PROFILE")

    def test_anonymous_requests_are_told(
        self, streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_S3_UNSIGNED", "1")
        (check,) = found(streamer("doctor", "--json", "s3://models"))["s3 credentials"]
        assert (check.status, "anonymous" in check.detail) == ("ok", True)

    def test_no_credentials_for_a_bucket_are_an_error(
        self, streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        done = streamer("doctor", "--json", "s3://models")
        names = found(done)
        assert (done.code, names["s3 credentials"][0].status, names["s3 bucket"][0].status) == (1, "error", "error")

    @pytest.mark.parametrize(
        ("url", "status", "told"),
        [
            ("s3://models", "ok", "answers"),
            ("s3://models/llama/", "ok", "answers"),
            ("s3://models/llama/model-1.safetensors", "ok", "answers"),
            ("s3://models/nothing", "warning", "has no key under this prefix"),
            ("s3://models/nothing.safetensors", "error", "there is no such object in bucket models"),
            ("s3://nobodys", "error", "there is no bucket nobodys"),
        ],
    )
    def test_each_url_is_asked_for_with_one_request(
        self, streamer: Command, server: FaultServer, url: str, status: str, told: str
    ) -> None:
        done = streamer("doctor", "--json", url)
        (check,) = found(done)["s3 bucket"]
        assert check.status == status
        assert told in check.detail
        assert len(server.requests) == 1
        assert done.code == (1 if status == "error" else 0)

    def test_a_refusal_has_the_stores_reason_and_the_remedy(self, streamer: Command, server: FaultServer) -> None:
        server.choose = lambda request: refuse(403, "SignatureDoesNotMatch")
        (check,) = found(streamer("doctor", "--json", "s3://models"))["s3 bucket"]
        assert check.status == "error"
        assert "secret access key does not belong to the access key id (HTTP 403 SignatureDoesNotMatch" in check.detail
        assert "Copy AWS_SECRET_ACCESS_KEY" in check.remedy

    def test_a_wrong_endpoint_is_told_at_once(
        self, streamer: Command, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        (check,) = found(streamer("doctor", "--json", "s3://models"))["s3 bucket"]
        assert check.status == "error"
        assert "no connection to 127.0.0.1:9" in check.detail

    @pytest.mark.usefixtures("aws_files")
    def test_without_boto3_the_remedy_is_the_pip_line(self, streamer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "botocore", None)
        for arguments, status in (([], "ok"), (["s3://models"], "error")):
            (check,) = found(streamer("doctor", "--json", *arguments))["s3"]
            assert (check.status, check.remedy) == (status, install_command("s3"))

    @pytest.mark.usefixtures("aws_files")
    def test_without_libcurl_boto3_is_said_to_read(self) -> None:
        def missing() -> libcurl.Library:
            raise libcurl.UnusableError("libcurl.so.4: not found")

        checks = {check.name: check for check in s3([], missing)}
        assert checks["libcurl"].status == "warning"
        assert checks["s3 transport"].detail.startswith("boto3")


class TestPath:
    def test_a_folder_is_tried_with_a_file_of_its_own(self, streamer: Command, model: Path) -> None:
        (model / "large.bin").write_bytes(bytes(8192))
        names = found(streamer("doctor", "--json", "--path", model))
        (check,) = names["direct reads"]
        assert check.status in ("ok", "warning")
        assert check.detail.startswith(f"{model} (")

    def test_it_says_how_many_reads_a_local_disk_begins_with(self, streamer: Command, tmp_path: Path) -> None:
        require_local_disk(tmp_path)
        (check,) = found(streamer("doctor", "--json", "--path", tmp_path))["disk"]
        streams = device_of(tmp_path.stat().st_dev).streams
        assert check.status == "ok"
        assert f": {streams} read" in check.detail

    def test_an_empty_folder_is_tried_and_left_empty(self, streamer: Command, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "direct reads" in found(streamer("doctor", "--json", "--path", tmp_path / "empty"))
        assert list((tmp_path / "empty").iterdir()) == []

    def test_a_path_that_is_not_there_is_an_error(self, streamer: Command, tmp_path: Path) -> None:
        done = streamer("doctor", "--json", "--path", tmp_path / "nothing")
        (check,) = found(done)["path"]
        assert (done.code, check.status) == (1, "error")
        assert str(tmp_path / "nothing") in check.detail

    @pytest.mark.usefixtures("aws_files")
    def test_a_probe_says_how_fast_a_file_came(self, streamer: Command, model: Path) -> None:
        done = streamer("doctor", "--json", "--path", model, "--probe")
        (check,) = found(done)["probe"]
        size = (model / "model-1.safetensors").stat().st_size
        assert check.status == "ok"
        assert check.detail.startswith(f"{model / 'model-1.safetensors'}: {size_text(size)} in ")
        assert "B/s, " in check.detail

    def test_a_probe_of_a_url_reads_it_too(self, streamer: Command, server: FaultServer) -> None:
        (check,) = found(streamer("doctor", "--json", "--probe", "s3://models/llama"))["probe"]
        assert check.status == "ok"
        assert check.detail.startswith("s3://models/llama/model-1.safetensors: ")
        assert check.detail.endswith("from object storage")

    @pytest.mark.usefixtures("aws_files")
    def test_a_probe_without_a_place_or_a_file_is_an_error(self, streamer: Command, tmp_path: Path) -> None:
        assert streamer("doctor", "--probe").err == "error: --probe has nothing to read; give --path DIR or a URL\n"
        (check,) = found(streamer("doctor", "--json", "--path", tmp_path, "--probe"))["probe"]
        assert (check.status, "has no safetensors file" in check.detail) == ("error", True)


class TestBundle:
    def test_it_has_the_checks_the_packages_and_no_secret(
        self, streamer: Command, server: FaultServer, tmp_path: Path
    ) -> None:
        done = streamer("doctor", "--bundle", tmp_path / "found.json", "s3://models/llama")
        assert done.out.splitlines()[-1] == f"{tmp_path / 'found.json'} has all of it. Read it before you send it."
        text = (tmp_path / "found.json").read_text()
        assert "planted" not in text.lower()
        assert KEY_ID not in text
        bundle = json.loads(text)
        assert {"python", "s3 bucket"} <= {check["name"] for check in bundle["checks"]}
        assert bundle["packages"]["torch"] == importlib.metadata.version("torch")
        assert len(bundle["limits"]["RLIMIT_NOFILE"]) == 2
        assert bundle["memory"]["MemTotal"].endswith("kB")

    @pytest.mark.usefixtures("aws_files")
    def test_a_file_that_cannot_be_written_is_an_error(self, streamer: Command, tmp_path: Path) -> None:
        done = streamer("doctor", "--bundle", tmp_path / "nowhere" / "found.json")
        assert (done.code, done.out) == (1, "")
        assert done.err == f"error: {tmp_path}/nowhere/found.json: cannot be written: No such file or directory\n"


class TestMachine:
    def test_the_original_beside_it_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        metadata = tmp_path / "runai_model_streamer-0.17.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: runai-model-streamer\nVersion: 0.17.0\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        (check,) = (each for each in machine.python() if each.name == "clash")
        assert check.status == "error"
        assert check.remedy.startswith("pip uninstall -y runai-model-streamer && ")

    @pytest.mark.parametrize(
        ("text", "status"),
        [
            ("always [madvise] never\n", "ok"),
            ("[always] madvise never\n", "ok"),
            ("always madvise [never]\n", "warning"),
        ],
    )
    def test_huge_pages_that_are_off_are_a_warning(self, tmp_path: Path, text: str, status: str) -> None:
        (tmp_path / "enabled").write_text(text)
        assert machine.huge_pages(tmp_path / "enabled").status == status

    def test_few_descriptors_are_a_warning_with_the_line_that_raises_them(self) -> None:
        check = machine.open_files(256, 4096)
        assert (check.status, check.remedy) == ("warning", "ulimit -n 4096")

    def test_a_package_that_does_not_import_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "rich.py").write_text("raise ImportError('needs another\\nversion')")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "rich", raising=False)
        (check,) = (each for each in machine.packages() if each.name == "rich")
        assert check.status == "error"
        assert "cannot be imported: needs another version" in check.detail

    @pytest.mark.parametrize(("missing", "name"), [("awscrt", "awscrt"), ("azure", "azure.identity")])
    def test_a_package_that_is_missing_is_not(self, missing: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for loaded in [each for each in sys.modules if each.startswith(f"{missing}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, missing, None)
        (check,) = (each for each in machine.packages() if each.name == name)
        assert check.status == "ok"
        assert check.detail.startswith("not installed; ")


def test_the_version_that_is_told_is_the_installed_one() -> None:
    (check,) = (each for each in machine.packages() if each.name == "boto3")
    assert check.detail.startswith(importlib.metadata.version("boto3"))


@pytest.mark.parametrize(
    ("key_id", "wanted"),
    [("AKIAIOSFODNN7EXAMPLE", "AKIA...MPLE"), ("minioadmin", "mi..."), ("a", "a...")],
)
def test_ids_of_keys_are_shortened(key_id: str, wanted: str) -> None:
    assert shorten(key_id) == wanted
