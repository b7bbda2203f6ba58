"""Knows which endpoint and credentials are in use, and which setting they come from, so that a message can name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from runai_model_streamer.config import S3Config

_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

_ORIGINS: Final[Mapping[str, str]] = {
    "assume-role": "a role that {profile} assumes",
    "assume-role-with-web-identity": "a web identity (AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, or of {profile})",
    "config-file": "{profile} in AWS's config file",
    "container-role": "the container's role",
    "custom-process": "the credential_process of {profile}",
    "env": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "explicit": "S3Credentials(...)",
    "iam-role": "the role of the EC2 instance (its metadata service)",
    "login": "`aws login`, {profile}",
    "shared-credentials-file": "{profile} in AWS's credentials file",
    "sso": "`aws sso login`, {profile}",
}
"""botocore's name for each way to find credentials, and the users' name for it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one client's endpoint and credentials come from. Empty if no client could be made."""

    endpoint: str = ""
    """URL, without user and password."""
    endpoint_from: str = ""
    """The setting that named it; "" if botocore or the profile chose it."""
    credentials_from: str = ""
    """botocore's name for where it found them; "" for none."""
    profile: str = "default"
    """The profile of AWS's files in use."""
    padded: bool = False
    """The secret key has white space around it, most often a line break copied from a file."""

    @classmethod
    def of(
        cls, config: S3Config, endpoint: str | None, resolved: str, found: object, profile: str | None, secret: str
    ) -> "Provenance":
        """Combine what was asked for with what botocore found.

        Args:
            config: the settings.
            endpoint: the explicit credentials' endpoint.
            resolved: the URL that the client uses.
            found: botocore's credentials, or None.
            profile: the profile chosen, or None.
            secret: the secret key; "" if it is unknown without a request.
        """
        setting = "S3Credentials(endpoint=...)" if endpoint else "RUNAI_STREAMER_S3_ENDPOINT" if config.endpoint else ""
        way = str(getattr(found, "method", None) or "")
        return cls(without_user(resolved), setting, way, profile or "default", secret != secret.strip())

    @property
    def host(self) -> str:
        """The endpoint's host, with its port."""
        return urlsplit(self.endpoint).netloc

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is AWS's own."""
        return is_aws(self.endpoint)

    @property
    def has_path(self) -> bool:
        """Whether the endpoint has a path, which then precedes every bucket."""
        return bool(urlsplit(self.endpoint).path.strip("/"))

    def endpoint_sentence(self) -> str:
        """Return a sentence that names the endpoint and its setting; "" if nothing is known."""
        if not self.endpoint:
            return ""
        if self.is_aws:
            return f"{self.host} is AWS itself: for another store, set AWS_ENDPOINT_URL to its URL."
        return f"The endpoint is {self.endpoint}, from {self.endpoint_from or 'AWS_ENDPOINT_URL or the profile'}."

    @property
    def credentials_origin(self) -> str:
        """Where the credentials come from, in the users' words; "" for none."""
        origin = _ORIGINS.get(self.credentials_from, self.credentials_from)
        return origin.replace("{profile}", f"profile {self.profile!r} (AWS_PROFILE chooses it)")

    def credentials_sentence(self) -> str:
        """Return a sentence that says where the credentials come from; "" if nothing is known."""
        return f"The credentials are from {self.credentials_origin}." if self.credentials_from else ""

    def list_command(self, bucket: str) -> str:
        """Return the command of AWS's own client that lists a bucket of this store."""
        option = "" if self.is_aws or not self.endpoint else f" --endpoint-url {self.endpoint}"
        return f"aws s3 ls s3://{bucket}/{option}"

    def with_scheme(self, scheme: str) -> str:
        """The endpoint's URL, but with another scheme; "" if there is none."""
        return urlsplit(self.endpoint)._replace(scheme=scheme).geturl() if self.endpoint else ""


def is_aws(url: str) -> bool:
    """Whether the endpoint is AWS's own."""
    return (urlsplit(url).hostname or "").endswith(_AWS)


def without_user(url: str) -> str:
    """Return the URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


UNKNOWN: Final = Provenance()
