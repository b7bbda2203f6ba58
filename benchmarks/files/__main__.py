"""Compare loaders of safetensors files on this machine's disk: ours, its peers, and the machine's own limits.

    python -m benchmarks.files --rounds 5 --out files.md
    python -m benchmarks.files --rounds 2 --scenario warm-dropped --scenario cold --peers runai

From a fresh checkout, with any Python from 3.11: it makes its checkpoints (5 GB) and a virtual environment for each
loader (1 GB each) in ${XDG_CACHE_HOME:-~/.cache}/runai-model-streamer/bench, which needs the network once; see
../checkpoints.py and ../environments.py. Ours is the checkout that this file is in; `--before` adds another one to
each scenario. Cold rows are most trustworthy as root, who can drop the whole page cache; another user evicts just the
files, where the kernel lets their owner.

Each load is a process of its own. Within a scenario (scenarios.py) loaders take turns, A B C A B C, and so do the
machine's limits (limits.py), so that what drifts meets all of them. A first turn, not counted, compares the bytes of
a few tensors with the file. Columns are medians over the counted rounds, but for the peaks:

- GB/s: 1e9 bytes of files a second, from just before the loader is given the files to the last tensor. Not in it:
  importing, loads of a file with one small tensor (lazy imports; see loaders.py), and closing.
- ours / it: how many times as fast ours was, the median over rounds of that round's two.
- CPU s/GB: user and system seconds of all threads of the process over the same span (getrusage).
- peak RSS: the largest resident set of any round (the kernel's high-water mark, reset just before) above the one
  before the load. Loaders that map files have the page cache in it; 'anon' is anonymous memory alone, sampled from
  outside every 10 ms.
- first: milliseconds to the first tensor.
- disk / size: what the block device read meanwhile, for anyone, over the files' size: 0 proves warm, 1 proves cold.
- own / size: what the process had read from storage (/proc/self/io), whatever else ran: the sum, with several.
- import: seconds for what the span leaves out before a load, PyTorch and the tiny load included.

'dropped' touches no tensor and lets go of each as the next one comes; safetensors, which then would have read
nothing, has one byte of each page read ('mapped'), but for small tensors, where its bare loop is timed.
"""

from benchmarks.files.driver import main

main()
