"""Makes a load's report from its tally."""

import dataclasses
from typing import cast

from runai_model_streamer.config import UNLIMITED, LoadConfig
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.report.load_report import (
    BytesFrom,
    Held,
    LoadReport,
    Outcome,
    ReaderSeconds,
    Settings,
)
from runai_model_streamer.report.shared_load import SharedLoad
from runai_model_streamer.report.verdict import judge


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The caller's request and settings."""

    config: LoadConfig
    device: str = "cpu"
    files: int = 0
    tensors: int = 0
    bytes: int = 0
    """Bytes of all tensors, as stored in the files."""
    dtype: str | None = None
    ranks: int = 1


def make_report(tally: Tally, request: Request) -> LoadReport:
    """Return the report of a load, up to now."""
    tensors, size = delivered(tally, request)
    seconds = tally.times
    readers = list(tally.readers)
    times = [reader.times for reader in readers]
    delays = [each.delay for each in times if each is not None and each.delay is not None]
    bytes_from = _bytes_from(tally)
    report = LoadReport(
        outcome=cast(Outcome, tally.outcome),
        error=tally.error,
        device=request.device,
        files=request.files,
        tensors=tensors,
        total_tensors=request.tensors,
        bytes=size,
        total_bytes=request.bytes,
        bytes_read=bytes_from.all,
        bytes_from=bytes_from,
        reads=sum(reader.reads for reader in readers),
        ways=tally.ways,
        retries=tally.retries,
        cache=tally.cached,
        connections=tuple((max(began - tally.started, 0.0), count) for began, count in tally.connections),
        connections_held_by=cast(Held, tally.held_by),
        seconds=seconds.all,
        first_tensor_seconds=tally.first,
        plan_seconds=seconds.plan,
        plan_cpu_seconds=tally.plan_cpu,
        setup=tally.setup,
        wait_seconds=seconds.wait,
        make_seconds=seconds.make,
        place_seconds=seconds.place,
        caller_seconds=seconds.caller,
        close_seconds=seconds.close,
        readers=len(readers),
        reader_seconds=_summed(readers, in_wait=False),
        reader_seconds_in_wait=_summed(readers, in_wait=True),
        reader_connect_seconds=tally.connecting,
        reader_cpu_seconds=sum(each.cpu for each in times if each is not None),
        reader_delay_seconds=sum(delays) if delays else None,
        caller_delay_seconds=tally.delay,
        process_cpu_seconds=tally.process_cpu,
        peak_memory=tally.peak,
        shared=_shared_load(tally),
        settings=_settings_of(tally, request),
    )
    verdict = judge(report)
    return dataclasses.replace(report, bound_by=verdict.bound_by, verdict=verdict.sentence, shares=dict(verdict.shares))


def delivered(tally: Tally, request: Request) -> tuple[int, int]:
    """Return the number of tensors yielded so far, and their bytes in the files."""
    done, planned = tally.delivered, tally.planned
    if done.pieces == planned.pieces:
        return (request.tensors, request.bytes) if tally.started_reading else (0, 0)
    # With `select`, the tensors that land are not those yielded, so this is an estimate. Otherwise the count of tensors
    # is exact, and bytes are off by those between wanted tensors.
    tensors = request.tensors * done.pieces // planned.pieces
    return tensors, request.bytes * done.payload // planned.payload if planned.payload else 0


def _bytes_from(tally: Tally) -> BytesFrom:
    if tally.shared is not None:  # a read may have got some of its bytes from other ranks, and some not
        return BytesFrom(**tally.shared.origins)
    return BytesFrom(**{name: sum(reader.bytes[name] for reader in tally.readers) for name in _names(BytesFrom)})


def _shared_load(tally: Tally) -> SharedLoad | None:
    found = tally.shared
    if found is None:
        return None
    return SharedLoad(
        rank=found.rank,
        ranks=found.ranks,
        memory=found.memory,
        device=found.device,
        bytes_read=found.read,
        bytes_received=found.received,
        bytes_taken=found.taken,
        bytes_alone=found.alone,
        ring_bytes=found.ring,
        wait_seconds=dict(found.waited),
    )


def _settings_of(tally: Tally, request: Request) -> Settings:
    config = request.config
    limit = tally.limit
    if limit is None and request.device.startswith("cuda") and config.memory_limit != UNLIMITED:
        limit = config.memory_limit
    elif config.memory_limit > 0 and request.ranks == 1:
        limit = config.memory_limit  # the tally's is without what is not tensors
    return Settings(
        concurrency=tally.concurrency,
        first_concurrency=tally.first_concurrency,
        chunk_bytesize=tally.chunk,
        memory_limit=limit,
        direct_io=config.direct_io.value,
        gds=config.gds.value,
        max_bandwidth=config.max_bandwidth,
        verify=config.verify,
        transport=tally.transport,
        dtype=request.dtype,
        ranks=request.ranks,
    )


def _summed(readers: list[ReaderTally], *, in_wait: bool) -> ReaderSeconds:
    parts = [reader.in_wait if in_wait else reader.seconds for reader in readers]
    return ReaderSeconds(**{name: sum(part[name] for part in parts) for name in _names(ReaderSeconds)})


def _names(kind: type[BytesFrom] | type[ReaderSeconds]) -> list[str]:
    return [each.name for each in dataclasses.fields(kind)]
