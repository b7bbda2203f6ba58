"""The checks of `doctor` for URLs of stores other than S3: whether what they name is there, and may be read."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.output import counted
from runai_model_streamer.config import CacheConfig, LoadConfig
from runai_model_streamer.errors import ConfigError, StreamerError
from runai_model_streamer.io.paths import scheme_of, without_query
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.settings.units import size_text

_PATIENCE: Final = 10.0
"""Seconds that a store has to answer in: longer than any that works takes, and less than people wait."""


def answers(urls: Sequence[str]) -> Iterator[Check]:
    """Open the file, or list the model, that each URL names. Each is tried once, for ten seconds at most."""
    if not urls:
        return
    try:
        config = LoadConfig.from_environment()
    except ConfigError:
        return  # `machine.settings` says so
    config = dataclasses.replace(config, cache=CacheConfig())
    hasty = dataclasses.replace(config.s3, timeout=min(config.s3.timeout, _PATIENCE), max_retries=0)
    with closing(Storage(dataclasses.replace(config, s3=hasty, verify=False), None, shared=False)) as storage:
        for url in urls:
            yield _answer(storage, url)


def _answer(storage: Storage, url: str) -> Check:
    name = scheme_of(url)
    try:
        if without_query(url).endswith(".safetensors"):
            with closing(storage.open(url)) as source:
                return Check(name, "ok", f"{source.path} answers: {size_text(source.size)}, read in ranges")
        found = storage.entries(url, lambda _: True, recursive=True)
    except StreamerError as error:
        return Check(name, "error", error.summary, error.remedy)
    return Check(name, "ok", f"{url} answers: {counted(len(found), 'file')}")
