"""A program: serves files on 127.0.0.1 as objects of an S3 bucket, until its standard input ends.

    python range_server.py '{"bucket": "local", "files": {"key": "/path"}, "latency": 0.0, "bandwidth": null}'

Its first line of output is the port. It answers HEAD, GET, GET of a range, and If-Match. It ignores signatures, so
any client may read. It imports only the standard library, so that it starts at once.
"""

import json
import socketserver
import sys
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

_PIECE: Final = 256 << 10
"""Bytes sent at once under a bandwidth limit."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, bucket: str, files: dict[str, str], latency: float, bandwidth: float | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = {f"/{bucket}/{key}": Path(path) for key, path in files.items()}
        self.latency = latency
        self.bandwidth = bandwidth

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may close its connection during an answer.
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
        time.sleep(self.server.latency)
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
                self._send(file, start, end)

    def _send(self, file: BinaryIO, start: int, end: int) -> None:
        if self.server.bandwidth is None:
            self.connection.sendfile(file, start, end - start)
            return
        began = time.monotonic()
        for piece in range(start, end, _PIECE):
            stop = min(piece + _PIECE, end)
            self.connection.sendfile(file, piece, stop - piece)
            due = began + (stop - start) / self.server.bandwidth
            time.sleep(max(0.0, due - time.monotonic()))

    def _refuse(self, status: HTTPStatus, code: str, message: str, *, body: bool) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self._finish_headers()
        if body:
            self.wfile.write(text.encode())

    def _finish_headers(self) -> None:
        self.send_header("x-amz-request-id", f"LOCAL{self.client_address[1]:05}{self._requests:07}")
        self.end_headers()


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the half-open range of a Range header; empty if it lies outside the object."""
    unit, _, span = text.partition("=")
    first, _, last = span.partition("-")
    if unit.strip() != "bytes":
        return 0, size
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def main() -> int:
    """Serve the files of the command line."""
    with _Server(**json.loads(sys.argv[1])) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        try:
            sys.stdin.read()  # ends when the parent process ends, even if it is killed
        finally:
            server.shutdown()
            thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
