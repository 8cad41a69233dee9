"""Copies: each kind is found with an untrained encoder, look-alikes are not, and nothing is lost by acting."""

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, find_duplicates, update_index
from s2r2.search.duplicates.acting import CHANGED, move_copies, script, trash_copies
from s2r2.search.duplicates.candidates import by_descriptors
from s2r2.search.duplicates.descriptors import CROPS, LENGTH
from s2r2.search.duplicates.groups import Groups
from s2r2.search.duplicates.planning import Plan, plan
from s2r2.search.duplicates.threshold import suggest_threshold


def scene(seed: int) -> Image.Image:
    """Shapes before a gradient: something with edges, unlike noise, and different for each seed."""
    draw_from = random.Random(seed)
    ramp = np.linspace(60, 200, 240, dtype=np.float32)[None, :, None] * np.ones((180, 1, 3), np.float32)
    picture = Image.fromarray(ramp.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y, size = draw_from.randrange(240), draw_from.randrange(180), draw_from.randrange(8, 50)
        color = tuple(draw_from.randrange(256) for _ in range(3))
        (draw.ellipse if draw_from.random() < 0.5 else draw.rectangle)((x, y, x + size, y + size // 2), fill=color)
    return picture


def captioned(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (picture.width, picture.height + 20))
    sheet.paste(picture)
    ImageDraw.Draw(sheet).text((5, picture.height + 4), "A caption", fill=(255, 255, 255))
    return sheet


MADE = {
    "same pixels": ("png", lambda picture: picture),
    "recompressed": ("jpg", lambda picture: picture),
    "resized": ("png", lambda picture: picture.resize((120, 90), Image.Resampling.LANCZOS)),
    "cropped": ("png", lambda picture: picture.crop((10, 12, 230, 178))),
    "recolored": ("png", lambda picture: ImageEnhance.Brightness(picture).enhance(0.85)),
    "mirrored": ("png", lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "captioned": ("png", captioned),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a copy of each kind, and photos that look alike."""
    folder = tmp_path_factory.mktemp("library")
    for number, (name, (ending, make)) in enumerate(MADE.items()):
        picture = scene(number)
        picture.save(folder / f"{number} a.bmp")
        make(picture).save(folder / f"{number} {name}.{ending}", quality=60)
    shutil.copy(folder / "0 a.bmp", folder / "0 same file.bmp")
    for number in range(6):  # things before white, and halves of sky and ground
        product = Image.new("RGB", (200, 200), (255, 255, 255))
        product.paste(scene(100 + number).resize((80, 120)), (60, 40))
        product.save(folder / f"product {number}.png")
        snow = np.full((160, 200, 3), 235, np.uint8)
        snow[:80] = 150
        snow[70:90] = np.random.default_rng(number).integers(90, 250, (20, 200, 1))
        Image.fromarray(snow).save(folder / f"snow {number}.png")
    update_index("untrained:test_resnet", folder, folder.with_name("index"), progress=False)
    return folder


def groups(index: ImageIndex) -> list[dict[str, tuple[str, ...]]]:
    keys = index.catalogue.table["key"].to_pylist()
    return [{keys[row]: group.kinds.get(row, ()) for row in group.rows} for group in find_duplicates(index).groups]


@pytest.mark.slow
def test_every_kind_is_found_and_named_and_nothing_else(library: Path) -> None:
    index = ImageIndex.open(library.with_name("index"))
    found = groups(index)
    assert found == groups(index)
    assert [sorted(group) for group in found] == sorted(
        sorted(p.name for p in library.glob(f"{number} *")) for number in range(len(MADE))
    )
    kinds = {key.partition(" ")[2].partition(".")[0]: said for group in found for key, said in group.items() if said}
    assert kinds.pop("same file") == ("same file",)
    for name, said in kinds.items():
        assert said == (("cropped",) if name == "a" else (name,)), name  # the photo that got a caption shows less


@pytest.mark.slow
def test_stripes_that_differ_in_their_phase_or_grain_are_no_copies(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copy(photo_folder / "red" / "0.jpg", photo_folder / "red" / "again.jpg")
    for number in range(4, 8):
        for folder in ("red", "green", "blue"):
            (photo_folder / folder / f"{number}.jpg").unlink()
    index = update_index("untrained:test_resnet", photo_folder, tmp_path / "index", progress=False).index
    assert [sorted(group) for group in groups(index)] == [["red/0.jpg", "red/again.jpg"]]


def test_a_wrong_threshold_is_refused(library: Path) -> None:
    with pytest.raises(S2R2Error, match="between 0 and 1"):
        find_duplicates(ImageIndex.open(library.with_name("index")), 2)


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, ImageIndex]:
    """Two groups under odd names."""
    folder = tmp_path / "photos"
    for name in ("a/it's.png", "b/it's.png", "b/-rf $(x)\n.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene(1).save(folder / name)
    scene(2).save(folder / "large.png")
    scene(2).resize((120, 90), Image.Resampling.LANCZOS).save(folder / "small.png")
    return folder, update_index("untrained:test_resnet", folder, tmp_path / "index", progress=False).index


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_moving_leaves_one_of_each_and_overwrites_nothing(copies: tuple[Path, ImageIndex], tmp_path: Path) -> None:
    folder, index = copies
    target = tmp_path / "away"
    target.mkdir()
    (target / "it's.png").write_text("mine")
    planned = plan(index, find_duplicates(index), "path=*/a/*")
    assert [copy.kinds for copy in planned.copies] == [("same file",)] * 2
    assert len(list(move_copies(index, planned, target))) == 2
    assert names(folder) == ["a/it's.png", "large.png", "small.png"]
    assert names(target) == ["-rf $(x)\n.png", "it's (2).png", "it's.png"]
    assert (target / "it's.png").read_text() == "mine"


def test_what_has_changed_since_is_never_the_reason_to_lose_a_photo(copies: tuple[Path, ImageIndex]) -> None:
    folder, index = copies
    planned = plan(index, find_duplicates(index), "largest")
    assert len(planned.copies) == 3
    before = names(folder)
    scene(3).save(folder / "large.png")
    (folder / "a" / "it's.png").unlink()
    (folder / "b" / "it's.png").write_bytes(b"edited")
    done = dict(zip([copy.path for copy in planned.copies], trash_copies(index, planned), strict=True))
    assert {what for _, what in done.values()} == {CHANGED}
    assert names(folder) == [name for name in before if name != "a/it's.png"]
    assert plan(index, find_duplicates(index), "largest").copies == []


def test_the_trash_has_copies_and_where_they_were(
    copies: tuple[Path, ImageIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = copies
    for name in [name for name in sys.modules if name.partition(".")[0] == "send2trash"]:
        monkeypatch.delitem(sys.modules, name)  # it looks for the trash when it is imported
    monkeypatch.setenv("HOME", str(tmp_path))  # which it takes to be there
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    (folder / "b" / "it's.png").chmod(0o444)
    planned = plan(index, find_duplicates(index), "path=*/a/*")
    assert [what for _, what in trash_copies(index, planned)] == ["in the trash"] * 2
    assert names(folder) == ["a/it's.png", "large.png", "small.png"]
    trash = tmp_path / "home" / "Trash"
    assert names(trash / "files") == ["-rf $(x)\n.png", "it's.png"]
    assert stat.S_IMODE((trash / "files" / "it's.png").stat().st_mode) == 0o444
    infos = [info.read_text() for info in (trash / "info").iterdir()]
    were = {unquote(line.removeprefix("Path=")) for info in infos for line in info.splitlines() if "Path=" in line}
    assert were == {copy.path for copy in planned.copies}


def test_copies_are_not_moved_to_where_they_would_be_found_again(
    copies: tuple[Path, ImageIndex], tmp_path: Path
) -> None:
    folder, index = copies
    planned, before = plan(index, find_duplicates(index), "path=*/a/*"), names(folder)
    for among in (folder, folder / "copies"):
        with pytest.raises(S2R2Error, match=r"lies among the photos, .*: choose a folder beside them"):
            move_copies(index, planned, among)
    assert names(folder) == before
    assert len(list(move_copies(index, planned, folder / ".copies"))) == 2
    done = update_index("untrained:test_resnet", folder, tmp_path / "index", drop_missing=True, progress=False)
    assert (len(done.index), done.dropped) == (3, 2)  # a folder is empty now


def test_a_copy_that_cannot_be_removed_stays_where_it_was_and_only_there(
    copies: tuple[Path, ImageIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = copies
    planned, before = plan(index, find_duplicates(index), "path=*/a/*"), names(folder)
    remove = os.unlink

    def unlink(path: str | Path) -> None:
        if str(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        remove(path)

    monkeypatch.setattr(os, "unlink", unlink)
    done = [what for _, what in move_copies(index, planned, tmp_path / "away")]
    assert done == ["left as it is: Permission denied"] * 2
    assert (names(folder), names(tmp_path / "away")) == (before, [])


def test_the_script_removes_copies_and_checks_first(copies: tuple[Path, ImageIndex], tmp_path: Path) -> None:
    folder, index = copies
    planned = plan(index, find_duplicates(index), "largest")
    odd = [replace(one, path=f"{folder}/a\x1b[2J.png") for one in planned.copies]
    (tmp_path / "remove.sh").write_bytes(script(index, planned))
    (tmp_path / "odd.sh").write_bytes(script(index, Plan(odd, [])))
    scene(5).save(folder / "large.png")
    said = subprocess.run(["sh", str(tmp_path / "remove.sh")], capture_output=True, text=True, check=True)
    assert "small.png" in said.stderr
    assert len(names(folder)) == 3
    assert "small.png" in names(folder)
    said = subprocess.run(["sh", str(tmp_path / "odd.sh")], capture_output=True, text=True, check=True)
    assert "\x1b" not in said.stdout + said.stderr
    assert r"a\x1b[2J.png" in said.stderr


def test_a_file_under_two_names_is_no_copy_of_itself(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    scene(1).save(tmp_path / "photos" / "a.png")
    scene(2).save(tmp_path / "photos" / "c.png")
    (tmp_path / "photos" / "b.png").symlink_to(tmp_path / "photos" / "a.png")
    index = update_index("untrained:test_resnet", tmp_path / "photos", tmp_path / "index", progress=False).index
    assert plan(index, find_duplicates(index), "largest").copies == []


def test_very_many_equal_photos_have_few_candidates() -> None:
    same = np.ones((600, len(CROPS), LENGTH), np.int16) * 500
    pairs = by_descriptors(same)
    assert len(pairs.left) < 600 * 12 * 25
    groups = Groups(np.arange(600))
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        groups.join(left, right)
    assert [len(group) for group in groups.listed(np.arange(600))] == [600]


def test_the_suggested_threshold_separates_planted_copies() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((2000, 64)).astype(np.float32)
    rows[1900:] = rows[:100] + 0.02 * generator.standard_normal((100, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    threshold = suggest_threshold(rows)
    assert (rows[1900:] * rows[:100]).sum(1).min() > threshold
    assert (rows[200:1000] @ rows[1000:1900].T > threshold).sum() < 10  # of 720,000
