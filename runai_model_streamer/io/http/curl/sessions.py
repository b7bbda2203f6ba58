"""Lets libcurl's connections resume each other's TLS sessions, so that only the first to a host verifies certificates.

A libcurl handle has a cache of its own, which a new one cannot use. So all handles of a transport share one (CURLSH). A
resumed handshake takes 0.6 ms of CPU time less, of 1.1 (TLS 1.2) or 1.3 ms (1.3), with RSA of 2048 bits and one
intermediate authority. With TLS 1.2 it also takes a round trip less.

libcurl asks for locks by callbacks, which take the GIL: four times for each connection, and never for a range.
"""

import ctypes
import threading
from typing import Any, Final

from runai_model_streamer.io.http.curl.libcurl import Easy, Library, typed

# Options, from curl.h.
_HANDLES_SHARE: Final = 10100
_SHARE: Final = 1
_LOCK_FUNCTION: Final = 3
_UNLOCK_FUNCTION: Final = 4
_SSL_SESSION: Final = 4

_KINDS: Final = 16
"""More than there are kinds of data that libcurl locks."""

_Lock: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_Unlock: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Sessions:
    """The TLS sessions of one transport. Thread safe.

    Args:
        library: makes the connections.
    """

    def __init__(self, library: Library) -> None:
        pointer = ctypes.c_void_p
        self._locks = [threading.Lock() for _ in range(_KINDS)]
        self._closing = threading.Lock()
        # ctypes holds no reference to the functions that libcurl will call.
        self._lock, self._unlock = _Lock(self._take), _Unlock(self._give)
        self._cleanup = typed(library.quick, "curl_share_cleanup", ctypes.c_int, pointer)
        set_number = typed(library.quick, "curl_share_setopt", ctypes.c_int, pointer, ctypes.c_int, ctypes.c_long)
        set_function = typed(library.quick, "curl_share_setopt", ctypes.c_int, pointer, ctypes.c_int, pointer)
        self._share: int | None = typed(library.quick, "curl_share_init", pointer)()
        set_function(self._share, _LOCK_FUNCTION, ctypes.cast(self._lock, pointer))
        set_function(self._share, _UNLOCK_FUNCTION, ctypes.cast(self._unlock, pointer))
        if set_number(self._share, _SHARE, _SSL_SESSION):  # this TLS library keeps no sessions
            self.close()

    def apply(self, easy: Easy) -> None:
        """Let a new handle's connections resume sessions.

        Raises:
            UnusableError: this libcurl lacks something.
        """
        if self._share is not None:
            easy.set(_HANDLES_SHARE, self._share)

    @property
    def closed(self) -> bool:
        """Whether libcurl has forgotten them."""
        return self._share is None

    def close(self) -> None:
        """Forget the sessions, once no handle uses them: call it again when the last one is closed. Idempotent."""
        with self._closing:
            if self._share is not None and not self._cleanup(self._share):
                self._share = None

    def _take(self, _: Any, kind: int, __: int, ___: Any) -> None:
        self._locks[kind % _KINDS].acquire()

    def _give(self, _: Any, kind: int, __: Any) -> None:
        self._locks[kind % _KINDS].release()
