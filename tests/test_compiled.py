"""Kernels where nothing can be kept: a read-only package, and no home."""

import runpy
from pathlib import Path

import pytest

import s2r2

caching = pytest.importorskip("numba.core.caching")
ROOT = Path(s2r2.__file__).parent
KERNELS = sorted(path for path in ROOT.rglob("*.py") if "@njit" in path.read_text() or "njit(**" in path.read_text())


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_need_no_place_to_be_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
        monkeypatch.setattr(kind, "_locator_classes", [])
    assert runpy.run_path(str(path))


def test_all_kernels_are_compiled_one_way() -> None:
    assert len(KERNELS) > 6
    assert not [
        path for path in ROOT.rglob("*.py") if "@numba" in path.read_text() or '"cache": True' in path.read_text()
    ]
