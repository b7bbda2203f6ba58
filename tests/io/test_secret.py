"""Text that does not show itself."""

import pytest

from runai_model_streamer.io.secret import Link, Secret, Url, veiled, without_secrets


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


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("https://host/m?sig=text&more", "https://host/m?***"),
        ("HTTPS://host/m?sig=text", "HTTPS://host/m?***"),
        ("https:/host/m?sig=text", "https:/host/m?***"),
        (" https://host/m?sig=text", " https://host/m?***"),
        ("https://ann:word@host/m?sig=text", "https://***@host/m?***"),
        ("https://ann:wo/rd@host:80/m", "https://***@host:80/m"),
        ("https://[::1]:80/m@1", "https://[::1]:80/m@1"),
        ("https://host/m@1?sig=a@b", "https://host/m@1?***"),
        ("abfs://c@account/m?sig=text", "abfs://c@account/m?***"),
        ("https://host/m", "https://host/m"),
        ("s3://bucket/what?.safetensors", "s3://bucket/what?.safetensors"),
        ("/models/what?.safetensors", "/models/what?.safetensors"),
    ],
)
def test_of_a_url_neither_user_nor_query_is_shown(path: str, shown: str) -> None:
    assert without_secrets(path) == shown
    assert veiled(path) == path
    assert repr(veiled(path)) == repr(shown)
    assert isinstance(veiled(path), Link) == path.lstrip().lower().startswith(("http", "abfs"))
