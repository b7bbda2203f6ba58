"""The job of docs/tasks/slurm.md: its `load.py` in four processes, with the variables that Slurm's srun sets."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from tests.servers import FaultServer, aws_environment

ROOT = Path(__file__).parents[1]
TASKS = 4


def load_py() -> str:
    """The script, as the page shows it."""
    page = (ROOT / "docs" / "tasks" / "slurm.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(code)


def srun(script: Path, *arguments: str, environment: dict[str, str]) -> list[str]:
    """What each task prints. The variables are those of srun 22.05 for one node; none is torchrun's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {
        "SLURM_NTASKS": str(TASKS),
        "SLURM_NPROCS": str(TASKS),
        "SLURM_STEP_NUM_TASKS": str(TASKS),
        "SLURM_STEP_TASKS_PER_NODE": str(TASKS),
        "SLURM_TASKS_PER_NODE": str(TASKS),
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "node1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    rest = {name: value for name, value in os.environ.items() if name not in ("LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")}
    rest |= environment
    tasks = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=rest | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(TASKS)
    ]
    printed = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * TASKS
    return printed


def test_the_job_of_the_page_reads_a_model_once_for_all_tasks(tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(load_py() + "print('read', streamer.report.shared.bytes_read)\n", encoding="utf-8")
    with FaultServer() as server:
        for shard in (1, 2):
            tensors = {f"{shard}.{number}": torch.full((256, 1024), float(number)) for number in range(8)}
            server.put("models", f"llama/model-0000{shard}-of-00002.safetensors", save(tensors))
        environment = aws_environment(tmp_path) | {
            "AWS_ACCESS_KEY_ID": "reader",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key",
            "AWS_ENDPOINT_URL": server.endpoint,
        }
        printed = sorted(srun(script, "s3://models/llama", environment=environment))
    assert [text.partition(";")[0] for text in printed] == [f"rank {rank}: 16 tensors" for rank in range(TASKS)]
    read = [int(number) for text in printed for number in re.findall(r"^read (\d+)$", text, re.MULTILINE)]
    assert len(read) == TASKS
    assert sum(read) == 2 * 8 * 256 * 1024 * 4
