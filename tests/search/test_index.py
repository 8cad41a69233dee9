"""The index: only what changed is embedded, searches are exact."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, positions, update_index
from s2r2.search.backends.exact import top_k


def test_only_new_changed_and_deleted_photos_are_worked_on(
    photo_folder: Path, tmp_path: Path, encoder_name: str
) -> None:
    store = tmp_path / "index"

    def update() -> tuple[int, int, int, int]:
        done = update_index(encoder_name, photo_folder, store, progress=False)
        return done.embedded, done.moved, done.kept, done.dropped

    assert update() == (24, 0, 0, 0)
    assert update() == (0, 0, 24, 0)
    Image.new("RGB", (50, 40), "white").save(photo_folder / "red" / "new.png")
    Image.new("RGB", (50, 40), "black").save(photo_folder / "red" / "0.jpg")
    (photo_folder / "green" / "3.jpg").unlink()
    (photo_folder / "blue" / "5.jpg").rename(photo_folder / "blue" / "moved.jpg")
    assert update() == (2, 1, 21, 1)
    index = ImageIndex.open(store)
    assert len(index) == 24
    keys = set(index.catalogue.table["key"].to_pylist())
    assert {"red/new.png", "blue/moved.jpg"} <= keys
    assert not {"green/3.jpg", "blue/5.jpg"} & keys


def test_search_is_exact_and_leaves_the_query_out(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    index = update_index(encoder_name, photo_folder, tmp_path / "index", progress=False).index
    for key in ("red/1.jpg", "blue/7.jpg"):
        row = index.catalogue.row_of_key(key)
        scores = index.vectors @ index.vectors[row]
        expected = [i for i in np.argsort(-scores, kind="stable") if i != row][:5]
        hits = index.search(key, 5)
        assert [index.catalogue.row_of_key(hit.key) for hit in hits] == expected
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-6)
    first = index.search(photo_folder / "green" / "2.jpg", 1)[0]
    assert (first.key, first.label) == ("green/2.jpg", "green")
    assert first.score == pytest.approx(1, abs=1e-4)
    assert {hit.label for hit in index.search("red/1.jpg", 20, label="green")} == {"green"}
    assert {hit.key.split("/")[0] for hit in index.search("red/1.jpg", 20, folder="blue")} == {"blue"}


def test_a_box_searches_for_a_part(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    both = np.concatenate([np.asarray(Image.open(photo_folder / name / "1.jpg")) for name in ("red", "blue")], axis=1)
    Image.fromarray(both).save(tmp_path / "both.png")
    index = update_index(encoder_name, photo_folder, tmp_path / "index", progress=False).index
    left = index.search(tmp_path / "both.png", 1, box=(0, 0, 80, 60))[0]
    right = index.search(tmp_path / "both.png", 1, box=(80, 0, 80, 60))[0]
    assert (left.key, right.key) == ("red/1.jpg", "blue/1.jpg")
    with pytest.raises(S2R2Error, match="lies outside"):
        index.search(tmp_path / "both.png", 1, box=(100, 0, 80, 60))
    with pytest.raises(S2R2Error, match="at least 1"):
        index.search("red/1.jpg", 0)


def test_another_encoder_is_refused_unless_asked_for(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    store = tmp_path / "index"
    update_index(encoder_name, photo_folder, store, progress=False)
    with pytest.raises(S2R2Error, match="`rebuild=True`"):
        update_index("untrained:test_vit", photo_folder, store, progress=False)
    before = ImageIndex.open(store).about.fingerprint
    done = update_index("untrained:test_vit", photo_folder, store, rebuild=True, progress=False)
    assert done.embedded == 24
    assert ImageIndex.open(store).about.fingerprint != before
    with pytest.raises(S2R2Error, match="other files than an index"):
        update_index(encoder_name, photo_folder, photo_folder, progress=False)


def test_a_second_writer_is_refused_and_readers_go_on(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    from s2r2.search.storage.layout import LOCK
    from s2r2.system.locking import locked

    store = tmp_path / "index"
    reader = update_index(encoder_name, photo_folder, store, progress=False).index
    with locked(store / LOCK, "writing the index", "wait"), pytest.raises(S2R2Error, match="another process"):
        update_index(encoder_name, photo_folder, store, progress=False)
    Image.new("RGB", (50, 40), "white").save(photo_folder / "red" / "new.png")
    update_index(encoder_name, photo_folder, store, progress=False)
    assert reader.stale
    assert len(reader.search("red/1.jpg", 50)) == 23
    assert len(ImageIndex.open(store).search("red/1.jpg", 50)) == 24


def test_top_k_orders_ties_by_position() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 0]]
    rows, scores = top_k(vectors, np.array([1, 0, 0], np.float32), 4)
    assert rows.tolist() == [0, 2, 4, 1]
    assert scores.tolist() == [1, 1, 1, 0]
    assert top_k(vectors, np.array([1, 0, 0], np.float32), 9, np.array([1, 2, 3]))[0].tolist() == [2, 1, 3]


def test_the_map_puts_every_photo_into_the_square() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for count, landmarks in ((300, 100), (70, 100), (5, 100), (1, 100)):
        places = positions(rows[:count], landmarks=landmarks)
        assert places.shape == (count, 2)
        assert places.min() >= 0
        assert places.max() <= 1


@pytest.mark.slow
def test_an_approximate_index_reaches_its_recall(tmp_path: Path, photo_folder: Path, capsys) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(600):
        low = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    arguments = ["index", "untrained:test_resnet", str(folder), "--index", str(tmp_path / "index")]
    main([*arguments, "--approximate-from", "500"])
    assert "recall@10" in capsys.readouterr().out
    index = ImageIndex.open(tmp_path / "index")
    assert index.backend.name == "faiss"
    assert index.backend.settings["recall"] >= 0.97
    hits = index.search("007.png", 10)
    row = index.catalogue.row_of_key("007.png")
    scores = index.vectors @ index.vectors[row]
    np.testing.assert_allclose([hit.score for hit in hits], [scores[index.row(hit.id)] for hit in hits], atol=1e-5)
    main([*arguments, "--backend", "exact"])  # though not a photo has changed
    assert ImageIndex.open(tmp_path / "index").backend_name == "exact"


def test_a_damaged_or_missing_index_is_said(tmp_path: Path, photo_folder: Path, encoder_name: str) -> None:
    with pytest.raises(S2R2Error, match="no index in"):
        ImageIndex.open(tmp_path / "none")
    update_index(encoder_name, photo_folder, tmp_path / "index", progress=False)
    (tmp_path / "index" / "index.json").write_text("{")
    with pytest.raises(S2R2Error, match="is damaged"):
        ImageIndex.open(tmp_path / "index")


def test_object_storage_is_refused_in_one_line(photo_folder: Path, encoder_name: str) -> None:
    for address in ("s3://bucket/photos.index", "gs:/bucket/photos.index"):
        with pytest.raises(S2R2Error, match="a folder on this machine"):
            update_index(encoder_name, photo_folder, address, progress=False)
        with pytest.raises(S2R2Error, match="a folder on this machine"):
            ImageIndex.open(address)
    assert not Path("s3:").exists()
