"""The explanation of a failure: the data that an error of this package is made from."""

from typing import NamedTuple

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.http.answers import Answer


class Explanation(NamedTuple):
    """What a failure means to the user: our error class, what happened, what to do."""

    kind: type[StreamerError]
    summary: str
    remedy: str
    answer: Answer | None = None
    quote: str = ""
    """The store's own words."""
    hide_cause: bool = False
    """The original error's text may hold a secret, so it must not be the cause of ours."""
    local: bool = False
    """No request was made."""
