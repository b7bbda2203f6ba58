"""Text that does not show itself."""

import pytest

from runai_model_streamer.io.secret import Secret, Url


def test_what_is_secret_is_the_text_and_does_not_show_it() -> None:
    secret = Secret("text")
    assert secret == "text"
    assert f"{secret}" == "text"
    assert repr([secret]) == "['***']"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:9000/path", "'http://host:9000/path'"),
        ("http://user:word@host:9000", "'http://***@host:9000'"),
        ("http://user:w/or@d@host", "'http://***@host'"),
        ("user:word@host", "'***@host'"),
        ("", "''"),
    ],
)
def test_a_url_does_not_show_its_user(url: str, shown: str) -> None:
    assert Url(url) == url
    assert repr(Url(url)) == shown
