"""Serves the files of a folder on loopback as objects of an S3 bucket.

It answers what a reader asks for: HEAD, GET, GET of a range, If-Match. Anyone may read: signatures are not looked at.
"""

import socketserver
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

BUCKET: Final = "demo"


@contextmanager
def serving(files: Iterable[Path]) -> Iterator[str]:
    """Serve `files` as `s3://demo/<file name>` on a free port of 127.0.0.1, as long as the context lasts.

    Yields the endpoint's URL.
    """
    with _Server({f"/{BUCKET}/{path.name}": path for path in files}) as server:
        thread = threading.Thread(target=server.serve_forever, name="demo-s3")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, objects: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that closes while it is being answered is no error of the server.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, request: Any, client_address: Any, server: socketserver.BaseServer) -> None:
        self._requests = 0
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self, *, body: bool) -> None:
        self._requests += 1
        path = self.server.objects.get(unquote(urlsplit(self.path).path))
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND, "NoSuchKey", "The specified key does not exist.", body=body)
            return
        with path.open("rb") as file:
            facts = path.stat()
            size = facts.st_size
            etag = f'"{facts.st_mtime_ns:x}-{size:x}"'
            if self.headers.get("If-Match", etag) not in (etag, "*"):
                message = "At least one of the pre-conditions you specified did not hold"
                self._refuse(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed", message, body=body)
                return
            wanted = self.headers.get("Range")
            start, end = (0, size) if wanted is None else _parse_range(wanted, size)
            if wanted is not None and start >= end:
                message = "The requested range is not satisfiable"
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "InvalidRange", message, body=body)
                return
            self.send_response(HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT)
            if wanted is not None:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "binary/octet-stream")
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", formatdate(facts.st_mtime, usegmt=True))
            self.send_header("Accept-Ranges", "bytes")
            self._finish_headers()
            if body:
                self.connection.sendfile(file, start, end - start)

    def _refuse(self, status: HTTPStatus, code: str, message: str, *, body: bool) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self._finish_headers()
        if body:
            self.wfile.write(text.encode())

    def _finish_headers(self) -> None:
        self.send_header("x-amz-request-id", f"DEMO{self.client_address[1]:05}{self._requests:07}")
        self.end_headers()


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """The half-open range that a Range header asks for; empty where it lies outside the object."""
    unit, _, span = text.partition("=")
    first, _, last = span.partition("-")
    if unit.strip() != "bytes":
        return 0, size
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)
