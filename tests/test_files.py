"""Files that are there as a whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.system import files
from s2r2.system.files import atomic_write, try_lock, why_not_written, write_bytes, write_text
from s2r2.system.thumbnails import save_picture

needs_locks = pytest.mark.skipif(os.name == "nt", reason="an open file cannot be renamed there")


@needs_locks
def test_the_next_writer_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / ".table.parquet.ab_12xyz.tmp"
    others = [".table.parquet.tmp", ".table.parquet.ab12.tmp", "table.parquet.ab_12xyz.tmp", ".other.ab_12xyz.tmp"]
    for name in (left.name, *others):
        (tmp_path / name).write_text("half")
    (tmp_path / "kept").write_text("1")
    (tmp_path / ".table.parquet.ab_12xyy.tmp").symlink_to(tmp_path / "kept")
    with atomic_write(tmp_path / "table.parquet", "w") as first:
        first.write("first")
        write_text(tmp_path / "table.parquet", "second")  # the first one's file is locked: it is being written
    assert (tmp_path / "table.parquet").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.parquet", "kept", ".table.parquet.ab_12xyy.tmp", *others
    }  # fmt: skip


@needs_locks
def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    def remove_first(path: str) -> int | None:
        lock = try_lock(path)
        if not removed:
            removed.append(path)
            os.unlink(path)
        return lock

    monkeypatch.setattr(files, "try_lock", remove_first)
    write_text(tmp_path / "table", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    assert (tmp_path / "table").read_text() == "whole"


@needs_locks
def test_locks_are_of_ordinary_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    lock = try_lock(tmp_path / "file")
    assert lock is not None
    assert [try_lock(tmp_path / name) for name in ("file", "link", "pipe", "none")] == [None] * 4
    os.close(lock)
    lock = try_lock(tmp_path / "file")
    assert lock is not None
    os.close(lock)


@pytest.mark.skipif(os.name == "nt", reason="a pipe of Unix")
def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match=r"x\.sh: there is no folder .*/no; make it, or choose another$"):
        write_text(tmp_path / "no" / "x.sh", "")


def test_no_file_takes_the_place_of_a_pipe_or_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(S2R2Error, match="is no regular file; choose another name"):
            write_bytes(path, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert not Path(os.devnull).is_file()
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("code", "help"),
    [
        (errno.ENOSPC, "; free space or choose another folder"),
        (errno.EACCES, "; make it writable or choose another folder"),
        (errno.EROFS, "; make it writable or choose another folder"),
        (errno.ENOTDIR, "Not a directory; choose another folder"),
    ],
)
def test_what_helps_depends_on_why_nothing_was_written(
    code: int, help: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(S2R2Error, match=help):
            write_text(tmp_path / "x.txt", "x")
    write_text(tmp_path / "x.txt", "x")  # the cause is gone


def test_what_helps_is_read_from_what_a_library_quotes() -> None:
    quoted = "lance error: LanceError(IO): Permission denied (os error 13)"
    assert why_not_written(quoted, "and") == f"{quoted}; make it writable and "


def test_a_picture_that_cannot_be_written_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's views among them, whose name nobody chooses."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    picture = Image.new("RGB", (2, 2))
    with pytest.raises(S2R2Error, match=r"x\.png: No such file or directory; choose another folder"):
        save_picture(picture, tmp_path / "none" / "x.png")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(S2R2Error, match=r"views\.png: No space left on device; free space or choose another folder"):
        save_picture(picture, tmp_path / "views.png")
