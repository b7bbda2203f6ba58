"""A server of the tests' that gives out tokens of Google or Microsoft, on 127.0.0.1."""

import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.servers import Certificate


class TokenRequest(NamedTuple):
    """A request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By names in lower case."""
    body: str

    @property
    def path(self) -> str:
        """Its path."""
        return self.target.partition("?")[0]

    @property
    def fields(self) -> dict[str, str]:
        """The query and the form, by name."""
        return dict(urllib.parse.parse_qsl(f"{self.target.partition('?')[2]}&{self.body}"))


class ProviderServer:
    """Answers each request as `answer` says: a status, and a document for JSON or plain text.

    With a certificate it speaks TLS.
    """

    def __init__(
        self, answer: Callable[[TokenRequest], tuple[int, object]], certificate: Certificate | None = None
    ) -> None:
        self.answer = answer
        self.requests: list[TokenRequest] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(length).decode()
                request = TokenRequest(
                    self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
                )
                owner.requests.append(request)
                status, document = owner.answer(request)
                text = document if isinstance(document, str) else json.dumps(document)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(document, str) else "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.send_header("Metadata-Flavor", "Google")
                self.end_headers()
                self.wfile.write(text.encode())

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
