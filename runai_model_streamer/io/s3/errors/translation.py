"""A failure of a request: whether to make it again, and this package's error for it.

What it means to the user is known in `store` and `network`.
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
from runai_model_streamer.io.s3.errors.meaning import Circumstances
from runai_model_streamer.io.s3.errors.store import EXPIRED, RETRIED_CODES, SLOW_DOWN, answer_of, meaning_of

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


def judge(error: Exception) -> Judgement:
    """Whether to make a request again that ended so."""
    answer = answer_of(error)
    if answer is not None:
        again = answer.status in RETRIED_STATUSES or answer.code.startswith(RETRIED_CODES)
        refused = answer.status in REFUSED_STATUSES or answer.code.startswith(SLOW_DOWN)
        return Judgement(str(answer), again=again, renew=answer.code in EXPIRED, answered=True, refused=refused)
    broken = failure_of(error)
    if broken is None:
        return Judgement(type(root_of(error)).__name__, answered=isinstance(error, AnswerError))
    return Judgement(
        broken.failure.value,  # without the detail, which may give a secret away
        again=broken.failure in RETRIED,
        refused=broken.failure in REFUSED,
        unreachable=broken.failure in UNREACHABLE,
    )


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
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _redact(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return _SECRET_PARTS.sub("***", text)
