"""Makes this package's error from a store's failure: one line, with the facts, without secrets."""

import re
from collections.abc import Collection
from typing import Final

from runai_model_streamer.errors import Where
from runai_model_streamer.io.http.answers import printable
from runai_model_streamer.io.http.retries import Attempts
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.frames import chain_of
from runai_model_streamer.ranges import ByteRange

_LONGEST: Final = 300
"""Maximum characters quoted of a text that is not ours."""

_SECRET_PARTS: Final = re.compile(
    # Parameters of a signed URL, the same in a signed header, and user and password in a URL.
    r"(?<=\bSignature=)[0-9a-f]+|(?<=X-Amz-Signature=)[^&\s\"'<]+|(?<=X-Amz-Credential=)[^&\s\"'<]+|(?<=X-Amz-Security-Token=)[^&\s\"'<]+"
    r"|(?<=://)[^/\s]+(?=@)",
    re.IGNORECASE,
)
_KEY_OR_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=]{40,}")
"""Keys have this length, tokens are longer. So are some paths, so that only a store's own words are searched for it."""


def error_of(
    explanation: Explanation,
    error: Exception,
    path: str | None,
    span: ByteRange | None,
    attempts: Attempts,
    secrets: Collection[str],
) -> Exception:
    """Make our error from theirs.

    If the original error, or one in its chain, holds a secret, ours gets no cause, so that no traceback shows it. Raise
    ours outside the except block, or Python makes the original its context.

    Args:
        explanation: what the failure means.
        error: the original error.
        path: the object or prefix; None if the request concerned neither.
        span: the range; None for a listing.
        attempts: number and duration of the attempts.
        secrets: texts to redact.
    """
    tries = f"{attempts.count} attempt{'s' if attempts.count > 1 else ''} in {attempts.seconds:.1f} s"
    facts = ", ".join(filter(None, (str(explanation.answer or ""), str(span or ""), tries)))
    quote = _KEY_OR_TOKEN.sub("***", _one_line(explanation.quote))
    quoted = f'. The store says: "{quote}"' if quote else ""
    brackets = "" if explanation.local else f" ({facts})"
    problem = _redact(f"{_one_line(explanation.summary)}{brackets}{quoted}", secrets)
    remedy = _redact(explanation.remedy, secrets)
    theirs = "\n".join(map(str, chain_of(error)))
    hide_cause = explanation.hide_cause or _redact(theirs, secrets) != theirs or quote != _one_line(explanation.quote)
    where = None if path is None else Where(path, span)
    made = explanation.kind(problem if where else f"object storage: {problem}", where=where, remedy=remedy, sep=". ")
    made.__cause__ = None if hide_cause else error
    return made


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _redact(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return _SECRET_PARTS.sub("***", text)
