"""Raw ranges of files as tensors of bytes: what `FileStreamer` streams."""

from collections.abc import Sequence

import torch

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.opening import open_each
from runai_model_streamer.pipeline.plan.ranges import FileChunks, ascending, tensors_of
from runai_model_streamer.pipeline.prepare import FileReads, make_load, opening
from runai_model_streamer.pipeline.sharing import Sharing
from runai_model_streamer.pipeline.tally.load import Tally


def prepare_ranges(
    chunks: Sequence[FileChunks],
    config: StreamerConfig,
    credentials: S3Credentials | None,
    device: torch.device,
    limit_name: str,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
) -> Load:
    """Open all files, hold the ranges against their sizes, and plan what to read.

    Returns:
        A load, to be started, of tensors of dtype uint8 and shape (1, size), in the order given.

    Raises:
        StreamerError: what `FileStreamer.stream_files` says; nothing is left open.
    """
    with opening(config, credentials, sharing) as (storage, close_with):
        files, requests = [each.path for each in chunks], config.concurrency_for(SourceKind.OBJECT)
        if sharing is None:
            opened = open_each(storage, files, requests, _nothing)
        else:
            asked = {"ranges": [f"{each.offsets} {each.sizes}" for each in chunks], "device": [device.type]}
            opened = sharing.open_each(storage, files, requests, _nothing, asked)
        close_with.extend(source for source, _ in opened)
        reads: list[FileReads] = []
        for each, (source, _) in zip(chunks, opened, strict=True):
            ascents = ascending(tensors_of(each, source.size))
            if not (len(ascents) == 1 and each.total_size() == source.size):
                source.skip_verification()  # a store's checksum is of the whole object, each byte read once
            # A source of which nothing is read is the load's too, which closes it.
            reads.extend(FileReads(each.path, source, run) for run in ascents or [[]])
        return make_load(storage, reads, config, device, limit_name=limit_name, sharing=sharing, tally=tally)


def _nothing(_: Source) -> None:
    """Of a file of raw bytes nothing has to be known."""
