"""The weights of a model, as an engine's loader takes them: with the engine's bar, and one line in its log."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from runai_model_streamer.pipeline.plan.selection import Select
from runai_model_streamer.report.load_report import LoadReport, rows
from runai_model_streamer.streamer import SafetensorsStreamer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Tensors = Iterable[tuple[str, torch.Tensor]]


def stream_weights(
    files: Sequence[str],
    device: str,
    log: logging.Logger,
    bar: Callable[[Tensors, int], Tensors],
    *,
    is_distributed: bool = False,
    group: "ProcessGroup | None" = None,
    select: Select | None = None,
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield the tensors of files, each on `device`. They are not copied: the streamer never overwrites a living tensor.

    Args:
        files: local paths and URLs.
        device: such as "cpu" or "cuda:0".
        log: gets a summary of the load's report when all tensors have been taken.
        bar: shows progress. It gets the tensors and their number, and returns the tensors.
        is_distributed: see `SafetensorsStreamer.stream_files`.
        group: see there.
        select: see there.

    Raises:
        StreamerError: see there.
    """
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, device=device, is_distributed=is_distributed, select=select, group=group)
        count = sum(map(len, streamer.files_to_tensors_metadata.values()))
        yield from bar(streamer.get_tensors(), count)
        log.info("[RunAI Streamer] %s", "; ".join(_phrases(streamer.report)))


def _phrases(report: LoadReport) -> Iterator[str]:
    for name, value in rows(report):
        if name != "outcome":  # complete, or there would be an error
            yield f"{name}: {value.rstrip('.')}"
