"""Settings that a program gives to one streamer, instead of setting environment variables."""

import difflib
from collections.abc import Mapping
from typing import Final, TypeAlias

from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.settings.table import SETTINGS

Settings: TypeAlias = Mapping[str, str | float | bool]
"""Name of an environment variable -> its value. True and False count as 1 and 0."""

_SECRET: Final[Mapping[str, bool]] = {setting.name: setting.secret for setting in SETTINGS}
"""Name of each setting -> whether nothing may show its value."""


def as_variables(settings: Settings) -> dict[str, str]:
    """Return settings as the environment variables that they win over.

    Raises:
        ArgumentError: there is no such setting.
        ArgumentTypeError: a value is neither text nor a number.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if name not in _SECRET:
            similar = difflib.get_close_matches(str(name), _SECRET, 1)
            remedy = f"did you mean {similar[0]}?" if similar else "docs/environment.md lists them"
            raise ArgumentError(f"{name!r} is not a setting", remedy=remedy)
        if not isinstance(value, str | int | float):
            raise ArgumentTypeError(f"the setting {name} is text or a number, not {type(value).__name__}")
        text = str(int(value)) if isinstance(value, bool) else str(value)
        found[name] = Secret(text) if _SECRET[name] else Url(text)
    return found
