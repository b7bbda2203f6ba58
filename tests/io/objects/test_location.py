"""What an s3:// URL names, and what is said of one that names nothing."""

import pytest

from runai_model_streamer.errors import ArgumentError, IsDirectoryError
from runai_model_streamer.io.objects.location import Location


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket/key", Location("bucket", "key")),
        ("s3://bucket/a/b.safetensors", Location("bucket", "a/b.safetensors")),
        ("s3://bucket//a", Location("bucket", "/a")),
        ("s3://bucket/a%20b?c#d", Location("bucket", "a%20b?c#d")),
        ("s3://tenant:bucket/key", Location("tenant:bucket", "key")),
        ("s3://bucket/s3://key", Location("bucket", "s3://key")),
    ],
)
def test_an_objects_key_is_taken_as_it_is_written(url: str, location: Location) -> None:
    assert Location.of_object(url) == location


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "s3:///key", "s3://", "bucket/key", "file://bucket/key"]
)
def test_what_names_no_object_is_an_error_that_shows_it(url: str) -> None:
    with pytest.raises(ArgumentError, match=f"'{url}' does not name an object"):
        Location.of_object(url)


def test_a_folders_key_is_no_object() -> None:
    with pytest.raises(IsDirectoryError, match="s3://bucket/folder/: a prefix of keys"):
        Location.of_object("s3://bucket/folder/")


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("s3://bucket", ""),
        ("s3://bucket/", ""),
        ("s3://bucket/a", "a/"),
        ("s3://bucket/a/", "a/"),
        ("s3://b/a//", "a//"),
    ],
)
def test_a_prefix_ends_in_a_slash_unless_it_is_all_of_the_bucket(url: str, prefix: str) -> None:
    assert Location.of_prefix(url).key == prefix


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "/a"])
def test_what_names_no_bucket_is_an_error_that_shows_it(url: str) -> None:
    with pytest.raises(ArgumentError, match=f"'{url}' does not name a bucket"):
        Location.of_prefix(url)
