"""A changed file is noticed though its size and its time are the old ones; what has not changed is not decoded."""

import os
from pathlib import Path

import pytest
from PIL import Image

from s2r2.images import PixelStore, open_source
from s2r2.system.files import stamp


def write(path: Path, colour: str) -> None:
    Image.new("RGB", (24, 24), colour).save(path, "BMP")  # of equal size whatever the color


@pytest.mark.parametrize("replace", [False, True])
def test_a_photo_changed_with_its_old_size_and_time_is_decoded_anew(replace: bool, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.bmp", "b.bmp"):
        write(photos / name, "red")
    before = os.stat(photos / "a.bmp")
    assert PixelStore.build(open_source(photos), None, tmp_path / "stores", progress=False).decoded == 2
    if replace:
        write(tmp_path / "new", "blue")
        os.replace(tmp_path / "new", photos / "a.bmp")
    else:
        write(photos / "a.bmp", "blue")
    os.utime(photos / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamp(photos / "a.bmp")[:2] == (before.st_size, before.st_mtime_ns)
    store = PixelStore.build(open_source(photos), None, tmp_path / "stores", progress=False)
    assert store.decoded == 1
    assert [image[0, 0].tolist() for image in store] == [[0, 0, 255], [255, 0, 0]]


def test_a_photo_whose_stamp_alone_has_changed_is_not_decoded(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write(photos / "a.bmp", "red")
    PixelStore.build(open_source(photos), None, tmp_path / "stores", progress=False)
    os.chmod(photos / "a.bmp", 0o600)
    os.utime(photos / "a.bmp", (1, 1))
    assert PixelStore.build(open_source(photos), None, tmp_path / "stores", progress=False).decoded == 0
