"""What is said of a cache that cannot be used, has no room or is damaged."""

import errno
import logging
import threading
from collections.abc import Sequence
from typing import Final

from runai_model_streamer.io.cache.extents import Piece
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Trouble:
    """Notes that the cache cannot be used, or not be written to. The load goes on without it.

    Args:
        folder: the user's folder, for messages.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.why: str | None = None
        """What was first wrong; None: nothing was."""
        self._warned_of_room = False

    def report(self, why: str) -> None:
        """Note why the cache cannot be used, and warn, unless that was done before."""
        with self._lock:
            if self.why is not None:
                return
            self.why = why
        _log.warning("RUNAI_STREAMER_CACHE_DIR=%s: %s. The load goes on without it", self._folder, why)

    def cannot_write(self, error: OSError) -> None:
        """Note that a write failed."""
        said = error.strerror or str(error)
        full = error.errno in _FULL
        self.report(f"its disk is full, or a limit of it is reached ({said})" if full else f"cannot be written: {said}")

    def cannot_read(self, error: Exception) -> None:
        """Note that a read failed."""
        self.report(f"cannot be read: {getattr(error, 'strerror', None) or error}")

    def no_room(self, path: str, *, sized: bool) -> None:
        """Note that an object gets no room. Warn once if that is for want of a size: the user may expect a cache."""
        _log.info("%s: not cached: the cache has no room for it", path)
        with self._lock:
            warned, self._warned_of_room = self._warned_of_room, True
        if not (sized or warned):
            _log.warning(
                "RUNAI_STREAMER_CACHE_DIR=%s: nothing more is cached: without a size, a cache leaves a tenth of its "
                "disk free, and less is. Free some of it, or set RUNAI_STREAMER_CACHE_SIZE",
                self._folder,
            )

    def damaged(self, path: str, pieces: Sequence[Piece]) -> None:
        """Warn of pieces that are fetched again."""
        first = ByteRange(pieces[0].start, pieces[0].end)
        more = f" and {len(pieces) - 1} more pieces" if len(pieces) > 1 else ""
        _log.warning(
            "%s: %s%s were damaged in the cache %s: they do not have their checksum. They are fetched again",
            path, first, more, self._folder,
        )  # fmt: skip
