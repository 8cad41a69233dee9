"""An index never loses good rows to bad luck: what is out of reach is kept, what is gone is dropped."""

import csv
import errno
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.errors import S2R2Error, UnreadableImage
from s2r2.search import ImageIndex, UpdateResult, update_index
from s2r2.search.storage.missing_photos import too_many

Update = Callable[..., UpdateResult]


@pytest.fixture(scope="module")
def encoder() -> object:
    return load("untrained:test_vit")


@pytest.fixture
def update(encoder: object, photo_folder: Path, tmp_path: Path) -> Update:
    """Update the index of the 24 photos, or of other data."""
    store = tmp_path / "index"
    update_index(encoder, photo_folder, store, progress=False)

    def again(data: object = photo_folder, **options: object) -> UpdateResult:
        return update_index(encoder, data, store, progress=False, **options)

    return again


def listed(done: UpdateResult) -> dict[str, str]:
    """What skipped.csv says."""
    with open(done.folder / "skipped.csv") as file:
        return {row["image"]: row["reason"] for row in csv.DictReader(file)}


def test_half_of_the_photos_behind_an_empty_mount_point_are_kept(update: Update, photo_folder: Path) -> None:
    away = photo_folder.parent / "away"
    (photo_folder / "red").rename(away)
    (photo_folder / "red").mkdir()
    (photo_folder / "red" / ".DS_Store").touch()
    done = update()
    assert (len(done.index), done.kept, done.dropped, done.missing) == (24, 16, 0, 8)
    assert "`drop_missing=True`" in str(done)
    assert listed(done)["red/0.jpg"].startswith("kept: ")
    assert len(done.index.search("red/0.jpg", 30)) == 23
    assert len(update(drop_missing=True).index) == 16  # the remedy, had they been gone
    (photo_folder / "red").joinpath(".DS_Store").unlink()
    (photo_folder / "red").rmdir()
    away.rename(photo_folder / "red")
    assert len(update().index) == 24


def test_a_mount_point_that_vanished_from_a_manifest_is_kept(
    update: Update, photo_folder: Path, encoder: object, tmp_path: Path
) -> None:
    disk = tmp_path / "media" / "DISK"
    disk.mkdir(parents=True)
    (tmp_path / "media" / "OTHER").mkdir()
    shutil.copytree(photo_folder / "red", disk / "red")
    rows = [str(path) for path in sorted([*disk.rglob("*.jpg"), *(photo_folder / "blue").iterdir()])]
    (tmp_path / "photos.csv").write_text("\n".join(["path", *rows]) + "\n")
    store = tmp_path / "of a manifest"
    update_index(encoder, tmp_path / "photos.csv", store, progress=False)
    shutil.rmtree(disk)
    done = update_index(encoder, tmp_path / "photos.csv", store, progress=False)
    assert (len(done.index), done.missing) == (16, 8)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT])
def test_what_the_system_cannot_read_is_not_gone(
    number: int, update: Update, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_stat, real_scan, real_list, bad = os.stat, os.scandir, os.listdir, str(photo_folder / "red")

    def broken(real: Callable[..., object]) -> Callable[..., object]:
        def call(path: object = ".", *args: object, **options: object) -> object:
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(bad):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return real(path, *args, **options)

        return call

    monkeypatch.setattr(os, "stat", broken(real_stat))
    monkeypatch.setattr(os, "scandir", broken(real_scan))
    monkeypatch.setattr(os, "listdir", broken(real_list))
    done = update(drop_missing=True)  # not even so: they are not missing
    assert (len(done.index), done.dropped) == (24, 0)
    assert listed(done)["red/0.jpg"].startswith("kept: ")


def test_a_damaged_photo_keeps_the_vector_it_had(update: Update, photo_folder: Path) -> None:
    before = ImageIndex.open(photo_folder.parent / "index")
    (photo_folder / "red" / "0.jpg").write_bytes(b"no picture any more")
    done = update()
    assert len(done.index) == 24
    assert listed(done)["red/0.jpg"].startswith("kept: ")
    vectors = [index.vectors[index.catalogue.row_of_key("red/0.jpg")] for index in (before, done.index)]
    np.testing.assert_array_equal(*vectors)


def test_a_change_that_keeps_size_and_time_is_noticed_and_a_touch_costs_no_embedding(
    update: Update, photo_folder: Path
) -> None:
    first, second = (photo_folder / "red" / f"{number}.jpg" for number in (0, 1))
    size = max(first.stat().st_size, second.stat().st_size)
    for path in (first, second):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    update()
    before, status = first.read_bytes(), first.stat()
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert first.read_bytes() != before
    done = update()
    vectors = [done.index.vectors[done.index.catalogue.row_of_key(f"red/{number}.jpg")] for number in (0, 1)]
    np.testing.assert_array_equal(*vectors)
    for path in photo_folder.rglob("*.jpg"):
        path.touch()
    done = update()
    assert (done.embedded, done.kept) == (0, 24)


def test_a_folder_that_was_removed_is_dropped_up_to_a_handful(update: Update, photo_folder: Path) -> None:
    for number in range(5, 8):
        (photo_folder / "red" / f"{number}.jpg").unlink()
    assert update().dropped == 3
    shutil.rmtree(photo_folder / "red")  # the other five, and more than a tenth, but a handful
    done = update()
    assert (len(done.index), done.dropped, done.missing) == (16, 5, 0)


def test_more_than_a_tenth_at_once_needs_the_users_word(update: Update, photo_folder: Path) -> None:
    shutil.rmtree(photo_folder / "red")
    done = update()
    assert (len(done.index), done.dropped, done.missing) == (24, 0, 8)
    assert len(done.skipped) == 8
    done = update(drop_missing=True)
    assert (len(done.index), done.dropped, done.missing, len(done.skipped)) == (16, 8, 0, 0)
    assert not too_many(100, 1000)
    assert too_many(101, 1000)


def test_what_was_kept_is_said_on_a_line_of_its_own(
    photo_folder: Path, tmp_path: Path, encoder_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", encoder_name, str(photo_folder), "--index", str(tmp_path / "index")]
    main(command)
    shutil.rmtree(photo_folder / "red")
    capsys.readouterr()
    main(command)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("kept ")
    assert "--drop-missing" in said[-1]
    main([*command, "--drop-missing"])
    assert "8 dropped" in capsys.readouterr().out


def test_nothing_readable_at_all_leaves_the_index_alone(
    update: Update, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> bytes:
        raise UnreadableImage("Input/output error")

    for path in photo_folder.rglob("*.jpg"):
        os.utime(path, (1, 1))
    monkeypatch.setattr("s2r2.images.places.FilePlace.read", unreadable)
    with pytest.raises(S2R2Error, match="the index keeps its 24 photos"):
        update()
    assert len(ImageIndex.open(photo_folder.parent / "index")) == 24


def test_a_renamed_library_is_found_without_embedding(
    update: Update, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = photo_folder.rename(photo_folder.parent / "library")
    done = update(moved)
    assert (done.embedded, done.dropped, done.missing, len(done.index)) == (0, 0, 0, 24)
    assert done.index.search("red/0.jpg", 1)[0].path.startswith(str(moved))
    monkeypatch.chdir(photo_folder.parent)
    done = update("library/red/..")  # the same place, said otherwise and from elsewhere
    assert done.embedded == 0
    assert Path(done.index.search("red/0.jpg", 1)[0].path).is_absolute()
    done = update(photo_folder.parent)  # opened one level up: all keys are others
    assert (done.embedded, done.moved, done.missing, len(done.index)) == (0, 24, 0, 24)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_among_the_photos_double_none(update: Update, photo_folder: Path) -> None:
    linked = "folder: a link to one that is read already"
    (photo_folder / "a link").symlink_to("red")  # comes first by name
    done = update()
    assert (done.kept, done.moved, len(done.index)) == (24, 0, 24)
    assert listed(done) == {"a link": linked}
    (photo_folder / "red").rename(photo_folder / "reds")
    (photo_folder / "red").symlink_to("reds")  # the rows' own names are those of a link now
    done = update()
    assert (done.kept, done.moved, len(done.index)) == (16, 8, 24)
    assert listed(done) == {"a link": linked, "red": linked}


def test_a_tar_cut_short_keeps_what_is_behind_the_cut(encoder: object, photo_folder: Path, tmp_path: Path) -> None:
    tar, store = tmp_path / "photos.tar", tmp_path / "of a tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(photo_folder, "photos")
    update_index(encoder, tar, store, progress=False)
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    done = update_index(encoder, tar, store, progress=False)
    assert (len(done.index), done.dropped) == (24, 0)
    tar.write_bytes(whole)
    assert len(update_index(encoder, tar, store, progress=False).index) == 24


def test_rebuilding_while_half_is_away_leaves_the_old_index_in_force(update: Update, photo_folder: Path) -> None:
    shutil.rmtree(photo_folder / "red")
    with pytest.raises(S2R2Error, match="`drop_missing=True`"):
        update(rebuild=True)
    assert len(ImageIndex.open(photo_folder.parent / "index")) == 24
    assert len(update(rebuild=True, drop_missing=True).index) == 16


def test_a_photo_left_out_of_a_manifest_is_dropped(encoder: object, photo_folder: Path, tmp_path: Path) -> None:
    rows = [str(path) for path in sorted(photo_folder.rglob("*.jpg"))]
    (tmp_path / "photos.csv").write_text("\n".join(["path", *rows]) + "\n")
    update_index(encoder, tmp_path / "photos.csv", tmp_path / "index", progress=False)
    (tmp_path / "photos.csv").write_text("\n".join(["path", *rows[2:]]) + "\n")
    done = update_index(encoder, tmp_path / "photos.csv", tmp_path / "index", progress=False)
    assert (len(done.index), done.dropped) == (22, 2)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names there are Unicode")
def test_names_that_are_no_utf8_are_indexed_and_found(encoder: object, photo_folder: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (photo_folder / "red").rename(photo_folder / odd)
    (photo_folder / "blue" / "0.jpg").rename(photo_folder / "blue" / f"{odd}.jpg")
    library = photo_folder.rename(tmp_path / os.fsdecode(b"all\xff"))
    done = update_index(encoder, library, tmp_path / "index", progress=False)
    assert (len(done.index), done.skipped) == (24, [])
    index = ImageIndex.open(tmp_path / "index")
    assert len(index.search(f"{odd}/1.jpg", 30)) == 23  # as the shell gives the name
    assert len(index.search("caf\\xe9/1.jpg", 30)) == 23  # as it is shown
    assert index.picture(index.catalogue.row_of_key("caf\\xe9/1.jpg")).shape == (60, 80, 3)
    assert update_index(encoder, library, tmp_path / "index", progress=False).kept == 24
    shutil.copy(library / "green" / "1.jpg", library / "blue" / "caf\\xe9.jpg")  # what another name looks like
    for kept in (23, 25):  # one of the two has moved to another key
        done = update_index(encoder, library, tmp_path / "index", progress=False)
        assert (len(done.index), done.kept) == (25, kept)


def test_vectors_that_are_not_finite_are_refused(
    encoder: object, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(pixels: np.ndarray, **_: object) -> np.ndarray:
        return np.full((len(pixels), 64), np.nan, np.float32)

    monkeypatch.setattr(encoder, "embed_pixels", diverged, raising=False)
    with pytest.raises(S2R2Error, match=r"test_vit makes no finite vectors for 24 of 24"):
        update_index(encoder, photo_folder, tmp_path / "new", progress=False)
    with pytest.raises(S2R2Error, match="no index in"):
        ImageIndex.open(tmp_path / "new")


def test_helper_files_of_systems_are_no_obstacle(update: Update, photo_folder: Path) -> None:
    store = photo_folder.parent / "index"
    for name in ("@eaDir", "lost+found", "#recycle", ".Trash-1000"):
        (store / name).mkdir()
        (store / name / "thing").touch()
    for name in (".DS_Store", "desktop.ini", "Thumbs.db", "._index.json"):
        (store / name).touch()
    Image.new("RGB", (50, 40), "white").save(photo_folder / "red" / "new.png")
    assert len(update().index) == 25
    assert (store / "@eaDir" / "thing").exists()
    (store / "holiday.txt").touch()
    with pytest.raises(S2R2Error, match="other files than an index"):
        update()


def test_an_index_may_lie_in_a_folder_of_any_readable_name(
    encoder: object, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my:index", "~mine", "a b%20c#d?e", "photos/inside"):
        assert len(update_index(encoder, "photos", name, progress=False).index) == 24
        assert len(update_index(encoder, "photos", name, progress=False).index.thumbnail(3)) > 100
    for name in (os.fsdecode(b"caf\xe9"), "new\nline"):
        with pytest.raises(S2R2Error, match="the path of an index must be UTF-8"):
            update_index(encoder, "photos", name, progress=False)
        with pytest.raises(S2R2Error, match="the path of an index must be UTF-8"):
            ImageIndex.open(name)
