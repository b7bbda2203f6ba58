"""Entry of a worker process: see loaders.py, which it runs.

`benchmarks` is imported by name, but the repository's root is no place to import anything else from: a peer has the
same import name as ours and is installed in the environment that runs this. Ours comes by PYTHONPATH.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.loaders import main

    del sys.path[0]
    main()
