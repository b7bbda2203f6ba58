"""Count what happens before the first request of a process: CPU seconds, from the import of the package on.

    python -m benchmarks.objects.first

PyTorch is imported before. Each row is a process of its own that loads one small object over HTTP, from nginx on
loopback. CPU seconds are those of all its threads; unlike seconds by the clock, they mean something on a busy machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.environments import Environment
from benchmarks.objects import measure, peers, server
from benchmarks.objects.scenarios import Scenario

ROUNDS = 5

_LOAD = """
import sys, time
import torch
began = time.process_time()
from runai_model_streamer import SafetensorsStreamer
imported = time.process_time()
from runai_model_streamer.io.http.curl.transport import CurlTransport
asked = []
get = CurlTransport.get
def noting(*arguments):
    asked.append(time.process_time())
    return get(*arguments)
CurlTransport.get = noting
with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    next(streamer.get_tensors())
    first = time.process_time()
print(*(f"{moment - began:.3f}" for moment in (imported, asked[0], first)), sep=" | ")
"""


def main() -> None:
    """Run the processes; prints a table."""
    objects = measure.make_objects(1)
    environment = Environment(peers.PEERS["ours-curl"], Path(sys.executable), "")
    print("| imported | first request | first tensor |\n|---:|---:|---:|")
    with server.nginx(objects.folder, {}) as endpoints:
        scenario = Scenario("first", "http", ("ours-curl",), own=True)
        variables = measure.variables(scenario, environment, endpoints)
        for _ in range(ROUNDS):
            command = [sys.executable, "-c", _LOAD, objects.url(objects.tiny)]
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
            print(f"| {done.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()
