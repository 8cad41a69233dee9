"""Near-duplicates: what is joined, from which similarity on, and in how much memory."""

import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.search import duplicates, find_duplicates, update_index
from s2r2.search.backends.exact import top_k
from s2r2.search.duplicates import suggest_threshold


def test_duplicates_are_found(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    shutil.copy(photo_folder / "red" / "1.jpg", photo_folder / "blue" / "copy.jpg")
    Image.open(photo_folder / "green" / "2.jpg").save(photo_folder / "green" / "saved again.jpg", quality=70)
    index = update_index(encoder_name, photo_folder, tmp_path / "index", progress=False).index
    keys = index.catalogue.table["key"]
    exact = find_duplicates(index, 1.0).groups
    assert [[keys[row].as_py() for row in group.rows] for group in exact] == [["blue/copy.jpg", "red/1.jpg"]]
    found = find_duplicates(index, 0.9995)
    assert any({"green/2.jpg", "green/saved again.jpg"} <= {keys[r].as_py() for r in g.rows} for g in found.groups)
    with pytest.raises(S2R2Error, match="between 0 and 1"):
        find_duplicates(index, 2)


def test_the_suggested_threshold_separates_planted_copies() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((2000, 64)).astype(np.float32)
    rows[1900:] = rows[:100] + 0.02 * generator.standard_normal((100, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    threshold = suggest_threshold(rows)
    copies = (rows[1900:] * rows[:100]).sum(1)
    others = rows[200:1000] @ rows[1000:1900].T
    assert copies.min() > threshold
    assert (others > threshold).sum() < 10  # of 720,000


class Photos:
    """What :func:`find_duplicates` needs of an index."""

    def __init__(self, vectors: np.ndarray, contents: list[str]) -> None:
        self.vectors = vectors
        self.catalogue = SimpleNamespace(table=pa.table({"content": contents}), by_key=np.arange(len(vectors)))

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return top_k(self.vectors, vector, k)


def joined_pair_by_pair(similar: np.ndarray) -> list[list[int]]:
    group = np.arange(len(similar))
    for left, right in np.argwhere(similar):
        group[group == group[left]] = group[right]
    found = [np.flatnonzero(group == number).tolist() for number in np.unique(group)]
    return sorted(rows for rows in found if len(rows) > 1)


@pytest.mark.parametrize("block", [3, 17, 200])
def test_blocks_join_what_pairs_join(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    generator = np.random.default_rng(block)
    for threshold in (0.8, 0.95, 0.99):
        vectors = generator.standard_normal((80, 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        contents = generator.integers(0, 70, 80)
        vectors = vectors[contents]
        found = find_duplicates(Photos(vectors, [str(c) for c in contents]), threshold).groups
        scores = vectors @ vectors.T
        similar = (scores >= threshold) | (contents[:, None] == contents)
        assert sorted(group.rows for group in found) == joined_pair_by_pair(similar)
        np.fill_diagonal(scores, -1)
        for group in found:
            assert group.score == pytest.approx(scores[np.ix_(group.rows, group.rows)].max(), abs=1e-5)


def test_twenty_thousand_equal_photos_are_one_group_in_little_memory() -> None:
    vectors = np.zeros((20_000, 16), np.float32)
    vectors[:, 0] = 1
    tracemalloc.start()
    found = find_duplicates(Photos(vectors, [f"{number}" for number in range(20_000)]), 0.99).groups
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(group.rows) for group in found] == [20_000]
    assert peak < 200e6  # their pairs would take 3.2 GB
    found = find_duplicates(Photos(vectors, ["placeholder"] * 20_000), 0.99).groups
    assert [(len(group.rows), group.score) for group in found] == [(20_000, 1.0)]


def test_very_many_photos_are_joined_by_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_PAIRWISE_UP_TO", 10)
    vectors = np.eye(3, 8, dtype=np.float32)[np.arange(60) % 3]  # each has more twins than neighbors are looked at
    found = find_duplicates(Photos(vectors, [str(number) for number in range(60)]), 0.9).groups
    assert [len(group.rows) for group in found] == [20, 20, 20]
