"""Two distributions under one import name: what to do where the original is installed too."""

import functools
import logging
from typing import Final

_log = logging.getLogger(__name__)

_ORIGINAL: Final = "runai-model-streamer"
_OURS: Final = "runai-model-streamer-cuda"


@functools.cache
def warn_of_original() -> None:
    """Log a warning if the original streamer is installed in this environment; once in a process.

    Not at import: the search reads every folder of `sys.path`.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(_ORIGINAL)
    except PackageNotFoundError:
        return
    except Exception as error:  # a broken installation of anything is no reason not to load
        _log.debug("cannot tell whether %s is installed: %s", _ORIGINAL, error)
        return
    _log.warning(
        "%s %s is installed beside %s. Both are imported as runai_model_streamer and overwrite each other's files. "
        "Keep one: pip uninstall -y %s && pip install --force-reinstall --no-deps %s",
        *(_ORIGINAL, found, _OURS, _ORIGINAL, _OURS),
    )
