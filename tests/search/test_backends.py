"""A search backend of one's own is one class in one file: an index is built for it and remembers it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, SearchBackend, backend_names, register_backend, update_index
from s2r2.search.backends import base
from s2r2.search.backends.faiss_ivf import FaissSearch
from s2r2.system import extras

Arrays = tuple[np.ndarray, np.ndarray]


class RandomProjections(SearchBackend):
    """Ranks by 24 random directions first, and the best half by all dimensions."""

    name = "random-projections"
    asked = 0

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> base.Settings:
        """Keep the projected vectors."""
        directions = np.random.default_rng(0).standard_normal((vectors.shape[1], 24)).astype(np.float32)
        (folder / "parts").mkdir()
        np.save(folder / "directions.npy", directions)
        np.save(folder / "parts" / "projected.npy", vectors @ directions)
        return {"share": 0.5}

    def search(self, query: np.ndarray, k: int) -> Arrays:
        """Rank."""
        type(self).asked += 1
        rough = np.load(self.folder / "parts" / "projected.npy") @ (query @ np.load(self.folder / "directions.npy"))
        rows = np.argsort(-rough)[: max(k, int(len(self.vectors) * self.settings["share"]))]
        scores = self.vectors[rows] @ query
        best = np.argsort(-scores)[:k]
        return rows[best], scores[best]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    backend_names()  # so that those of s2r2 are registered first
    monkeypatch.setattr(base, "_registered", dict(base._registered))
    monkeypatch.setattr(RandomProjections, "asked", 0)
    register_backend(RandomProjections)


def test_a_backend_of_ones_own_is_built_remembered_and_searched(
    photo_folder: Path, tmp_path: Path, encoder_name: str
) -> None:
    store = tmp_path / "index"
    index = update_index(encoder_name, photo_folder, store, backend="random-projections", progress=False).index
    hits = index.search("red/1.jpg", 3)
    assert RandomProjections.asked == 1
    exact = ImageIndex.open(store, backend="exact").search("red/1.jpg", 3)
    assert [hit.key for hit in hits] == [hit.key for hit in exact]
    assert RandomProjections.asked == 1
    before = files(store)
    assert "search-1/parts/projected.npy" in before
    (photo_folder / "red" / "1.jpg").unlink()
    done = update_index(encoder_name, photo_folder, store, progress=False)
    assert files(store) == {name.replace("-1", "-2") for name in before}
    assert done.index.backend_name == "random-projections"
    assert len(done.index.search("red/2.jpg", 50)) == 22
    assert len(index.search("red/2.jpg", 50)) == 23  # of the open one, whose backend's files are gone with the update
    base._registered.pop("random-projections")  # as in a program that does not know it
    assert ImageIndex.open(store).backend_name == "exact"
    assert update_index(encoder_name, photo_folder, store, backend="exact", progress=False).embedded == 0
    assert not any("search-" in name for name in files(store))


def files(store: Path) -> set[str]:
    """What searches map or read, by name inside the generation."""
    (generation,) = (path for path in store.iterdir() if path.is_dir())
    found = {path.relative_to(generation) for path in generation.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if "lance" not in path.parts}


def test_what_a_backend_wrote_is_checked_and_mended(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    store = tmp_path / "index"
    first = update_index(encoder_name, photo_folder, store, backend="random-projections", progress=False)
    place = store / first.about.generation / "search-1" / "directions.npy"
    content = bytearray(place.read_bytes())
    content[-5] ^= 1
    place.write_bytes(content)
    with pytest.raises(S2R2Error, match=r"directions\.npy is not what was written"):
        ImageIndex.open(store).search("red/1.jpg", 3)
    assert len(ImageIndex.open(store, backend="exact").search("red/1.jpg", 3)) == 3
    place.unlink()
    with pytest.raises(S2R2Error, match="is damaged"):
        ImageIndex.open(store).search("red/1.jpg", 3)
    mended = update_index(encoder_name, photo_folder, store, progress=False)
    assert (mended.embedded, mended.about.number) == (0, 2)
    assert len(mended.index.search("red/1.jpg", 3)) == 3


def test_the_names_are_listed_and_what_does_not_fit_is_one_line(
    photo_folder: Path, tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "index"
    update_index(encoder_name, photo_folder, store, progress=False)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("use exact, faiss, lancedb, random-projections", lambda: ImageIndex.open(store, backend="faster")),
        ("use exact, faiss, lancedb, random-projections", lambda: update_index("x", "y", store, backend="faster")),
        ("made for the search backend exact", lambda: ImageIndex.open(store, backend="random-projections")),
    ]
    for message, call in cases:
        with pytest.raises(S2R2Error, match=message):
            call()
    monkeypatch.setattr(RandomProjections, "packages", ("no_such_package",))
    with pytest.raises(S2R2Error, match="needs no_such_package: pip install no_such_package"):
        update_index(encoder_name, photo_folder, store, backend="random-projections")


def test_the_number_of_photos_decides_where_nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [base.automatic_backend(photos) for photos in (1, 499_999, 500_000)] == ["exact", "exact", "faiss"]
    assert [base.automatic_backend(photos, 20) for photos in (1, 19, 20)] == ["exact", "exact", "faiss"]
    monkeypatch.setattr(RandomProjections, "automatic_from", 2_000_000)
    assert base.automatic_backend(2_000_000) == "random-projections"
    there = extras._is_installed
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "faiss" and there(module))
    assert [base.automatic_backend(photos) for photos in (1, 500_000)] == ["exact", "lancedb"]


def test_where_the_recall_is_not_reached_search_is_exact(
    photo_folder: Path, tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomProjections, "build", lambda vectors, folder: None)
    done = update_index(encoder_name, photo_folder, tmp_path / "index", backend="random-projections", progress=False)
    assert "the recall of random-projections on these photos is too low" in str(done)
    assert done.index.backend_name == "exact"
    assert len(done.index.search("red/1.jpg", 3)) == 3
    again = update_index(encoder_name, photo_folder, tmp_path / "index", progress=False)
    assert again.about == done.about


def near_groups(count: int) -> np.ndarray:
    """Vectors ``(count, 32)`` in forty groups."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((40, 32))[generator.integers(0, 40, count)]
    rows += 0.5 * generator.standard_normal((count, 32))
    return np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_faiss_takes_over_the_lists_of_vectors_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = near_groups(3100)
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    settings = FaissSearch.build(vectors[:3000], first)
    assert settings
    assert settings["recall"] >= 0.97
    kept = np.random.default_rng(1).permutation(3000)[:2900]  # in another order, without a hundred
    before = base.Before(first, settings, np.concatenate([kept, np.full(100, -1)]))
    now = np.concatenate([vectors[kept], vectors[3000:]])
    with monkeypatch.context() as patch:
        patch.setattr(FaissSearch, "build", None)  # no centroid is learned again
        updated = FaissSearch.update(now, second, before)
    assert updated
    assert updated["recall"] >= 0.97
    backend = FaissSearch(now, second, updated)
    for row in (0, 2899, 2900, 2999):
        rows, scores = backend.search(now[row], 10)
        assert rows[0] == row
        np.testing.assert_allclose(scores, now[rows] @ now[row], rtol=1e-5)
    assert sorted(backend.search(now[0], 5000)[0]) == list(range(3000))
    few = base.Before(first, settings, np.arange(1000))
    assert FaissSearch.update(vectors[:1000], tmp_path, few) is None  # a third: other centroids


def test_an_update_of_an_index_hands_on_what_faiss_made(
    photo_folder: Path, tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "index"
    update_index(encoder_name, photo_folder, store, backend="faiss", progress=False)
    (photo_folder / "red" / "1.jpg").unlink()
    (photo_folder / "red" / "2.jpg").write_bytes((photo_folder / "red" / "3.jpg").read_bytes())
    given: list[base.Before] = []

    def update(cls: type, vectors: np.ndarray, folder: Path, before: base.Before) -> object:
        given.append(before)
        return taken_over(vectors, folder, before)

    taken_over = FaissSearch.update
    monkeypatch.setattr(FaissSearch, "update", classmethod(update))
    index = update_index(encoder_name, photo_folder, store, progress=False).index
    assert (given[0].rows >= 0).sum() == 22
    assert given[0].rows[index.catalogue.row_of_key("red/2.jpg")] == -1
    assert [hit.key for hit in index.search("red/3.jpg", 1)] == ["red/2.jpg"]


@pytest.mark.parametrize("count", [1, 2, 15])
def test_faiss_searches_few_vectors(tmp_path: Path, count: int) -> None:
    vectors = near_groups(count)
    settings = FaissSearch.build(vectors, tmp_path)
    assert settings
    backend = FaissSearch(vectors, tmp_path, settings)
    for k in (1, count, 2 * count):
        rows, scores = backend.search(vectors[0], k)
        assert sorted(set(rows)) == sorted(rows)
        assert (len(rows), rows[0]) == (min(k, count), 0)
        assert (np.diff(scores) <= 0).all()


def test_what_faiss_cannot_take_over_is_built_anew(
    photo_folder: Path, tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "index"
    first = update_index(encoder_name, photo_folder, store, backend="faiss", progress=False)
    lists = store / first.about.generation / "search-1" / "lists.faiss"
    lists.write_bytes(lists.read_bytes()[:-100])
    with pytest.raises(S2R2Error, match="is damaged"):
        first.index.search("red/1.jpg", 1)
    assert ImageIndex.open(store, backend="exact").search("red/1.jpg", 1)
    with monkeypatch.context() as patch:
        patch.setattr(FaissSearch, "update", None)  # nothing is taken over from what is damaged
        mended = update_index(encoder_name, photo_folder, store, progress=False)
    assert (mended.embedded, mended.about.backend, len(mended.index.search("red/1.jpg", 3))) == (0, "faiss", 3)
    (photo_folder / "red" / "1.jpg").unlink()
    monkeypatch.setattr(FaissSearch, "update", classmethod(lambda cls, vectors, folder, before: None))
    assert len(update_index(encoder_name, photo_folder, store, progress=False).index.search("red/2.jpg", 50)) == 22


def test_without_faiss_an_index_made_with_it_is_searched_exactly(
    photo_folder: Path, tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    store = tmp_path / "index"
    update_index(encoder_name, photo_folder, store, backend="faiss", progress=False)
    there = extras._is_installed
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "faiss" and there(module))
    base._say_once.cache_clear()
    for _ in range(2):
        index = ImageIndex.open(store)
    assert index.backend_name == "exact"
    assert len(index.search("red/1.jpg", 3)) == 3
    needs = "the search backend faiss needs faiss: pip install 's2r2[faiss]'"
    assert capsys.readouterr().err == f"s2r2: search is exact, and slower in a large index: {needs}\n"
    (photo_folder / "red" / "1.jpg").unlink()
    for call in (
        lambda: ImageIndex.open(store, backend="faiss"),
        lambda: update_index(encoder_name, photo_folder, store, progress=False),
    ):
        with pytest.raises(S2R2Error) as refused:
            call()
        assert str(refused.value) == needs
    done = update_index(encoder_name, photo_folder, store, backend="auto", approximate_from=5, progress=False)
    assert (done.about.backend, len(done.index.search("red/2.jpg", 50))) == ("lancedb", 22)
