"""Who reads from object storage, and the botocore client that signs for them."""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from runai_model_streamer.config import S3Config
from runai_model_streamer.errors import CredentialsError, InterruptedReadError, MissingDependencyError
from runai_model_streamer.installation import install_command
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
"""Signed for when nothing says a region: S3-compatible stores take it, and AWS answers with the right one."""

_SHORTEST_SECRET: Final = 8
"""Characters; what a test server takes for a secret may be a word of any message."""

_POOL_MARGIN: Final = 4
"""Connections beyond the readers' own, for files that are opened while others are read."""


class S3Client(Protocol):
    """What is used of botocore's client; botocore makes its methods at run time, so no class of its own has them."""

    def get_object(self, **request: Any) -> dict[str, Any]:
        """GET, or a range of it."""
        ...

    def head_object(self, **request: Any) -> dict[str, Any]:
        """HEAD."""
        ...

    def list_objects_v2(self, **request: Any) -> dict[str, Any]:
        """A page of a bucket's keys."""
        ...

    def close(self) -> None:
        """Close the pooled connections."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """A client that signs, a transport that moves bytes, and what a message about them may and may not say."""

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


def make_access(
    config: S3Config, credentials: S3Credentials | None, connections: int, setup: SetupClock | None = None
) -> Access:
    """Make a client with a session of its own: neither the caller's default session nor its settings are touched.

    Raises:
        MissingDependencyError: botocore is not installed, or what the transport asked for needs.
        CredentialsError: the explicit credentials are incomplete.
        Exception: botocore's own, for a profile, region or endpoint that it cannot use.
    """
    explicit = credentials or S3Credentials()
    key = explicit.access_key_id
    if bool(key) != bool(explicit.secret_access_key) or (explicit.session_token and not key):
        raise CredentialsError(
            "S3Credentials is incomplete",
            remedy="give access_key_id and secret_access_key together (and session_token for temporary credentials), "
            "or none of them for boto3's own search",
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
        # botocore lets a line break at its end through, into the header that it signs.
        raise InvalidRegionError(region_name=region)
    setup = setup or SetupClock()
    session.register_component("credential_provider", CredentialsSearch(session, region, setup))
    settings = Config(
        signature_version=UNSIGNED if unsigned else None,
        s3={"addressing_style": "virtual" if config.virtual_addressing else "path"},
        # Stores that know no checksums refuse the headers that botocore sends by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=config.timeout,
        read_timeout=config.timeout,
        max_pool_connections=connections + _POOL_MARGIN,
        # Only a retry of our own can go on from the byte already landed, and be interrupted while it waits.
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    client = _make_client(session, region, explicit.endpoint or config.endpoint, settings)
    keep_requests(client)
    bound_listings(client, config.timeout)
    if not watch_connections(client):
        _log.debug("the connections of this botocore cannot be watched: interrupts wait for its timeouts")
    endpoint = client.meta.endpoint_url
    certificates = str(get_cert_path(bundle))
    transport = make_transport(config, endpoint, certificates, lambda: Boto3Transport(client, config.timeout))
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
        # Where the beginning of a password looks like a port, what is behind its / or # is taken for a path.
        raise ValueError(f"Invalid endpoint: {client.meta.endpoint_url}")
    if bare == client.meta.endpoint_url:
        return _for_any_bucket(client)
    # Requests are signed instead; and whatever fails would quote it.
    _log.warning("the user and password in the endpoint's URL are not sent: a store asks for signed requests")
    client.close()
    return _for_any_bucket(session.create_client("s3", region_name=region, endpoint_url=bare, config=settings))


def _for_any_bucket(client: Any) -> Any:
    """Leave it to a store of one's own which names of buckets it has: Ceph's tenants write `tenant:bucket`."""
    from botocore.handlers import validate_bucket_name

    if not is_aws(client.meta.endpoint_url):
        client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    return client


def make_session(config: S3Config, explicit: S3Credentials | None = None) -> Any:
    """A session of botocore's. What holds for its client of S3 holds for those that ask others for credentials.

    Raises:
        Exception: botocore's own, for a profile that there is not, or a file that cannot be read.
    """
    from botocore.session import Session

    variables: dict[str, Any] = {"region": ("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], None, None)}
    session: Any = Session(variables)
    if explicit and explicit.access_key_id:
        if session.profile is not None and session.profile not in session.available_profiles:
            # A profile that AWS_PROFILE names but nobody made is of no concern to explicit keys.
            session = Session(variables | {"profile": (None, [], None, None)})
        session.set_credentials(explicit.access_key_id, explicit.secret_access_key, explicit.session_token)
    session.register_component("data_loader", _loader())
    # Never empty: some versions of botocore refuse that, others then trust everybody.
    named = session.get_config_variable("ca_bundle"), session.get_scoped_config().get("ca_bundle"), config.ca_bundle
    session.set_config_variable("ca_bundle", next((path for path in named if path and path.strip()), True))
    return session


class CurrentAccess:
    """The access in use: made when it is first asked for, and anew when the store has refused it. Thread safe.

    Args:
        make: of `make_access`. It may ask a provider of credentials, for as long as that takes.
        setup: times it.
    """

    def __init__(self, make: Callable[[], Access], setup: SetupClock) -> None:
        self._make = make
        self._setup = setup
        self._making = threading.Lock()
        self._lock = threading.Lock()
        """Held for no longer than a moment, so that whoever closes waits for no provider."""
        self._access: Access | None = None
        self._made: list[Access] = []
        self._closed = False

    def get(self) -> Access:
        """The access.

        Raises:
            InterruptedReadError: `close` was called, perhaps meanwhile.
            Exception: of `make_access`.
        """
        access = self._ready()
        if access is not None:
            return access
        with self._making:
            access = self._ready()
            if access is not None:
                return access
            with self._setup.during("imports"):
                access = self._make()
            with self._lock:
                if not self._closed:
                    self._access = access
                    self._made.append(access)
                    return access
            access.close()
            return self.get()  # raises

    def _ready(self) -> Access | None:
        with self._lock:
            if self._closed:
                raise InterruptedReadError("no request made: the streamer is closing")
            return self._access

    def renew(self, refused: Access) -> None:
        """Read the credentials anew when it is next asked for, unless another thread has seen to that."""
        with self._lock:
            if self._access is refused:
                self._access = None

    @property
    def transport(self) -> str | None:
        """What moves the bytes; None before it was first asked for."""
        access = self._access
        return None if access is None else access.transport.name

    def stop(self) -> None:
        """Give out none any more. Waits for nothing."""
        with self._lock:
            self._closed = True

    def close(self) -> None:
        """Stop, and close all connections. Idempotent."""
        self.stop()
        with self._lock:
            made, self._made, self._access = self._made, [], None
        for access in made:
            access.close()


@cache
def _loader() -> "Loader":
    # Parsing S3's service model takes 100 ms and 13 MB for each client that does not share it.
    from botocore.session import Session

    loader: Loader = Session().get_component("data_loader")
    return loader


def _held(found: Any) -> tuple[Secret, Secret]:
    """Secret key and token of botocore's credentials, as far as they are known without asking anybody; else ""."""
    # Refreshable credentials would go to the network for their values; what they send is caught by its form.
    from botocore.credentials import RefreshableCredentials

    if found is None or isinstance(found, RefreshableCredentials):
        return Secret(), Secret()
    # No variable is botocore's tuple, which shows all that is in it.
    return Secret(found.get_frozen_credentials().secret_key or ""), Secret(found.get_frozen_credentials().token or "")
