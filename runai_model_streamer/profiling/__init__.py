"""Measure loads from a notebook or a script: settings that take turns, page caches cold or warm, a local S3 server."""

from runai_model_streamer.profiling.caches import cached_fraction, evict, warm
from runai_model_streamer.profiling.measuring import Measurement, measure
from runai_model_streamer.profiling.s3server import S3Server

__all__ = ["Measurement", "S3Server", "cached_fraction", "evict", "measure", "warm"]
