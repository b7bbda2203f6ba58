"""The command as a whole: exit codes, the end of a pipe, Ctrl-C, its entry point."""

import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

import runai_model_streamer
from runai_model_streamer.cli.main import main
from tests.checkpoints import numbered, write
from tests.cli.conftest import Command
from tests.servers import FaultServer, stall_before_headers

ROOT = Path(__file__).parents[2]
COMMANDS = ("ls", "load", "tune", "verify", "pull", "cache", "doctor")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["ls"],
        ["load", "--limit", "1Q", "x"],
        ["load", "--concurrency", "0", "x"],
        ["pull", "s3://b"],
        ["doctor", "/models"],
        ["tune", "--budget", "-1", "x"],
    ],
)
def test_arguments_that_cannot_be_used_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: runai-streamer")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"runai-streamer {runai_model_streamer.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_the_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--json" in told
    assert max(map(len, told.splitlines())) <= 80


def test_help_names_the_commands_the_sizes_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for word in (*COMMANDS, "256M, 1G, 1GiB", "130  ended by Ctrl-C"):
        assert word in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "--endpoint-url", "minio:9000", "s3://models/llama"], "in AWS_ENDPOINT_URL, --endpoint-url or "),
        (["load", "--limit", "1M", "m.safetensors"], "more than --limit=1048576"),
        (["ls", "--profile", "nobody", "s3://models/llama"], "Check --profile"),
    ],
)
@pytest.mark.usefixtures("aws_files")
def test_a_message_names_the_option_that_was_given(
    arguments: list[str], message: str, streamer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.safetensors", numbered([4 << 20]))
    done = streamer(*arguments)
    assert done.code == 1
    assert message in done.err


def test_an_error_is_one_line_and_with_debug_a_traceback(streamer: Command, tmp_path: Path) -> None:
    done = streamer("ls", tmp_path / "nothing")
    assert (done.code, done.err) == (1, f"error: {tmp_path}/nothing: no such file\n")
    debugged = streamer("ls", "--debug", tmp_path / "nothing")
    assert "Traceback" in debugged.err
    assert "RUNAI_STREAMER_LOG_LEVEL" not in os.environ


def test_a_reader_that_goes_ends_the_command_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "many.safetensors", numbered([1] * 2000))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(["ls", "--tensors", str(path)]) == 141
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_for_completion_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    assert "doctor" in (script := capsys.readouterr().out)
    assert "--dry-run" in script


def test_ctrl_c_ends_with_130(streamer: Command, server: FaultServer) -> None:
    server.choose = lambda request: stall_before_headers()

    def interrupt() -> None:
        server.stalled.acquire()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=interrupt)
    timer.start()
    done = streamer("ls", "s3://models/llama/model-1.safetensors")
    timer.join()
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


AS_A_MODULE = ("-m", "runai_model_streamer")
AS_A_SCRIPT = ("-c", "import sys; from runai_model_streamer.cli.main import main; sys.exit(main())")

SLOW_TORCH = """
import os, time
os.write(1, b"importing")
try:
    for _ in range(6000):  # a signal that comes just before a sleep begins does not end that
        time.sleep(0.1)
except KeyboardInterrupt as error:
    {then}
"""


@pytest.mark.parametrize("started", [AS_A_MODULE, AS_A_SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("then", ["raise", "raise ImportError('initialization failed') from error", "pass"])
@pytest.mark.parametrize("command_name", ["load", "verify", "tune"])
def test_ctrl_c_ends_with_130_while_torch_is_imported(
    tmp_path: Path, started: tuple[str, ...], then: str, command_name: str
) -> None:
    # Extensions make an ImportError of what is raised while they begin, and some code swallows all that is raised.
    (tmp_path / "torch.py").write_text(SLOW_TORCH.format(then=then))
    write(tmp_path / "model.safetensors", numbered([100]))
    with subprocess.Popen(
        [sys.executable, *started, command_name, "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.read(9) == "importing"
        command.send_signal(signal.SIGINT)
        assert command.communicate(timeout=300) == ("", "interrupted\n")
    assert command.returncode == 130


def test_an_interrupt_that_is_ignored_stays_so_while_torch_is_imported(tmp_path: Path) -> None:
    torch = "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise ImportError('on')"
    (tmp_path / "torch.py").write_text(torch)
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from runai_model_streamer.cli.main import main; main(['doctor'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith("ImportError: on\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ls", "."], ["ls", "FOLDER"], ["pull", "--help"]])
def test_what_loads_nothing_imports_no_torch(arguments: list[str], tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", numbered([100]))
    arguments = [str(tmp_path) if each == "FOLDER" else each for each in arguments]
    code = (
        "import sys\nfrom runai_model_streamer.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numba', 'boto3', 'botocore', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", numbered([1]))
    command = [sys.executable, *AS_A_MODULE, "ls", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 file, 73 bytes, 1 tensor, 1 elements"
    assert done.stderr == ""


def test_the_entry_point_is_there() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["runai-streamer"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_the_log_of_the_program_that_calls_it_is_as_before(model: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    main(["ls", str(model)])
    assert logging.getLogger().handlers == handlers
