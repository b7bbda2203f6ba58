"""`runai-streamer doctor` checks this machine, and says what is missing and how to fix it."""

import argparse
from collections.abc import Iterable, Iterator

from runai_model_streamer.cli.arguments import Subcommands, add_command
from runai_model_streamer.cli.doctor import limits, machine, storage, stores
from runai_model_streamer.cli.doctor.bundle import write_bundle
from runai_model_streamer.cli.doctor.machine import Check
from runai_model_streamer.cli.doctor.probe import probe
from runai_model_streamer.cli.output import Column, counted, write_json, write_line, write_table
from runai_model_streamer.errors import ArgumentError
from runai_model_streamer.io.paths import as_path, is_object, scheme_of


def add(commands: Subcommands) -> None:
    """Add the subcommand and its arguments."""
    parser = add_command(
        commands,
        "doctor",
        run,
        "check this machine, its packages and settings, and say what to fix",
        "Exit code 1 if there is an error; warnings do not count. Secrets are never shown.",
    )
    parser.add_argument(
        "urls", nargs="*", type=_url, metavar="URL", help="a bucket, prefix or object, such as s3://BUCKET"
    )
    parser.add_argument("--path", metavar="DIR", help="a folder of files: check how they are read")
    parser.add_argument(
        "--probe", action="store_true", help="also read a little of DIR and URL, and say how fast it comes"
    )
    parser.add_argument(
        "--bundle", metavar="FILE", help="also write what was found, and all packages, for a bug report"
    )


def _url(text: str) -> str:
    if not is_object(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL of object storage; for a folder, use --path {text}")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run the checks. Return exit code 1 if one of them is an error."""
    path = None if arguments.path is None else as_path(arguments.path)
    places = [*([] if path is None else [path]), *arguments.urls]
    if arguments.probe and not places:
        raise ArgumentError("--probe has nothing to read", remedy="give --path DIR or a URL")
    found = list(_checks(path, arguments.urls))
    found += map(probe, places if arguments.probe else ())
    if arguments.bundle is not None:
        write_bundle(arguments.bundle, found)
    errors, warnings = (sum(each.status == status for each in found) for status in ("error", "warning"))
    if arguments.json:
        write_json({"ok": not errors, "checks": [each._asdict() for each in found]})
    else:
        write_table((Column("status"), Column("check"), Column("found")), _rows(found))
        write_line()
        write_line(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
        if path is None and not arguments.urls:
            write_line(
                "doctor --path DIR s3://BUCKET checks your files and buckets too, and --probe how fast they come."
            )
        if arguments.bundle is not None:
            write_line(f"{arguments.bundle} has all of it. Read it before you send it.")
    return 1 if errors else 0


def _checks(path: str | None, urls: list[str]) -> Iterator[Check]:
    yield from machine.python()
    yield from machine.settings()
    yield from machine.gpu()
    yield from machine.packages()
    yield from machine.kernel()
    yield from limits.limits()
    if path is not None:
        yield from storage.folder(path, on_gpu=machine.has_gpu())
    yield from storage.s3([url for url in urls if scheme_of(url) == "s3"])
    yield from stores.answers([url for url in urls if scheme_of(url) != "s3"])


def _rows(found: Iterable[Check]) -> Iterator[tuple[str, str, str]]:
    for each in found:
        yield each.status, each.name, each.detail
        if each.remedy:
            yield "", "", f"-> {each.remedy}"
