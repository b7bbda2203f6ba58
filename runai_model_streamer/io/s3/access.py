"""Makes the botocore client that signs requests, with the credentials and settings in force."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import CredentialsError, MissingDependencyError
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.transport import Transport
from runai_model_streamer.io.s3.bodies import bound_listings
from runai_model_streamer.io.s3.boto3_transport import Boto3Transport
from runai_model_streamer.io.s3.choice import make_transport
from runai_model_streamer.io.s3.connections import watch_connections
from runai_model_streamer.io.s3.credentials import CredentialsSearch, S3Credentials
from runai_model_streamer.io.s3.errors.provenance import Provenance, is_aws, without_user
from runai_model_streamer.io.s3.signing import keep_requests
from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.io.setup_time import SetupClock

if TYPE_CHECKING:
    from botocore.loaders import Loader

_log = logging.getLogger(__name__)


_DEFAULT_REGION: Final = "us-east-1"
"""The region to sign for if none is set. S3-compatible stores accept it, and AWS answers with the right one."""

_SHORTEST_SECRET: Final = 8
"""Minimum characters of a secret to redact. A shorter one, as test servers use, may be a word of any message."""

_POOL_MARGIN: Final = 4
"""Connections beyond the readers' own, for files that are opened while others are read."""


class S3Client(Protocol):
    """The methods used of botocore's client. botocore makes them at run time, so none of its classes declares them."""

    def get_object(self, **request: Any) -> dict[str, Any]:
        """GET an object, or a range of it."""
        ...

    def head_object(self, **request: Any) -> dict[str, Any]:
        """HEAD an object."""
        ...

    def list_objects_v2(self, **request: Any) -> dict[str, Any]:
        """List one page of a bucket's keys."""
        ...

    def close(self) -> None:
        """Close the pooled connections."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """A client that signs and a transport that moves bytes, with what error messages may say and must redact."""

    client: S3Client
    transport: Transport
    unsigned: bool
    provenance: Provenance = field(repr=False)
    secrets: Collection[str] = field(repr=False)
    setup: SetupClock = field(repr=False)
    """Times what is done once before the first request."""

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.transport.close()
        self.client.close()


MakeAccess: TypeAlias = Callable[[S3Config, S3Credentials | None, int, SetupClock | None], Access]
"""What `make_access` does."""


def make_access(
    config: S3Config,
    credentials: S3Credentials | None,
    connections: int,
    setup: SetupClock | None = None,
    load_curl: Callable[[], libcurl.Library] = libcurl.load,
) -> Access:
    """Make a client and its transport. The client has its own session: boto3's default session stays as it is.

    Raises:
        MissingDependencyError: botocore, or a library that the chosen transport needs, is not installed.
        CredentialsError: the explicit credentials are incomplete.
        Exception: botocore's, for a profile, region or endpoint that it cannot use.
    """
    explicit = credentials or S3Credentials()
    key = explicit.access_key_id
    if bool(key) != bool(explicit.secret_access_key) or (explicit.session_token and not key):
        raise CredentialsError(
            "S3Credentials is incomplete",
            remedy="give access_key_id and secret_access_key together (and session_token for temporary credentials), "
            "or neither, and boto3 searches for credentials",
            sep=": ",
        )
    try:
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import InvalidRegionError
        from botocore.httpsession import get_cert_path
    except ImportError as error:
        raise MissingDependencyError(
            "reading from s3:// needs boto3", remedy=install_command("s3"), sep=": "
        ) from error

    unsigned = config.unsigned and not key
    session = make_session(config, explicit)
    bundle = session.get_config_variable("ca_bundle")
    region = explicit.region_name or session.get_config_variable("region") or _DEFAULT_REGION
    if region != region.strip():
        # botocore would let a line break at its end into the header that it signs.
        raise InvalidRegionError(region_name=region)
    setup = setup or SetupClock()
    session.register_component("credential_provider", CredentialsSearch(session, region, setup))
    settings = Config(
        signature_version=UNSIGNED if unsigned else None,
        s3={"addressing_style": "virtual" if config.virtual_addressing else "path"},
        # Stores without checksums refuse the headers that botocore sends by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=config.timeout,
        read_timeout=config.timeout,
        max_pool_connections=connections + _POOL_MARGIN,
        # Retries are ours (`http/retries`): they continue after the last byte landed, and can be interrupted.
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    client = _make_client(session, region, explicit.endpoint or config.endpoint, settings)
    keep_requests(client)
    bound_listings(client, config.timeout)
    if not watch_connections(client):
        _log.debug("this botocore's connections cannot be watched: an interrupt waits for their timeouts")
    endpoint = client.meta.endpoint_url
    certificates = str(get_cert_path(bundle))
    transport = make_transport(
        config, endpoint, certificates, lambda: Boto3Transport(client, config.timeout), load_curl
    )
    found = None if unsigned else session.get_credentials()
    key_in_use, token = _held(found)
    secrets = frozenset(
        Secret(secret.strip())
        for secret in (key_in_use, token, explicit.secret_access_key or "", explicit.session_token or "")
        if len(secret.strip()) >= _SHORTEST_SECRET
    )
    provenance = Provenance.of(config, explicit.endpoint or "", endpoint, found, session.profile, key_in_use)
    return Access(client, transport, unsigned, provenance, secrets, setup)


def _make_client(session: Any, region: str, endpoint: str | None, settings: Any) -> Any:
    client = session.create_client("s3", region_name=region, endpoint_url=endpoint, config=settings)
    bare = Url(without_user(client.meta.endpoint_url))
    if "@" in bare:
        # If a password begins like a port, urlsplit takes what follows its / or # for a path.
        raise ValueError(f"Invalid endpoint: {client.meta.endpoint_url}")
    if bare == client.meta.endpoint_url:
        return _for_any_bucket(client)
    # Requests are signed instead, and any error would quote the URL.
    _log.warning("the user and password in the endpoint's URL are not sent: requests are signed instead")
    client.close()
    return _for_any_bucket(session.create_client("s3", region_name=region, endpoint_url=bare, config=settings))


def _for_any_bucket(client: Any) -> Any:
    """Skip botocore's check of bucket names unless the store is AWS: Ceph's tenants write `tenant:bucket`."""
    from botocore.handlers import validate_bucket_name

    if not is_aws(client.meta.endpoint_url):
        client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    return client


def make_session(config: S3Config, explicit: S3Credentials | None = None) -> Any:
    """Make a botocore session. Its settings apply to the S3 client, and to clients that fetch credentials (STS, SSO).

    Raises:
        Exception: botocore's, for a profile that does not exist or a file that cannot be read.
    """
    from botocore.session import Session

    variables: dict[str, Any] = {"region": ("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], None, None)}
    session: Any = Session(variables)
    if explicit and explicit.access_key_id:
        if session.profile is not None and session.profile not in session.available_profiles:
            # Explicit keys need no profile: ignore an AWS_PROFILE that does not exist.
            session = Session(variables | {"profile": (None, [], None, None)})
        session.set_credentials(explicit.access_key_id, explicit.secret_access_key, explicit.session_token)
    session.register_component("data_loader", _loader())
    # Never empty: some versions of botocore refuse an empty value, others then skip verification.
    named = session.get_config_variable("ca_bundle"), session.get_scoped_config().get("ca_bundle"), config.ca_bundle
    session.set_config_variable("ca_bundle", next((path for path in named if path and path.strip()), True))
    return session


@cache
def _loader() -> "Loader":
    # Parsing S3's service model takes 100 ms and 13 MB for each client that does not share it.
    from botocore.session import Session

    loader: Loader = Session().get_component("data_loader")
    return loader


def _held(found: Any) -> tuple[Secret, Secret]:
    """Return secret key and token of botocore's credentials; "" for each that is unknown without a request."""
    # Refreshable credentials would ask the network for their values. `errors.translation` redacts them by their form.
    from botocore.credentials import RefreshableCredentials

    if found is None or isinstance(found, RefreshableCredentials):
        return Secret(), Secret()
    # Do not put botocore's tuple into a variable: a traceback would show its secrets.
    return Secret(found.get_frozen_credentials().secret_key or ""), Secret(found.get_frozen_credentials().token or "")
