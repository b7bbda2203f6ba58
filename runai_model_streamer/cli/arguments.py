"""What the subcommands' arguments have in common: sizes, settings, PATH, --json."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from runai_model_streamer.settings.parsers import size_of

Command: TypeAlias = Callable[[argparse.Namespace], int]
"""Carries a subcommand out; returns the exit code."""

CONCURRENCY: Final = "RUNAI_STREAMER_CONCURRENCY"
CHUNK: Final = "RUNAI_STREAMER_CHUNK_BYTESIZE"
LIMIT: Final = "RUNAI_STREAMER_MEMORY_LIMIT"
TRACE: Final = "RUNAI_STREAMER_TRACE"

SIZES: Final = "SIZE is a number of bytes, or 256M, 1G, 1GiB (powers of 1024), or 256MB (powers of 1000)."

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


class Subcommands(Protocol):
    """What subcommands are added to, for which argparse has no public name."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """One of them."""
        ...


def size(text: str) -> int:
    """Bytes, of `4194304`, `4M`, `4Mi`, `4MiB` or `4MB`.

    Raises:
        argparse.ArgumentTypeError: none of these.
    """
    try:
        return size_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write a number of bytes, or 256M, 1G, 1GiB") from None


def chunk(text: str) -> int:
    """A size of at least one byte; see `size`."""
    found = size(text)
    if not found:
        raise argparse.ArgumentTypeError("a chunk has at least one byte")
    return found


def limit(text: str) -> int:
    """A size, or -1, `none` or `unlimited`: no limit."""
    return -1 if text.strip().lower() in _UNLIMITED else size(text)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found


def dtype(text: str) -> str:
    """The name of a dtype that torch has."""
    try:
        return _DTYPES[text.strip().lower().removeprefix("torch.")]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}: use bfloat16, float16 or float32") from None


def add_command(
    commands: Subcommands, name: str, run: Command, summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """A subcommand with what every one takes."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON document, and nothing else, to stdout")
    parser.add_argument("--debug", action="store_true", help="log to stderr, and show tracebacks of errors")
    return parser


def add_paths(parser: argparse.ArgumentParser) -> None:
    """PATH, one or more of them."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, a folder, s3://bucket/key or s3://bucket/prefix"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="cpu", help='where the tensors are to be: "cpu" (default), "cuda:0" ...')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The settings of a load, each of which stands for its environment variable."""
    parser.add_argument("--limit", type=limit, metavar="SIZE", help=f"bytes held at once; -1: no limit ({LIMIT})")
    parser.add_argument("--concurrency", type=count, metavar="N", help=f"reads in flight at once ({CONCURRENCY})")
    parser.add_argument("--chunk", type=chunk, metavar="SIZE", help=f"bytes of one read ({CHUNK})")


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """What `add_settings` has taken, as environment variables."""
    given: Mapping[str, Any] = {
        LIMIT: arguments.limit,
        CONCURRENCY: arguments.concurrency,
        CHUNK: arguments.chunk,
    }
    return {name: str(value) for name, value in given.items() if value is not None}
