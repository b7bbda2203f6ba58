"""A local folder in place of object storage, for tests of code that streams from it."""

import os
import re
from typing import Any, Final

from runai_model_streamer.files import list_safetensors, pull_files
from runai_model_streamer.io.paths import Ordered, Several, without_query
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.streamer import SafetensorsStreamer

_REMOTE: Final = re.compile(r"^(?:(?:s3|gs|az|https?)://[^/]+|hf://[^/]+/[^/]+)/*", re.IGNORECASE)
"""What the folder stands for: a bucket, a container, a host, or a repository of the Hub."""


class StreamerPatcher:
    """Replaces object storage by a local folder: `s3://any-bucket/key` becomes the file `key` in it.

    ```python
    patcher = StreamerPatcher(str(tmp_path))
    monkeypatch.setattr("engine.loader.list_safetensors", patcher.shim_list_safetensors)
    monkeypatch.setattr("engine.loader.pull_files", patcher.shim_pull_files)
    monkeypatch.setattr("engine.loader.SafetensorsStreamer", patcher.create_mock_streamer)
    ```

    URLs of other stores work, too: `hf://org/model/file` becomes the file `file`. Local paths stay as they are.

    Args:
        local_bucket_path: the folder.
    """

    def __init__(self, local_bucket_path: str | os.PathLike[str]) -> None:
        self._folder = os.fspath(local_bucket_path)

    def shim_list_safetensors(
        self, path: str | os.PathLike[str], s3_credentials: S3Credentials | None = None
    ) -> list[str]:
        """Replace `list_safetensors`. For a URL, the result is URLs."""
        found = list_safetensors(self.local(path), s3_credentials)
        text = os.fspath(path)
        if not _REMOTE.match(text):
            return found
        return [f"{text.rstrip('/')}/{os.path.basename(each)}" for each in found]

    def shim_pull_files(
        self,
        model_path: str | os.PathLike[str],
        dst: str | os.PathLike[str],
        allow_pattern: Several[str] | None = None,
        ignore_pattern: Several[str] | None = None,
        s3_credentials: S3Credentials | None = None,
    ) -> None:
        """Replace `pull_files`."""
        pull_files(self.local(model_path), dst, allow_pattern, ignore_pattern, s3_credentials)

    def create_mock_streamer(self, *_args: Any, **_kwargs: Any) -> SafetensorsStreamer:
        """Replace the class `SafetensorsStreamer`: return a streamer that reads from the folder."""
        return _LocalStreamer(self)

    def local(self, path: str | os.PathLike[str]) -> str:
        """Return the file or folder for a URL."""
        text = os.fspath(path)
        remote = _REMOTE.match(text)
        return os.path.join(self._folder, without_query(text)[remote.end() :]) if remote else text


class _LocalStreamer(SafetensorsStreamer):
    def __init__(self, patcher: StreamerPatcher) -> None:
        super().__init__()
        self._patcher = patcher

    def stream_files(self, paths: Ordered[str | os.PathLike[str]], *args: Any, **kwargs: Any) -> None:
        if not isinstance(paths, str | bytes | os.PathLike):
            paths = [self._patcher.local(path) for path in paths]
        super().stream_files(paths, *args, **kwargs)
