"""`python -m tests.cuda_emulator [--torch] FOLDER [COMMAND...]`: builds the emulator, and runs a command on it.

--torch: the emulated runtime too, and stubs for what else the PyTorch that is installed for this Python is linked with.
"""

import os
import sys
import sysconfig
from pathlib import Path

from tests.cuda_emulator import NoCompilerError, build, environment
from tests.cuda_emulator.torch_libraries import TorchError, build_for_torch

for_torch = sys.argv[1:2] == ["--torch"]
arguments = sys.argv[2 if for_torch else 1 :]
if not arguments:
    sys.exit(__doc__)
folder = Path(arguments[0]).resolve()
try:
    if for_torch:
        build_for_torch(folder, Path(sysconfig.get_path("purelib")))
    else:
        build(folder)
except (NoCompilerError, TorchError) as error:
    sys.exit(f"error: {error}")
if len(arguments) > 1:
    os.execvpe(arguments[1], arguments[1:], environment(folder))
print(folder)
