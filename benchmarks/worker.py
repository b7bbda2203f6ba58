"""Entry of a worker process: see loaders.py and, for object storage, s3_loaders.py.

`benchmarks` is imported by name, but the repository's root is no place to import anything else from: a peer has the
same import name as ours and is installed in the environment that runs this. Ours comes by PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks import loaders, s3_loaders

    del sys.path[0]
    loaders.converse(s3_loaders.prepare if "endpoint" in json.loads(sys.argv[1]) else loaders.prepare)
