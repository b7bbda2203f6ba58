"""Two distributions under one import name: what to do where the original is installed too."""

import functools
import logging
from typing import Final

_log = logging.getLogger(__name__)

_ORIGINAL: Final = "runai-model-streamer"
_OURS: Final = "runai-model-streamer-cuda"


def clash() -> str | None:
    """What is wrong and what to do about it, if the original streamer is installed in this environment too.

    The search reads every folder of `sys.path`.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(_ORIGINAL)
    except PackageNotFoundError:
        return None
    except Exception as error:  # a broken installation of anything is no reason not to load
        _log.debug("cannot tell whether %s is installed: %s", _ORIGINAL, error)
        return None
    return (
        f"{_ORIGINAL} {found} is installed beside {_OURS}. Both are imported as runai_model_streamer and overwrite "
        f"each other's files. Keep one: pip uninstall -y {_ORIGINAL} && "
        f"pip install --force-reinstall --no-deps {_OURS}"
    )


@functools.cache
def warn_of_original() -> None:
    """Log a warning if the original streamer is installed in this environment; once in a process, not at import."""
    if told := clash():
        _log.warning("%s", told)
