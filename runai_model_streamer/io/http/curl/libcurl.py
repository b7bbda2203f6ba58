"""libcurl through ctypes: finds the library, and declares its functions and constants.

Functions that take microseconds keep the GIL, because releasing and taking it again costs more. Only `perform`, which
transfers, releases it.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from runai_model_streamer.io.libc import libc

_SONAME: Final = "libcurl.so.4"

# Options, from curl.h: numbers, pointers (from 10000) and functions (from 20000).
BUFFERSIZE: Final = 98
CAINFO: Final = 10065
CAPATH: Final = 10097
CONNECTTIMEOUT_MS: Final = 156
DNS_SHUFFLE_ADDRESSES: Final = 275
ERRORBUFFER: Final = 10010
HEADERDATA: Final = 10029
HTTPHEADER: Final = 10023
HTTP_VERSION: Final = 84
NOPROXY: Final = 10177
NOSIGNAL: Final = 99
OPENSOCKETFUNCTION: Final = 20163
PATH_AS_IS: Final = 234
PROTOCOLS: Final = 181
PROXY: Final = 10004
PROXY_CAINFO: Final = 10246
PROXY_CAPATH: Final = 10247
PROXYPASSWORD: Final = 10176
PROXYUSERNAME: Final = 10175
SSL_CTX_FUNCTION: Final = 20108
SUPPRESS_CONNECT_HEADERS: Final = 265
TCP_KEEPALIVE: Final = 213
RANGE: Final = 10007
RESOLVE: Final = 10203
URL: Final = 10002
WRITEDATA: Final = 10001

HTTP_1_1: Final = 2
HTTP_AND_HTTPS: Final = 1 | 2
ERROR_BYTES: Final = 256
"""Size of the buffer for ERRORBUFFER."""
BAD_SOCKET: Final = -1

_OS_ERRNO: Final = 0x200000 + 25
_HTTP_CONNECTCODE: Final = 0x200000 + 22
_PRETRANSFER_TIME: Final = 0x300000 + 6
_ACTIVESOCKET: Final = 0x500000 + 44
_PRIMARY_IP: Final = 0x100000 + 32
_GLOBAL_DEFAULT: Final = 3
_FEATURE_SSL: Final = 1 << 2


class Code:
    """Results of `Easy.perform`."""

    OK: Final = 0
    UNSUPPORTED_PROTOCOL: Final = 1
    URL_MALFORMAT: Final = 3
    COULDNT_RESOLVE_PROXY: Final = 5
    COULDNT_RESOLVE_HOST: Final = 6
    COULDNT_CONNECT: Final = 7
    WEIRD_SERVER_REPLY: Final = 8
    PARTIAL_FILE: Final = 18
    WRITE_ERROR: Final = 23
    OPERATION_TIMEDOUT: Final = 28
    SSL_CONNECT_ERROR: Final = 35
    ABORTED_BY_CALLBACK: Final = 42
    PEER_FAILED_VERIFICATION: Final = 60
    SSL_CACERT_BADFILE: Final = 77
    PROXY: Final = 97


SslContext: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class _Version(ctypes.Structure):
    _fields_ = (
        ("age", ctypes.c_int),
        ("version", ctypes.c_char_p),
        ("number", ctypes.c_uint),
        ("host", ctypes.c_char_p),
        ("features", ctypes.c_int),
        ("tls", ctypes.c_char_p),
    )


class UnusableError(Exception):
    """This machine has no usable libcurl. The message says why."""


class Easy:
    """A libcurl handle. It makes one request at a time, and reuses the connection of the last while it is open.

    Not thread safe, but not bound to a thread either.
    """

    def __init__(self, library: "Library") -> None:
        self._library = library
        self._handle = library.init()
        self._lists: dict[int, int | None] = {}  # of each option
        if not self._handle:
            raise MemoryError("libcurl makes no handle")

    def set(self, option: int, value: Any) -> None:
        """Set an option to a number, an address or a text. libcurl copies a text; memory at an address must stay valid.

        Raises:
            UnusableError: this libcurl does not know the option.
        """
        setter = self._library.set_number if option < 10000 else self._library.set_pointer
        # Do not put the bytes into a variable: they may be a password, and tracebacks can show variables.
        code = setter(self._handle, option, value.encode() if isinstance(value, str) else value)
        if code:
            raise UnusableError(f"libcurl refuses option {option} ({self._library.text(code)})")

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Send these headers with the next requests."""
        chain = None
        for name, value in headers.items():
            # Do not put the line into a variable: it may have a token, and tracebacks can show variables.
            chain = self._library.append(chain, f"{name}: {value}".encode())
        self._set_chain(HTTPHEADER, chain)

    def set_addresses(self, known: str) -> None:
        """Set `Known.setting`. It raises UnusableError if this libcurl does not know the option."""
        self._set_chain(RESOLVE, self._library.append(None, known.encode()))

    def _set_chain(self, option: int, chain: int | None) -> None:
        try:
            self.set(option, chain)
        except UnusableError:
            self._library.free_list(chain)
            raise
        self._library.free_list(self._lists.get(option))
        self._lists[option] = chain

    def perform(self) -> int:
        """Make the request, without the GIL. Return a `Code`, or another result of libcurl's."""
        code: int = self._library.perform(self._handle)
        return code

    def system_error(self) -> int:
        """Return the errno of the last failure to connect, send or receive; 0 for none."""
        return int(self._number(_OS_ERRNO))

    def proxy_status(self) -> int:
        """Return the proxy's HTTP status for CONNECT; 0 for none."""
        return int(self._number(_HTTP_CONNECTCODE))

    def connect_seconds(self) -> float:
        """Return the seconds of the last request until it was sent: name resolution, TCP, proxy and TLS."""
        return float(self._number(_PRETRANSFER_TIME, kind=ctypes.c_double))

    def socket(self) -> int:
        """Return the socket of the last request, if its connection is kept for the next; else `BAD_SOCKET`.

        Call it before each use: libcurl may close sockets at any time, and the number may then name another file.
        """
        return int(self._number(_ACTIVESOCKET, BAD_SOCKET, ctypes.c_int))

    def address(self) -> str:
        """Return the IP address of the last request's connection; "" if there was none."""
        return (self._number(_PRIMARY_IP, kind=ctypes.c_char_p) or b"").decode()

    def close(self) -> None:
        """Close the connections and release the handle. Idempotent."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.cleanup(handle)
            for chain in self._lists.values():
                self._library.free_list(chain)

    def _number(self, what: int, default: int = 0, kind: Any = ctypes.c_long) -> Any:
        value = kind(default)
        code = self._library.getinfo(self._handle, what, ctypes.byref(value))
        return default if code else value.value


class OpenSsl:
    """The functions of libcurl's OpenSSL for certificates of authorities (X509_STORE), which count references.

    Raises:
        AttributeError: libcurl does not use a shared OpenSSL.
    """

    def __init__(self, library: ctypes.CDLL, tls: str) -> None:
        pointer = ctypes.c_void_p
        # Among the libraries that libcurl needs, one may need another OpenSSL.
        text = typed(library, "OpenSSL_version", ctypes.c_char_p, ctypes.c_int)(0).decode()
        if tls.split("/") != text.split()[:2]:
            raise AttributeError(f"libcurl has {tls}, and not {text}")
        self.store_of = typed(library, "SSL_CTX_get_cert_store", pointer, pointer)
        self.set_store = typed(library, "SSL_CTX_set1_cert_store", None, pointer, pointer)
        self.keep = typed(library, "X509_STORE_up_ref", ctypes.c_int, pointer)
        self.release = typed(library, "X509_STORE_free", None, pointer)


class Library:
    """A loaded libcurl: its functions, with their types."""

    def __init__(self, path: str) -> None:
        self.quick = quick = ctypes.PyDLL(path)
        slow = ctypes.CDLL(path)
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_long
        # One function under two names, because its last argument's type depends on the option.
        self.set_number = typed(quick, "curl_easy_setopt", ctypes.c_int, pointer, ctypes.c_int, number)
        self.set_pointer = typed(quick, "curl_easy_setopt", ctypes.c_int, pointer, ctypes.c_int, pointer)
        self.init = typed(quick, "curl_easy_init", pointer)
        self.cleanup = typed(quick, "curl_easy_cleanup", None, pointer)
        self.getinfo = typed(quick, "curl_easy_getinfo", ctypes.c_int, pointer, ctypes.c_int, pointer)
        self.append = typed(quick, "curl_slist_append", pointer, pointer, text)
        self.free_list = typed(quick, "curl_slist_free_all", None, pointer)
        self.perform = typed(slow, "curl_easy_perform", ctypes.c_int, pointer)
        self._strerror = typed(quick, "curl_easy_strerror", text, ctypes.c_int)
        about = typed(quick, "curl_version_info", ctypes.POINTER(_Version), ctypes.c_int)(0).contents
        if not about.features & _FEATURE_SSL:
            raise UnusableError(f"{path} has no TLS")
        code = typed(quick, "curl_global_init", ctypes.c_int, number)(_GLOBAL_DEFAULT)
        if code:
            raise UnusableError(f"{path} does not start: {self.text(code)}")
        self.openssl: OpenSsl | None = None
        """The OpenSSL that it uses; None where it uses none, or has it within itself."""
        with contextlib.suppress(AttributeError):
            self.openssl = OpenSsl(quick, (about.tls or b"").decode())
        self.path = _path_of(self.perform) or path
        self.version = about.version.decode()

    def text(self, code: int) -> str:
        """Return libcurl's text for a code."""
        meaning: bytes = self._strerror(code)
        return meaning.decode()


def typed(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of a library, with these types."""
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


class _Place(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    )


def _path_of(function: Any) -> str:
    """Return the path of the library that a function was loaded from; "" if it is unknown."""
    place = _Place()
    if not libc().dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(place)):
        return ""
    return os.fsdecode(place.file)


_lock: Final = threading.Lock()


def load() -> Library:
    """Load libcurl once: the environment's (conda) if it has one, else the system's.

    The environment's libcurl fits its OpenSSL. The system's may need another one.

    Raises:
        UnusableError: there is none.
    """
    # Before 7.84, libcurl must not be initialised from two threads at once.
    with _lock:
        return _load()


def candidates(prefixes: Iterable[str] = (sys.prefix, sys.base_prefix)) -> list[str]:
    """Return where libcurl may be, best fit for this Python first. The last one is left to the dynamic loader."""
    own = [path for prefix in dict.fromkeys(prefixes) if (path := Path(prefix, "lib", _SONAME)).exists()]
    return [*map(str, own), _SONAME]


@functools.cache
def _load() -> Library:
    reasons = []
    for candidate in candidates():
        try:
            return Library(candidate)
        except (OSError, AttributeError, UnusableError) as error:
            reasons.append(str(error))
    raise UnusableError("; ".join(reasons))
