"""Images without a store: the same pixels and views, and what cannot be read costs only itself."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images import ArraySource, DirectImages, PixelStore, open_source, why_direct
from s2r2.images.decoding.formats import READ
from s2r2.images.store import direct
from s2r2.images.store.pixel_store import NO_STORE
from s2r2.views import RECIPES, ViewBatch, ViewLoader

COUNT, SIDE = 24, 40


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = generator.integers(0, 255, (36 + 2 * i, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.jpg", quality=90)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def batches(images: PixelStore | DirectImages, start: int = 0, **options: int) -> list[ViewBatch]:
    options = {"view_size": 24, "views": 4, "batch_size": 8, "seed": 3, **options}
    with ViewLoader(images, RECIPES["swav-multicrop"], **options) as loader:  # two sizes of views
        return list(loader.epoch(1, start))


def contents(steps: list[ViewBatch]) -> list[bytes]:
    return [b"".join(p.numpy().tobytes() for p in (*s.pixels, *s.groups)) + s.images.tobytes() for s in steps]


def test_views_are_those_of_a_store(photos: Path, tmp_path: Path) -> None:
    source = open_source(photos)
    store = PixelStore.build(source, SIDE, tmp_path / "stores", progress=False)
    images = DirectImages(source, SIDE)
    expected = contents(batches(store, threads=1))
    assert contents(batches(images, threads=1)) == expected
    assert contents(batches(images, threads=5)) == expected
    assert contents(batches(images, start=2)) == expected[2:]
    for rank in range(2):
        shared = [batches(i, rank=rank, world_size=2) for i in (store, images)]
        assert contents(shared[1]) == contents(shared[0])
    assert images.image_ids[np.arange(COUNT)].tolist() == store.image_ids.tolist()


def test_arrays_are_as_a_store_keeps_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 50, 60, 3), dtype=np.uint8)
    source = ArraySource("arrays", pixels, None)
    store = PixelStore.build(source, SIDE, tmp_path, progress=False)
    for index, image in enumerate(store):
        np.testing.assert_array_equal(DirectImages(source, SIDE)[index], image)


def test_what_cannot_be_read_is_left_out_of_its_step_and_listed_once(photos: Path, tmp_path: Path) -> None:
    source = open_source(photos)
    whole = {int(i): step for step in batches(DirectImages(source, SIDE)) for i in step.images}
    (photos / "05.jpg").write_bytes(b"no photo")
    (photos / "11.jpg").unlink()
    listing = tmp_path / "skipped.csv"
    listing.write_text("image,reason\n")
    images = DirectImages(source, SIDE, listing)
    for _ in range(2):
        steps = batches(images)
        assert sorted(int(i) for step in steps for i in step.images) == sorted(set(range(COUNT)) - {5, 11})
        for step in steps:
            before = whole[int(step.images[0])]
            kept = np.isin(before.images, step.images)
            for side, groups, was, groups_were in zip(
                step.pixels, step.groups, before.pixels, before.groups, strict=True
            ):
                each = len(was) // len(kept)
                np.testing.assert_array_equal(side.numpy(), was.numpy()[np.repeat(kept, each)])
                np.testing.assert_array_equal(groups.numpy(), groups_were.numpy()[np.repeat(kept, each)])
    with listing.open(newline="") as file:
        rows = list(csv.reader(file))
    assert sorted(rows[1:]) == [
        ["05.jpg", f"not an image in a format that is read ({READ})"],
        ["11.jpg", "No such file or directory"],
    ]
    resumed = DirectImages(source, SIDE, listing)
    batches(resumed)
    assert len(listing.read_text().splitlines()) == 3
    assert len(resumed.skipped) == 2
    beside = DirectImages(source, SIDE, listing)  # another process of the run, which does not know of the next one
    (photos / "12.jpg").unlink()
    batches(resumed)
    batches(beside)
    assert len(listing.read_text().splitlines()) == 4


def test_a_step_of_which_most_is_missing_ends_the_run(photos: Path) -> None:
    source = open_source(photos)
    for index in range(COUNT):
        (photos / f"{index:02d}.jpg").unlink()
        images = DirectImages(source, SIDE)
        missing = [sum(i <= index for i in step) for step in np.split(order(), 3)]
        if max(missing) > 4:
            with pytest.raises(S2R2Error, match=r"5 of the 8 images .* cannot be read .* continue with `resume=True`"):
                batches(images)
            break
        assert len(batches(images)) == 3
    with pytest.raises(S2R2Error, match=r"skipped\.csv"):
        batches(images)


def order() -> np.ndarray:
    from s2r2.views import epoch_order

    return epoch_order(COUNT, 3, 1)


def test_nothing_readable_is_said_before_the_first_step(photos: Path) -> None:
    source = open_source(photos)
    assert len(DirectImages(source, SIDE).some(6)) == 6
    shutil.rmtree(photos)
    with pytest.raises(S2R2Error, match=r"none of 24 images tried of the 24 of .* can be read; the first: 00\.jpg: No"):
        DirectImages(source, SIDE).some(6)


def test_when_there_is_no_store(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    source = open_source(photos)
    assert why_direct(source, SIDE, None) == ""
    assert why_direct(source, SIDE, NO_STORE) == "as asked"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))
    assert "decoded they might take 0.0 GB" in why_direct(source, SIDE, None)
    assert why_direct(source, SIDE, tmp_path) == ""
    monkeypatch.setattr(direct, "MANY_IMAGES", 20)
    assert why_direct(source, SIDE, None) == "24 images are more than 20"
    with pytest.raises(S2R2Error, match="`store='none'` is only for training"):
        PixelStore.build(source, SIDE, NO_STORE)


def test_the_fingerprint_is_of_the_keys(photos: Path) -> None:
    first = DirectImages(open_source(photos), SIDE).fingerprint
    assert DirectImages(open_source(photos), SIDE).fingerprint == first
    (photos / "00.jpg").rename(photos / "99.jpg")
    assert DirectImages(open_source(photos), SIDE).fingerprint != first
