"""The level and the destination of the package's log."""

import logging
import sys
from typing import Final

from runai_model_streamer.config import LoadConfig

_ROOT: Final = logging.getLogger("runai_model_streamer")


def configure_logging(config: LoadConfig) -> None:
    """Follow `RUNAI_STREAMER_LOG_LEVEL` and `RUNAI_STREAMER_LOG_TO_STDERR`; without them, the host's own set-up.

    The level is the host's to choose: without a setting it stays NOTSET, so that the root's counts.
    """
    ours = [handler for handler in _ROOT.handlers if isinstance(handler, _StderrHandler)]
    if config.log_level is not None:
        _ROOT.setLevel(config.log_level)
    elif any(handler.chose_level for handler in ours) and not config.log_to_stderr:
        _ROOT.setLevel(logging.NOTSET)
    if config.log_to_stderr:
        # The line at the end of a load is INFO. The host's own handlers get none of these lines.
        choose = _ROOT.level == logging.NOTSET
        if choose:
            _ROOT.setLevel(logging.INFO)
        if not ours:
            _ROOT.addHandler(_StderrHandler(chose_level=choose))
            # A handler of the host's would print every line a second time.
            _ROOT.propagate = False
    elif ours:
        for handler in ours:
            _ROOT.removeHandler(handler)
        _ROOT.propagate = True


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, *, chose_level: bool) -> None:
        super().__init__(sys.stderr)
        self.chose_level = chose_level
        self.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        # Notebooks and test runners replace sys.stderr, and close the former one.
        self.stream = sys.stderr
        super().emit(record)
