"""The life of a streamer: settings, one load at a time, the iterator over its tensors, the end."""

import logging
import os
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import torch

from runai_model_streamer.clash import warn_of_original
from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.errors import ConfigError, StateError, StreamerError
from runai_model_streamer.logs import configure_logging, size_text
from runai_model_streamer.pipeline.stream import Load, Tensors

if TYPE_CHECKING:
    from runai_model_streamer.distributed.sharing import Sharing

_log: Final = logging.getLogger("runai_model_streamer.streamer")
"""Of the module that users import: what they filter by."""


class Streamer:
    """What `SafetensorsStreamer` and `FileStreamer` share.

    A streamer belongs to the process that made it, and its methods to one thread at a time. One load runs at a time; a
    new one ends the one before.
    """

    def __init__(self) -> None:
        self._load: Load | None = None
        self._closed = False
        self._pid = os.getpid()
        self._device = torch.device("cpu")
        self._started = 0.0
        self._reports = True
        self.total_size = 0
        """Bytes of all tensors of the current load, as they are in the files."""

    def __enter__(self) -> Self:
        self._check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StreamerError as another:
            if error is None:
                raise
            _log.warning("while closing after %s: %s", type(error).__name__, another)

    @contextmanager
    def _beginning(self, is_distributed: bool) -> Iterator[tuple[StreamerConfig, "Sharing | None"]]:
        """End the load before, and begin the next in the context: with the settings as they are in the environment now.

        And with the other ranks where it is shared. They wait for this one, and so are told what is raised here.
        """
        self._check_usable()
        self._end_load()
        self.total_size = 0  # so that a call that fails does not leave another load's behind
        try:
            config = StreamerConfig.from_environment()
        except ConfigError:
            if is_distributed:
                with _joined(StreamerConfig.for_ranks()):
                    raise
            raise
        configure_logging(config)
        warn_of_original()
        self._started = time.perf_counter()
        if is_distributed:
            with _joined(config) as sharing:
                self._reports = sharing is None or sharing.reports
                yield config, sharing
        else:
            self._reports = True
            yield config, None

    def _follow(self, load: Load, size: int) -> None:
        """Take on a load that has started, whose tensors have `size` bytes in all."""
        self._load, self.total_size = load, size

    def _tensors(self, calls: str) -> Tensors:
        """The current load's tensors, on the device asked for. `calls`: what starts a load."""
        self._check_usable()
        load = self._load
        if load is None:
            raise StateError(f"nothing to stream: call {calls} first")
        return self._placed(load, load.tensors())

    def _placed(self, load: Load, tensors: Tensors) -> Generator[tuple[str, torch.Tensor]]:
        size = self.total_size
        try:
            if load.device == self._device:
                yield from tensors
            else:
                for name, tensor in tensors:
                    yield name, tensor.to(self._device)
        finally:
            # Explicitly: an abandoned iterator ends the load now, not when its frame is collected.
            tensors.close()
        if self._reports:
            self._log_throughput(size)

    def _log_throughput(self, size: int) -> None:
        seconds = time.perf_counter() - self._started
        # Tools parse this line.
        _log.info(
            "[RunAI Streamer] Overall time to stream %s of all files to %s: %.1fs, %s/s",
            size_text(size),
            self._device,
            seconds,
            size_text(size / seconds),
        )

    def close(self) -> None:
        """End the load: stop reading, end the threads, free what the caller does not use. Idempotent.

        A streamer that has been closed cannot stream again.
        """
        self._closed = True
        if self._pid == os.getpid():
            self._end_load()

    def _end_load(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.close()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise StateError("this streamer was made before a fork; its threads are the parent's: make a new one here")
        if self._closed:
            raise StateError("this streamer is closed: make a new one")

    def __del__(self) -> None:
        load = getattr(self, "_load", None)
        if load is not None and load.open and self._pid == os.getpid():
            # Not close: a finaliser may run in any thread, also in one of the load's own.
            # And before the warning, which may be an error.
            load.stop()
            message = f"unclosed {self!r}: use it in a with statement, or call close()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)


def _joined(config: StreamerConfig) -> AbstractContextManager["Sharing | None"]:
    # Not every torch has torch.distributed.
    from runai_model_streamer.distributed.sharing import joined

    return joined(config)
