"""What libcurl says of a socket that it wants opened (CURLOPT_OPENSOCKETFUNCTION)."""

import ctypes
import socket
from typing import Final


class SockAddr(ctypes.Structure):
    """The fields of curl_sockaddr, which a socket is made from, and of the address in it."""

    _fields_ = (
        ("family", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("protocol", ctypes.c_int),
        ("length", ctypes.c_uint),
        ("port", ctypes.c_ubyte * 4),
        ("four", ctypes.c_ubyte * 4),
        ("six", ctypes.c_ubyte * 16),
    )

    @property
    def text(self) -> str:
        """The IP address."""
        return socket.inet_ntop(self.family, bytes(self.six if self.family == socket.AF_INET6 else self.four))


OpenSocket: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(SockAddr))
