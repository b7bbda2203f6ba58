"""A proxy that makes a server seem far away: every request is held back for a while, answers go through as they come.

What a round trip costs each request is there; what it does to TCP's windows is not. The bytes of answers are moved from
socket to socket by the kernel (splice), so that Python is not what bounds them.

    python -m benchmarks.objects.far PORT SERVERS_PORT
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

DELAY_S = 0.02
_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031


def _requests(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := client.recv(1 << 16):
            time.sleep(DELAY_S)
            server.sendall(piece)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _answers(server: socket.socket, client: socket.socket) -> None:
    out, into = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(into, _F_SETPIPE_SZ, _PIPE)
        while count := os.splice(server.fileno(), into, _PIPE):
            while count:
                count -= os.splice(out, client.fileno(), count)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    os.close(out)
    os.close(into)


def _connect(client: socket.socket, port: int) -> None:
    time.sleep(DELAY_S)
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_answers, args=(server, client), daemon=True)
        back.start()
        _requests(client, server)
        back.join()


def _serve(port: int, server_port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_connect, args=(client, server_port), daemon=True).start()


@contextlib.contextmanager
def proxy(port: int, server_port: int) -> Iterator[None]:
    """Pass connections to `port` on to `server_port`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.objects.far", str(port), str(server_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
