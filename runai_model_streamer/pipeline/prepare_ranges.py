"""Prepares a load of raw ranges of files, as tensors of bytes: what `FileStreamer` streams."""

from collections.abc import Sequence

import torch

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.pipeline.destination import begin_landing
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.parts import PARTS, Parts
from runai_model_streamer.pipeline.plan.ranges import FileChunks, ascending, tensors_of
from runai_model_streamer.pipeline.prepare import FileReads, make_load, open_all, opening
from runai_model_streamer.pipeline.sharing import Sharing
from runai_model_streamer.pipeline.tally.load import Tally


def prepare_ranges(
    requests: Sequence[FileChunks],
    config: LoadConfig,
    credentials: S3Credentials | None,
    device: torch.device,
    limit_name: str,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
    made_of: Parts = PARTS,
) -> Load:
    """Open all files, check the ranges against their sizes, and plan what to read.

    Returns:
        A load that is ready to start. Its tensors have dtype uint8 and shape (1, size), and come in the order given.

    Raises:
        StreamerError: as `FileStreamer.stream_files`; nothing is left open.
    """
    asked = {"ranges": [f"{each.offsets} {each.sizes}" for each in requests], "device": [device.type]}
    if sharing is None:  # else the ranks of the node divide the limit
        begin_landing(device, config, (each.path for each in requests), made_of.cuda)
    with opening(config, credentials, sharing) as (storage, close_with):
        opened = open_all(storage, [each.path for each in requests], config, _nothing, sharing, asked)
        close_with.extend(source for source, _ in opened)
        reads: list[FileReads] = []
        for each, (source, _) in zip(requests, opened, strict=True):
            runs = ascending(tensors_of(each, source.size))
            if not (len(runs) == 1 and each.total_size() == source.size):
                source.skip_verification()  # a store's checksum is of the whole object, each byte read once
            # A source that nothing is read of belongs to the load too, which closes it.
            reads.extend(FileReads(each.path, source, run) for run in runs or [[]])
        return make_load(
            storage, reads, config, device, limit_name=limit_name, sharing=sharing, tally=tally, made_of=made_of
        )


def _nothing(_: Source) -> None:
    """Look at nothing: a file of raw bytes has no header."""
