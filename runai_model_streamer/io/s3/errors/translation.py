"""What botocore, urllib3 and sockets raise: whether to try again, and this package's error for it.

With `store` and `network`, which know what each means, the only place that knows their exceptions.
"""

import http.client
import re
import ssl
import traceback
from collections.abc import Collection
from types import FrameType
from typing import Final

from runai_model_streamer.errors import Where
from runai_model_streamer.io.http.transport import BodyLengthError
from runai_model_streamer.io.s3.errors.meaning import Circumstances
from runai_model_streamer.io.s3.errors.network import chain_of, is_no_bundle, is_no_tls, root_of
from runai_model_streamer.io.s3.errors.store import EXPIRED, PASSING_CODES, PASSING_STATUSES, answer_of, meaning_of

_LONGEST: Final = 300
"""Characters of a text that is not ours."""

_SECRET_PARTS: Final = re.compile(
    # Parameters of a signed URL, the same in a signed header, and a user in a URL.
    r"(?<=\bSignature=)[0-9a-f]+|(?<=X-Amz-Signature=)[^&\s\"'<]+|(?<=X-Amz-Credential=)[^&\s\"'<]+|(?<=X-Amz-Security-Token=)[^&\s\"'<]+"
    r"|(?<=://)[^/\s]+(?=@)",
    re.IGNORECASE,
)
_KEY_OR_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=]{40,}")
"""Keys have this length, tokens more. Long paths may look alike, so that only a store's words are searched for it."""


def is_beyond_end(error: Exception) -> bool:
    """Whether the store says that the object ends before the range begins."""
    answer = answer_of(error)
    return answer is not None and answer.status == 416


def is_expired(error: Exception) -> bool:
    """Whether other credentials may help."""
    answer = answer_of(error)
    return answer is not None and answer.code in EXPIRED


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed when it is made again."""
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError

    answer = answer_of(error)
    if answer is not None:
        return answer.status in PASSING_STATUSES or answer.code.startswith(PASSING_CODES)
    root = root_of(error)
    if isinstance(root, ssl.SSLCertVerificationError | ValueError) or getattr(root, "filename", None):
        return False
    if is_no_tls(root) or is_no_bundle(error):
        return False
    connection = aws.ConnectionError | aws.HTTPClientError | HTTPError | OSError | http.client.HTTPException
    return isinstance(error, BodyLengthError | connection)


def is_unreachable(error: Exception) -> bool:
    """Whether there was no connection to the store at all."""
    from botocore import exceptions as aws

    return isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.ProxyConnectionError)


def in_short(error: Exception) -> str:
    """For a log line; without a secret, whatever the error says."""
    return str(answer_of(error) or type(root_of(error)).__name__)


def translated(error: Exception, at: Circumstances) -> Exception:
    """Our error, made from theirs; theirs as it is where it is none of storage: a bug, to be seen.

    Where their own text, or that of what they were made from, would give a secret away, a traceback must not show it:
    ours then has no cause. It is to be raised where theirs is no longer handled, or Python makes it the context.
    """
    meaning = meaning_of(error, at)
    if meaning is None:
        return error
    tries = f"{at.attempts} attempt{'s' if at.attempts > 1 else ''} in {at.seconds:.1f} s"
    facts = ", ".join(filter(None, (str(meaning.answer or ""), str(at.span or ""), tries)))
    quote = _KEY_OR_TOKEN.sub("***", _one_line(meaning.quote))
    quoted = f'. The store says: "{quote}"' if quote else ""
    told = "" if meaning.local else f" ({facts})"
    problem = _redact(f"{_one_line(meaning.summary)}{told}{quoted}", at.secrets)
    remedy = _redact(meaning.remedy, at.secrets)
    theirs = "\n".join(map(str, chain_of(error)))
    telling = meaning.telling or _redact(theirs, at.secrets) != theirs or quote != _one_line(meaning.quote)
    where = None if at.path is None else Where(at.path, at.span)
    made = meaning.kind(problem if where else f"object storage: {problem}", where=where, remedy=remedy, sep=". ")
    made.__cause__ = None if telling else error
    return made


def release_frames(error: BaseException) -> None:
    """Empty the finished frames that an exception's tracebacks hold, and with them the caller's buffer.

    botocore's exceptions are in reference cycles: a slab would stay alive until some garbage collection.
    """
    for each in chain_of(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            finished: FrameType | None = frame
            try:
                # The callers too: one that was handed the exception by a return is in no traceback.
                while finished is not None:
                    finished.clear()
                    finished = finished.f_back
            except RuntimeError:
                # This frame is still at work, and so are its callers.
                pass


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    # What others send may hold what a terminal obeys.
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _redact(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return _SECRET_PARTS.sub("***", text)
