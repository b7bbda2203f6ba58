"""Decides whether a failed request is retried, and makes this package's error for it.

`store` and `network` know what a failure means to the user.
"""

from runai_model_streamer.io.http.answers import AnswerError
from runai_model_streamer.io.http.failures import REFUSED, REFUSED_STATUSES, RETRIED, RETRIED_STATUSES, UNREACHABLE
from runai_model_streamer.io.http.retries import Attempts, Judgement
from runai_model_streamer.io.objects.errors.translation import error_of
from runai_model_streamer.io.s3.errors.boto3_failures import failure_of, root_of
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.store import EXPIRED, RETRIED_CODES, SLOW_DOWN, answer_of, explain


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
    """Make our error from botocore's or the network's; see `error_of`. Return any other as it is: that is a bug."""
    explanation = explain(error, at)
    if explanation is None:
        return error
    return error_of(explanation, error, at.path, at.span, Attempts(at.attempts, at.seconds), at.secrets)
