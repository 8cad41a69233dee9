"""A search backend of one's own: one file, nothing else touched."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.search import DamagedIndex, ImageIndex, update_index
from s2r2.search.backends import base

HALF = """
import numpy as np
from s2r2.search import Built, SearchBackend, register_backend

CALLS = []

class Half(SearchBackend):
    title = "half precision, half the memory"

    def build(self, place, before):
        np.save(place.file("npy"), place.catalogue.vectors.astype(np.float16))
        return Built({"builds": 1.0 + (before or {}).get("builds", 0.0)}, (place.file("npy"),))

    def open(self, place, settings):
        vectors = np.load(place.file("npy"))
        def search(query, k):
            CALLS.append(k)
            scores = vectors.astype(np.float32) @ query
            best = np.argsort(-scores, kind="stable")[:k]
            return best, scores[best]
        return search

register_backend("half", Half())
"""


def test_a_new_backend_is_one_file(
    tmp_path: Path, photo_folder: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_BACKENDS", dict(base._BACKENDS))
    (tmp_path / "half.py").write_text(HALF)
    specification = importlib.util.spec_from_file_location("half", tmp_path / "half.py")
    assert specification is not None
    assert specification.loader is not None
    half = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(half)
    store = tmp_path / "index"
    exact = update_index(encoder_name, photo_folder, store, progress=False).index

    # Though no photo has changed.
    index = update_index(encoder_name, photo_folder, store, backend="half", progress=False).index
    found, expected = index.search("red/0.jpg", 5), exact.search("red/0.jpg", 5)
    assert half.CALLS == [6]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=2e-3)
    index.search("red/0.jpg", 5, folder="red")  # filtered: exactly
    assert half.CALLS == [6]

    Image.new("RGB", (40, 30), "purple").save(photo_folder / "new.jpg")
    index = update_index(encoder_name, photo_folder, store, backend="half", progress=False).index
    assert index.about.approximate == {"builds": 2.0}
    files = [path.name for path in store.rglob("search-*")]
    assert files == [f"search-{index.about.number}.npy"]
    assert files[0] in index.about.files

    base._BACKENDS.pop("half")  # another program, which does not know it: exactly
    assert len(ImageIndex.open(store).search("red/0.jpg", 5)) == 5
    assert half.CALLS == [6]


def test_a_damaged_file_of_a_backend_is_said(
    tmp_path: Path, photo_folder: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_BACKENDS", dict(base._BACKENDS))
    exec(HALF, {})
    store = tmp_path / "index"
    index = update_index(encoder_name, photo_folder, store, backend="half", progress=False).index
    (file,) = store.rglob("search-*")
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    with pytest.raises(DamagedIndex, match=file.name):
        ImageIndex.open(store)
    assert len(index) == len(update_index(encoder_name, photo_folder, store, backend="half", progress=False).index)


def test_an_unknown_backend_is_refused_with_those_that_there_are(
    tmp_path: Path, photo_folder: Path, encoder_name: str
) -> None:
    with pytest.raises(S2R2Error, match="--backend faiss: choose auto, exact, lancedb"):
        update_index(encoder_name, photo_folder, tmp_path / "index", backend="faiss")
    assert not (tmp_path / "index").exists()
