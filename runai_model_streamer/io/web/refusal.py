"""The error for an answer without data: a status of 400 and above, or a redirect without a target."""

from urllib.parse import urlsplit

from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.objects.requests import Refusal


class RefusedError(Exception):
    """A server refuses a request.

    Args:
        refusal: the request and its answer. Only the host of the request is kept.
        redirected: whether the user named another server, which redirected to this one.
    """

    def __init__(self, refusal: Refusal, *, redirected: bool) -> None:
        request, reply = refusal
        # Azure says in a header what it refuses; no other server has it.
        self.answer = Answer.to(reply)._replace(code=reply.headers.get("x-ms-error-code", ""))
        super().__init__(str(self.answer))
        self.status = reply.status or 0
        self.headers = reply.headers
        self.host = urlsplit(request.url).netloc
        self.signed = bool(urlsplit(request.url).query)
        """Whether the URL has a query, which may sign it."""
        self.authorized = "Authorization" in request.headers
        """Whether the request had credentials."""
        self.redirected = redirected
        self.text = reply.text
        """The beginning of the body."""
