"""Azure Blob Storage of the tests': ranges, listings, and each way to authorize a request, checked here."""

import base64
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from tests.io.tokens import TokenRequest
from tests.servers import Exchange, Fault, FaultServer, Request

ACCOUNT: Final = "planted"
KEY: Final = base64.b64encode(b"PlantedSecretKey/0000000000000000000000+").decode()
SAS: Final = "sv=2022-11-02&sr=c&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig=PlantedSessionToken%2F0000%3D"
TOKEN: Final = "eyJ0.PlantedToken000000000000000000000001"

SIGNED: Final = (
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Type",
    "Date",
    "If-Modified-Since",
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "Range",
)


def shared_key(account: str, key: str, method: str, target: str, headers: Mapping[str, str]) -> str:
    """The header `Authorization` of a request, as the service computes it.

    As https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key has it.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    text = f"{method}\n"
    for name in SIGNED:
        value = by_name.get(name.lower(), "")
        text += ("" if name == "Content-Length" and value == "0" else value) + "\n"
    for name in sorted(by_name):
        if name.startswith("x-ms-"):
            text += f"{name}:{by_name[name]}\n"
    url = urllib.parse.urlsplit(target)
    text += f"/{account}{url.path}"
    for name, values in sorted(urllib.parse.parse_qs(url.query, keep_blank_values=True).items()):
        text += f"\n{name.lower()}:{','.join(sorted(values))}"
    signature = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {account}:{base64.b64encode(signature).decode()}"


def azure_error(status: int, code: str) -> Fault:
    """Refuse as the service does."""
    return lambda exchange: exchange.refuse(status, code, {"x-ms-error-code": code, "x-ms-request-id": "REQUEST"})


class Azure:
    """The account `planted`, whose container `models` takes the requests that one of these ways authorizes."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.key: str | None = None
        self.sas: str | None = None
        self.token: str | None = None
        self.public = True
        self.refusal: tuple[int, str] | None = None
        """Of every request that is authorized."""
        self.page_size = 1000
        self.blobs: dict[str, bytes] = {}
        self.folders: set[str] = set()
        """Keys of blobs that stand for folders."""
        self.md5: dict[str, bytes] = {}
        server.choose = self.answer

    def put(self, key: str, data: bytes) -> None:
        """Store a blob, or another version of it."""
        self.blobs[key] = data
        self.md5[key] = hashlib.md5(data, usedforsecurity=False).digest()
        self.server.put("models", key, data)

    def allow(self, *, key: str | None = None, sas: str | None = None, token: str | None = None) -> None:
        """Take requests that are authorized so, and no others."""
        self.key, self.sas, self.token, self.public = key, sas, token, False

    def answer(self, request: Request) -> Fault | None:
        """For `FaultServer.choose`."""
        target = urllib.parse.urlsplit(request.target)
        query = dict(urllib.parse.parse_qsl(target.query, keep_blank_values=True))
        refused = self._refusal(request, target.query)
        if refused is not None:
            return azure_error(*refused)
        container, _, key = urllib.parse.unquote(target.path)[1:].partition("/")
        if container != "models":
            return azure_error(404, "ContainerNotFound")
        if query.get("comp") == "list":
            return self._list(request, query)
        if key not in self.blobs:
            return azure_error(404, "BlobNotFound")
        return self._serve(request, key)

    def _refusal(self, request: Request, query: str) -> tuple[int, str] | None:
        sent = request.headers.get("Authorization")
        if "x-ms-version" not in request.headers:
            return 400, "MissingRequiredHeader"
        if sent is None and (self.sas is None or self.sas not in query):
            if "sig=" in query:
                return 403, "AuthenticationFailed"
            return self.refusal if self.public else (404, "ResourceNotFound")
        if sent is not None and sent.startswith("SharedKey "):
            right = self.key and shared_key(ACCOUNT, self.key, request.method, request.target, request.headers)
            return self.refusal if sent == right else (403, "AuthenticationFailed")
        if sent is not None and sent != f"Bearer {self.token}":
            return 401, "InvalidAuthenticationInfo"
        return self.refusal

    def _serve(self, request: Request, key: str) -> Fault:
        etag = self.server.etag("models", key)
        if request.headers.get("If-Match") not in (None, etag):
            return azure_error(412, "ConditionNotMet")
        md5 = base64.b64encode(self.md5[key]).decode()

        def serve(exchange: Exchange) -> None:
            if request.span is not None and request.span[0] >= len(exchange.stored.data):
                azure_error(416, "InvalidRange")(exchange)
                return
            exchange.head(headers={"x-ms-blob-content-md5": md5})
            exchange.send(exchange.asked)

        return serve

    def _list(self, request: Request, query: dict[str, str]) -> Fault:
        if "Range" in request.headers:
            return azure_error(400, "UnsupportedHeader")
        prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "marker"))
        found: dict[str, str] = {}
        for key in sorted(self.blobs):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix) or key <= after:
                continue
            if delimiter and delimiter in rest:
                name = prefix + rest.partition(delimiter)[0] + delimiter
                found[name] = f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>"
            else:
                found[key] = self._about(key)
        names = list(found)[: self.page_size]
        marker = names[-1] if len(found) > self.page_size else ""
        body = (
            '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>'
            f"{''.join(found[name] for name in names)}</Blobs><NextMarker>{escape(marker)}</NextMarker>"
            "</EnumerationResults>"
        ).encode()

        def page(exchange: Exchange) -> None:
            exchange.head(200, {"Content-Type": "application/xml", "Content-Length": str(len(body)), "ETag": None})
            exchange.send(body)

        return page

    def _about(self, key: str) -> str:
        etag = (self.server.etag("models", key) or "").strip('"')
        kind = "<ResourceType>directory</ResourceType>" if key in self.folders else ""
        name = f"<Name>{escape(key)}</Name>"
        if "\x01" in key:  # XML has no such character
            name = f'<Name Encoded="true">{urllib.parse.quote(key)}</Name>'
        return (
            f"<Blob>{name}<Properties><Last-Modified>Thu, 01 Jan 2026 03:04:05 GMT</Last-Modified>"
            f"<Etag>{etag}</Etag><Content-Length>{len(self.blobs[key])}</Content-Length>{kind}</Properties></Blob>"
        )


class Identity:
    """The managed identity of an App Service, which azure-identity asks over plain HTTP."""

    def __init__(self) -> None:
        self.tokens = [TOKEN]
        """Used up from its left, but for the last."""
        self.lifetime = 3600

    def answer(self, request: TokenRequest) -> tuple[int, object]:
        """For `ProviderServer`."""
        assert request.fields["resource"] == "https://storage.azure.com"
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if not token:
            return 400, {"statusCode": 400, "message": "No managed identity was found"}
        expires = int(time.time()) + self.lifetime
        return 200, {"access_token": token, "expires_on": str(expires), "token_type": "Bearer", "resource": "any"}
