"""`load_file`: all tensors of a file, in a dict."""

import os

import torch

from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.settings.streamer_config import StreamerConfig
from runai_model_streamer.streamer import SafetensorsStreamer


def load_file(
    filename: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype | None = None,
    s3_credentials: S3Credentials | None = None,
    config: StreamerConfig | None = None,
) -> dict[str, torch.Tensor]:
    """Load all tensors of a safetensors file. `safetensors.torch.load_file` with the streamer's reads.

    The settings are the streamer's (`RUNAI_STREAMER_*`). To handle tensors while the next ones arrive, or to keep
    memory within a limit, use `SafetensorsStreamer`.

    Args:
        filename: a local path or an `s3://bucket/key` URL.
        device: where the tensors should be.
        dtype: see `SafetensorsStreamer.stream_files`.
        s3_credentials: for object storage, instead of those that boto3 finds.
        config: settings that win over the environment's.

    Returns:
        Each tensor by its name, in file order. The tensors are the caller's.

    Raises:
        StreamerError: as `SafetensorsStreamer.stream_files`.
    """
    filename = veiled(filename)
    with SafetensorsStreamer(config) as streamer:
        streamer.stream_file(filename, s3_credentials, device, dtype=dtype)
        return dict(streamer.get_tensors())
