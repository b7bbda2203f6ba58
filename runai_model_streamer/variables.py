"""Variables of the environment that look like settings of this package and are none: misspelt, or another version's."""

import difflib
import functools
import logging
import os
from typing import Final

from runai_model_streamer.config import StreamerConfig

_log = logging.getLogger(__name__)

PREFIX: Final = "RUNAI_STREAMER_"

_ALIKE: Final = 0.8
"""From 0 to 1, as difflib counts it: MEMORY_LIMT and CHUNK_SIZE are meant to be settings, another version's are not."""


class _Asked(dict[str, str]):
    """The environment, which keeps the names that it is asked for."""

    def __init__(self) -> None:
        super().__init__(os.environ)
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)


def settings_in_environment() -> tuple[dict[str, str], dict[str, str | None]]:
    """The settings of this package that are set, with their values; and what is none, with the setting most like it.

    Raises:
        ConfigError: a value that cannot be used.
    """
    environment = _Asked()
    StreamerConfig.from_environment(environment)
    given: dict[str, str] = {}
    unknown: dict[str, str | None] = {}
    known = {name.removeprefix(PREFIX) for name in environment.names if name.startswith(PREFIX)}
    for name, value in sorted(environment.items()):
        if name in environment.names:
            if name.startswith(PREFIX):
                given[name] = value
        elif name.upper().startswith(PREFIX):
            alike = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, 1, _ALIKE)
            unknown[name] = PREFIX + alike[0] if alike else None
    return given, unknown


def warn_of_misspelt() -> None:
    """Log a warning for each variable that is nearly a setting; once in a process, not at import.

    Not for those that are like none: the original streamer has settings that this one has no use for.
    """
    for name, meant in settings_in_environment()[1].items():
        if meant is not None:
            _warn(name, meant)


@functools.cache
def _warn(name: str, meant: str) -> None:
    _log.warning("%s is no setting, and ignored: is %s meant?", name, meant)
