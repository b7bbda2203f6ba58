"""S3 servers for tests and demonstrations, on 127.0.0.1 only: moto's, and one that fails as it is told to.

    with FaultServer() as server:
        server.put("bucket", "model.safetensors", data)
        server.script(refuse(503, "SlowDown"), cut_short(1000))     # the next two requests; then it serves
        ...
        assert server.requests[0].headers["Range"] == "bytes=0-262143"

Nothing here needs pytest.
"""

import contextlib
import datetime
import hashlib
import re
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse
import urllib.request
import xml.sax.saxutils
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from botocore.session import Session

_PATIENCE: Final = 60.0
"""Seconds after which a wait that should have ended is given up."""

_STALL: Final = 600.0
"""Seconds after which a stalled answer is given up, should a test forget to stop the server: longer than any test waits
for what must not wait for the server."""


def aws_environment(folder: Path, *, configuration: str = "", credentials: str = "") -> dict[str, str]:
    """Variables under which botocore finds nothing of this machine: no files of the user's, no instance's role.

    The texts become the files that stand for ~/.aws/config and ~/.aws/credentials, in `folder`. Other variables
    that begin with one of `AWS_VARIABLES` are for the caller to remove.
    """
    (folder / "aws-config").write_text(configuration)
    (folder / "aws-credentials").write_text(credentials)
    return {
        "AWS_CONFIG_FILE": str(folder / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "aws-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


AWS_VARIABLES: Final = (
    "AWS_",
    "BOTO_",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last byte asked for, both included."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class StoredObject:
    """Bytes of an object, and the ETag (with its quotes) that stands for them; None sends no ETag."""

    data: bytes
    etag: str | None
    modified: float = 0.0
    """Seconds since 1970."""


@dataclass
class Exchange:
    """One request for an object and the means to answer it, rightly or wrongly."""

    request: Request
    stored: StoredObject
    server: "FaultServer"
    _handler: "_Handler" = field(repr=False)

    @property
    def asked(self) -> bytes:
        """The bytes of the range asked for."""
        first, last = self._bounds()
        return self.stored.data[first : last + 1]

    def _bounds(self) -> tuple[int, int]:
        first, last = self.request.span or (0, len(self.stored.data) - 1)
        return first, min(last, len(self.stored.data) - 1)

    def head(self, status: int = 206, headers: Mapping[str, str | None] | None = None) -> None:
        """Send the status line and the headers of a right answer, changed by `headers` (None leaves one out)."""
        first, last = self._bounds()
        right: dict[str, str | None] = {
            "Content-Type": "binary/octet-stream",
            "Content-Length": str(len(self.asked)),
            "ETag": self.stored.etag,
            "x-amz-request-id": f"REQUEST{len(self.server.requests)}",
        }
        if status == 206:
            right["Content-Range"] = f"bytes {first}-{last}/{len(self.stored.data)}"
        self._handler.send_response(status)
        for name, value in (right | dict(headers or {})).items():
            if value is not None:
                self._handler.send_header(name, value)
        self._handler.end_headers()

    def send(self, data: bytes) -> None:
        """Send raw bytes, counted as served."""
        self._handler.wfile.write(data)
        self._handler.wfile.flush()
        self.server.count_served(len(data))

    def right(self) -> None:
        """Answer as a store does."""
        self.head()
        self.send(self.asked)

    def refuse(
        self,
        status: int,
        code: str,
        headers: Mapping[str, str | None] | None = None,
        detail: str = "",
        message: str | None = None,
    ) -> None:
        """Answer with an error in S3's XML; `detail` is more of it, and a code of "" sends no body."""
        request_id = f"REQUEST{len(self.server.requests)}"
        words = xml.sax.saxutils.escape(message or f"{code} it is.")
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{words}</Message>'
            f"{detail}<RequestId>{request_id}</RequestId></Error>"
        ).encode()
        if not code or self.request.method == "HEAD":
            body = b""
        sent: dict[str, str | None] = {"Content-Type": "application/xml", "x-amz-request-id": request_id}
        sent |= {"Content-Length": str(len(body))} | dict(headers or {})
        self._handler.send_response(status)
        for name, value in sent.items():
            if value is not None:
                self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def listing(self, **changes: str) -> None:
        """Answer a ListObjectsV2 with a page of the bucket's keys; elements named in `changes` hold that instead."""
        url = urllib.parse.urlsplit(self.request.target)
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
        body = self.server.page(self.server.locate(self.request)[0], asked)
        for name, text in changes.items():
            body = re.sub(rf"<{name}>.*?</{name}>", f"<{name}>{text}</{name}>", body)
        sent = body.encode()
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "application/xml")
        self._handler.send_header("Content-Length", str(len(sent)))
        self._handler.end_headers()
        self._handler.wfile.write(sent)

    def hang_up(self) -> None:
        """End the connection in order, after what was sent."""
        self._handler.close_connection = True

    def reset(self) -> None:
        """Break the connection off: the peer sees a reset."""
        # Lingering for no time makes close() send RST instead of FIN.
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.close_connection = True
        self._handler.abort = True

    def stall(self) -> None:
        """Send nothing more until the client hangs up or the server stops."""
        self.server.stalled.release()
        ends = [self._handler.connection, self.server.stopping]
        select.select(ends, [], [], _STALL)
        self._handler.close_connection = True


Fault = Callable[[Exchange], None]
"""What to do with one request for an object."""


def right() -> Fault:
    """Serve the object, as a step in a script."""
    return Exchange.right


def refuse(
    status: int,
    code: str,
    headers: Mapping[str, str | None] | None = None,
    detail: str = "",
    message: str | None = None,
) -> Fault:
    """An error in S3's XML, such as refuse(503, "SlowDown")."""
    return lambda exchange: exchange.refuse(status, code, headers, detail, message)


def reset_after(count: int) -> Fault:
    """Headers, `count` bytes of the body, then a reset."""

    def fault(exchange: Exchange) -> None:
        exchange.head()
        exchange.send(exchange.asked[:count])
        exchange.reset()

    return fault


def reset_at_once() -> Fault:
    """A reset in place of an answer."""
    return Exchange.reset


def stall_before_headers() -> Fault:
    """No answer."""
    return Exchange.stall


def stall_after(count: int) -> Fault:
    """Headers, `count` bytes of the body, then nothing."""

    def fault(exchange: Exchange) -> None:
        exchange.head()
        exchange.send(exchange.asked[:count])
        exchange.stall()

    return fault


def drip(block: int, seconds: float) -> Fault:
    """The right answer, slowly: `block` bytes, then a pause, until all are sent."""

    def fault(exchange: Exchange) -> None:
        exchange.head()
        data = exchange.asked
        for start in range(0, len(data), block):
            exchange.send(data[start : start + block])
            if select.select([exchange.server.stopping], [], [], seconds)[0]:
                return

    return fault


def cut_short(count: int) -> Fault:
    """The right Content-Length, but the connection ends in order after `count` bytes."""

    def fault(exchange: Exchange) -> None:
        exchange.head()
        exchange.send(exchange.asked[:count])
        exchange.hang_up()

    return fault


def shorter(missing: int) -> Fault:
    """Fewer bytes than asked for, with the Content-Length that fits them and the Content-Range that was asked."""

    def fault(exchange: Exchange) -> None:
        data = exchange.asked[: len(exchange.asked) - missing]
        exchange.head(headers={"Content-Length": str(len(data))})
        exchange.send(data)

    return fault


def longer(extra: int) -> Fault:
    """More bytes than asked for, with the Content-Length that fits them and the Content-Range that was asked."""

    def fault(exchange: Exchange) -> None:
        data = exchange.asked + b"x" * extra
        exchange.head(headers={"Content-Length": str(len(data))})
        # The client is right to hang up in the middle.
        with contextlib.suppress(OSError):
            exchange.send(data)

    return fault


def endless_headers() -> Fault:
    """One header after another, until the client hangs up."""

    def fault(exchange: Exchange) -> None:
        with contextlib.suppress(OSError):
            exchange.send(b"HTTP/1.1 206 Partial Content\r\n")
            for number in range(100_000):
                exchange.send(b"X-Header-%d: and on\r\n" % number)
        exchange.hang_up()

    return fault


def endless_continue(seconds: float) -> Fault:
    """`100 Continue` again and again, with a pause between two, until the client hangs up."""
    return _dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n", seconds)


def dripping_headers(seconds: float) -> Fault:
    """One header after another, with a pause between two, until the client hangs up."""
    return _dripping(b"HTTP/1.1 206 Partial Content\r\n", b"X-Header: and on\r\n", seconds)


def _dripping(first: bytes, again: bytes, seconds: float) -> Fault:
    def fault(exchange: Exchange) -> None:
        with contextlib.suppress(OSError):
            exchange.send(first)
            while not select.select([exchange.server.stopping], [], [], seconds)[0]:
                exchange.send(again)
        exchange.hang_up()

    return fault


def endless_trailers(seconds: float) -> Fault:
    """The right bytes in one chunk, then trailers, with a pause between two, until the client hangs up."""

    def fault(exchange: Exchange) -> None:
        exchange.head(headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
        data = exchange.asked
        _dripping(b"%x\r\n%s\r\n0\r\n" % (len(data), data), b"X-Trailer: and on\r\n", seconds)(exchange)

    return fault


def other_range(shift: int) -> Fault:
    """Bytes from `shift` further on, and a Content-Range that says so."""

    def fault(exchange: Exchange) -> None:
        first, last = exchange.request.span or (0, 0)
        data = exchange.stored.data[first + shift : last + shift + 1]
        total = len(exchange.stored.data)
        content_range = f"bytes {first + shift}-{first + shift + len(data) - 1}/{total}"
        exchange.head(headers={"Content-Range": content_range, "Content-Length": str(len(data))})
        exchange.send(data)

    return fault


def whole_object() -> Fault:
    """200 and the whole object, as servers answer that know no ranges."""

    def fault(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(len(exchange.stored.data))})
        # The client is right to hang up in the middle.
        with contextlib.suppress(OSError):
            exchange.send(exchange.stored.data)

    return fault


def small_whole(*, length: bool = True) -> Fault:
    """200 and all of the object where that is what was asked for, as HTTP allows; else as a store does."""

    def fault(exchange: Exchange) -> None:
        if exchange.asked != exchange.stored.data:
            exchange.server.answer(exchange)
        elif length:
            exchange.head(200)
            exchange.send(exchange.asked)
        else:
            exchange.head(200, {"Content-Length": None, "Transfer-Encoding": "chunked"})
            exchange.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(exchange.asked), exchange.asked))

    return fault


def refusing_if_match(status: int = 412, code: str = "PreconditionFailed") -> Fault:
    """Refuse If-Match, whatever the ETag is, and else answer as a store does."""

    def fault(exchange: Exchange) -> None:
        if "If-Match" in exchange.request.headers:
            exchange.refuse(status, code)
        else:
            exchange.server.answer(exchange)

    return fault


def without_etag(data: bytes) -> Fault:
    """Overwrite the object with `data`, and answer without an ETag and without looking at If-Match."""

    def fault(exchange: Exchange) -> None:
        bucket, key = exchange.server.locate(exchange.request)
        exchange.server.put(bucket, key, data, etag=None)
        exchange.server.answer(exchange, conditions=False)

    return fault


def no_length() -> Fault:
    """The right bytes in chunks, without a Content-Length."""

    def fault(exchange: Exchange) -> None:
        exchange.head(headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
        data = exchange.asked
        for start in range(0, len(data), 100_000):
            block = data[start : start + 100_000]
            exchange.send(b"%x\r\n%s\r\n" % (len(block), block))
        exchange.send(b"0\r\n\r\n")

    return fault


def closing() -> Fault:
    """The right answer with Connection: close."""

    def fault(exchange: Exchange) -> None:
        exchange.head(headers={"Connection": "close"})
        exchange.send(exchange.asked)
        exchange.hang_up()

    return fault


def garbage() -> Fault:
    """Something that is not HTTP."""

    def fault(exchange: Exchange) -> None:
        exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n" * 20)
        exchange.hang_up()

    return fault


def change(data: bytes, *, conditions: bool = True) -> Fault:
    """Overwrite the object with `data` before the answer, which is then right for the new object.

    Without `conditions` the server knows no If-Match.
    """

    def fault(exchange: Exchange) -> None:
        bucket, key = exchange.server.locate(exchange.request)
        exchange.server.put(bucket, key, data)
        exchange.server.answer(exchange, conditions=conditions)

    return fault


class Certificate(NamedTuple):
    """Files in PEM form; the certificate is its own authority."""

    certificate: Path
    key: Path


def self_signed(folder: Path) -> Certificate:
    """Make a certificate for 127.0.0.1 and localhost in `folder`.

    Raises:
        FileNotFoundError: there is no openssl program.
    """
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-out", str(made.certificate), "-keyout", str(made.key)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return made


class MotoServer:
    """moto's S3 on loopback: a real server, which takes any credentials."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._session = Session()
        self._session.set_credentials("test", "test")
        self._client: Any = self._session.create_client("s3", region_name="us-east-1", endpoint_url=endpoint)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, in a bucket that is made if there is none."""
        self._client.create_bucket(Bucket=bucket)
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def reset(self) -> None:
        """Empty it."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def close(self) -> None:
        """Close the connections that `put` used."""
        self._client.close()


@contextlib.contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Run moto's S3 server, empty, on a free port of 127.0.0.1."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with contextlib.closing(MotoServer(f"http://{host}:{port}")) as moto:
        try:
            # Its objects live in the process, and outlive a server.
            moto.reset()
            yield moto
        finally:
            server.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"
    disable_nagle_algorithm = True
    abort = False
    wbufsize = 1 << 16
    """Headers and the first bytes of a body go out together, as from a real server."""

    def do_GET(self) -> None:
        self.server.owner.serve(self)

    def do_HEAD(self) -> None:
        self.server.owner.serve(self)

    def finish(self) -> None:
        # A reset loses what the peer has not read: nothing may be waiting to be flushed.
        if not self.abort:
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: "FaultServer", address: tuple[str, int]) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.owner.tls is not None:
            # The handshake comes with the first read, in the connection's own thread.
            connection = self.owner.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.owner.opened(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        # Not shutdown(), which would send FIN before the RST that a lingering of zero promises.
        self.close_request(request)
        self.owner.closed(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class FaultServer:
    """Objects at /bucket/key, at bucket.host/key and as a proxy, with ranges, ETags and scripted faults.

    `faults` is used up from its left, one for each request for an object; when it is empty, `choose` says, and else
    the object is served. `requests` holds every request in the order of arrival; `connections` counts the
    accepted ones, `bytes_served` the bytes of bodies.
    """

    def __init__(
        self,
        certificate: "Certificate | None" = None,
        virtual_host: str | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.choose: Callable[[Request], Fault | None] | None = None
        self.connections = 0
        self.bytes_served = 0
        self.stalled = threading.Semaphore(0)
        """Released once for each answer that stalls: acquire it to know that the client is waiting."""
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate.certificate, certificate.key)
        self.stopping, self._stop = socket.socketpair()
        self.virtual_host = virtual_host
        self.page_size = 1000
        """Most keys in one answer to a listing."""
        self._objects: dict[tuple[str, str], StoredObject] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._open: set[socket.socket] = set()
        self._server = _Server(self, address)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"{'https' if self.tls else 'http'}://{self._server.server_address[0]!s}:{self.port}"

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self._server.server_address[1])

    def put(self, bucket: str, key: str, data: bytes, etag: str | None = "", *, modified: float | None = None) -> None:
        """Store an object; the ETag is the MD5 of the data unless one is given, None for none.

        `modified` is in seconds since 1970; now, unless it is given.
        """
        tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"' if etag == "" else etag
        with self._lock:
            self._objects[bucket, key] = StoredObject(data, tag, time.time() if modified is None else modified)

    def etag(self, bucket: str, key: str) -> str | None:
        """Of a stored object."""
        with self._lock:
            return self._objects[bucket, key].etag

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        with self._lock:
            del self._objects[bucket, key]

    def page(self, bucket: str, asked: Mapping[str, str]) -> str:
        """The XML of a ListObjectsV2."""
        prefix, delimiter, after = (asked.get(name, "") for name in ("prefix", "delimiter", "continuation-token"))
        with self._lock:
            objects = {key: stored for (name, key), stored in self._objects.items() if name == bucket}
        items: dict[str, StoredObject | None] = {}
        for key in sorted(objects):
            if key.startswith(prefix):
                folder, slash, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
                if slash:
                    items[prefix + folder + slash] = None
                else:
                    items[key] = objects[key]
        left = [key for key in items if key > after]
        parts = [f"<IsTruncated>{str(len(left) > self.page_size).lower()}</IsTruncated>"]
        if len(left) > self.page_size:
            token = xml.sax.saxutils.escape(left[self.page_size - 1])
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for key in left[: self.page_size]:
            name, stored = urllib.parse.quote(key), items[key]
            if stored is None:
                parts.append(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            else:
                modified = datetime.datetime.fromtimestamp(stored.modified, datetime.UTC).strftime(
                    "%Y-%m-%dT%H:%M:%S.000Z"
                )
                tag = xml.sax.saxutils.escape(stored.etag or "")
                parts.append(
                    f"<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>{tag}</ETag>"
                    f"<Size>{len(stored.data)}</Size></Contents>"
                )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType>{''.join(parts)}</ListBucketResult>"
        )

    def script(self, *faults: Fault) -> None:
        """Answer the next requests for objects so, in this order."""
        with self._lock:
            self.faults.extend(faults)

    def clear(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self.requests.clear()
            self.connections = self.bytes_served = 0

    def locate(self, request: Request) -> tuple[str, str]:
        """Bucket and key of a request."""
        url = urllib.parse.urlsplit(request.target)
        host = (url.netloc or request.headers.get("Host", "")).partition(":")[0]
        path = urllib.parse.unquote(url.path).removeprefix("/")
        if self.virtual_host and host.endswith(f".{self.virtual_host}"):
            return host.removesuffix(f".{self.virtual_host}"), path
        bucket, _, key = path.partition("/")
        return bucket, key

    def serve(self, handler: _Handler) -> None:
        """Answer one request. Called in the connection's thread."""
        request = Request(handler.command, handler.path, dict(handler.headers.items()))
        bucket, key = self.locate(request)
        with self._lock:
            self.requests.append(request)
            buckets = {name for name, _ in self._objects}
            stored = self._objects.get((bucket, key))
            fault = self.faults.popleft() if self.faults else None
        exchange = Exchange(request, stored or StoredObject(b"", None), self, handler)
        if fault is None and self.choose is not None:
            fault = self.choose(request)
        if fault is not None:
            fault(exchange)
        elif stored is None and bucket in buckets and "list-type=2" in request.target.partition("?")[2]:
            exchange.listing()
        elif stored is None:
            exchange.refuse(404, "NoSuchKey" if bucket in buckets else "NoSuchBucket")
        else:
            self.answer(exchange)

    def answer(self, exchange: Exchange, *, conditions: bool = True) -> None:
        """Answer as a store does, with its checks of If-Match (unless without `conditions`) and the range."""
        stored = self._objects[self.locate(exchange.request)]
        exchange.stored = stored
        wanted = exchange.request.headers.get("If-Match")
        span = exchange.request.span
        if conditions and wanted is not None and wanted != stored.etag:
            exchange.refuse(412, "PreconditionFailed")
        elif span is not None and span[0] >= len(stored.data):
            exchange.refuse(416, "InvalidRange", {"Content-Range": f"bytes */{len(stored.data)}"})
        elif span is None:
            exchange.head(200)
            exchange.send(exchange.asked)
        else:
            exchange.right()

    def opened(self, connection: socket.socket) -> None:
        """Count a connection."""
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def wait_closed(self) -> None:
        """Until every connection has ended, which the client has to see to."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, _PATIENCE)

    def count_served(self, count: int) -> None:
        """Count bytes of a body."""
        with self._lock:
            self.bytes_served += count

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes every stalled answer, since nobody reads it.
        self._stop.send(b"x")
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.stopping.close()
        self._stop.close()
