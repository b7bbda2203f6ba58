"""Names of files: the same for a link that was signed again, and without a secret."""

import pytest

from runai_model_streamer.io.cache.names import hash_of, name_of, shown

PLAIN = "https://host.example/models/model.safetensors"


@pytest.mark.parametrize(
    "signature",
    [
        "X-Amz-Signature=SECRET&X-Amz-Date=1&X-Amz-Credential=KEY",
        "Expires=1&Signature=SECRET&Key-Pair-Id=KEY",
        "sv=2020&se=2026&sr=b&sp=r&sig=SECRET",
        "X-Goog-Signature=SECRET",
    ],
)
def test_what_signs_a_link_is_no_part_of_the_name(signature: str) -> None:
    assert hash_of(f"{PLAIN}?{signature}") == hash_of(PLAIN)


def test_what_else_a_query_says_tells_objects_apart() -> None:
    one, other = hash_of(f"{PLAIN}?id=1"), hash_of(f"{PLAIN}?id=2")
    assert len({one, other, hash_of(PLAIN)}) == 3
    assert hash_of(f"{PLAIN}?sig=SECRET&id=1") == one


def test_a_name_has_nothing_of_the_url_in_it() -> None:
    stem = name_of(f"{PLAIN}?key=SECRET", '"etag"', 5).stem
    assert set(stem) <= set("0123456789abcdef-")


def test_versions_and_sizes_have_names_of_their_own_that_begin_alike() -> None:
    names = {name_of(PLAIN, *each) for each in (('"one"', 5), ('"two"', 5), ('"one"', 6))}
    assert len(names) == 3
    assert {name.url for name in names} == {hash_of(PLAIN)}


def test_the_url_is_shown_without_its_query() -> None:
    assert shown(f"{PLAIN}?sig=SECRET") == PLAIN
    assert shown("s3://bucket/a?b") == "s3://bucket/a?b"
