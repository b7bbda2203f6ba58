"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

from collections.abc import Sequence
from fnmatch import fnmatch

from runai_model_streamer.files import open_storage
from runai_model_streamer.files import pull_files as s3_pull_files
from runai_model_streamer.io.listing import Patterns
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials

__all__ = [
    "S3Credentials",
    "filter_allow",
    "filter_ignore",
    "is_azure_path",
    "is_gs_path",
    "is_s3_path",
    "removeprefix",
    "s3_glob",
    "s3_pull_files",
]


def is_s3_path(path: str) -> bool:
    """Whether the path is an s3:// URL."""
    return path.startswith("s3://")


def is_gs_path(path: str) -> bool:
    """Whether the path is a gs:// URL."""
    return path.startswith("gs://")


def is_azure_path(path: str) -> bool:
    """Whether the path is an az:// URL."""
    return path.startswith("az://")


def s3_glob(
    path: str, allow_pattern: Sequence[str] | None = None, s3_credentials: S3Credentials | None = None
) -> list[str]:
    """The URLs of the objects under a prefix, but not in folders below it; raises as `list_safetensors`.

    Args:
        path: `s3://bucket/prefix`, with or without a slash behind it.
        allow_pattern: as for `pull_files`.
        s3_credentials: as for `list_safetensors`.
    """
    folder, patterns = as_path(path), Patterns.of(allow_pattern, None)
    before = folder if folder.endswith("/") else f"{folder}/"
    with open_storage(s3_credentials) as (storage, _):
        found = storage.entries(folder, lambda name: patterns.chooses(name, before), recursive=False)
    return [entry.path for entry in found]


def filter_allow(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The paths that one of the patterns matches."""
    return [path for path in paths if any(fnmatch(path, pattern) for pattern in patterns)]


def filter_ignore(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The paths that none of the patterns matches."""
    return [path for path in paths if not any(fnmatch(path, pattern) for pattern in patterns)]


def removeprefix(s: str, prefix: str) -> str:
    """`s` without the prefix, if it has it."""
    return s.removeprefix(prefix)
