"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

from runai_model_streamer.io.s3.credentials import S3Credentials

__all__ = ["S3Credentials"]
