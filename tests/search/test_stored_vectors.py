"""An index from vectors that were made elsewhere is that of the encoder; what cannot be joined is said and listed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.images import open_source
from s2r2.search import ImageIndex, StoredVectors, find_duplicates, update_index
from s2r2.search.storage.layout import ROWS
from s2r2.search.storage.rows import Rows

ENCODER = "untrained:test_resnet"


def embed(photos: Path, out: Path, *words: object) -> None:
    main(["embed", ENCODER, str(photos), "--out", str(out), "--device", "cpu", *map(str, words)])


def rows_of(index: Path) -> pa.Table:
    about = ImageIndex.open(index).about
    rows = Rows(index / about.generation / ROWS)
    return pa.Table.from_batches(list(rows.scan(rows.schema.names)))


@pytest.mark.slow
def test_an_index_from_parts_is_the_encoders_own(photo_folder: Path, tmp_path: Path) -> None:
    for number in range(4, 8):  # fewer pairs that may be copies
        (photo_folder / "blue" / f"{number}.jpg").unlink()
        (photo_folder / "green" / f"{number}.jpg").unlink()
    (photo_folder / "red" / "1.jpg").write_bytes(b"no photo")
    (photo_folder / "red" / "again.jpg").write_bytes((photo_folder / "red" / "0.jpg").read_bytes())
    own, from_parts = tmp_path / "own", tmp_path / "from parts"
    embed(photo_folder, tmp_path / "parts", "--shards", 1)
    main(["index", ENCODER, str(photo_folder), "--index", str(own), "--device", "cpu"])
    main(["index", str(photo_folder), "--vectors", str(tmp_path / "parts"), "--index", str(from_parts)])
    assert rows_of(own).equals(rows_of(from_parts))  # vectors, thumbnails, keys and order, to the last bit
    assert (own / "skipped.csv").read_text() == (from_parts / "skipped.csv").read_text()
    index = ImageIndex.open(from_parts)
    assert index.about.fingerprint == load(ENCODER).fingerprint
    assert index.search(photo_folder / "red" / "0.jpg", 2)[1].key == "red/again.jpg"  # by a file: the encoder is there
    assert len(find_duplicates(index).groups) == 1


def test_what_does_not_fit_is_counted_and_listed_and_an_update_goes_on(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, vectors = tmp_path / "index", tmp_path / "x.parquet"
    embed(photo_folder, vectors)
    (photo_folder / "red" / "0.jpg").unlink()
    (photo_folder / "red" / "new.jpg").write_bytes((photo_folder / "blue" / "0.jpg").read_bytes() + b" ")
    (photo_folder / "red" / "2.jpg").write_bytes((photo_folder / "blue" / "1.jpg").read_bytes() + b" ")
    command = ["index", str(photo_folder), "--vectors", str(vectors), "--index", str(index)]
    capsys.readouterr()
    main(command)
    said = capsys.readouterr().out
    assert "22 photos in" in said
    assert "23 of 24 belong to a photo; 1 vector without a photo, 1 photo without a vector" in said
    listed = (index / "skipped.csv").read_text()
    assert "red/0.jpg,a vector without a photo" in listed
    assert f"red/new.jpg,{vectors} has no vector of it" in listed
    assert "red/2.jpg,it has changed since its vector was made" in listed
    main(command)  # nothing changes
    assert "0 embedded, 0 moved, 22 unchanged, 0 dropped, 3 skipped" in capsys.readouterr().out
    main(["index", ENCODER, str(photo_folder), "--index", str(index), "--device", "cpu"])  # the rest
    assert "2 embedded, 0 moved, 22 unchanged, 0 dropped, 0 skipped" in capsys.readouterr().out
    assert len(ImageIndex.open(index).search(str(photo_folder / "red" / "new.jpg"), 5)) == 5


def write(file: Path, vectors: Any, **columns: Any) -> StoredVectors:
    parquet.write_table(pa.table({**columns, "vector": vectors}), file)
    return StoredVectors(file)


def test_vectors_of_an_unknown_encoder_are_searched_by_their_own_photos(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(photo_folder))
    generator = np.random.default_rng(0)
    order = generator.permutation(len(source))
    vectors = generator.standard_normal((len(source), 7)).astype(np.float16)
    paths = [f"{'file:' * (n % 2)}{(photo_folder / source.keys[n]).absolute()}" for n in order]
    reasons = ["", "it was damaged", *[None] * 22]
    given = pa.array([*vectors[:1].tolist(), None, *vectors[2:].tolist()], pa.large_list(pa.float16()))
    stored = write(tmp_path / "x.parquet", given, path=paths, reason=reasons)
    said = str(update_index(stored, source, tmp_path / "index", progress=False))
    assert "23 were not of length 1 and have been normalized" in said
    assert "encoder   not found: they do not say which encoder made them" in said
    assert "s2r2 index ENCODER DATA --index" in said
    assert f"{source.keys[order[1]]},it was damaged" in (tmp_path / "index" / "skipped.csv").read_text()
    index = ImageIndex.open(tmp_path / "index")
    row = index.catalogue.row_of_key(source.keys[order[2]])
    expected = vectors[2].astype(np.float32)
    np.testing.assert_allclose(index.vectors[row], expected / np.linalg.norm(expected), atol=1e-5)
    assert len(index.search(source.keys[order[2]], 3)) == 3
    with pytest.raises(S2R2Error, match="was made from vectors, without the encoder"):
        index.search(str(photo_folder / "red" / "0.jpg"))
    with pytest.raises(S2R2Error, match=r"made by another encoder \(unknown, of x.parquet\)"):
        update_index(load(ENCODER), source, tmp_path / "index", progress=False)


def test_the_encoder_is_found_by_what_the_file_says(photo_folder: Path, tmp_path: Path) -> None:
    run = load(ENCODER).save(tmp_path / "run").parent
    main(["embed", str(run), str(photo_folder), "--out", str(tmp_path / "x.parquet"), "--device", "cpu"])
    assert StoredVectors(tmp_path / "x.parquet").encoder is not None
    load("untrained:test_vit").save(run)
    gone = StoredVectors(tmp_path / "x.parquet")
    assert gone.encoder is None
    assert gone.why_no_encoder == f"{run} is another encoder now"
    assert gone.fingerprint == load(ENCODER).fingerprint
    made = update_index(gone, open_source(str(photo_folder)), tmp_path / "index", progress=False)
    assert "queries   by photos of the index only" in str(made)
    main(["index", ENCODER, str(photo_folder), "--index", str(tmp_path / "index"), "--device", "cpu"])
    index = ImageIndex.open(tmp_path / "index")
    assert len(index.search(str(photo_folder / "red" / "0.jpg"))) == 10  # now it is in the index


def test_vectors_that_cannot_be_used_are_refused_in_one_line(photo_folder: Path, tmp_path: Path) -> None:
    keys = ["red/0.jpg", "red/1.jpg"]
    path = tmp_path / "x.parquet"
    for vectors, columns, said in (
        ([[1.0, 0.0], [1.0]], {"key": keys}, r"vectors of 1 numbers, others have 2"),
        ([[1.0, 0.0], [float("nan"), 1.0]], {"key": keys}, r"the vector of red/1.jpg is not finite or has length 0"),
        ([[1.0, 0.0], [0.0, 0.0]], {"key": keys}, r"not finite or has length 0"),
        ([[1.0, 0.0], [0.0, 1.0]], {"key": keys[:1] * 2}, r"more than one vector of 1 photo, such as red/0.jpg"),
        ([[1.0, 0.0], [0.0, 1.0]], {"key": [keys[0], None]}, r"a row has no key"),
        ([[1.0, 0.0], [0.0, 1.0]], {"name": keys}, r"has the columns name, vector: .* key or path"),
        ([1.0, 0.0], {"key": keys}, r"the columns vector \(lists"),
        ([None, None], {"key": keys}, r"the columns vector \(lists"),
    ):
        with pytest.raises(S2R2Error, match=said):
            write(path, vectors, **columns)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(S2R2Error, match="cannot be read as Parquet"):
        StoredVectors(path)
    with pytest.raises(S2R2Error, match=r"there they are called such as a.jpg, here such as blue/0.jpg"):
        update_index(
            write(path, [[1.0]], key=["a.jpg"]), open_source(str(photo_folder)), tmp_path / "i", progress=False
        )


def test_parts_that_do_not_belong_together_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    embed(photo_folder, parts, "--shards", 2)
    part = parts / "part-00001-of-00002.parquet"
    kept = part.read_bytes()
    part.unlink()
    with pytest.raises(S2R2Error, match="lacks 1 of 2 parts, such as shard 1: run its s2r2 embed again"):
        StoredVectors(parts)
    part.write_bytes(kept)
    main(["embed", "untrained:test_vit", str(photo_folder), "--out", str(tmp_path / "x.parquet"), "--device", "cpu"])
    part.write_bytes((tmp_path / "x.parquet").read_bytes())
    with pytest.raises(S2R2Error, match="are of different encoders, precisions or photos"):
        StoredVectors(parts)
    embed(photo_folder, tmp_path / "heads.parquet", "--output", "embedding")
    with pytest.raises(S2R2Error, match="holds the projection head's embeddings"):
        StoredVectors(tmp_path / "heads.parquet")
