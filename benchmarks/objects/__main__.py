"""Compare loaders of safetensors objects: ours, its peer, and what plain ranges reach, all against nginx on loopback.

    python -m benchmarks.objects --rounds 5 --out objects.md
    python -m benchmarks.objects --rounds 2 --scenario tls --peers ours-curl,runai,curl

Needs nginx, openssl and curl (apt install nginx openssl curl). nginx serves the 4 GB checkpoint of `benchmarks.files`
as S3 objects, over HTTP and over TLS with a certificate made for the run: its own process, folder and ports, ended with
the run. Each loader has a virtual environment (../environments.py). The files are in the page cache, so that the
server's disk plays no part; but it shares the machine's cores with the client, which makes CPU seconds per GB the
figure that carries over to other machines.

Each load is a process of its own. Within a scenario (scenarios.py) loaders take turns, A B C A B C. Every one has
8 reads of 8 MiB in flight, tls-heartbeat 16. A first turn, not counted, compares the bytes of a few tensors with the
file. Tensors are dropped as they come. Columns are medians over the counted rounds, but for the maxima named so:

- GB/s: 1e9 bytes of objects a second, from just before the loader is given the URLs to the last tensor. Not in it:
  importing, a load of a small object that makes lazy imports happen, and closing.
- curl / it: how many times as fast ours was with its curl transport, the median over rounds of that round's two.
- CPU s/GB: user and system seconds of all threads of the client's process over the same span, the server's not
  counted; for the curl program those of its processes.
- first: milliseconds to the first tensor.
- peak RSS: the largest resident set of any round (the kernel's high-water mark, reset just before) above the one
  before the load.
- held up: in tls-heartbeat, the longest of any round that a Python thread of the loading process, which sleeps for a
  millisecond over and over, woke later than that; 'median' is how late it commonly was. 'elsewhere' is the longest of
  such a thread in another process that did nothing meanwhile: what two busy cores alone, one of them the server's, do
  to any thread. What the load adds to that is the first claim's; the second has a process on the idle machine instead.

- fetched / wanted: the most bytes of bodies in any round that the server sent, headers of files included, over those of
  the objects; refused: the part of its answers that were 503, in the median.

slow30, slow90, far, stragglers, throttled, loopback, loopback-tls: loaders find the number of their connections by
themselves, curl has 64, and '(8 connections)' is ours with 8. The server gives a connection 30 or 90 MB/s, holds each
request back by 20 ms, sends one range in 50 a tenth as fast, or refuses requests above 200 a second (server.py).
far-stragglers is two of these. In loss and far-loss 0.5% of the server's packets of 9,000 bytes are lost; they need
root and nftables, and a run with one of them is in a network of its own (loss.py).

http-faults: a server that answers 503 SlowDown to 30% of requests, drawn at random. '(no faults)' is the same loader
in the same rounds against the server that answers all. http-verify: RUNAI_STREAMER_VERIFY=1, against CRC64NVME.
"""

from benchmarks.objects.driver import main

main()
