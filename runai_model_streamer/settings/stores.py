"""How to reach each kind of object storage: parts of `LoadConfig`."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from runai_model_streamer.io.secret import Secret

SECOND_ANSWERS: Final = 32 << 20
"""Memory for the answers to second requests, without a limit; with one, an eighth of it at most."""


class S3Transport(Enum):
    """The library that moves the bytes of objects."""

    AUTO = "auto"
    """libcurl if there is one that fits, otherwise boto3."""
    CURL = "curl"
    BOTO3 = "boto3"


@dataclass(frozen=True, slots=True)
class S3Config:
    """How to reach object storage. The credentials come from `S3Credentials` or from boto3's own chain."""

    endpoint: str | None = None
    """URL of an S3-compatible store. None leaves it to boto3: AWS_ENDPOINT_URL, the profile, or else AWS."""
    virtual_addressing: bool = True
    """bucket.host/key (True) or host/bucket/key (False)."""
    unsigned: bool = False
    """Send anonymous requests, for public buckets."""
    max_retries: int = 8
    """Attempts after the first, for each range."""
    timeout: float = 30.0
    """Seconds without an answer or a byte, after which a request is tried again."""
    transport: S3Transport = S3Transport.AUTO
    connections: int | None = None
    """Exact number of connections that read. None: as many as bring the most."""
    hedge: bool = True
    """Ask a second time for ranges that lag far behind the others."""
    second_answers: int = SECOND_ANSWERS
    """Maximum bytes of memory for the answers. 0: nothing is asked for a second time."""
    ca_bundle: str | None = None
    """File of certificates to trust if neither AWS_CA_BUNDLE nor the profile names one."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """How to reach web servers, `https://` and `http://`."""

    tokens: tuple[tuple[str, Secret], ...] = ()
    """Hosts, or hosts with a port, and the bearer token for each."""
    netrc: str | None = None
    """File of users and passwords by host; None: ~/.netrc."""


@dataclass(frozen=True, slots=True)
class GcsConfig:
    """How to reach Google Cloud Storage, `gs://`."""

    anonymous: bool = False
    """Send anonymous requests, for public buckets."""
    credential_file: str | None = None
    """File of credentials. None: google-auth's own search."""
    emulator: str | None = None
    """URL, or host and port, of an emulator of the service."""


@dataclass(frozen=True, slots=True)
class AzureConfig:
    """How to reach Azure Blob Storage, `az://`."""

    account: str | None = None
    """Name of the storage account."""
    key: Secret | None = None
    """The account's key, in base64."""
    sas: Secret | None = None
    """A SAS token: a query that signs every URL of the account or of a container."""
    connection_string: Secret | None = None
    """Account, endpoint and key or SAS token in one."""
    endpoint: str | None = None
    """URL of the account's blobs. None: https://account.endpoint_suffix."""
    endpoint_suffix: str | None = None
    """Domain of the service. None: blob.core.windows.net."""
    anonymous: bool = False
    """Look for no credentials: the container is public."""


@dataclass(frozen=True, slots=True)
class HubConfig:
    """How to reach the Hugging Face Hub, `hf://`. The token comes from huggingface_hub."""

    endpoint: str | None = None
    """URL of the Hub, or of a mirror. None: huggingface_hub's own."""
    cache: str | None = None
    """Folder of huggingface_hub's cache. None: its own."""
    offline: bool = False
    """Send no request: read what the cache has."""
