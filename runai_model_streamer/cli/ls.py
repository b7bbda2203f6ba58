"""`runai-streamer ls` lists the contents of safetensors files. It reads only their headers."""

import argparse
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import attrgetter
from typing import Any

from runai_model_streamer.checkpoint.header import Header
from runai_model_streamer.checkpoint.tensor_info import TensorInfo, nbytes_of
from runai_model_streamer.cli.arguments import Subcommands, add_command, add_paths
from runai_model_streamer.cli.output import (
    Column,
    counted,
    described,
    write_error,
    write_json,
    write_line,
    write_table,
)
from runai_model_streamer.cli.targets import find_targets
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import open_files
from runai_model_streamer.settings.units import size_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file and its header."""

    path: str
    size: int
    """Size of the file in bytes."""
    header: Header

    def with_tensors(self, tensors: Sequence[TensorInfo]) -> "Listed":
        """Return the same file with its tensors in another order."""
        return replace(self, header=replace(self.header, tensors=tuple(tensors)))


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "ls",
        run,
        "list files, tensors, dtypes and sizes, from the files' headers alone",
        "A folder or prefix means the safetensors files in it, but not those in subfolders.",
    )
    add_paths(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor, with its dtype, shape and size")
    parser.add_argument("--sort", choices=("name", "size"), help="sort by name, or by size, largest first")


def run(arguments: argparse.Namespace) -> int:
    """List the files. Return exit code 1 if a file is unreadable or not safetensors; the others are still listed."""
    targets = find_targets(arguments.paths)
    listed, failures = _read_headers(targets.files)
    failures = [*failures, *targets.missing]
    _warn_of_doubles(listed)
    listed = _sorted(listed, arguments.sort)
    if arguments.json:
        write_json(_document(listed, failures, with_tensors=arguments.tensors))
    elif arguments.tensors:
        for each in listed:
            _print_tensors(each)
    else:
        _print_files(listed)
    for failure in failures:
        write_error(str(failure))
    return 1 if failures else 0


def _sorted(listed: Sequence[Listed], by: str | None) -> list[Listed]:
    """Return the files, and the tensors of each, by name or by size; None leaves both in their order."""
    match by:
        case "name":
            return [
                each.with_tensors(sorted(each.header.tensors, key=attrgetter("name")))
                for each in sorted(listed, key=attrgetter("path"))
            ]
        case "size":
            return [
                each.with_tensors(sorted(each.header.tensors, key=attrgetter("nbytes"), reverse=True))
                for each in sorted(listed, key=attrgetter("size"), reverse=True)
            ]
    return list(listed)


def _warn_of_doubles(listed: Sequence[Listed]) -> None:
    """Warn if tensors are in more than one file: the files are of several models, or one model is there twice."""
    first: dict[str, str] = {}
    doubles = [
        (tensor.name, first[tensor.name], each.path)
        for each in listed
        for tensor in each.header.tensors
        if first.setdefault(tensor.name, each.path) != each.path
    ]
    if doubles:
        name, one, other = doubles[0]
        _log.warning(
            "%s in more than one file: %s is in %s and in %s", counted(len(doubles), "tensor"), name, one, other
        )


def _read_headers(paths: Sequence[str]) -> tuple[list[Listed], list[StreamerError]]:
    with open_storage(None) as (storage, config):
        try:
            return _opened(storage, paths, config), []
        except StreamerError:
            if len(paths) == 1:
                raise
    # One by one, which is slower, to report every broken file and list the others.
    listed: list[Listed] = []
    failures: list[StreamerError] = []
    with open_storage(None) as (storage, config):
        for path in paths:
            try:
                listed += _opened(storage, [path], config)
            except StreamerError as error:
                failures.append(error)
    return listed, failures


def _opened(storage: Storage, paths: Sequence[str], config: LoadConfig) -> list[Listed]:
    opened = open_files(storage, paths, config.concurrency_for(SourceKind.OBJECT))
    for source, _ in opened:
        source.close()
    return [Listed(path, source.size, header) for path, (source, header) in zip(paths, opened, strict=True)]


def _dtypes(tensors: Iterable[TensorInfo]) -> dict[str, list[TensorInfo]]:
    """Return tensors by dtype, the one with the most bytes first."""
    found: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    return dict(sorted(found.items(), key=lambda item: -nbytes_of(item[1])))


def _elements(tensors: Iterable[TensorInfo]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors)


def _print_files(listed: Sequence[Listed]) -> None:
    rows = []
    for each in listed:
        dtypes = ", ".join(f"{name} {len(tensors)}" for name, tensors in _dtypes(each.header.tensors).items())
        rows.append((size_text(each.size), str(len(each.header.tensors)), dtypes, each.path))
    if rows:
        columns = (Column("size", right=True), Column("tensors", right=True), Column("dtypes"), Column("file"))
        write_table(columns, rows)
    every = [tensor for each in listed for tensor in each.header.tensors]
    whole = size_text(sum(each.size for each in listed))
    tensors = f"{counted(len(every), 'tensor')}, {_elements(every):,} elements"
    write_line(f"{counted(len(listed), 'file')}, {whole}, {tensors}")


def _print_tensors(listed: Listed) -> None:
    tensors = listed.header.tensors
    write_line(
        f"{listed.path}: {size_text(listed.size)}, {counted(len(tensors), 'tensor')}, {_elements(tensors):,} elements"
    )
    if tensors:
        columns = (Column("dtype"), Column("shape"), Column("size", right=True), Column("tensor"))
        write_table(columns, ((each.dtype, _shape(each), size_text(each.nbytes), each.name) for each in tensors))


def _shape(tensor: TensorInfo) -> str:
    return str(list(tensor.shape))


def _document(listed: Sequence[Listed], failures: Sequence[StreamerError], *, with_tensors: bool) -> dict[str, Any]:
    return {
        "files": [_described(each, with_tensors=with_tensors) for each in listed],
        "bytes": sum(each.size for each in listed),
        "tensor_count": sum(len(each.header.tensors) for each in listed),
        "errors": [described(failure) for failure in failures],
    }


def _described(listed: Listed, *, with_tensors: bool) -> dict[str, Any]:
    tensors = listed.header.tensors
    described: dict[str, Any] = {
        "path": listed.path,
        "bytes": listed.size,
        "tensor_count": len(tensors),
        "elements": _elements(tensors),
        "dtypes": {
            name: {"tensor_count": len(of_dtype), "bytes": nbytes_of(of_dtype)}
            for name, of_dtype in _dtypes(tensors).items()
        },
        "metadata": listed.header.metadata,
    }
    if with_tensors:
        described["tensors"] = [
            {
                "name": each.name,
                "dtype": each.dtype,
                "shape": each.shape,
                "bytes": each.nbytes,
                "offset": each.start,
            }
            for each in tensors
        ]
    return described
