"""`runai-streamer verify` checks headers, reads every byte, and compares stores' checksums."""

import argparse
from dataclasses import dataclass
from typing import Any

from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.cli.arguments import CACHE, Subcommands, add_command, add_paths
from runai_model_streamer.cli.interrupts import ended_by_ctrl_c
from runai_model_streamer.cli.output import counted, described, write_json, write_line
from runai_model_streamer.cli.progress import progress
from runai_model_streamer.cli.targets import find_targets
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.settings.environment import environment
from runai_model_streamer.settings.units import size_text

_VERIFY = "RUNAI_STREAMER_VERIFY"


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for one file."""

    path: str
    bytes: int = 0
    tensors: int = 0
    checksum: str | None = None
    """Algorithm of the store's checksum, which matches the bytes; None if the store has none."""
    error: StreamerError | None = None


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "verify",
        run,
        "check files: valid headers, every byte readable, and for objects the store's checksum",
        "Local files, and objects without a checksum of the whole (some uploads in parts), are only read to their "
        "end. Exit code 1 if any file is broken.",
    )
    add_paths(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify the files. Return exit code 1 if any of them is broken."""
    results = []
    with environment({_VERIFY: "1", CACHE: None}):
        config = LoadConfig.from_environment()
        configure_logging(config)
        targets = find_targets(arguments.paths)
        for path in targets.files:
            result = _verify(path, config)
            results.append(result)
            if not arguments.json:
                _print(result)
        for error in targets.missing:
            results.append(Verified(error.where.path if error.where else "", error=error))
            if not arguments.json:
                _print(results[-1])
    broken = [result for result in results if result.error is not None]
    if arguments.json:
        write_json({"ok": not broken, "files": [_described(result) for result in results]})
    else:
        whole = size_text(sum(result.bytes for result in results))
        told = "none is broken" if not broken else f"{len(broken)} BROKEN"
        write_line(f"{counted(len(results), 'file')}, {whole} read: {told}")
    return 1 if broken else 0


def _verify(path: str, config: LoadConfig) -> Verified:
    with ended_by_ctrl_c():
        from runai_model_streamer.pipeline.prepare import FileReads, make_load, opening

    try:
        with opening(config, None) as (storage, close_with):
            source = storage.open(path)
            close_with.append(source)
            header = read_header(source)
            # As bytes, so that tensors of a dtype that torch lacks are read too.
            pieces = [each._replace(dtype="U8", shape=(each.nbytes,)) for each in header.tensors]
            load = make_load(storage, [FileReads(path, source, pieces)], config)
            try:
                load.start()
                with progress("Verifying", path, load.total_bytes) as advance:
                    for _, tensor in load.tensors():
                        advance(tensor.nbytes)
            finally:
                load.close()
    except StreamerError as error:
        return Verified(path, error=error)
    return Verified(path, source.size, len(pieces), source.verified_by)


def _print(result: Verified) -> None:
    if result.error is not None:
        write_line(f"{'FAILED':<8}{result.error}")
        return
    held = f"{result.checksum} matches" if result.checksum else "read, no checksum"
    write_line(f"{'ok':<8}{size_text(result.bytes):>10}  {held:<18}  {result.path}")


def _described(result: Verified) -> dict[str, Any]:
    if result.error is not None:
        return {"path": result.path, "ok": False, "error": described(result.error)}
    return {
        "path": result.path,
        "ok": True,
        "bytes": result.bytes,
        "tensor_count": result.tensors,
        "checksum": result.checksum,
    }
