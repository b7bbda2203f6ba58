"""nginx on loopback, serving a folder as S3 objects: over HTTP and TLS, with requests that fail, and as a slow store.

`slow30` and `slow90` give each connection 30 and 90 MB/s, `stragglers` 30 MB/s but 3 to one request in 50, and
`throttled` refuses requests above 200 a second with 503 SlowDown. `far` is the first of these behind a proxy that holds
every request back by 20 ms, as if the store were that far away (far.py), and `far-stragglers` the second. `loss` is
the first, and `far-loss` is `far`, with packets that are lost where that was asked for (loss.py).

Its configuration, certificate and logs are in a folder of its own, its ports are free ones, and it ends with the
`with` block. Objects are at /bucket/key; nginx answers ranges and If-Match as a store does. It looks at no signature.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.objects import far

BUCKET = "bench"
BEHIND = {"far": "slow30", "far-stragglers": "stragglers", "far-loss": "slow30"}
"""Proxies, and the server behind each."""
NAMES = ("http", "tls", "flaky", "throttled", "slow30", "slow90", "stragglers", "loss", *BEHIND)
ANSWERS = "answers.log"
REFUSED = "30%"

_CONFIGURATION = """
{user}
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
    log_format answers '$server_port $status $body_bytes_sent';
    access_log {folder}/{answers} answers;
    default_type binary/octet-stream;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    sendfile on;
    map_hash_bucket_size 512;
    keepalive_requests 1000000;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    split_clients $request_id $refused {{ {refused} 1; * ""; }}
    split_clients $request_id $rate {{ 2% 3m; * 30m; }}
    limit_req_zone $server_port zone=all:1m rate=200r/s;
    map $uri $checksum {{ default ""; {checksums} }}
    map $uri $checksum_type {{ default ""; {checksum_types} }}
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{tls} ssl;
        location /{bucket}/ {{
            alias {objects}/;
            add_header x-amz-checksum-crc64nvme $checksum;
            add_header x-amz-checksum-type $checksum_type;
        }}
    }}
    server {{
        listen 127.0.0.1:{flaky};
        error_page 503 @slow_down;
        location @slow_down {{
            default_type application/xml;
            return 503 "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";
        }}
        location /{bucket}/ {{
            if ($refused) {{ return 503; }}
            alias {objects}/;
        }}
    }}
    server {{
        listen 127.0.0.1:{throttled};
        error_page 503 @slow_down;
        limit_req zone=all burst=100 nodelay;
        location @slow_down {{
            default_type application/xml;
            return 503 "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";
        }}
        location /{bucket}/ {{ alias {objects}/; }}
    }}
    server {{ listen 127.0.0.1:{slow30}; location /{bucket}/ {{ alias {objects}/; limit_rate 30m; }} }}
    server {{ listen 127.0.0.1:{loss}; location /{bucket}/ {{ alias {objects}/; limit_rate 30m; }} }}
    server {{ listen 127.0.0.1:{slow90}; location /{bucket}/ {{ alias {objects}/; limit_rate 90m; }} }}
    server {{ listen 127.0.0.1:{stragglers}; location /{bucket}/ {{ alias {objects}/; limit_rate $rate; }} }}
}}
"""


class NoServerError(Exception):
    """nginx is not installed, or did not start; the message says which."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the objects are: a port for each name, and the file that vouches for TLS."""

    ports: Mapping[str, int]
    authority: Path
    answers: Path
    """A line for each answer: the server's port, the status, bytes of the body."""

    def url(self, name: str) -> str:
        """The endpoint of this name."""
        return f"{'https' if name == 'tls' else 'http'}://127.0.0.1:{self.ports[name]}"


@contextlib.contextmanager
def nginx(objects: Path, checksums: Mapping[str, str]) -> Iterator[Endpoints]:
    """Serve the files under `objects`, whose path below it is the key; `checksums` are CRC64NVMEs in base64, by key.

    Raises:
        NoServerError: there is no nginx or openssl, or it did not start.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("openssl") is None:
        raise NoServerError("nginx and openssl are needed: apt install nginx openssl (a running nginx is left alone)")
    with tempfile.TemporaryDirectory(prefix="s3-bench-") as name:
        folder = Path(name)
        (folder / "temp").mkdir()
        _certify(folder)
        ports = dict(zip(NAMES, _free_ports(len(NAMES)), strict=True))
        uris = {f"/{BUCKET}/{key}": value for key, value in checksums.items()}
        text = _CONFIGURATION.format(
            # Only root may name a user, and root's files are for root's worker to read.
            user="user root;" if os.geteuid() == 0 else "",
            workers=len(os.sched_getaffinity(0)),
            folder=folder,
            objects=objects,
            bucket=BUCKET,
            answers=ANSWERS,
            **ports,
            refused=REFUSED,
            checksums=" ".join(f'"{uri}" "{value}";' for uri, value in uris.items()),
            checksum_types=" ".join(f'"{uri}" FULL_OBJECT;' for uri in uris),
        )
        (folder / "nginx.conf").write_text(text)
        process = subprocess.Popen(
            [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"],
            stdin=subprocess.DEVNULL,
        )
        try:
            _wait_until_up(process, ports["http"], folder)
            with contextlib.ExitStack() as stack:
                for proxy, behind in BEHIND.items():
                    stack.enter_context(far.proxy(ports[proxy], ports[behind]))
                yield Endpoints(ports, folder / "authority.pem", folder / ANSWERS)
        finally:
            process.terminate()
            process.wait()


def version() -> str:
    """What nginx says of itself."""
    done = subprocess.run(
        [shutil.which("nginx") or "/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().removeprefix("nginx version: ")


def _certify(folder: Path) -> None:
    """Make an authority and a certificate by it: rustls takes none that vouches for itself."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    authority = ["-subj", "/CN=benchmark", "-out", str(folder / "authority.pem"), "-keyout", str(folder / "a.pem")]
    own = ["-subj", "/CN=localhost", "-out", str(folder / "certificate.pem"), "-keyout", str(folder / "key.pem")]
    signed = ["-CA", str(folder / "authority.pem"), "-CAkey", str(folder / "a.pem")]
    extensions = ["subjectAltName=IP:127.0.0.1,DNS:localhost", "basicConstraints=critical,CA:FALSE"]
    for files in (authority, [*own, *signed, *(word for each in extensions for word in ("-addext", each))]):
        subprocess.run([*command.split(), *files], check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait_until_up(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    for _ in range(100):
        if process.poll() is not None:
            log = folder / "error.log"
            lines = log.read_text().strip().splitlines() if log.exists() else []
            raise NoServerError(f"nginx ended: {lines[-1] if lines else process.returncode}")
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            except urllib.error.HTTPError as answer:
                answer.close()
            return
        time.sleep(0.05)
    raise NoServerError("nginx does not answer")
