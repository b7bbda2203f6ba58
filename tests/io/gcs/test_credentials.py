"""Each way in which google-auth finds credentials: what it asks servers of the tests', and the token that is sent."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.io.gcs.servers import TOKEN, Gcs, service_account
from tests.io.gcs.test_gcs import URL, told
from tests.io.models import loaded
from tests.io.tokens import ProviderServer, TokenRequest

pytestmark = pytest.mark.usefixtures("waits")

PRINCIPAL = "reader@project.iam.gserviceaccount.com"
SUBJECT = "planted.subject.token"


class Google:
    """Google's services for tokens. Each gives out its own, and only for what it should have been sent."""

    def answer(self, request: TokenRequest) -> tuple[int, object]:
        """For `ProviderServer`."""
        fields = request.fields
        if request.path == "/token" and fields.get("refresh_token") == "planted-refresh":
            return 200, {"access_token": "of the user", "expires_in": 3600}
        if request.path == "/token" and fields.get("grant_type", "").endswith("jwt-bearer"):
            return 200, {"access_token": "of the account", "expires_in": 3600}
        if request.path == "/v1/token" and fields.get("subject_token") == SUBJECT:
            kind = "urn:ietf:params:oauth:token-type:access_token"
            return 200, {
                "access_token": "of the workload",
                "issued_token_type": kind,
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        if request.path.endswith(f"{PRINCIPAL}:generateAccessToken"):
            ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            return 200, {"accessToken": f"by {request.headers['authorization']}", "expireTime": ends}
        return 400, {"error": "invalid_grant", "error_description": request.path}


@pytest.fixture
def google(gcs: Gcs) -> Iterator[ProviderServer]:
    with ProviderServer(Google().answer) as server:
        yield server


@pytest.fixture
def use(gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Write a file of credentials, and name it in the setting."""

    def use(about: object) -> None:
        path = tmp_path / "credentials.json"
        path.write_text(json.dumps(about))
        monkeypatch.setenv("RUNAI_STREAMER_GCS_CREDENTIAL_FILE", str(path))

    return use


def user() -> dict[str, str]:
    """What `gcloud auth application-default login` writes."""
    return {"type": "authorized_user", "client_id": "id", "client_secret": "s", "refresh_token": "planted-refresh"}


def workload(google: ProviderServer, folder: Path) -> dict[str, object]:
    """Workload identity federation: a token of the cluster's in a file."""
    (folder / "subject").write_text(SUBJECT)
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{google.url}/v1/token",
        "credential_source": {"file": str(folder / "subject")},
    }


def test_the_login_of_a_user_is_used(
    gcs: Gcs, google: ProviderServer, use: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{google.url}/token")
    gcs.token = "of the user"
    use(user())
    assert len(loaded([URL])) == 1
    assert [request.fields["grant_type"] for request in google.requests] == ["refresh_token"]


def test_a_login_that_has_run_out_is_told(
    gcs: Gcs, google: ProviderServer, use: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{google.url}/token")
    use(user() | {"refresh_token": "revoked"})
    error = told()
    assert "the provider of credentials gives none (RefreshError)" in str(error)
    assert "gcloud auth application-default login" in str(error)


def test_the_identity_of_a_workload_is_used(
    gcs: Gcs, google: ProviderServer, use: Callable[[object], None], tmp_path: Path
) -> None:
    gcs.token = "of the workload"
    use(workload(google, tmp_path))
    assert len(loaded([URL])) == 1
    assert [request.path for request in google.requests] == ["/v1/token"]


def test_a_workload_may_act_as_an_account(
    gcs: Gcs, google: ProviderServer, use: Callable[[object], None], tmp_path: Path
) -> None:
    gcs.token = "by Bearer of the workload"
    acts = f"{google.url}/v1/projects/-/serviceAccounts/{PRINCIPAL}:generateAccessToken"
    use(workload(google, tmp_path) | {"service_account_impersonation_url": acts})
    assert len(loaded([URL])) == 1


def test_a_workload_whose_token_is_refused_is_told(
    gcs: Gcs, google: ProviderServer, use: Callable[[object], None], tmp_path: Path
) -> None:
    use(workload(google, tmp_path))
    (tmp_path / "subject").write_text("expired")
    error = told()
    assert "the provider of credentials gives none (OAuthError)" in str(error)
    assert "expired" not in str(error)


def test_an_account_that_another_acts_as_is_used(
    gcs: Gcs,
    google: ProviderServer,
    use: Callable[[object], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acts = "/v1/projects/-/serviceAccounts/{}:generateAccessToken"
    monkeypatch.setattr("google.auth.iam._IAM_ENDPOINT", google.url + acts)
    gcs.token = "by Bearer of the account"
    source = json.loads(service_account(tmp_path, f"{google.url}/token").read_text())
    use(
        {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": google.url + acts.format(PRINCIPAL),
            "source_credentials": source,
        }
    )
    assert len(loaded([URL])) == 1


_FIND = """
from runai_model_streamer.config import GcsConfig
from runai_model_streamer.io.gcs.access import GcsCredentials
print(str(GcsCredentials(GcsConfig()).token()))
"""


def test_the_metadata_server_of_a_machine_is_asked() -> None:
    pytest.importorskip("google.auth", reason="the extra [gcs] is not installed")

    def answer(request: TokenRequest) -> tuple[int, object]:
        if request.headers.get("metadata-flavor") != "Google":
            return 403, "Missing Metadata-Flavor:Google header."
        below = request.path.removeprefix("/computeMetadata/v1/")
        if below == "instance/service-accounts/default/token":
            return 200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        if below == "instance/service-accounts/default/":
            return 200, {"email": PRINCIPAL, "scopes": [], "aliases": ["default"]}
        return 200, "project"

    with ProviderServer(answer) as metadata:
        environment = os.environ | {"GCE_METADATA_HOST": metadata.host, "GCE_METADATA_IP": metadata.host}
        del environment["NO_GCE_CHECK"]
        # google-auth reads these when it is imported.
        done = subprocess.run(
            [sys.executable, "-c", _FIND], capture_output=True, text=True, check=False, env=environment
        )
    assert done.stdout.strip() == TOKEN, done.stderr
