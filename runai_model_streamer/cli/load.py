"""`runai-streamer load` streams files as a program would, and prints times, speed and the bottleneck."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from runai_model_streamer.cli.arguments import (
    SIZES,
    TRACE,
    Subcommands,
    add_command,
    add_device,
    add_paths,
    add_settings,
    dtype,
    settings,
)
from runai_model_streamer.cli.interrupts import ended_by_ctrl_c
from runai_model_streamer.cli.output import counted, write_json, write_pairs
from runai_model_streamer.cli.targets import find_files
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.report.load_report import LoadReport
from runai_model_streamer.settings.environment import environment
from runai_model_streamer.settings.units import limit_text, rate_text, setting_text, size_text

_SHARE: Final = 0.005
"""Smaller shares of the time are not printed."""
_SHORT: Final = 0.005
"""Nor are fewer seconds, which would be printed as 0.00."""


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "load",
        run,
        "load files, drop the tensors as they arrive, and print times, speed and the bottleneck",
        f"{SIZES}\nOptions set the environment variables that they name, for this load only.",
    )
    add_paths(parser)
    add_device(parser)
    add_settings(parser)
    parser.add_argument("--trace", metavar="FILE", help=f"write a timeline for ui.perfetto.dev ({TRACE})")
    parser.add_argument(
        "--tensors", action="append", metavar="PATTERN", help="only tensors whose name matches; may be repeated"
    )
    parser.add_argument("--dtype", type=dtype, help="cast to bfloat16, float16 or float32 on the way")


def run(arguments: argparse.Namespace) -> int:
    """Load the files. Return exit code 0 when all tensors have arrived."""
    with ended_by_ctrl_c():
        import torch

        from runai_model_streamer.streamer import SafetensorsStreamer

    target = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    variables = settings(arguments) | ({} if arguments.trace is None else {TRACE: arguments.trace})
    with environment(variables), SafetensorsStreamer() as streamer:
        paths = find_files(arguments.paths)
        streamer.stream_files(
            paths, device=arguments.device, dtype=target, select=_selection(arguments.tensors), progress=True
        )
        if arguments.tensors and not any(streamer.files_to_tensors_metadata.values()):
            patterns = " or ".join(map(repr, arguments.tensors))
            raise ArgumentError(f"no tensor has a name like {patterns}", remedy="ls --tensors lists the names")
        for _ in streamer.get_tensors():
            pass
        report = streamer.report
    if arguments.json:
        write_json(report.as_dict())
    else:
        write_pairs(_told(report))
    return 0


def _selection(patterns: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Return what chooses the tensors; None for all of them."""
    if patterns is None:
        return None
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _told(report: LoadReport) -> Iterator[tuple[str, str]]:
    tensors = f"{counted(report.tensors, 'tensor')} of {counted(report.files, 'file')}"
    yield "loaded", f"{size_text(report.bytes)}, {tensors}, to {report.device} in {report.seconds:.2f} s"
    first = report.first_tensor_seconds
    yield (
        "speed",
        rate_text(report.bytes, report.seconds) + ("" if first is None else f", first tensor after {first:.3f} s"),
    )
    origins = dataclasses.asdict(report.bytes_from)
    yield (
        "read from",
        ", ".join(f"{_words(name)} {size_text(count)}" for name, count in origins.items() if count) or "nothing",
    )
    if report.retries:
        yield "retries", f"{counted(report.retries, 'request')} made again"
    yield (
        "time",
        _seconds(
            {
                "open and plan": report.plan_seconds,
                "wait for bytes": report.wait_seconds,
                "make tensors": report.make_seconds,
                "place": report.place_seconds,
                "caller": report.caller_seconds,
                "close": report.close_seconds,
            }
        ),
    )
    yield "readers", f"{counted(report.readers, 'thread')}: {_shares(dataclasses.asdict(report.reader_seconds))}"
    settings = report.settings
    limit = "no limit" if settings.memory_limit is None else f"limit {limit_text(settings.memory_limit)}"
    yield "memory", f"{size_text(report.peak_memory)} held at most, {limit}"
    chunk = setting_text(settings.chunk_bytesize)
    told = f"up to {counted(settings.concurrency, 'read')} at once, chunk {chunk}, direct I/O {settings.direct_io}"
    yield "settings", told + (f", {settings.transport}" if settings.transport else "")
    yield "verdict", report.verdict


def _words(name: str) -> str:
    return name.replace("_", " ")


def _seconds(parts: Mapping[str, float]) -> str:
    whole = sum(parts.values())
    told = (f"{name} {each:.2f} s" for name, each in parts.items() if each > max(_SHARE * whole, _SHORT))
    return ", ".join(told) or "none"


def _shares(parts: Mapping[str, float]) -> str:
    whole = sum(parts.values())
    told = (f"{_words(name)} {each / whole:.0%}" for name, each in parts.items() if each > _SHARE * whole)
    return ", ".join(told) or "nothing to do"
