"""The map that an index keeps: made by updates, and moved as little as possible by them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.encoder import Encoder, load
from s2r2.search import DamagedIndex, ImageIndex, update_index
from s2r2.search.storage.stored_map import REMADE_FROM, map_file, read_map


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_resnet", device="cpu")


def updated(encoder: Encoder, photos: Path, index: Path) -> tuple[ImageIndex, dict[str, np.ndarray]]:
    """The index, and the place of each photo by key."""
    found = update_index(encoder, photos, index, progress=False).index
    places = read_map(index, found.about)
    assert places is not None
    return found, dict(zip(found.catalogue.table["key"].to_pylist(), places, strict=True))


def test_an_update_places_new_photos_and_leaves_the_others_where_they_are(
    encoder: Encoder, photo_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    _, before = updated(encoder, photo_folder, index)
    assert np.ptp(np.array(list(before.values())), axis=0).min() > 0
    red = photo_folder / "red"
    Image.open(red / "0.jpg").resize((70, 52)).save(red / "new.jpg")
    (red / "1.jpg").rename(photo_folder / "moved.jpg")
    (red / "2.jpg").unlink()
    found, now = updated(encoder, photo_folder, index)
    assert now.keys() - before.keys() == {"red/new.jpg", "moved.jpg"}
    assert all((now[key] == before[key]).all() for key in now.keys() & before.keys())
    assert (now["moved.jpg"] == before["red/1.jpg"]).all()
    distance = {key: float(np.linalg.norm(place - now["red/new.jpg"])) for key, place in now.items()}
    like = found.search("red/new.jpg", k=5)
    assert np.mean([distance[hit.key] for hit in like]) < np.mean(list(distance.values())) / 2

    for number in range(int(REMADE_FROM * len(now)) + 1):  # too many: it is made anew
        Image.open(red / "0.jpg").resize((60 - number, 50)).save(red / f"more{number}.jpg")
    _, anew = updated(encoder, photo_folder, index)
    assert any((anew[key] != now[key]).any() for key in now)
    assert len(list(index.glob("*/map-*.npz"))) == 1


def test_a_damaged_map_is_said_and_made_again(encoder: Encoder, photo_folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    about = updated(encoder, photo_folder, index)[0].about
    file = index / about.generation / map_file(about.number)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedIndex, match=r"map-1\.npz"):
        read_map(index, about)
    updated(encoder, photo_folder, index)
