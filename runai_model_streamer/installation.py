"""How this package is installed, and a check for the original streamer, which has the same import name."""

import functools
import logging
from typing import Final, NamedTuple

_log = logging.getLogger(__name__)

NAME: Final = "runai-model-streamer-cuda"
"""The distribution's name. No index has it: `pip install` of it would fetch whatever somebody else uploads as that."""

SOURCE: Final = "."
"""What pip installs it from: a checkout. When there is a release, its index or URL; docs/install.md is the page."""

_ORIGINAL: Final = "runai-model-streamer"


def install_command(extra: str) -> str:
    """What to type, and where, for this package with an extra, such as "s3"."""
    return f"pip install -e '{SOURCE}[{extra}]' in a checkout of {NAME} (docs/install.md)"


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
        f"{_ORIGINAL} {found} is installed together with {NAME}. Both are imported as runai_model_streamer and "
        "overwrite each other's files.",
        f"pip uninstall -y {_ORIGINAL} && pip install --force-reinstall "
        f"--no-deps -e {SOURCE} in a checkout of {NAME} (docs/install.md)",
    )


@functools.cache
def warn_of_original() -> None:
    """Log a warning, once in a process, if the original streamer is installed in this environment."""
    if found := clash():
        _log.warning("%s", found)
