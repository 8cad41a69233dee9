"""The callable for other engines: what it returns for each kind of batch, and Ray itself where it is installed."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.ray import Embedder
from s2r2.search import ImageIndex, StoredVectors, update_index
from s2r2.search.storage.rows import content_hash

ENCODER = "untrained:test_resnet"
EXAMPLE = Path(__file__).parent.parent / "examples" / "embed_with_ray.py"


def make_photos(folder: Path, count: int, damaged: int) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{number:02d}.jpg" for number in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    paths[damaged].write_bytes(b"no photo")
    return paths


def batches(paths: list[Path]) -> dict[str, Any]:
    contents = [path.read_bytes() for path in paths]
    names = [str(path) for path in paths]
    found = {
        "paths in a mapping": {"path": np.array(names), "more": np.arange(len(names))},
        "bytes in a mapping": {"bytes": np.array(contents, object), "more": np.arange(len(names))},
        "a pyarrow table": pa.table({"bytes": contents, "path": names, "more": range(len(names))}),
    }
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        found["a pandas frame"] = pd.DataFrame({"bytes": contents, "more": range(len(names))})
    return found


def test_every_kind_of_batch_gets_the_encoders_vectors(tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 5, damaged=2)
    readable = [0, 1, 3, 4]
    expected = load(ENCODER).embed([paths[n] for n in readable])
    embed = pickle.loads(pickle.dumps(Embedder(ENCODER, batch_size=2, threads=1)))
    for name, batch in batches(paths).items():
        found = embed(batch)
        assert type(found) is type(batch), name
        columns = {column: list(found[column]) for column in ("content", "reason", "more")}
        vectors = found["vector"].to_pylist() if isinstance(found, pa.Table) else list(found["vector"])
        if isinstance(found, pa.Table):
            columns = found.to_pydict()
            assert found.schema.field("vector").type == pa.list_(pa.float32(), expected.shape[1])
        np.testing.assert_allclose(np.stack([vectors[n] for n in readable]), expected, atol=1e-5)
        assert vectors[2] is None or np.isnan(vectors[2]).all()
        assert [bool(reason) for reason in columns["reason"]] == [False, False, True, False, False]
        assert columns["content"][0] == content_hash(paths[0].read_bytes())
        assert list(columns["more"]) == [0, 1, 2, 3, 4]
        assert "bytes" not in (found.column_names if isinstance(found, pa.Table) else list(found))
    assert len(pickle.dumps(embed)) < 1000  # though it has loaded the encoder by now


def test_a_batch_without_photos_is_one_line() -> None:
    with pytest.raises(S2R2Error, match="a batch has the columns image: give it bytes or path"):
        Embedder(ENCODER)({"image": np.zeros(3)})
    with pytest.raises(S2R2Error, match="`threads=0`: give at least 1"):
        Embedder(ENCODER, threads=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 's2r2[ray]'")
def test_ray_makes_vectors_that_become_an_index(tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "photos", 96, damaged=17)
    command = [sys.executable, str(EXAMPLE), ENCODER, str(tmp_path / "photos"), "--out", str(tmp_path / "vectors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    update_index(StoredVectors(tmp_path / "vectors"), str(tmp_path / "photos"), tmp_path / "index", progress=False)
    index = ImageIndex.open(tmp_path / "index")
    keys = index.catalogue.table["key"].to_pylist()
    assert sorted(keys) == [path.name for path in paths if path != paths[17]]
    expected = load(ENCODER).embed([tmp_path / "photos" / key for key in keys])
    np.testing.assert_allclose(index.vectors, expected, atol=1e-5)
    assert '17.jpg,"not an image' in (tmp_path / "index" / "skipped.csv").read_text()
    assert index.encoder.name == ENCODER
