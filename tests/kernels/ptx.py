"""Compiles every CUDA kernel for one compute capability, and assembles it: run in a process of its own.

Prints a line for each: the kernel, then "assembled" or "compiled".
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from numba import cuda

from runai_model_streamer.kernels import device
from tests.kernels import oracle


def main(capability: tuple[int, int]) -> None:
    target = f"sm_{capability[0]}{capability[1]}"
    templates = {f"cast_{source}_{made}": device.cast_template(source, made) for source, made in oracle.PAIRS}
    for name, (kernel, signature) in templates.items():
        ptx, _ = cuda.compile_ptx(kernel, signature.args, cc=capability)
        assert f".target {target}" in ptx
        assert ".visible .entry" in ptx
        # A wider load from the source would fault where it is not aligned.
        loads = re.findall(r"ld\.global\S*", ptx)
        assert loads
        assert all(re.fullmatch(r"ld\.global(\.nc)?\.[bsu]8", load) for load in loads), loads
        # Everything is inlined: nothing is left for a linker.
        assert "call.uni" not in ptx
        ptxas = shutil.which("ptxas")
        if ptxas:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "kernel.ptx"
                path.write_text(ptx)
                command = [ptxas, f"-arch={target}", "-Werror", "-o", str(path.with_suffix(".cubin")), str(path)]
                subprocess.run(command, check=True)
        print(name, "assembled" if ptxas else "compiled")


if __name__ == "__main__":
    main((int(sys.argv[1]), int(sys.argv[2])))
