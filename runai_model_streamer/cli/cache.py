"""`runai-streamer cache` lists, verifies and prunes the node's cache."""

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from runai_model_streamer.cli.arguments import CACHE, Subcommands, add_command, seconds, size
from runai_model_streamer.cli.output import Column, counted, write_json, write_line, write_table
from runai_model_streamer.cli.progress import progress
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.io.cache.inspection import Compared, Kept, list_cache, prune_cache, verify_cache
from runai_model_streamer.io.checksums import crc64
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.settings.units import size_text

_DAY: Final = 86400.0
_UNITS: Final = ((_DAY, "d"), (3600.0, "h"), (60.0, "min"))


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "cache",
        run,
        "list, verify or prune the objects that loads have left on this node",
        "ls      what is there, the object that was used last first\n"
        "verify  compare all bytes with their checksums; damaged ones are removed, so that the next load fetches them\n"
        "prune   remove what is over the cache's size, or what --size, --days or --all say; never what is in use\n\n"
        f"The folder is that of {CACHE}. Exit code 1 if verify finds damage.",
        store=False,
    )
    parser.add_argument("action", choices=("ls", "verify", "prune"))
    parser.add_argument("--folder", metavar="DIR", help=f"instead of {CACHE}")
    parser.add_argument("--size", type=size, metavar="SIZE", help="prune: bytes that may stay")
    parser.add_argument("--days", type=seconds, metavar="N", help="prune: remove what was not used for so many days")
    parser.add_argument("--all", action="store_true", help="prune: remove everything")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says. Return exit code 1 if damaged bytes were found."""
    config = LoadConfig.from_environment()
    configure_logging(config)
    folder = arguments.folder or config.cache.folder
    if not folder:
        raise ArgumentError("there is no cache", remedy=f"set {CACHE}, or give --folder", sep=": ")
    if arguments.action != "prune" and (arguments.all or arguments.size is not None or arguments.days is not None):
        raise ArgumentError("--size, --days and --all are for prune", lead=None)
    match arguments.action:
        case "ls":
            return _list(folder, arguments.json)
        case "verify":
            return _verify(folder, arguments.json)
    return _prune(folder, arguments, config.cache.size)


def _list(folder: str, as_json: bool) -> int:
    kept = list(list_cache(folder))
    if as_json:
        write_json({"folder": folder, "objects": [_described(each) for each in kept]})
        return 0
    if kept:
        columns = (
            *(Column(title, right=True) for title in ("size", "there", "disk", "used")),
            Column("version"),
            Column("object"),
        )
        write_table(columns, map(_row, kept))
    disk = sum(each.found.disk_bytes for each in kept)
    write_line(f"{counted(len(kept), 'object')}, {size_text(disk)} on the disk, in {folder}")
    return 0


def _row(kept: Kept) -> Sequence[str]:
    about = kept.about
    used = "now" if kept.used else _ago(time.time() - kept.found.used_ns / 1e9)
    there = f"{100 * kept.held_bytes // about.size}%"
    return (
        size_text(about.size),
        there,
        size_text(kept.found.disk_bytes),
        used,
        about.version.strip('"')[:12],
        about.url,
    )


def _ago(passed: float) -> str:
    for unit, name in _UNITS:
        if passed >= unit:
            return f"{passed / unit:.0f} {name} ago"
    return f"{max(passed, 0):.0f} s ago"


def _described(kept: Kept) -> dict[str, Any]:
    return {
        "url": kept.about.url,
        "version": kept.about.version,
        "bytes": kept.about.size,
        "bytes_there": kept.held_bytes,
        "bytes_on_disk": kept.found.disk_bytes,
        "used_at": kept.found.used_ns / 1e9,
        "in_use": kept.used,
        "file": os.path.basename(kept.found.stem),
    }


def _verify(folder: str, as_json: bool) -> int:
    results = []
    with progress("Verifying", folder, sum(each.held_bytes for each in list_cache(folder))) as advance:
        for result in verify_cache(folder, crc64(), advance):
            results.append(result)
            if not as_json:
                _print(result)
    damaged = sum(map(_damaged, results))
    if as_json:
        objects = [
            {
                "url": each.about.url,
                "version": each.about.version,
                "bytes": each.bytes,
                "damaged": [[piece.start, piece.end] for piece in each.damaged],
            }
            for each in results
        ]
        write_json({"ok": not damaged, "objects": objects})
    else:
        told = f"{size_text(damaged)} DAMAGED, and removed" if damaged else "none is damaged"
        write_line(
            f"{counted(len(results), 'object')}, {size_text(sum(each.bytes for each in results))} compared: {told}"
        )
    return 1 if damaged else 0


def _damaged(result: Compared) -> int:
    return sum(piece.end - piece.start for piece in result.damaged)


def _print(result: Compared) -> None:
    state = "FAILED" if result.damaged else "ok"
    told = f", {size_text(_damaged(result))} damaged, and removed" if result.damaged else ""
    write_line(f"{state:<8}{size_text(result.bytes):>10}  {result.about.url}{told}")


def _prune(folder: str, arguments: argparse.Namespace, configured: int | None) -> int:
    limit = 0 if arguments.all else arguments.size
    if limit is None:
        limit = configured
    if limit is None and arguments.days is None:
        raise ArgumentError(
            "prune does not know what to remove",
            remedy="give --size, --days or --all, or set RUNAI_STREAMER_CACHE_SIZE",
            sep=": ",
        )
    before = None if arguments.days is None else time.time_ns() - int(arguments.days * _DAY * 1e9)
    kept = {each.found.stem: each for each in list_cache(folder)}
    removed = prune_cache(folder, 1 << 62 if limit is None else limit, before)
    freed = sum(each.disk_bytes for each in removed)
    if arguments.json:
        named = [_described(kept[each.stem]) for each in removed if each.stem in kept]
        write_json({"removed": named, "bytes_freed": freed})
        return 0
    for each in removed:
        if each.stem in kept:
            write_line(f"removed {size_text(each.disk_bytes):>10}  {kept[each.stem].about.url}")
    write_line(f"{counted(len(removed), 'object')} removed, {size_text(freed)} freed")
    return 0
