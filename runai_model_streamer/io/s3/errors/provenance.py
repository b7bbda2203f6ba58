"""Which endpoint and which credentials are in use, and what set them: what a message needs to name the setting."""

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
"""What botocore calls the way in which it found credentials, and what users call it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of one client. Without a value, nothing is known: no client could be made."""

    endpoint: str = ""
    """URL, without a user."""
    endpoint_from: str = ""
    """What set it; "" where it is botocore's or the profile's own choice."""
    credentials_from: str = ""
    """What botocore calls it; "" for none."""
    profile: str = "default"
    """Of AWS's files, which has them where they are from there."""
    padded: bool = False
    """White space stands around the secret key: a line break, most often, of a file that it was copied from."""

    @classmethod
    def of(
        cls, config: S3Config, endpoint: str | None, resolved: str, found: object, profile: str | None, secret: str
    ) -> "Provenance":
        """From what was asked for and what botocore made of it.

        Args:
            config: the settings.
            endpoint: of explicit credentials.
            resolved: URL that the client uses.
            found: botocore's credentials, or None.
            profile: that somebody chose, or None.
            secret: their secret key, or "" where it is not known without asking somebody.
        """
        setting = "S3Credentials(endpoint=...)" if endpoint else "RUNAI_STREAMER_S3_ENDPOINT" if config.endpoint else ""
        way = str(getattr(found, "method", None) or "")
        return cls(without_user(resolved), setting, way, profile or "default", secret != secret.strip())

    @property
    def host(self) -> str:
        """Of the endpoint, with its port."""
        return urlsplit(self.endpoint).netloc

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is AWS's own."""
        return is_aws(self.endpoint)

    @property
    def has_path(self) -> bool:
        """Whether the endpoint goes on behind the host, which then comes before every bucket."""
        return bool(urlsplit(self.endpoint).path.strip("/"))

    def endpoint_told(self) -> str:
        """A sentence that says which endpoint it is, and what set it; "" if nothing is known."""
        if not self.endpoint:
            return ""
        if self.is_aws:
            return f"{self.host} is AWS itself: for another store, set AWS_ENDPOINT_URL to its URL."
        return f"The endpoint is {self.endpoint}, from {self.endpoint_from or 'AWS_ENDPOINT_URL or the profile'}."

    @property
    def credentials_origin(self) -> str:
        """What users call the place that the credentials are from; "" for none."""
        told = _ORIGINS.get(self.credentials_from, self.credentials_from)
        return told.replace("{profile}", f"profile {self.profile!r} (AWS_PROFILE chooses it)")

    def credentials_told(self) -> str:
        """A sentence that says where the credentials are from; "" if nothing is known."""
        return f"The credentials are from {self.credentials_origin}." if self.credentials_from else ""

    def list_command(self, bucket: str) -> str:
        """The command with which AWS's own client lists a bucket of this store."""
        option = "" if self.is_aws or not self.endpoint else f" --endpoint-url {self.endpoint}"
        return f"aws s3 ls s3://{bucket}/{option}"

    def with_scheme(self, scheme: str) -> str:
        """The endpoint's URL, but with another scheme; "" if there is none."""
        return urlsplit(self.endpoint)._replace(scheme=scheme).geturl() if self.endpoint else ""


def is_aws(url: str) -> bool:
    """Whether the endpoint is AWS's own."""
    return (urlsplit(url).hostname or "").endswith(_AWS)


def without_user(url: str) -> str:
    """The URL without the user and password that may stand before its host."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


UNKNOWN: Final = Provenance()
