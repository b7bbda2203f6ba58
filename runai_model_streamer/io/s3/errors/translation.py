"""Decides whether a failed request is retried, and makes this package's error for it.

`store` and `network` know what a failure means to the user.
"""

import re
import traceback
from collections.abc import Collection
from types import FrameType
from typing import Final

from runai_model_streamer.errors import Where
from runai_model_streamer.io.http.answers import AnswerError, printable
from runai_model_streamer.io.http.failures import REFUSED, REFUSED_STATUSES, RETRIED, RETRIED_STATUSES, UNREACHABLE
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.s3.errors.boto3_failures import chain_of, failure_of, root_of
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.store import EXPIRED, RETRIED_CODES, SLOW_DOWN, answer_of, explain

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


def is_beyond_end(error: Exception) -> bool:
    """Whether the store says that the object ends before the range begins."""
    answer = answer_of(error)
    return answer is not None and answer.status == 416


def judge(error: Exception) -> Judgement:
    """Say whether a request that ended with this error may be made again."""
    answer = answer_of(error)
    if answer is not None:
        again = answer.status in RETRIED_STATUSES or answer.code.startswith(RETRIED_CODES)
        refused = answer.status in REFUSED_STATUSES or answer.code.startswith(SLOW_DOWN)
        return Judgement(str(answer), again=again, renew=answer.code in EXPIRED, answered=True, refused=refused)
    broken = failure_of(error)
    if broken is None:
        return Judgement(type(root_of(error)).__name__, answered=isinstance(error, AnswerError))
    return Judgement(
        broken.failure.value,  # without the detail, which may hold a secret
        again=broken.failure in RETRIED,
        refused=broken.failure in REFUSED,
        unreachable=broken.failure in UNREACHABLE,
    )


def translated(error: Exception, at: RequestContext) -> Exception:
    """Make our error from botocore's or the network's. Return any other error as it is: that is a bug.

    If the original error, or one in its chain, holds a secret, ours gets no cause, so that no traceback shows it. Raise
    ours outside the except block, or Python makes the original its context.
    """
    explanation = explain(error, at)
    if explanation is None:
        return error
    tries = f"{at.attempts} attempt{'s' if at.attempts > 1 else ''} in {at.seconds:.1f} s"
    facts = ", ".join(filter(None, (str(explanation.answer or ""), str(at.span or ""), tries)))
    quote = _KEY_OR_TOKEN.sub("***", _one_line(explanation.quote))
    quoted = f'. The store says: "{quote}"' if quote else ""
    brackets = "" if explanation.local else f" ({facts})"
    problem = _redact(f"{_one_line(explanation.summary)}{brackets}{quoted}", at.secrets)
    remedy = _redact(explanation.remedy, at.secrets)
    theirs = "\n".join(map(str, chain_of(error)))
    hide_cause = (
        explanation.hide_cause or _redact(theirs, at.secrets) != theirs or quote != _one_line(explanation.quote)
    )
    where = None if at.path is None else Where(at.path, at.span)
    made = explanation.kind(problem if where else f"object storage: {problem}", where=where, remedy=remedy, sep=". ")
    made.__cause__ = None if hide_cause else error
    return made


def release_frames(error: BaseException) -> None:
    """Clear the finished frames that an exception's tracebacks hold, and so their references to the caller's buffer.

    botocore's exceptions are in reference cycles: a slab would stay alive until the next garbage collection.
    """
    for each in chain_of(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            finished: FrameType | None = frame
            try:
                # The callers too: a function that got the exception as a return value is in no traceback.
                while finished is not None:
                    finished.clear()
                    finished = finished.f_back
            except RuntimeError:
                # This frame is still running, and so are its callers.
                pass


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _redact(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return _SECRET_PARTS.sub("***", text)
