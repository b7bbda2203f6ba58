"""Pulls a folder or prefix: lists the files, finds those that are missing, and fetches them."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Final, Protocol

from runai_model_streamer.config import UNLIMITED, LoadConfig
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.io.descriptors import at_most_allowed
from runai_model_streamer.io.listing import Entry, Patterns
from runai_model_streamer.io.paths import is_object, kind_of
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.mirror.fetch import fetch
from runai_model_streamer.mirror.locks import locked
from runai_model_streamer.mirror.target import COMPLETE, TargetFolder, as_files, file_name
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.connections import ConnectionPace, thread_seconds
from runai_model_streamer.pipeline.memory.headroom import available_bytes
from runai_model_streamer.settings.units import size_text

_log = logging.getLogger(__name__)

MIN_MEMORY: Final = 256 << 10
"""The smallest memory bound of a pull, in bytes: what opening an object reads."""


MEMORY_SHARE: Final = 16
"""A pull without a limit holds this part of the memory that is left, if more connections than at first need it."""


class Watcher(Protocol):
    """Follows the progress of a pull."""

    def begin(self, missing: Sequence[Entry]) -> None:
        """Note the files that will be fetched. The others are already local."""
        ...

    def landed(self, count: int) -> None:
        """Note that `count` more bytes were written. Many threads call it."""
        ...


def pull(
    storage: Storage,
    source: str,
    target: str,
    patterns: Patterns,
    config: LoadConfig,
    watcher: Watcher | None = None,
) -> list[Entry]:
    """Copy the files of `source` that `patterns` choose to `target`, except those already there. Return all of them.

    Args:
        storage: lists and opens the files.
        source: a folder or prefix.
        target: a local folder.
        patterns: chooses the files.
        config: the settings.
        watcher: follows the progress.

    Raises:
        StreamerError: the same errors as `pull_files`.
    """
    started = time.perf_counter()
    wanted = _wanted(storage, source, target, patterns)
    if not wanted and watcher is None:  # who watches says so himself
        _log.warning("[RunAI Streamer] %s: %s", source, none_chosen(patterns))
    with TargetFolder(target) as destination, locked(destination.fd, target) as alone:
        if alone:
            destination.sweep(entry.name for entry in wanted)
        missing = [entry for entry in wanted if not destination.has(entry)]
        if watcher is not None:
            watcher.begin(missing)
        landed = None if watcher is None else watcher.landed
        kind = kind_of(source)
        pace = _pace(storage, config, kind)
        memory = bounds(config, kind, pace.maximum, available_bytes())
        fetch(storage, missing, destination, pace, *memory, landed)
        destination.sync()
    _log.info(
        "[RunAI Streamer] Pulled %d files, %s, from %s to %s in %.1fs; %d were there",
        len(missing),
        size_text(sum(entry.size for entry in missing)),
        source,
        target,
        time.perf_counter() - started,
        len(wanted) - len(missing),
    )
    return wanted


def missing_files(
    storage: Storage, source: str, target: str, patterns: Patterns
) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """Return the files that `pull` would copy or keep, and those of them that it would copy. Nothing is written.

    Raises:
        StreamerError: a file or the folder cannot be read, or a name cannot be a file's.
    """
    wanted = _wanted(storage, source, target, patterns)
    if not os.path.isdir(target):
        return wanted, wanted
    with TargetFolder(target) as destination:
        return wanted, [entry for entry in wanted if not destination.has(entry)]


def _wanted(storage: Storage, source: str, target: str, patterns: Patterns) -> list[Entry]:
    _check_target(source, target)
    before = storage.key_of(source)

    def chosen(name: str) -> bool:
        return file_name(name) != COMPLETE and patterns.chooses(name, before)

    return as_files(source, storage.entries(source, chosen, recursive=True))


def none_chosen(patterns: Patterns) -> str:
    """Return the message for patterns that choose no file."""
    said = [
        f"{name} {', '.join(map(repr, given))}"
        for name, given in (("allow", patterns.allow), ("ignore", patterns.ignore))
        if given
    ]
    if patterns.allow == ():
        said.append("allow nothing")
    return f"no file is chosen by the patterns: {'; '.join(said)}" if said else "has no files"


def _check_target(source: str, target: str) -> None:
    if is_object(target):
        raise ArgumentError("files are pulled to a local folder, not to object storage", where=target)
    if not is_object(source):
        outer = os.path.realpath(source)
        if os.path.commonpath([outer, os.path.realpath(target)]) == outer:
            raise ArgumentError(
                f"is {source} itself, or a folder in it", where=target, remedy="pull into another folder"
            )


def _pace(storage: Storage, config: LoadConfig, kind: SourceKind) -> ConnectionPace:
    """Return what finds the number of reads in flight: of files it stays the same."""
    first, maximum = config.concurrency_for(kind), config.max_concurrency_for(kind)
    fixed = kind is SourceKind.FILE or config.s3.connections is not None
    if kind is SourceKind.OBJECT:
        maximum = at_most_allowed(maximum)
    minimum = first if fixed else 1
    return ConnectionPace(first, maximum, time.perf_counter(), lambda: storage.refusals, minimum, thread_seconds)


def bounds(config: LoadConfig, kind: SourceKind, maximum: int, left: int | None) -> tuple[int, int]:
    """Return the most bytes of one read, and the most bytes held.

    Args:
        config: the settings.
        kind: what is read.
        maximum: the most reads in flight.
        left: bytes of memory that the machine, or the control group, has left; None if unknown.
    """
    chunk = config.chunk_for(kind)
    memory = maximum * chunk
    if config.memory_limit == UNLIMITED:
        # Pods that only pull are often small.
        return chunk, min(memory, max(config.concurrency_for(kind) * chunk, (left or 0) // MEMORY_SHARE))
    memory = min(memory, max(config.memory_limit, MIN_MEMORY)) if config.memory_limit else chunk
    return min(chunk, memory), memory
