"""A library as people have them, through every command."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "messy_library.py"
sys.path.append(str(BENCHMARK.parent))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names that are no UTF-8 need Linux")
def test_messy_library_adds_up(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("messy_library", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    messy = importlib.util.module_from_spec(spec)
    sys.modules["messy_library"] = messy  # dataclasses look their module up
    spec.loader.exec_module(messy)
    library = messy.make_library(tmp_path / "photos", files=250)
    assert messy.through_all_commands(library, tmp_path) == []
