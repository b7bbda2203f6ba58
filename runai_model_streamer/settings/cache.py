"""Environment variables of the node's cache."""

from typing import Final

from runai_model_streamer.settings import parsers
from runai_model_streamer.settings.setting import Setting

CACHE: Final = (
    Setting(
        "RUNAI_STREAMER_CACHE_DIR",
        "cache.folder",
        parsers.text("a folder's path"),
        "none: no cache",
        "Objects should stay on the node's disk, where the next load reads them: [the cache](cache.md). The folder "
        "has to be there.",
    ),
    Setting(
        "RUNAI_STREAMER_CACHE_SIZE",
        "cache.size",
        parsers.size(1),
        "none: a tenth of the file system stays free",
        "The cache may have this many bytes.",
    ),
    Setting(
        "RUNAI_STREAMER_CACHE_OFFLINE",
        "cache.offline",
        parsers.flag(),
        "`0`",
        "The store cannot be reached, or should not be asked: only the cache is read.",
    ),
)
"""A section of the table."""
