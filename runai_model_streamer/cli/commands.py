"""Parses the arguments of `runai-streamer`, runs the subcommand, and prints its errors."""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import runai_model_streamer
from runai_model_streamer.cli import cache, load, ls, pull, verify
from runai_model_streamer.cli.arguments import SIZES, Help, given_options, store_settings
from runai_model_streamer.cli.doctor import command as doctor
from runai_model_streamer.cli.output import described, named_by, write_error, write_json, write_message
from runai_model_streamer.cli.tune import command as tune
from runai_model_streamer.errors import StreamerError
from runai_model_streamer.installation import install_command
from runai_model_streamer.settings.environment import environment

_DEBUG: Final = {"RUNAI_STREAMER_LOG_LEVEL": "DEBUG", "RUNAI_STREAMER_LOG_TO_STDERR": "1"}

_DETAILS: Final = f"""\
{SIZES}
The settings are the library's: RUNAI_STREAMER_* and AWS_* in the environment.

exit codes:
  0    success
  1    failure; "error: ..." on stderr says what failed and what to do
  2    unusable arguments
  130  ended by Ctrl-C
  141  the reader of the output has closed it (| head)
"""


def run(argv: Sequence[str] | None) -> int:
    """Run the command with these arguments, or else the process's; see `main.main`."""
    arguments = _parser().parse_args(argv)
    debug = _DEBUG if arguments.debug else {}
    with environment(store_settings(arguments) | debug), named_by(given_options(arguments)), _warnings_shown():
        return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runai-streamer",
        description="Looks at, loads, verifies and copies safetensors checkpoints, in files and in object storage.",
        epilog=_DETAILS,
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {runai_model_streamer.__version__}")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=("bash", "zsh"),
        help="print a script for the shell that completes subcommands and options, and exit",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for each in (ls, load, tune, verify, pull, cache, doctor):
        each.add(commands)
    return parser


class _Completion(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: argparse.Namespace, shell: object, _option: str | None = None
    ) -> None:
        try:
            import shtab
        except ImportError:
            write_error(f"completion needs shtab: {install_command('cli')}")
            parser.exit(1)
        sys.stdout.write(shtab.complete(parser, shell=str(shell)))
        parser.exit(0)


def _run(arguments: argparse.Namespace) -> int:
    try:
        code: int = arguments.run(arguments)
    except StreamerError as error:
        if arguments.debug:
            logging.getLogger("runai_model_streamer.cli").exception("the command failed")
        if arguments.json:
            write_json({"error": described(error)})
        write_error(str(error))
        return 1
    return code


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Print the package's warnings to stderr meanwhile, in the form of the command's errors."""
    root, handler = logging.getLogger(), _WarningHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        # `main` may have been called by a program with a log of its own.
        root.removeHandler(handler)


class _WarningHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        write_message(record.levelname.lower(), record.getMessage())
