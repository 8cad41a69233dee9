"""The page on the ranking loss runs as it stands."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from s2r2.losses import average_precision

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ranking_loss.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
SCRIPTS = {block.split()[2]: block for block in BLOCKS if block.startswith("# file:")}


def test_blocks_run_from_top_to_bottom():
    blocks = [block for block in BLOCKS if not block.startswith("# file:")]
    assert len(blocks) >= 8
    code = "\n".join(blocks)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "docs"})


def test_example_in_the_docstring():
    result = doctest.testmod(average_precision)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run_in_two_processes(name, tmp_path):
    (tmp_path / name).write_text(SCRIPTS[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", name],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    gradients = re.findall(r"gradient ([\d.]+)", done.stdout)
    assert len(gradients) == 2
    assert gradients[0] == gradients[1]


@pytest.mark.slow
def test_importing_the_losses_costs_no_more_than_torch():
    program = (
        "import sys, torch; before = set(sys.modules); import s2r2.losses; "
        "print({'.'.join(name.split('.')[:2]) for name in set(sys.modules) - before if name.split('.')[0] != 'numpy'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {name for name in re.findall(r"'([^']+)'", done.stdout) if name.startswith("s2r2.") or "." not in name}
    assert found <= {"s2r2", "s2r2._version", "s2r2.errors", "s2r2.losses", "s2r2.settings", "s2r2.system"}, found
