"""What opening data leaves in the cache folder: listed, cleared, and removed when nobody has opened it for long."""

import io
import os
import tarfile
import time
from pathlib import Path

import fsspec
import pytest

from s2r2.cli import main
from s2r2.images import clear_kept, list_kept, open_source
from s2r2.images.sources.kinds import manifest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "MANY_BYTES", 4)
    return tmp_path / "cache"


def table(path: Path) -> Path:
    path.write_text("path,label\na.png,x\nb.png,y\n")
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_command_lists_and_clears_all_that_is_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_source(table(tmp_path / "list.csv"))
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"jpg"))
    open_source(str(tmp_path / "s-*.tar"))
    monkeypatch.setenv("S2R2_PROTOCOLS", "memory")
    fsspec.filesystem("memory").pipe_file("/kept/far.csv", b"path\na.png\n")
    source = open_source("memory://kept/far.csv")
    (cache / "manifests" / "notes.txt").write_text("mine")
    assert {kept.name for kept in list_kept()} == {
        str(tmp_path / "list.csv"), "memory://kept/far.csv", "a tar's index", "a table's copy"
    }  # fmt: skip
    size = sum((cache / name).stat().st_size for name in files(cache) if "notes" not in name)
    assert sum(kept.size for kept in list_kept()) == size
    main(["cache", "--clear"])
    said = capsys.readouterr().out
    assert str(tmp_path / "list.csv") in said
    assert f"{size / 1e6:10,.1f} MB freed" in said
    assert files(cache) == {"manifests/notes.txt"}
    assert list(source.keys) == ["a.png"]  # who has mapped a listing keeps it
    assert len(open_source(tmp_path / "list.csv")) == 2


def test_what_nobody_has_opened_for_long_goes_when_something_is_kept(cache: Path, tmp_path: Path) -> None:
    for name in ("old", "used"):
        open_source(table(tmp_path / f"{name}.csv"))
    long_ago = time.time() - 100 * 86_400
    for kept in list_kept():
        os.utime(kept.path / "about.json", (long_ago, long_ago))
    open_source(tmp_path / "used.csv")
    open_source(table(tmp_path / "new.csv"))
    assert {Path(kept.name).stem for kept in list_kept()} == {"used", "new"}
    assert clear_kept() > 0
    assert list_kept() == []
