"""The pages of docs/ and the README: their examples run, their links lead somewhere, their settings are the code's.

A page's Python examples run one after the other in one namespace, in a folder with the files that they name and beside
a store that has their objects. What a reader is expected to have stands, unseen on the page, in a comment:

    <!-- setup
    rank, world_size = 0, 2
    -->

and `<!-- skip: needs a GPU -->` leaves out the example behind it. Of the bash examples those are run that only set
variables and call Python or our command; the others are parsed.
"""

import ast
import contextlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import botocore
import pytest
import torch
from safetensors.torch import save, save_file

from runai_model_streamer.cli.main import main
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.settings.setting import Setting
from runai_model_streamer.settings.table import SECTIONS, SETTINGS
from tests import environment_page
from tests.servers import FaultServer, aws_environment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
MOVING = ROOT / "docs" / "moving.md"
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

FENCE = re.compile(
    r"<!-- setup\n(?P<setup>.*?)-->"
    r"|<!-- skip: (?P<skip>[^\n]*?) -->"
    r"|^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NAME = re.compile(r"\bRUNAI_STREAMER_[A-Z0-9_]+\b")
KNOWN = {setting.name for section in SECTIONS.values() for setting in section}


class Example(NamedTuple):
    """A block of a page."""

    line: int
    language: str
    """"setup" for what is not shown."""
    code: str
    skip: str
    """Why it is not run; "" if it is."""


def examples(text: str) -> Iterator[Example]:
    skip = ""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("setup" if match["setup"] is not None else "code")) + 1
        if match["skip"] is not None:
            skip = match["skip"]
        elif match["setup"] is not None:
            yield Example(line, "setup", match["setup"], "")
        else:
            yield Example(line, match["language"], match["code"], skip)
            skip = ""


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def checkpoint() -> dict[str, torch.Tensor]:
    """Small, but with the names that examples ask for."""
    matrix = torch.arange(128 * 64, dtype=torch.float32).reshape(128, 64)
    layer = {
        f"model.layers.0.{name}.weight": matrix.clone()
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.experts.0.down_proj", "norm")
    }
    return {"lm_head.weight": matrix.to(torch.bfloat16), **layer}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, and the store, that examples find themselves beside."""
    folder = tmp_path / "world"
    (folder / "fixtures").mkdir(parents=True)
    (folder / "cache").mkdir()
    tensors = checkpoint()
    half = dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:])
    files = {"model.safetensors": tensors} | {f"model-0000{i + 1}-of-00002.safetensors": half[i] for i in (0, 1)}
    for name, content in files.items():
        save_file(content, folder / name)
    save_file(tensors, folder / "fixtures" / "model.safetensors")
    monkeypatch.chdir(folder)
    with FaultServer(virtual_host="minio") as server:
        for name, content in files.items():
            data = save(content)
            server.put("bucket", name, data)
            if "-of-" in name:
                server.put("bucket", f"model/{name}", data)
        server.put("bucket", "model/config.json", b"{}")
        server.put("bucket", "index.bin", bytes(8192))
        server.put("models", "llama/model.safetensors", save(tensors))
        for name, value in aws_environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        # Hosts that examples make up are found there too: the server answers as a proxy.
        monkeypatch.setenv("HTTP_PROXY", server.endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folder


def run_python(page: Path, world: Path) -> list[str]:
    """Run a page's examples; why others were left out."""
    namespace: dict[str, Any] = {"__name__": "example"}
    skipped = []
    for example in examples(TEXTS[page]):
        if example.language not in ("python", "setup"):
            continue
        if example.skip:
            compile(example.code, page.name, "exec")
            skipped.append(f"{page.name}:{example.line}: {example.skip}")
            continue
        # A traceback names the page's lines.
        code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
        exec(code, namespace)
        for made in [value for value in namespace.values() if hasattr(value, "close")]:
            with contextlib.suppress(TypeError):
                made.close()
    return skipped


@every_page
def test_the_python_examples_of_a_page_run(page: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_python(page, world)


def test_only_what_needs_a_gpu_or_another_program_is_left_out() -> None:
    skipped = {
        example.skip for text in TEXTS.values() for example in examples(text) if example.language in ("python", "bash")
    }
    programs = {f"needs {name}" for name in ("Ray", "Slurm", "a cluster", "a store", "the Hub")}
    engines = {"starts an engine", "installs vLLM", "installs SGLang"}
    assert skipped == {"", "needs a GPU", "needs a web server"} | engines | programs
    cuda = [
        example
        for text in TEXTS.values()
        for example in examples(text)
        if example.language == "python" and 'device="cuda' in example.code
    ]
    assert cuda
    assert {example.skip for example in cuda} == {"needs a GPU"}


def test_an_example_that_fails_is_told_with_its_page_and_line(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "made-up.md"
    monkeypatch.setitem(TEXTS, page, "One\n\n<!-- setup\nx = 0\n-->\n\n```python\n\n1 / x\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(page, world)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 9)


def commands(code: str) -> list[list[str]]:
    """The words of each line of a shell script, without comments."""
    lines = (shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines())
    return [words for words in lines if words]


def is_run(example: Example) -> bool:
    if example.language != "bash":
        return False
    lines = commands(example.code)
    ours = all(words[0] in ("export", "runai-streamer") or words[:2] == ["python", "-c"] for words in lines)
    return ours and not example.skip and any(words[0] != "export" for words in lines)


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Carry out a line in this process, where torch has been imported already."""
    match words:
        case ["export", *settings]:
            for setting in settings:
                monkeypatch.setenv(*setting.split("=", 1))
        case ["python", "-c", code]:
            exec(code, {"__name__": "__main__"})
        case ["runai-streamer", "tune", *arguments]:
            return main(["tune", *arguments, "--budget", "1"])
        case ["runai-streamer", *arguments]:
            return main(arguments)
    return 0


@every_page
def test_the_bash_examples_of_a_page_run_or_parse(
    page: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for example in examples(TEXTS[page]):
        if example.language != "bash":
            continue
        where = f"{page.name}:{example.line}"
        parsed = subprocess.run(["bash", "-n", "-c", example.code], capture_output=True, text=True, check=False)
        assert (parsed.returncode, parsed.stderr) == (0, ""), where
        if is_run(example):
            with monkeypatch.context() as block:
                for words in commands(example.code):
                    assert run_command(words, block) == 0, f"{where}: {words}: {capfd.readouterr()}"


def test_examples_of_the_command_are_run() -> None:
    ran = [words for text in TEXTS.values() for each in examples(text) if is_run(each) for words in commands(each.code)]
    assert {words[1] for words in ran if words[0] == "runai-streamer"} == {
        "cache", "doctor", "load", "ls", "pull", "tune", "verify",
    }  # fmt: skip
    assert any(words[0] == "python" for words in ran)


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


@every_page
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[page])):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE) if file.is_file() else []
        if not file.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(target)
    assert broken == []


@every_page
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    wrong = []
    for table in re.findall(r"(?:^\|.*\n)+", prose(TEXTS[page]), re.MULTILINE):
        head, *rows = (re.sub(r"\\\|", "", row).count("|") for row in table.splitlines())
        wrong += [row for row, count in zip(table.splitlines()[1:], rows, strict=True) if count != head]
    assert wrong == []


@every_page
def test_a_table_ends_with_an_empty_line(page: Path) -> None:
    # mkdocs takes a heading without one for a row.
    assert re.findall(r"^\|.*\n(?![|\n]).+", prose(TEXTS[page]), re.MULTILINE) == []


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)[)#]", TEXTS[ROOT / "docs" / "README.md"]))
    assert linked == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]} - {"README.md"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    # Also of those who do not build it: `make docs` fails for a page that the navigation lacks.
    listed = set(
        re.findall(r"^ +- (?:\w+: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} <= listed


@every_page
def test_a_page_names_no_variable_that_there_is_not(page: Path) -> None:
    text = TEXTS[page]
    if page == MOVING:
        former, behind = text.split("## Variables without an effect", 1)
        section, rest = behind.split("\n## ", 1)
        assert {name for name in NAME.findall(section.replace("instead", "")) if name not in KNOWN}
        text = former + rest
    assert {name for name in NAME.findall(text) if name not in KNOWN and not name.endswith("_")} == set()


def test_the_variables_that_are_said_to_have_no_effect_have_none() -> None:
    section = TEXTS[MOVING].split("## Variables without an effect", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 3
    said = [*rows, *(line for line in section.splitlines() if not line.startswith("|"))]
    assert {name for text in said for name in NAME.findall(text)} & KNOWN == set()


def test_what_is_said_to_be_needed_is_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (torch,) = [each for each in project["dependencies"] if each.startswith("torch>=")]
    python, pytorch = project["requires-python"].removeprefix(">="), torch.removeprefix("torch>=")
    assert f"| needs | Python {python} and PyTorch {pytorch}, or newer ones |" in TEXTS[MOVING]


@every_page
def test_a_page_names_no_variable_of_aws_that_boto3_does_not_read(page: Path) -> None:
    sources = "".join(path.read_text("utf-8") for path in Path(botocore.__file__).parent.glob("*.py"))
    read = set(re.findall(r"\bAWS_[A-Z0-9_]+\b", sources))
    named = set(re.findall(r"\bAWS_[A-Z0-9_]*[A-Z0-9]\b", TEXTS[page]))
    # AWS_ENDPOINT_URL_S3 is put together from the service's name.
    assert {name.removesuffix("_S3") for name in named} <= read


@every_page
def test_every_setting_that_a_page_shows_is_accepted(page: Path) -> None:
    for name, value in re.findall(r"\b([A-Z][A-Z0-9_]+)=([^\s`,;)'\"]+)", TEXTS[page]):
        if name in KNOWN and "…" not in value and value != "...":
            LoadConfig.from_environment({name: value})


@every_page
def test_no_line_of_a_page_begins_a_list_by_accident(page: Path) -> None:
    # A paragraph that is folded before "1000. " goes on as an item of a list.
    assert [number for number in re.findall(r"^ *(\d+)\. ", TEXTS[page], re.MULTILINE) if int(number) > 50] == []


def test_the_page_of_variables_is_made_from_the_table_of_settings() -> None:
    text = TEXTS[environment_page.PAGE]
    assert text == environment_page.with_tables(text), "run `python -m tests.environment_page`"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_shows_the_default_that_it_has(setting: Setting) -> None:
    plain = LoadConfig()
    for value in re.findall(r"`([^`]+)`", setting.parser.kind):  # every value that is listed
        LoadConfig.from_environment({setting.name: value})
    if setting.field == "concurrency":
        assert setting.default == "16 for files, 8 for objects"
        for count, kind in ((16, SourceKind.FILE), (8, SourceKind.OBJECT)):
            assert LoadConfig(concurrency=count).max_concurrency_for(kind) == plain.max_concurrency_for(kind)
    elif setting.field == "chunk_bytesize":
        assert setting.parser.read(setting.default.strip("`")) == plain.chunk_for(SourceKind.OBJECT)
    elif match := re.match(r"`([^`]+)`", setting.default):
        assert LoadConfig.from_environment({setting.name: match[1]}) == plain
    else:
        texts = (
            "s3.endpoint",
            "s3.connections",
            "s3.ca_bundle",
            "web.tokens",
            "web.netrc",
            "hub.endpoint",
            "hub.cache",
            "gcs.credential_file",
            "gcs.emulator",
            "azure.account",
            "azure.connection_string",
            "azure.endpoint",
            "azure.endpoint_suffix",
            "azure.key",
            "azure.sas",
            "cache.folder",
            "cache.size",
            "log_level",
            "trace",
        )
        assert setting.field in texts
        assert setting.default.startswith(("none", "INFO"))


def test_the_examples_are_plain_python() -> None:
    # Else a page could go without examples that run, and nobody would notice.
    shown = [example for text in TEXTS.values() for example in examples(text) if example.language == "python"]
    assert len(shown) > 15
    assert all(ast.parse(example.code).body for example in shown)
