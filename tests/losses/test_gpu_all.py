"""The one command that waits for a GPU works where there is none."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_all.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_everything_that_waits_for_a_gpu_runs_in_small_without_one(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    command = [sys.executable, str(SCRIPT), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_all.json").read_text())
    assert found["tests"][0]["passed"] == "True", found["tests"]
    assert {row["backend"] for row in found["loss"]} == {"triton", "triton-split"}
    assert all(row["loss error"] < 1e-5 and row["gradient error"] < 1e-5 for row in found["loss"])
    names = [row["way"] for row in found["feed"]]
    assert names[:2] == ["constant tensor", "views, as it is"]
    assert names[-2:] == [f"{name}, again" for name in names[:2]]
    assert all(row["views/s"] > 0 for row in found["feed"])
    assert (tmp_path / "trace_32px_views.json").exists()
    assert "| way |" in (tmp_path / "gpu_all.md").read_text()
    assert "left out" not in found
