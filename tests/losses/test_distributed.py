"""Real processes: gradients under DDP are those of one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from s2r2.errors import S2R2Error
from s2r2.losses import SmoothAPLoss

WORKER = Path(__file__).parent / "gloo_worker.py"


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_equal_one_process(world_size, tmp_path):
    environment = os.environ | {
        "WORLD_SIZE": str(world_size),
        "INIT": f"file://{tmp_path}/init",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER)],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(outputs)


def test_asking_for_processes_without_a_group_is_an_error():
    with pytest.raises(S2R2Error, match="no process group"):
        SmoothAPLoss(distributed=True)(torch.eye(4), torch.tensor([0, 0, 1, 1]))
