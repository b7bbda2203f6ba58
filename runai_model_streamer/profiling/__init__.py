"""Measures loads from notebooks and scripts, with alternating settings, cold or warm caches, and a local S3 server."""

from runai_model_streamer.profiling.caches import cached_fraction, evict, warm
from runai_model_streamer.profiling.limits import measure_limit
from runai_model_streamer.profiling.loaders import measure_loaders
from runai_model_streamer.profiling.measuring import Measurement, measure, record
from runai_model_streamer.profiling.s3server import S3Server

__all__ = [
    "Measurement",
    "S3Server",
    "cached_fraction",
    "evict",
    "measure",
    "measure_limit",
    "measure_loaders",
    "record",
    "warm",
]
