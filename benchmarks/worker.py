"""Entry of a worker process: see files/load.py and, for object storage, objects/load.py.

`benchmarks` is imported by name, but the repository's root is no place to import anything else from: a peer has the
same import name as ours and is installed in the environment that runs this. Ours comes by PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.files import load as files
    from benchmarks.loaders import converse
    from benchmarks.objects import load as objects

    del sys.path[0]
    converse(objects.prepare if "endpoint" in json.loads(sys.argv[1]) else files.prepare)
