"""Explains failures on the way to S3, with what its users can check."""

from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.network import CHECK_WAY, Way, explain_failure
from runai_model_streamer.io.s3.errors.boto3_failures import failure_of
from runai_model_streamer.io.s3.errors.explanation import RequestContext


def explain_network(error: Exception, at: RequestContext) -> Explanation | None:
    """Explain an exception of the network or of botocore; None for any other."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        # It quotes the whole answer, which may be one with credentials.
        problem = "the answer is neither a store's nor a credential provider's"
        return Explanation(ReadError, problem, _check_way("", at), hide_cause=True)
    broken = failure_of(error)
    if broken is not None:
        host = broken.host or "the store"
        return explain_failure(broken, host, _way(host, at))
    if isinstance(error, aws.BotoCoreError):
        return Explanation(ReadError, f"botocore failed ({type(error).__name__}): {error}", _check_way("the store", at))
    return None


def _way(host: str, at: RequestContext) -> Way:
    plain = at.provenance.with_scheme("http") or "http:// instead of https://"
    return Way(
        timeout=at.timeout,
        opening=at.opening,
        check=_check_way(host, at),
        authorities="Set AWS_CA_BUNDLE to a file with the certificate of the authority that issued it.",
        no_authorities=(
            "AWS_CA_BUNDLE names it, else the profile's ca_bundle, else REQUESTS_CA_BUNDLE: name a file of "
            "certificates in PEM form there, or unset it."
        ),
        plain=f"{at.provenance.endpoint_sentence()} Write {plain}, or the port at which it speaks TLS.".lstrip(),
        wants_tls=wants_tls(at),
        credentials=(
            "Look for a line break, or a letter that is not ASCII, in AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN."
        ),
    )


def wants_tls(at: RequestContext) -> str:
    """Return the hint to try https://; "" if the endpoint has it already."""
    if not at.provenance.endpoint.startswith("http://"):
        return ""
    return f"If it speaks TLS at this port, write {at.provenance.with_scheme('https')} instead."


def _check_way(host: str, at: RequestContext) -> str:
    endpoint = at.provenance.endpoint_sentence() or (
        "The endpoint is AWS's, or the one in AWS_ENDPOINT_URL, RUNAI_STREAMER_S3_ENDPOINT or S3Credentials(...)."
    )
    if at.provenance.is_aws:
        return f"{endpoint} For AWS, check the network, and HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    check = f"{endpoint} {CHECK_WAY}"
    if host.startswith(f"{at.bucket}."):
        check += " If the store has no host name for each bucket, set RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING=0."
    return check
