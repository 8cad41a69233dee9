"""make demo, as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_trains_evaluates_indexes_and_searches(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "examples" / "demo.py"), "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=850, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("run/report.html", "run/views.png", "search.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 5_000, name
    figures = {line.split("  ")[0].strip(): line for line in done.stdout.splitlines()}
    mean_ap = {
        name: float(figures[name][len(name) + 1 :].split()[0]) for name in ("raw pixels", "untrained", "trained")
    }
    assert mean_ap["trained"] > mean_ap["raw pixels"] > mean_ap["untrained"]
