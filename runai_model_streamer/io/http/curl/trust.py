"""Lets libcurl's connections share the certificates of authorities, so that their file is parsed once.

Each handle would parse it for its first connection: 140 authorities take OpenSSL 21 ms of CPU time, ten times as long
as the rest of a TLS handshake, and with hundreds of connections seconds. libcurl hands each connection's SSL_CTX to a
function before the handshake. The first one's store of certificates is kept, and given to the others.

That needs a libcurl whose TLS is a shared OpenSSL. With any other, each handle parses the file.
"""

import logging
import threading
from typing import Any

from runai_model_streamer.io.http.curl import libcurl
from runai_model_streamer.io.http.curl.libcurl import Easy, Library, UnusableError

_log = logging.getLogger(__name__)


class Trust:
    """The authorities of one transport. Thread safe.

    Args:
        library: makes the connections.
        certificates: path of the file with the authorities.
    """

    def __init__(self, library: Library, certificates: str) -> None:
        self._openssl = library.openssl
        self._certificates = certificates
        self._lock = threading.Lock()
        self._store: int | None = None
        self._closed = False
        # ctypes holds no reference to the function that libcurl will call.
        self._function = libcurl.SslContext(self._share)

    def apply(self, easy: Easy) -> None:
        """Let a new handle's connections trust the authorities.

        Call it once: with another setting, libcurl would not reuse the handle's connection.

        Raises:
            UnusableError: this libcurl lacks something.
        """
        known = self._store is not None
        if self._openssl is not None:
            try:
                easy.set(libcurl.SSL_CTX_FUNCTION, self._function)
            except UnusableError:
                self._openssl, known = None, False
        easy.set(libcurl.CAINFO, None if known else self._certificates)

    def _share(self, _: Any, context: int, __: Any) -> int:
        """Keep the first connection's store, and give it to the others (CURLOPT_SSL_CTX_FUNCTION)."""
        openssl = self._openssl
        try:
            with self._lock:
                if self._closed or openssl is None:
                    return 0
                if self._store is None:
                    store = openssl.store_of(context)
                    openssl.keep(store)
                    self._store = store
                else:
                    openssl.set_store(context, self._store)
        except Exception as error:
            # If this raised, ctypes would return 0 as well. Without a store no certificate is trusted.
            _log.debug("certificates are not shared: %s", error)
        return 0

    def close(self) -> None:
        """Release the store; connections keep it as long as they need it. Idempotent."""
        with self._lock:
            self._closed = True
            store, self._store = self._store, None
        if store is not None and self._openssl is not None:
            self._openssl.release(store)
