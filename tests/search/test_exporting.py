"""Vectors as a table: what may be written is known before the work, and what is written is whole."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import write_embeddings


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


def test_a_place_that_cannot_be_a_table_is_refused_before_the_work(
    encoder: Encoder, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    monkeypatch.setattr(encoder, "embed_pixels", None, raising=False)
    for out, said in (
        ("vectors.tsv", r"`out` a name that ends in \.parquet, \.npy or \.csv"),
        ("vectors", r"`out` a name that ends in \.parquet"),
        ("folder.parquet", "is a folder"),
        ("none/vectors.parquet", "its folder does not exist"),
    ):
        with pytest.raises(S2R2Error, match=said):
            write_embeddings(encoder, open_photos(photo_folder), tmp_path / out)


def open_photos(folder: Path):
    from s2r2.images import open_source

    return open_source(folder)


def test_vectors_that_are_not_finite_leave_the_table_as_it_was(
    encoder: Encoder, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "vectors.parquet"
    write_embeddings(encoder, open_photos(photo_folder), out)
    before = out.read_bytes()
    real = encoder.embed_pixels

    def one_is_not(pixels: np.ndarray, **options: object) -> np.ndarray:
        vectors = real(pixels, **options)
        vectors[3, 5] = np.inf
        return vectors

    monkeypatch.setattr(encoder, "embed_pixels", one_is_not, raising=False)
    with pytest.raises(S2R2Error, match=r"test_vit makes no finite vectors for 1 of 24 photos"):
        write_embeddings(encoder, open_photos(photo_folder), out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == ["vectors.parquet"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    encoder: Encoder, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(S2R2Error, match="No space left on device; free space"):
        write_embeddings(encoder, open_photos(photo_folder), tmp_path / "out" / "vectors.parquet")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are Unicode")
def test_names_that_are_no_utf8_are_written(encoder: Encoder, photo_folder: Path, tmp_path: Path) -> None:
    (photo_folder / "red").rename(photo_folder / os.fsdecode(b"caf\xe9"))
    (photo_folder / os.fsdecode(b"caf\xe9") / "1.jpg").write_bytes(b"no photo")
    out = tmp_path / "vectors.parquet"
    assert write_embeddings(encoder, open_photos(photo_folder), out).count == 23
    table = parquet.read_table(out)
    assert sum("caf\\xe9" in path for path in table["path"].to_pylist()) == 7
    assert "caf\\xe9" in set(table["label"].to_pylist())
    assert "caf\\xe9/1.jpg" in out.with_suffix(".skipped.csv").read_text()
    (photo_folder / os.fsdecode(b"caf\xe9") / "1.jpg").unlink()
    write_embeddings(encoder, open_photos(photo_folder), out)
    assert not out.with_suffix(".skipped.csv").exists()  # that of the earlier table says nothing of this one
