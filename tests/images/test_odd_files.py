"""A folder as people have them: odd, damaged and hostile files beside good ones."""

import csv
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.images import PixelStore, UnreadableImage, decode, open_source, write_skipped
from s2r2.search import ImageIndex
from s2r2.training import TrainConfig, train

GOOD = (
    "cmyk.jpg",
    "deep.png",
    "moving.gif",
    "name with späces.png",
    "palette.png",
    "plain.jpg",
    "turned.jpg",
    "see-through.png",
)


def noise(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def enormous_png(path: Path) -> None:
    """A PNG whose header says 30,000 x 30,000, with as little behind it as there can be."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    image = Image.fromarray(noise())
    image.save(folder / "plain.jpg")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise()[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "name with späces.png")
    image.convert("P").save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.dstack([noise(), np.full((24, 32), 0, np.uint8)])).save(folder / "see-through.png")
    content = (folder / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("I am no picture")
    (folder / "zero.png").write_bytes(b"")
    enormous_png(folder / "enormous.png")
    (folder / "notes.txt").write_text("not an image, and it does not claim to be")
    return folder


BAD = {"cut.jpg", "text.jpg", "zero.png", "enormous.png"}


def test_store_skips_exactly_the_bad_ones(odd_folder: Path, tmp_path: Path) -> None:
    store = PixelStore.build(open_source(odd_folder), 16, progress=False)
    assert set(store.keys) == set(GOOD)
    write_skipped(tmp_path / "skipped.csv", store.skipped)
    with (tmp_path / "skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert {Path(row[0]).name for row in rows} == BAD
    assert all(row[-1] for row in rows)


def test_training_on_an_odd_folder_finishes(odd_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        backbone="test_resnet", image_size=32, views=2, batch_size=4, epochs=1, head_hidden=8, embedding_dimensions=4
    )
    train(odd_folder, config, out=tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "skipped.csv").read_text(encoding="utf-8")
    assert all(name in text for name in BAD)
    assert not any(name in text for name in GOOD)


def test_indexing_an_odd_folder_finishes(odd_folder: Path, tmp_path: Path) -> None:
    main(["index", "untrained:test_resnet", str(odd_folder), "--index", str(tmp_path / "index")])
    with (tmp_path / "index" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert {Path(row[0]).name for row in list(csv.reader(file))[1:]} == BAD
    assert len(ImageIndex.open(tmp_path / "index")) == len(GOOD)


def test_folder_without_permission_is_listed(odd_folder: Path) -> None:
    secret = odd_folder / "secret"
    secret.mkdir()
    secret.chmod(0)
    try:
        if os.access(secret, os.R_OK):
            pytest.skip("permission bits do not bind this user")
        source = open_source(odd_folder)
        assert any("secret" in problem.key for problem in source.problems)
    finally:
        secret.chmod(0o700)


def test_folder_that_cannot_be_listed_is_skipped(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (odd_folder / "secret").mkdir()
    listed = os.scandir

    def scandir(path: object) -> object:
        if "secret" in str(path):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    store = PixelStore.build(open_source(odd_folder), 16, progress=False)
    assert {Path(entry.key.rstrip("/")).name for entry in store.skipped} == BAD | {"secret"}


def test_pixels_come_out_right(odd_folder: Path) -> None:
    read = {name: decode((odd_folder / name).read_bytes()) for name in GOOD}
    np.testing.assert_array_equal(read["name with späces.png"], noise())
    np.testing.assert_array_equal(read["deep.png"], np.repeat(noise()[..., :1], 3, axis=2))
    assert (read["see-through.png"] == 255).all()
    assert read["turned.jpg"].shape == (32, 24, 3)
    assert all(array.dtype == np.uint8 and array.shape[2] == 3 for array in read.values())


@pytest.mark.parametrize("name", sorted(BAD))
def test_reasons_are_said(odd_folder: Path, name: str) -> None:
    with pytest.raises(UnreadableImage) as error:
        decode((odd_folder / name).read_bytes())
    assert error.value.reason
    assert "\n" not in error.value.reason


def test_strips_do_not_fill_a_store() -> None:
    buffer = io.BytesIO()
    Image.new("L", (60_000, 40)).save(buffer, "PNG")
    height, width = decode(buffer.getvalue(), short_side=32).shape[:2]
    assert height * width <= 64 * 32**2 * 1.1
    assert 1000 < width / height < 2000
    buffer = io.BytesIO()
    Image.new("L", (7, 500)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), short_side=96).shape == (500, 7, 3)


def test_second_opening_decodes_only_what_changed(odd_folder: Path) -> None:
    first = PixelStore.build(open_source(odd_folder), 16, progress=False)
    assert first.decoded == len(GOOD) + len(BAD)
    again = PixelStore.build(open_source(odd_folder), 16, progress=False)
    assert (again.decoded, again.fingerprint) == (0, first.fingerprint)
    Image.fromarray(noise()[::-1]).save(odd_folder / "new.png")
    (odd_folder / "plain.jpg").unlink()
    changed = PixelStore.build(open_source(odd_folder), 16, progress=False)
    assert changed.decoded == 1
    assert set(changed.keys) == set(GOOD) - {"plain.jpg"} | {"new.png"}
    for key in set(first.keys) & set(changed.keys):
        np.testing.assert_array_equal(first[first.keys.index(key)], changed[changed.keys.index(key)])


def test_folders_are_labels_only_when_every_image_is_one_level_down(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(noise()).save(tmp_path / name / "1.png")
    labels = open_source(tmp_path).labels
    assert labels is not None
    assert labels.names == ["cat", "dog"]
    Image.fromarray(noise()).save(tmp_path / "loose.png")
    assert open_source(tmp_path).labels is None


def test_manifest(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,labels\na.png,red;round\n", encoding="utf-8")
    source = open_source(tmp_path / "list.csv")
    assert source.labels is not None
    assert source.labels.names == ["red", "round"]
    assert source.read(0).shape == (24, 32, 3)
    (tmp_path / "bad.csv").write_text("file\na.png\n", encoding="utf-8")
    with pytest.raises(S2R2Error, match="path"):
        open_source(tmp_path / "bad.csv")
