"""What every test starts from: an environment with nothing in it that this package or boto3 would read."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.io.contract")

# No deadlines: how long an example takes is up to the machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_PREFIXES = ("RUNAI_", "AWS_", "BOTO_")
_NAMES = ("LOCAL_WORLD_SIZE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(scope="session")
def _empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, _empty_home: Path) -> None:
    for name in os.environ:
        if name.startswith(_PREFIXES) or name.upper() in _NAMES:
            monkeypatch.delenv(name)
    # No ~/.aws, and nobody asks the network who this machine is.
    monkeypatch.setenv("HOME", str(_empty_home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
