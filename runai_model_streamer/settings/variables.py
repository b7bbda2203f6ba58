"""Finds environment variables that do not do what they seem to: misspelt settings, and numbers above a maximum."""

import difflib
import functools
import logging
import os
from contextlib import suppress
from typing import Final

from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.settings.table import PREFIX, SETTINGS

_log = logging.getLogger(__name__)

_NAMES: Final = frozenset(setting.name.removeprefix(PREFIX) for setting in SETTINGS if setting.name.startswith(PREFIX))
"""Names of all settings, without the prefix."""

_SECRET: Final = frozenset(setting.name for setting in SETTINGS if setting.secret)

_SIMILARITY: Final = 0.8
"""From 0 to 1, as difflib computes it. MEMORY_LIMT and CHUNK_SIZE are this similar to a setting."""


def settings_in_environment() -> dict[str, str]:
    """Return the settings of this package that are set, with their values, as `Url` or as `Secret`."""
    names = (PREFIX + name for name in sorted(_NAMES))
    return {name: (Secret if name in _SECRET else Url)(os.environ[name]) for name in names if name in os.environ}


def unknown_in_environment() -> dict[str, str | None]:
    """Return the variables that look like settings but are unknown, each with the most similar setting."""
    unknown: dict[str, str | None] = {}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.removeprefix(PREFIX) not in _NAMES:
            rest = name.upper().removeprefix(PREFIX)
            # A misspelt name begins like the right one. OBJ_CONCURRENCY is a setting of the original.
            candidates = [known for known in _NAMES if known[:1] == rest[:1]]
            similar = difflib.get_close_matches(rest, candidates, 1, _SIMILARITY)
            unknown[name] = PREFIX + similar[0] if similar else None
    return unknown


def clamped_in_environment() -> dict[str, int]:
    """Return the settings that hold a number above their maximum, each with the maximum, which is used instead."""
    clamped: dict[str, int] = {}
    for setting in SETTINGS:
        maximum = setting.parser.maximum
        with suppress(ValueError):
            if maximum is not None and int(os.environ.get(setting.name, "0")) > maximum:
                clamped[setting.name] = maximum
    return clamped


def warn_of_settings() -> None:
    """Log a warning for each variable that is nearly a setting, and for each number above a maximum.

    Each warning appears once in a process. Variables that resemble no setting are ignored: the original streamer has
    settings that this one does not need.
    """
    for name, meant in unknown_in_environment().items():
        if meant is not None:
            _warn("Unknown setting %s is ignored. Did you mean %s?", name, meant)
    for name, maximum in clamped_in_environment().items():
        _warn("%s is above its maximum, and counts as %d.", name, maximum)


@functools.cache
def _warn(message: str, *values: object) -> None:
    _log.warning(message, *values)
