"""Parts of vectors that processes write without knowing of each other, and other forms of the one file."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.images import open_source
from s2r2.search import Shards

ENCODER = "untrained:test_resnet"


def embed(photos: Path, out: Path, *words: object) -> None:
    main(["embed", ENCODER, str(photos), "--out", str(out), "--device", "cpu", *map(str, words)])


def fails(capsys: pytest.CaptureFixture[str], photos: Path, out: Path, *words: object) -> str:
    with pytest.raises(SystemExit) as left:
        embed(photos, out, *words)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.count("\n") == 1
    return said


def test_parts_are_the_table_and_a_finished_one_is_kept(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo_folder / "red" / "1.jpg").write_bytes(b"no photo")
    embed(photo_folder, tmp_path / "whole.parquet")
    parts = tmp_path / "parts"
    embed(photo_folder, parts, "--shards", 3, "--shard", 1)
    (first,) = parts.glob("*.parquet")
    assert first.name == "part-00001-of-00003.parquet"
    before = first.stat().st_ino, first.stat().st_mtime_ns
    capsys.readouterr()
    embed(photo_folder, parts, "--shards", 3)
    assert f"{first} is there already" in capsys.readouterr().out
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    whole, found = parquet.read_table(tmp_path / "whole.parquet"), parquet.read_table(parts)  # as any tool does
    assert found.schema.names == ["key", "path", "label", "content", "vector"]
    assert found.drop(["vector"]).equals(whole.drop(["vector"]))
    vectors = [np.stack(table["vector"].to_numpy()) for table in (whole, found)]
    np.testing.assert_allclose(*vectors, atol=1e-6)
    assert "red/1.jpg" in (parts / "_skipped-00002-of-00003.csv").read_text()
    assert len(list(parts.glob("_skipped*"))) == 1
    assert load(parts / "_encoder.safetensors").fingerprint == load(ENCODER).fingerprint


def test_shards_begin_where_batches_do() -> None:
    encoder, source = load(ENCODER), open_source("digits:train")
    shards = Shards.__new__(Shards)
    shards.encoder, shards.source = encoder, source
    for shards.shards in (1, 7, 22, 23, 600, 1500):
        ranges = [shards._photos(shard) for shard in range(shards.shards)]
        assert [index for found in ranges for index in found] == list(range(len(source)))
        if shards.shards <= 22:
            assert all(found.start % 64 == 0 for found in ranges)
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 64 + 63


def test_parts_of_other_vectors_are_refused(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    embed(photo_folder, parts, "--shards", 2, "--shard", 0)
    assert "holds parts of 2 shards: give --shards 2, or" in fails(capsys, photo_folder, parts, "--shards", 3)
    assert "another encoder, untrained:test_resnet: choose another --out" in other_encoder(photo_folder, parts)
    assert "holds the output feature, not embedding" in fails(
        capsys, photo_folder, parts, "--shards", 2, "--output", "embedding"
    )
    assert "with --shards 2 they are numbered from 0 to 1" in fails(
        capsys, photo_folder, parts, "--shards", 2, "--shard", 2
    )
    assert "give --shards too" in fails(capsys, photo_folder, parts, "--shard", 0)
    assert "give a number from 1" in fails(capsys, photo_folder, parts, "--shards", 0)
    assert "with its own --shard for each GPU" in fails(capsys, photo_folder, parts, "--shards", 2, "--devices", 2)
    (photo_folder / "red" / "0.jpg").unlink()
    assert "is of 24 photos of" in fails(capsys, photo_folder, parts, "--shards", 2)
    part = parts / "part-00000-of-00002.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    assert "is damaged: delete it" in fails(capsys, photo_folder, parts, "--shards", 2)


def other_encoder(photos: Path, parts: Path) -> str:
    with pytest.raises(S2R2Error) as refused:
        Shards(load("untrained:test_vit"), open_source(str(photos)), parts, 2)
    return str(refused.value).replace("`out`", "--out")


def test_a_matrix_and_text_name_their_rows(photo_folder: Path, tmp_path: Path) -> None:
    (photo_folder / "red" / "1.jpg").write_bytes(b"no photo")
    (photo_folder / "red" / "2.jpg").rename(photo_folder / "red" / "=1+1.jpg")
    for name in ("x.parquet", "x.npy", "x.csv"):
        embed(photo_folder, tmp_path / name)
    table = parquet.read_table(tmp_path / "x.parquet")
    vectors = np.stack(table["vector"].to_numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), vectors)
    with open(tmp_path / "x.photos.csv") as named, open(tmp_path / "x.csv") as text:
        names, rows = list(csv.DictReader(named)), list(csv.DictReader(text))
    assert [row["key"] for row in names] == [row["key"] for row in rows] == table["key"].to_pylist()
    read = np.array([[float(row[f"v{n}"]) for n in range(vectors.shape[1])] for row in rows], np.float32)
    np.testing.assert_array_equal(read, vectors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script forks processes")
def test_shards_that_are_killed_end_as_undisturbed_and_make_the_encoders_index() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "shard_kills.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 files identical, 99 rows identical" in done.stdout
