"""`S3Server` serves local files as objects of an S3 bucket, from a separate process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from runai_model_streamer.errors import ArgumentError, StreamerError
from runai_model_streamer.profiling import range_server

BUCKET: Final = "local"
_PATIENCE: Final = 10.0


class S3Server:
    """Serves `files` as `s3://local/<file name>` on a free port of 127.0.0.1. It checks no signatures.

    It is for tests, demonstrations and measurements on one machine. It supports ranges, HEAD and If-Match, but neither
    listing nor writing. It runs in a separate process, which ends with `close`, with the `with` block, or with the
    process that started it.

    Args:
        files: local paths; their names are the keys.
        latency: seconds before each request is answered.
        bandwidth: the most bytes per second of each connection; None for no limit.

    Raises:
        FileNotFoundError: a file is missing.
        ArgumentError: two files have the same name.
        StreamerError: the process does not start.
    """

    def __init__(
        self, files: Sequence[str | os.PathLike[str]], *, latency: float = 0.0, bandwidth: float | None = None
    ) -> None:
        self.files: tuple[Path, ...] = tuple(Path(path).resolve(strict=True) for path in files)
        keys = {path.name: str(path) for path in self.files}
        if len(keys) < len(self.files):
            raise ArgumentError(f"several files have one name, which is their key: {', '.join(map(str, self.files))}")
        self.urls = tuple(f"s3://{BUCKET}/{path.name}" for path in self.files)
        """URLs of the objects, in the order of the files."""
        task = {"bucket": BUCKET, "files": keys, "latency": latency, "bandwidth": bandwidth}
        self._process = subprocess.Popen(
            # Run it by path and isolated (-I), since importing this package would import torch.
            [sys.executable, "-I", range_server.__file__, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a notebook's interrupt must reach the load, not the server
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.close()
            raise StreamerError(f"the local S3 server ended at once, with status {self._process.returncode}")
        self.endpoint = f"http://127.0.0.1:{port}"
        """The server's URL."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that select this server: `os.environ.update(server.environment)`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def close(self) -> None:
        """End the process. Idempotent."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"S3Server({', '.join(self.urls)} at {self.endpoint})"
