"""Parses URLs of buckets and keys: s3:// and gs://."""

from typing import NamedTuple

from runai_model_streamer.errors import ArgumentError, IsDirectoryError


class Location(NamedTuple):
    """A bucket, and a key or prefix in it, exactly as written: nothing is percent-decoded."""

    bucket: str
    key: str

    @classmethod
    def of_object(cls, url: str, scheme: str = "s3") -> "Location":
        """Parse s3://bucket/key.

        Raises:
            ArgumentError: not a URL of this form.
            IsDirectoryError: the key ends in a slash.
        """
        location = _split(url, scheme)
        if location is None or not location.key:
            problem, remedy = (
                f"{url!r} does not name an object",
                f"write {scheme}://bucket/key; list_safetensors lists them",
            )
            raise ArgumentError(problem, where=url, lead=None, remedy=remedy, sep=": ")
        if location.key.endswith("/"):
            remedy = "name one file; list_safetensors lists them"
            raise IsDirectoryError("a prefix of keys, not an object", where=url, remedy=remedy, sep=": ")
        return location

    @classmethod
    def of_prefix(cls, url: str, scheme: str = "s3") -> "Location":
        """Parse s3://bucket or s3://bucket/prefix. The prefix gets a final slash if it has none.

        Raises:
            ArgumentError: not a URL of this form.
        """
        location = _split(url, scheme)
        if location is None:
            problem, remedy = f"{url!r} does not name a bucket", f"write {scheme}://bucket or {scheme}://bucket/prefix"
            raise ArgumentError(problem, where=url, lead=None, remedy=remedy, sep=": ")
        bucket, key = location
        return cls(bucket, key if not key or key.endswith("/") else f"{key}/")


def _split(url: str, scheme: str) -> Location | None:
    found, separator, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return Location(bucket, key) if found == scheme and separator and bucket else None
