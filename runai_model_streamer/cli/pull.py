"""`runai-streamer pull` copies a folder or prefix to a local disk."""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from runai_model_streamer.cli.arguments import Subcommands, add_command
from runai_model_streamer.cli.output import counted, write_json, write_line
from runai_model_streamer.cli.progress import Advance, progress
from runai_model_streamer.errors import NotFoundError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.listing import Entry, Patterns
from runai_model_streamer.io.paths import as_path, divide, is_pattern
from runai_model_streamer.mirror.pull import missing_files, none_chosen, pull
from runai_model_streamer.settings.units import rate_text, size_text


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "pull",
        run,
        "copy a model's files to a local folder; files that are already there are not fetched again",
        "A PATTERN has to match the path below URL, or an object's whole key; * matches slashes too: "
        "--allow '*.json' --ignore 'original/*'.\n"
        "After an interruption, pull again: complete files are kept.",
    )
    parser.add_argument(
        "url",
        metavar="URL",
        help="s3://bucket/prefix, https://host/folder, or a local folder; a pattern at its end counts as --allow",
    )
    parser.add_argument("destination", metavar="DST", help="the folder to copy to; created if missing")
    parser.add_argument("--allow", action="append", metavar="PATTERN", help="only files that match; may be repeated")
    parser.add_argument("--ignore", action="append", metavar="PATTERN", help="no files that match; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="only list the files that would be fetched")


class _Watcher:
    """Shows the progress of a pull, and keeps the list of files to fetch."""

    def __init__(self, title: str) -> None:
        self.missing: Sequence[Entry] = ()
        self.landed: Advance = lambda _: None
        self._title = title
        self._bar = ExitStack()

    def begin(self, missing: Sequence[Entry]) -> None:
        self.missing = missing
        if missing:
            self.landed = self._bar.enter_context(progress("Pulling", self._title, self.bytes))

    @property
    def bytes(self) -> int:
        """Bytes of the missing files."""
        return sum(entry.size for entry in self.missing)

    def close(self) -> None:
        self._bar.close()


def run(arguments: argparse.Namespace) -> int:
    """Pull the files. Return exit code 0 when all are local.

    Raises:
        NotFoundError: the patterns choose no file.
    """
    source, destination = as_path(arguments.url), as_path(arguments.destination)
    allow = arguments.allow
    if is_pattern(source):
        source, pattern = divide(source)
        allow = [*(allow or []), pattern]
    patterns = Patterns.of(allow, arguments.ignore)
    watcher = _Watcher(source)
    started = time.perf_counter()
    with open_storage(None) as (storage, config):
        if arguments.dry_run:
            wanted, watcher.missing = missing_files(storage, source, destination, patterns)
        else:
            try:
                wanted = pull(storage, source, destination, patterns, config, watcher)
            finally:
                watcher.close()
    if not wanted:
        raise NotFoundError(none_chosen(patterns), where=source)
    seconds = time.perf_counter() - started
    if arguments.dry_run and not arguments.json:
        _print_missing(destination, wanted, watcher)
        return 0
    fetched = len(watcher.missing)
    if arguments.json:
        write_json(_document(source, destination, wanted, watcher.missing, None if arguments.dry_run else seconds))
    else:
        write_line(
            f"{counted(fetched, 'file')}, {size_text(watcher.bytes)}, pulled to {destination} in {seconds:.1f} s"
            + (f" ({rate_text(watcher.bytes, seconds)})" if fetched else "")
            + f"; {len(wanted) - fetched} were there already"
        )
    return 0


def _print_missing(destination: str, wanted: Sequence[Entry], watcher: _Watcher) -> None:
    for entry in watcher.missing:
        write_line(f"{size_text(entry.size):>10}  {entry.name}")
    write_line(
        f"{counted(len(watcher.missing), 'file')}, {size_text(watcher.bytes)}, would be pulled to {destination}; "
        f"{len(wanted) - len(watcher.missing)} are there already"
    )


def _document(
    source: str, destination: str, wanted: Sequence[Entry], missing: Sequence[Entry], seconds: float | None
) -> dict[str, Any]:
    """Return what was fetched in these seconds, or what is missing if nothing was fetched (None)."""
    word = "missing" if seconds is None else "fetched"
    names = {entry.name for entry in missing}
    return {
        "source": source,
        "destination": destination,
        **({} if seconds is None else {"seconds": seconds}),
        f"bytes_{word}": sum(entry.size for entry in missing),
        "files": [{"name": each.name, "bytes": each.size, word: each.name in names} for each in wanted],
    }
