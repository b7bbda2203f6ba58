"""`python -m tests.cuda_emulator FOLDER [COMMAND...]`: builds the emulator, and runs a command on it."""

import os
import sys
from pathlib import Path

from tests.cuda_emulator import build, environment

if len(sys.argv) < 2:
    sys.exit(__doc__)
folder = build(Path(sys.argv[1]))
if len(sys.argv) > 2:
    os.execvpe(sys.argv[2], sys.argv[2:], environment(folder))
print(folder)
