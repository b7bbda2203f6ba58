"""Variables of the environment that look like settings of this package and are none: misspelt, or another version's."""

import difflib
import functools
import logging
import os
from typing import Final

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.secret import Url

_log = logging.getLogger(__name__)

PREFIX: Final = "RUNAI_STREAMER_"

_ALIKE: Final = 0.8
"""From 0 to 1, as difflib counts it: MEMORY_LIMT and CHUNK_SIZE are this much like a setting."""


class _Asked(dict[str, str]):
    """An empty environment, which keeps the names that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)


@functools.cache
def _settings() -> frozenset[str]:
    """The names of all settings, without the prefix."""
    environment = _Asked()
    StreamerConfig.from_environment(environment)
    return frozenset(name.removeprefix(PREFIX) for name in environment.names if name.startswith(PREFIX))


def settings_in_environment() -> dict[str, Url]:
    """The settings of this package that are set, with their values, of which some are URLs."""
    names = (PREFIX + name for name in sorted(_settings()))
    return {name: Url(os.environ[name]) for name in names if name in os.environ}


def unknown_in_environment() -> dict[str, str | None]:
    """What looks like a setting and is none, with the setting that it is most like."""
    unknown: dict[str, str | None] = {}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.removeprefix(PREFIX) not in _settings():
            rest = name.upper().removeprefix(PREFIX)
            # Who misspells a name gets its beginning right; OBJ_CONCURRENCY is the original's.
            alike = difflib.get_close_matches(
                rest, [known for known in _settings() if known[:1] == rest[:1]], 1, _ALIKE
            )
            unknown[name] = PREFIX + alike[0] if alike else None
    return unknown


def warn_of_misspelt() -> None:
    """Log a warning for each variable that is nearly a setting; once in a process, not at import.

    Not for those that are like none: the original streamer has settings that this one has no use for.
    """
    for name, meant in unknown_in_environment().items():
        if meant is not None:
            _warn(name, meant)


@functools.cache
def _warn(name: str, meant: str) -> None:
    _log.warning("%s is no setting, and ignored: is %s meant?", name, meant)
