"""An answer that is no data: a status of 400 and above, or a redirect that leads nowhere."""

from urllib.parse import urlsplit

from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.objects.requests import Refusal


class RefusedError(Exception):
    """A server refuses a request.

    Args:
        refusal: the request and its answer. Nothing of the request but its host is kept.
        redirected: the server is not the one that the user named: an earlier one redirected to it.
    """

    def __init__(self, refusal: Refusal, *, redirected: bool) -> None:
        request, reply = refusal
        self.answer = Answer.to(reply)
        super().__init__(str(self.answer))
        self.status = reply.status or 0
        self.headers = reply.headers
        self.host = urlsplit(request.url).netloc
        self.signed = bool(urlsplit(request.url).query)
        """The URL has a query, which may sign it."""
        self.authorized = "Authorization" in request.headers
        """The request had credentials."""
        self.redirected = redirected
