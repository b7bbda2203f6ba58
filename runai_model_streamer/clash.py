"""A check for the original streamer, which has the same import name."""

import functools
import logging
from typing import Final, NamedTuple

_log = logging.getLogger(__name__)

_ORIGINAL: Final = "runai-model-streamer"
_OURS: Final = "runai-model-streamer-cuda"


class Clash(NamedTuple):
    """The original streamer is installed in this environment too."""

    problem: str
    remedy: str
    """A command."""

    def __str__(self) -> str:
        return f"{self.problem} Keep one: {self.remedy}"


def clash() -> Clash | None:
    """Look for the original streamer in every folder of `sys.path`; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(_ORIGINAL)
    except PackageNotFoundError:
        return None
    except Exception as error:  # a broken installation of another package must not prevent a load
        _log.debug("cannot tell whether %s is installed: %s", _ORIGINAL, error)
        return None
    return Clash(
        f"{_ORIGINAL} {found} is installed together with {_OURS}. Both are imported as runai_model_streamer and "
        "overwrite each other's files.",
        f"pip uninstall -y {_ORIGINAL} && pip install --force-reinstall --no-deps {_OURS}",
    )


@functools.cache
def warn_of_original() -> None:
    """Log a warning, once in a process, if the original streamer is installed in this environment."""
    if found := clash():
        _log.warning("%s", found)
