"""Explains failures of Azure Blob Storage to users: credentials, permissions, accounts, containers and blobs."""

from typing import Final, NamedTuple

from runai_model_streamer.errors import (
    AccessDeniedError,
    ConfigError,
    CredentialsError,
    MissingDependencyError,
    NotFoundError,
    ReadError,
    StreamerError,
)
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.azure.access import AzureAccess
from runai_model_streamer.io.azure.account import Account
from runai_model_streamer.io.azure.location import BlobLocation
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.web.refusal import RefusedError

_SECRETS: Final = (
    "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or log in (`az login`, "
    "a managed or workload identity, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET)"
)
_GIVE: Final = f"{_SECRETS[0].upper()}{_SECRETS[1:]}."
_CHECK_KEY: Final = "Copy it again from the account's access keys, and check this machine's clock."
_SIGN_AGAIN: Final = (
    "Make a new one of this account, with the permissions read and list, which has begun and has not expired: az "
    "storage account generate-sas --services b --resource-types co --permissions rl."
)
_LOG_IN_AGAIN: Final = "Log in to the tenant of the account (AZURE_TENANT_ID)."
_GRANT: Final = (
    "Grant this identity the role Storage Blob Data Reader on the container or the account; it takes some minutes to "
    "hold."
)
_NETWORK: Final = "Allow this machine's network in the account's networking rules, or use its private endpoint."
_THAW: Final = "Move it to another tier: az storage blob set-tier --tier Hot; it takes hours."
_NAMES: Final = "A container has 3 to 63 lower-case letters, digits and hyphens."

ANONYMOUS_STATUSES: Final = (401, 403, 404, 409)
"""What the service answers to an anonymous request for a container that is not public."""


class Asked(NamedTuple):
    """The request that was refused."""

    location: BlobLocation
    account: Account
    access: AzureAccess


def is_anonymous(refused: RefusedError, asked: Asked) -> bool:
    """Return whether a request had no credential."""
    return not refused.authorized and not asked.access.has_secret(f"{asked.account.endpoint}/")


def explain_azure(refused: RefusedError, asked: Asked) -> Explanation | None:
    """Explain a refusal of the service; None for one that means the same on every web server."""
    status, code, answer = refused.status, refused.answer.code, refused.answer
    container, key, account = asked.location.container, asked.location.key, asked.account.name

    def explained(kind: type[StreamerError], summary: str, remedy: str) -> Explanation:
        return Explanation(kind, summary, remedy, answer)

    match code:
        case "ContainerNotFound" | "ContainerBeingDeleted":
            look = f"az storage container list --account-name {account}"
            return explained(
                NotFoundError, f"account {account} has no container {container}", f"Check its name: {look}."
            )
        case "BlobNotFound":
            look = f"az storage blob list --account-name {account} --container-name {container}"
            remedy = (
                f"Check the key; case, spaces and slashes count: {look} (if it is a folder, list_safetensors lists it)."
            )
            return explained(NotFoundError, f"there is no blob {key!r} in container {container}", remedy)
        case "InvalidResourceName" | "OutOfRangeInput" | "InvalidUri":
            return explained(NotFoundError, f"the service takes no name such as {container!r} with {key!r}", _NAMES)
        case "AccountIsDisabled":
            disabled = f"account {account} is disabled"
            return explained(AccessDeniedError, disabled, "Ask its owner; its subscription may have ended.")
        case "AccountRequiresHttps":
            return explained(ConfigError, f"account {account} takes https:// only", "Write https:// in its endpoint.")
        case "BlobArchived" | "BlobBeingRehydrated":
            return explained(ReadError, f"blob {key!r} is in the archive tier, which cannot be read", _THAW)
        case "KeyBasedAuthenticationNotPermitted":
            remedy = "Unset the key and the SAS token, and log in: `az login`, or a managed or workload identity."
            return explained(CredentialsError, f"account {account} permits neither keys nor SAS tokens", remedy)
    if status in ANONYMOUS_STATUSES and is_anonymous(refused, asked):
        return _anonymous(asked, refused)
    if status == 401 or code in ("AuthenticationFailed", "InvalidAuthenticationInfo"):
        return _unaccepted(asked, refused)
    if status == 403:
        return _denied(asked, refused)
    return None


def _anonymous(asked: Asked, refused: RefusedError) -> Explanation:
    container, account, tokens = asked.location.container, asked.account.name, asked.access.tokens
    private = f"container {container} of account {account} does not serve anonymous requests, or does not exist"
    if tokens is None:
        return Explanation(CredentialsError, private, f"Unset AZURE_STORAGE_ANON. {_GIVE}", refused.answer)
    if not tokens.installed:
        remedy = f"{install_command('azure')}; or {_SECRETS}."
        missing = f"{private}; azure-identity is not installed"
        return Explanation(MissingDependencyError, missing, remedy, refused.answer)
    return Explanation(CredentialsError, f"{private}; {tokens.why}", _GIVE, refused.answer)


def _unaccepted(asked: Asked, refused: RefusedError) -> Explanation:
    account = asked.account
    if refused.authorized:
        what, remedy = "token of azure-identity", _LOG_IN_AGAIN
    elif account.key:
        what, remedy = "account key", _CHECK_KEY
    else:
        what, remedy = "SAS token", _SIGN_AGAIN
    return Explanation(CredentialsError, f"account {account.name} does not accept the {what}", remedy, refused.answer)


def _denied(asked: Asked, refused: RefusedError) -> Explanation:
    account = asked.account
    limits = "" if refused.authorized or account.key else ": the SAS token does not allow this"
    summary = f"access denied to container {asked.location.container} of account {account.name}{limits}"
    if refused.authorized:
        remedy = _GRANT
    elif account.key:
        remedy = "Check the account key."
    else:
        remedy = _SIGN_AGAIN
    if refused.answer.code == "AuthorizationFailure":  # what the account's firewall says, too
        remedy = f"{_NETWORK} {remedy}"
    return Explanation(AccessDeniedError, summary, remedy, refused.answer)
