"""Explains refusals of the Hugging Face Hub: gated, private and missing repositories, tokens, revisions."""

from typing import Final

from runai_model_streamer.errors import AccessDeniedError, CredentialsError, NotFoundError
from runai_model_streamer.io.hub.location import HubLocation
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.web.refusal import RefusedError

_LOG_IN: Final = "Log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens."
_CHECK_TOKEN: Final = f"It is from HF_TOKEN, else from `hf auth login`. It may be misspelt or revoked. {_LOG_IN}"
_BAD_TOKEN: Final = "invalid credentials in authorization header"


def explain_hub(error: RefusedError, location: HubLocation, endpoint: str) -> Explanation | None:
    """Explain a refusal of the Hub; None for one that means the same on every web server.

    Args:
        error: the refusal.
        location: the file or folder.
        endpoint: URL of the Hub.
    """
    if error.redirected:
        return None  # it is the CDN's refusal
    repo, revision, name = location
    code = error.headers.get("x-error-code", "")
    page = f"{endpoint}/{repo}"
    answer = error.answer._replace(code=code)
    if error.headers.get("x-error-message", "").lower().startswith(_BAD_TOKEN):
        return Explanation(CredentialsError, "the Hub does not accept the token", _CHECK_TOKEN, answer)
    if code == "GatedRepo" and error.authorized:
        remedy = (
            f"Open {page} with the token's user and ask for access, or wait for its authors; a fine-grained token also "
            "needs the right to read gated repositories."
        )
        return Explanation(AccessDeniedError, f"{repo} is gated, and the token's user has no access", remedy, answer)
    if code == "GatedRepo":
        remedy = f"Open {page} and ask for access. {_LOG_IN}"
        return Explanation(CredentialsError, f"{repo} is gated, and there is no token", remedy, answer)
    if code == "RevisionNotFound":
        remedy = f"{page} lists branches and tags; a commit has 40 digits."
        return Explanation(NotFoundError, f"{repo} has no revision {revision!r}", remedy, answer)
    if code == "EntryNotFound":
        remedy = f"Check it; case counts: `runai-streamer ls hf://{repo}`, or {page}."
        return Explanation(NotFoundError, f"{repo} has no file {name!r} at {revision}", remedy, answer)
    if code == "RepoNotFound" or error.status in (401, 404):
        remedy = "Check its name; case counts."
        remedy += " The token's user may have no access to it." if error.authorized else f" If it is private: {_LOG_IN}"
        return Explanation(NotFoundError, f"there is no repository {repo}, or it is private", remedy, answer)
    return None
