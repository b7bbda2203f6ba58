"""What all streamers share: settings, one load at a time, the iterator over its tensors, the end."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Self

import torch

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import StateError, StreamerError
from runai_model_streamer.installation import warn_of_original
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.pipeline.landing.tensors import Tensors
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.parts import PARTS, Parts
from runai_model_streamer.pipeline.prepare import in_process_group
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.trace import Trace, trace_path
from runai_model_streamer.report.load_report import LoadReport
from runai_model_streamer.report.make import Request, delivered, make_report
from runai_model_streamer.report.progress import Display, Progress, Watch, display_of
from runai_model_streamer.report.telemetry import tell_telemetry
from runai_model_streamer.settings.streamer_config import StreamerConfig, checked
from runai_model_streamer.settings.units import log_text
from runai_model_streamer.settings.variables import warn_of_settings
from runai_model_streamer.threads.forks import OwnProcess

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from runai_model_streamer.distributed.sharing import RankSharing

_log: Final = logging.getLogger("runai_model_streamer.streamer")
"""Has the name of the module that users import, so that they can filter by it."""


class Streamer:
    """What `SafetensorsStreamer` and `FileStreamer` share.

    A streamer belongs to the process that made it. One thread at a time may call its methods. One load runs at a time;
    a new one ends the one before.

    Args:
        config: settings of this streamer's loads, which win over the environment's.

    Raises:
        ArgumentTypeError: `config` is something else.
    """

    _parts: ClassVar[Parts] = PARTS
    """What its loads are made of."""

    def __init__(self, config: StreamerConfig | None = None) -> None:
        self._load: Load | None = None
        self._given = checked(config)
        self._closed = False
        self._process = OwnProcess()
        self._device = torch.device("cpu")
        self._started = 0.0
        self._reports = True
        self._tally: Tally | None = None
        self._request = Request(LoadConfig())
        self._display: Display | None = None
        self.total_size = 0
        """Bytes of all tensors of the current load, as they are in the files."""

    @property
    def report(self) -> LoadReport:
        """What the current or last load did so far; see `LoadReport`.

        Before the first load its `outcome` is "not started", and its figures are 0.

        It stays after an error, a dropped iterator, and `close`. To be read in the caller's thread.
        """
        if self._tally is None:
            return LoadReport(outcome="not started", verdict="Nothing has been loaded yet.")
        if self._load is not None and self._load.open:
            self._load.count()
        return make_report(self._tally, self._request)

    def __enter__(self) -> Self:
        """Enter the context; a closed streamer can stream again."""
        self._check_process()
        self._closed = False
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
    def _beginning(
        self, is_distributed: bool, progress: Watch, group: "ProcessGroup | None" = None
    ) -> Iterator[tuple[LoadConfig, "RankSharing | None", Tally]]:
        """End the load before, and begin the next one in the context, with the settings of now.

        If the load is shared, the other ranks join. They wait for this one, so they are sent what is raised in the
        context. The report shows it too.

        Args:
            is_distributed: see `SafetensorsStreamer.stream_files`.
            progress: see there.
            group: see there.
        """
        # Not sent to the others: a forked child is not a rank. Its connections belong to its parent.
        self._check_process()
        try:
            self._check_open()
            self._end_load()
            self.total_size = 0  # so that a call that fails does not leave another load's behind
            self._tally = None
            self._started = time.perf_counter()
            config = LoadConfig.from_environment(given=self._given)
        except StreamerError:
            if is_distributed:
                with _joined(LoadConfig.for_ranks(self._given), group):
                    raise
            raise
        configure_logging(config)
        warn_of_original()
        warn_of_settings()
        self._request = Request(config)
        with _joined(config, group) if is_distributed else nullcontext() as sharing:
            self._reports = sharing is None or sharing.reports
            self._display = display_of(progress)
            self._tally = tally = Tally(_open_trace(config), self._started)
            try:
                yield config, sharing, tally
            except BaseException as error:
                tally.fail(error)
                self._end_load()
                tell_telemetry(lambda: self.report)
                raise

    def _follow(self, load: Load, request: Request) -> None:
        """Start the load. In the context of `_beginning`, which ends it if that fails."""
        self._load, self.total_size, self._request = load, request.bytes, request
        if self._display is not None:
            load.progress = _teller(self._display, load.tally, request)
        load.start()

    def _tensors(self, calls: str) -> Tensors:
        """Yield the current load's tensors, on the requested device.

        Args:
            calls: the methods that start a load, for the error.
        """
        self._check_usable()
        load = self._load
        if load is None:
            raise StateError("nothing to stream", remedy=f"call {calls} first", sep=": ")
        return self._on_device(load, load.tensors())

    def _on_device(self, load: Load, tensors: Tensors) -> Generator[tuple[str, torch.Tensor]]:
        size, display, request = self.total_size, self._display, self._request
        try:
            if display is not None:
                display.start()
            if load.device == self._device:
                yield from tensors
            else:
                for name, tensor in tensors:
                    yield name, self._place(tensor, load.tally)
        finally:
            # Explicitly, so that an abandoned iterator ends the load now, not when its frame is collected.
            tensors.close()
            if display is not None:
                display.stop()
            tell_telemetry(lambda: make_report(load.tally, request))
        if self._reports:
            self._log_throughput(size)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("[RunAI Streamer] %s", make_report(load.tally, request).verdict)

    def _place(self, tensor: torch.Tensor, tally: Tally) -> torch.Tensor:
        began = time.perf_counter()
        moved = tensor.to(self._device)
        tally.seconds.place += time.perf_counter() - began
        return moved

    def _log_throughput(self, size: int) -> None:
        seconds = time.perf_counter() - self._started
        # Tools parse this line.
        _log.info(
            "[RunAI Streamer] Overall time to stream %s of all files to %s: %.2fs, %s/s",
            log_text(size),
            self._device,
            seconds,
            log_text(size / seconds),
        )

    def close(self) -> None:
        """End the load: stop reading, end the threads, free what the caller does not use. Idempotent.

        A closed streamer can stream again in another `with` block.
        """
        self._closed = True
        if not self._process.forked:
            self._end_load()

    def _end_load(self) -> None:
        load, self._load = self._load, None
        display, self._display = self._display, None
        try:
            if load is not None:
                load.close()
        finally:
            if display is not None:
                display.stop()

    def _check_usable(self) -> None:
        self._check_process()
        self._check_open()

    def _check_process(self) -> None:
        if self._process.forked:
            raise StateError(
                "this streamer was made before a fork; its threads are the parent's",
                remedy="make a new one here",
                sep=": ",
            )

    def _check_open(self) -> None:
        if self._closed:
            raise StateError(
                "this streamer is closed", remedy="use it in another with statement, or make a new one", sep=": "
            )

    def __del__(self) -> None:
        load = getattr(self, "_load", None)
        if load is not None and load.open and not self._process.forked:
            # Not close: a finaliser may run in any thread, even in one of the load's own. And before the warning, which
            # may be an error.
            load.stop()
            message = f"unclosed {self!r}: use it in a with statement, or call close()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)


def _open_trace(config: LoadConfig) -> Trace | None:
    if config.trace is None:
        return None
    rank = torch.distributed.get_rank() if in_process_group() else None
    path = trace_path(config.trace, rank, config.local_processes > 1)
    return Trace(path, f"process {os.getpid()}" if rank is None else f"rank {rank}, process {os.getpid()}")


def _teller(display: Display, tally: Tally, request: Request) -> Callable[[], None]:
    def tell() -> None:
        tensors, size = delivered(tally, request)
        display.show(Progress(size, request.bytes, tensors, request.tensors, time.perf_counter() - tally.started))

    return tell


def _joined(config: LoadConfig, group: "ProcessGroup | None") -> AbstractContextManager["RankSharing | None"]:
    # Not every torch has torch.distributed.
    from runai_model_streamer.distributed.sharing import joined

    return joined(config, group)
