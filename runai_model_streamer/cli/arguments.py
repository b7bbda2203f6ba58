"""Arguments that the subcommands share: sizes, settings, PATH, --json."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from runai_model_streamer.cli.output import folded
from runai_model_streamer.settings.parsers import parse_size

Command: TypeAlias = Callable[[argparse.Namespace], int]
"""Runs a subcommand and returns the exit code."""

CONCURRENCY: Final = "RUNAI_STREAMER_CONCURRENCY"
CONNECTIONS: Final = "RUNAI_STREAMER_CONNECTIONS"
CHUNK: Final = "RUNAI_STREAMER_CHUNK_BYTESIZE"
LIMIT: Final = "RUNAI_STREAMER_MEMORY_LIMIT"
TRACE: Final = "RUNAI_STREAMER_TRACE"
CACHE: Final = "RUNAI_STREAMER_CACHE_DIR"
ENDPOINT: Final = "RUNAI_STREAMER_S3_ENDPOINT"
UNSIGNED: Final = "RUNAI_STREAMER_S3_UNSIGNED"

SIZES: Final = "SIZE is a number of bytes, or 256M, 1G, 1GiB (powers of 1024), or 256MB (powers of 1000)."

_NAMES: Final[Mapping[str, str]] = {
    "endpoint_url": ENDPOINT,
    "profile": "AWS_PROFILE",
    "region": "AWS_DEFAULT_REGION",
    "limit": LIMIT,
    "concurrency": CONCURRENCY,
    "chunk": CHUNK,
    "trace": TRACE,
}
"""The variable that an option sets. Messages name the option instead, if it was given."""

_UNLIMITED: Final = ("-1", "none", "unlimited")
_DTYPES: Final = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "f16": "float16",
    "float32": "float32",
    "fp32": "float32",
    "f32": "float32",
}


class Help(argparse.HelpFormatter):
    """Folds descriptions to the terminal line by line, where argparse would join the lines, or not fold them at all."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(folded(indent + line, width) for line in text.splitlines())


class Subcommands(Protocol):
    """The object that subcommands are added to. argparse has no public name for it."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add a subcommand and return its parser."""
        ...


def size(text: str) -> int:
    """Return the bytes of `4194304`, `4M`, `4Mi`, `4MiB` or `4MB`.

    Raises:
        argparse.ArgumentTypeError: the text has none of these forms.
    """
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: use a number of bytes, or 256M, 1G, 1GiB") from None


def chunk(text: str) -> int:
    """Return a size of at least one byte; see `size`."""
    found = size(text)
    if not found:
        raise argparse.ArgumentTypeError("a chunk has at least one byte")
    return found


def limit(text: str) -> int:
    """Return a size, or -1 (no limit) for -1, `none` or `unlimited`."""
    return -1 if text.strip().lower() in _UNLIMITED else size(text)


def count(text: str) -> int:
    """Return a whole number above 0."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


def dtype(text: str) -> str:
    """Return torch's name of a dtype."""
    try:
        return _DTYPES[text.strip().lower().removeprefix("torch.")]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}: use bfloat16, float16 or float32") from None


def add_command(
    commands: Subcommands, name: str, run: Command, summary: str, details: str = "", *, store: bool = True
) -> argparse.ArgumentParser:
    """Add a subcommand with the options that all subcommands have, and those of object storage unless not `store`."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=Help,
    )
    parser.set_defaults(run=run, endpoint_url=None, profile=None, region=None, no_sign_request=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document, and nothing else, to stdout")
    parser.add_argument("--debug", action="store_true", help="log to stderr, and show tracebacks of errors")
    if store:
        group = parser.add_argument_group("object storage, as in aws")
        group.add_argument("--endpoint-url", metavar="URL", help=f"of an S3-compatible store ({ENDPOINT})")
        group.add_argument("--profile", metavar="NAME", help="profile of ~/.aws, instead of keys in the environment")
        group.add_argument("--region", metavar="NAME", help="region of the bucket (AWS_DEFAULT_REGION)")
        group.add_argument("--no-sign-request", action="store_true", help=f"anonymous, for public buckets ({UNSIGNED})")
    return parser


def given_options(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the options that the user gave, by the variables that they set."""
    return {
        variable: f"--{name.replace('_', '-')}"
        for name, variable in _NAMES.items()
        if getattr(arguments, name, None) is not None
    }


def store_settings(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return the options of object storage as environment variables; None for one that must not be set."""
    found: dict[str, str | None] = {}
    if arguments.endpoint_url is not None:
        found[ENDPOINT] = arguments.endpoint_url
    if arguments.profile is not None:
        found["AWS_PROFILE"] = arguments.profile
        # They would win over a profile that is named by a variable, though not over aws's option.
        found |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    if arguments.region is not None:
        found["AWS_DEFAULT_REGION"] = arguments.region
    if arguments.no_sign_request:
        found[UNSIGNED] = "1"
    return found


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the argument PATH, one or more."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder or its index.json, a pattern, or a URL: s3://bucket/prefix, https://host/file ...",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option --device."""
    parser.add_argument("--device", default="cpu", help='device of the tensors: "cpu" (default), "cuda:0" ...')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the settings of a load. Each sets its environment variable."""
    parser.add_argument("--limit", type=limit, metavar="SIZE", help=f"bytes held at once; -1: no limit ({LIMIT})")
    parser.add_argument(
        "--concurrency",
        type=count,
        metavar="N",
        help=f"reads of files in flight at once; for objects, up to 50 connections for each ({CONCURRENCY})",
    )
    parser.add_argument("--chunk", type=chunk, metavar="SIZE", help=f"bytes of one read ({CHUNK})")


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the options of `add_settings` as environment variables."""
    given: Mapping[str, Any] = {
        LIMIT: arguments.limit,
        CONCURRENCY: arguments.concurrency,
        CHUNK: arguments.chunk,
    }
    return {name: str(value) for name, value in given.items() if value is not None}
