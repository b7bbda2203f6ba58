"""The check of `doctor` that reads a little, to say how fast a folder's or a prefix's files come."""

import dataclasses
import time
from typing import Final

from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.interrupts import ended_by_ctrl_c
from runai_model_streamer.cli.targets import find_files
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.report.load_report import BytesFrom
from runai_model_streamer.settings.units import rate_text, size_text

_SECONDS: Final = 2.0
"""After this time no more is read."""
_MOST: Final = {False: 512 << 20, True: 64 << 20}
"""The most bytes of a file and of an object, whose traffic may cost money."""
_RANGE: Final = 8 << 20
"""Bytes of one range. They come one by one, so that the probe can end after any."""


def probe(path: str) -> Check:
    """Read the beginning of the first safetensors file there, for two seconds at most."""
    with ended_by_ctrl_c():
        from runai_model_streamer.pipeline.plan.ranges import FileChunks
        from runai_model_streamer.range_streamer import FileStreamer
    try:
        file = find_files([path])[0]
        with open_storage(None) as (storage, _):
            source = storage.open(file)
            size = min(source.size, _MOST[is_object(file)])
            source.close()
        offsets = list(range(0, size, _RANGE))
        chunks = FileChunks(0, file, offsets, [min(_RANGE, size - offset) for offset in offsets])
        taken, seconds = 0, 0.0
        with FileStreamer() as streamer:
            began = time.perf_counter()
            streamer.stream_files([chunks])
            for _, _, data in streamer.get_chunks():
                taken, seconds = taken + data.nbytes, time.perf_counter() - began
                if seconds > _SECONDS:
                    break
            report = streamer.report
    except StreamerError as error:
        return Check("probe", "error", error.summary, error.remedy)
    speed = f"{size_text(taken)} in {seconds:.2f} s, {rate_text(taken, seconds)}"
    return Check("probe", "ok", f"{file}: {speed}{_origin(report.bytes_from)}")


def _origin(read: BytesFrom) -> str:
    counts = {name: count for name, count in dataclasses.asdict(read).items() if count}
    if not counts:
        return ""
    name = max(counts, key=lambda each: counts[each])
    return ", through the page cache" if name == "buffered" else f", from {name.replace('_', ' ')}"
