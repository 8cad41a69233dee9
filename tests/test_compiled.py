"""Kernels where nothing can be kept: a read-only package, and no home."""

import os
import runpy
import tempfile
from pathlib import Path

import pytest

import s2r2
from s2r2.system.jit import njit

numba = pytest.importorskip("numba")
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


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no numbers here")
def test_without_a_home_they_are_kept_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (private,) = (kind for name, kind in vars(caching).items() if name.endswith("UserProvidedCacheLocator"))
    for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
        monkeypatch.setattr(kind, "_locator_classes", [private])
    assert njit()(doubled)(2) == 4
    (folder,) = tmp_path.iterdir()
    assert list(folder.rglob("*.nbi"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not numba.config.CACHE_DIR
    kept = sorted(folder.rglob("*"))
    folder.chmod(0o777)  # others could have put their code there
    assert njit()(doubled)(3) == 6
    assert sorted(folder.rglob("*")) == kept
    monkeypatch.setattr(os, "getuid", lambda: os.lstat(tmp_path).st_uid + 1)
    assert njit()(doubled)(4) == 8


def doubled(number: int) -> int:
    return 2 * number
