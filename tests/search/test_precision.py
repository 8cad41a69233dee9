"""The precision of an index and of files of vectors: stated, kept, and never mixed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from s2r2.cli import main
from s2r2.encoder import Encoder, load
from s2r2.encoder.precision import vectors_fingerprint
from s2r2.errors import ArgumentError
from s2r2.images import open_source
from s2r2.ray import Embedder
from s2r2.search import (
    DamagedIndex,
    ImageIndex,
    Shards,
    StoredVectors,
    UpdateResult,
    precision,
    update_index,
    write_embeddings,
    write_refined_index,
)
from s2r2.search.embedding_rows import Origin
from s2r2.search.unchanged import nothing_new

ENCODER = "untrained:test_resnet"


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision of each batch that an encoder embeds."""
    precisions: list[str] = []
    before = Encoder.embed_pixels

    def embed_pixels(self: Encoder, pixels: np.ndarray, **options: str) -> np.ndarray:
        precisions.append(options.get("precision", "float32"))
        return before(self, pixels, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "embed_pixels", embed_pixels)
    return precisions


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Sets whether the processor has bfloat16."""

    def has(there: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": there})

    has(True)
    return has


def update(folder: Path, **options: object) -> UpdateResult:
    return update_index(ENCODER, folder, folder.parent / "index", progress=False, **options)  # type: ignore[arg-type]


def add(folder: Path, name: str) -> None:
    (folder / "red" / name).write_bytes((folder / "red" / "0.jpg").read_bytes() + name.encode())


@pytest.mark.slow
def test_an_index_keeps_its_precision(
    photo_folder: Path, used: list[str], processor: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", ENCODER, str(photo_folder), "--index", str(photo_folder.parent / "index"), "--device", "cpu"]
    main([*words, "--precision", "bfloat16"])
    assert "precision" not in capsys.readouterr().out
    index = ImageIndex.open(photo_folder.parent / "index")
    assert index.about.precision == "bfloat16"
    assert index.vectors.dtype == np.float32
    source = open_source(photo_folder)
    for asked in (None, "auto", "bfloat16"):
        assert nothing_new(ENCODER, source, index.folder, None, 500_000, precision=asked) is not None
    assert nothing_new(ENCODER, source, index.folder, None, 500_000, precision="float32") is None
    add(photo_folder, "new.jpg")
    main(words)
    assert "1 embedded, 0 moved, 24 unchanged" in capsys.readouterr().out
    found = ImageIndex.open(index.folder).search(str(photo_folder / "red" / "0.jpg"), 3)
    assert found[0].score > 0.9999
    assert used == ["bfloat16"] * 3
    processor(False)
    add(photo_folder, "later.jpg")
    main(words)
    assert "precision float32 for these photos: this processor has no bfloat16" in capsys.readouterr().out
    assert ImageIndex.open(index.folder).search(str(photo_folder / "red" / "1.jpg"), 3)[0].score > 0.999
    assert used[3:] == ["float32"] * 2
    assert ImageIndex.open(index.folder).about.precision == "bfloat16"
    with pytest.raises(SystemExit):
        main([*words, "--precision", "float32"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is made in bfloat16, not float32: replace it with --rebuild, or choose another --index" in said
    main([*words, "--rebuild"])
    about = ImageIndex.open(index.folder).about
    assert about.precision == "float32"
    assert about.fingerprint == load(ENCODER).fingerprint


def test_an_interrupted_index_goes_on_in_its_own_precision(photo_folder: Path, used: list[str]) -> None:
    before = Encoder.embed_pixels

    def once(self: Encoder, pixels: np.ndarray, **options: object) -> np.ndarray:
        if used:
            raise KeyboardInterrupt
        return before(self, pixels, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "embed_pixels", once)
        with pytest.raises(KeyboardInterrupt):
            update(photo_folder, precision="bfloat16", batch_size=8)
    folder = photo_folder.parent / "index"
    (unfinished,) = folder.glob(vectors_fingerprint(load(ENCODER).fingerprint, "bfloat16") + "*")
    assert update(photo_folder, precision="bfloat16", batch_size=8).embedded == 16
    assert ImageIndex.open(folder).about.generation == unfinished.name
    assert update(photo_folder, precision="float32", rebuild=True).embedded == 24  # nothing of the other is taken over


def test_a_description_of_another_precision_is_damaged(photo_folder: Path) -> None:
    from s2r2.search.storage import published

    about = update(photo_folder).about
    folder = photo_folder.parent / "index"
    content = published.asdict(about) | {"precision": "float8"}
    published.write_sealed(folder / "index.json", content)
    with pytest.raises(DamagedIndex, match="float8"):
        ImageIndex.open(folder)
    del content["precision"]  # as earlier versions wrote it
    published.write_sealed(folder / "index.json", content)
    assert ImageIndex.open(folder).about.precision == "float32"


def test_vectors_of_one_file_or_folder_have_one_precision(
    photo_folder: Path, tmp_path: Path, used: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    embed = ["embed", ENCODER, str(photo_folder), "--device", "cpu", "--out"]
    main([*embed, str(tmp_path / "parts"), "--shards", "2", "--precision", "bfloat16"])
    assert set(used) == {"bfloat16"}
    for wrong, said in (
        ([], "was made in bfloat16, not float32: choose another --out"),
        (["--precision", "auto"], "may differ from part to part: give float32 or bfloat16"),
        (["--precision", "half"], "half"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*embed, str(tmp_path / "parts"), "--shards", "2", *wrong])
        refused = capsys.readouterr().err
        assert said in refused
        assert refused.count("\n") == 1
    index = ["index", str(photo_folder), "--vectors", str(tmp_path / "parts"), "--index", str(tmp_path / "index")]
    with pytest.raises(SystemExit):
        main([*index, "--precision", "bfloat16"])
    assert "--precision bfloat16: with --vectors nothing is embedded" in capsys.readouterr().err
    main(index)
    about = ImageIndex.open(tmp_path / "index").about
    assert about.precision == "bfloat16"
    assert update_index(ENCODER, photo_folder, about_folder(tmp_path), progress=False).kept == 24
    main([*embed, str(tmp_path / "parts" / "other.parquet")])
    with pytest.raises(ArgumentError, match="different encoders, precisions or photos"):
        StoredVectors(tmp_path / "parts")
    exact = StoredVectors(tmp_path / "parts" / "other.parquet")
    with pytest.raises(ArgumentError, match="is made in bfloat16, not float32"):
        update_index(exact, photo_folder, about_folder(tmp_path), progress=False)


def about_folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


def test_a_table_says_its_precision_and_earlier_ones_are_float32(photo_folder: Path, tmp_path: Path) -> None:
    encoder, source = load(ENCODER), open_source(photo_folder)
    written = write_embeddings(encoder, source, tmp_path / "x.parquet", precision="auto")
    assert written.note.startswith("precision float32: ")
    schema = parquet.read_schema(tmp_path / "x.parquet")
    origin = Origin.read(schema)
    assert origin is not None
    assert origin.precision == "float32"
    stated = json.loads(schema.metadata[b"s2r2"])
    del stated["precision"]
    earlier = Origin.read(schema.with_metadata({b"s2r2": json.dumps(stated)}))
    assert earlier is not None
    assert earlier.is_like(origin)
    with pytest.raises(ArgumentError, match="may differ from part to part"):
        Embedder(ENCODER, precision="auto")  # type: ignore[arg-type]
    fast = Embedder(ENCODER, precision="bfloat16", device="cpu")({"path": [str(photo_folder / "red" / "0.jpg")]})
    exact = Shards(encoder, source, tmp_path / "parts", 1).write(0)
    vector = np.stack(parquet.read_table(exact.path)["vector"].to_numpy())
    assert (vector @ fast["vector"][0]).max() > 0.999


def test_a_refined_index_keeps_the_precision(photo_folder: Path, tmp_path: Path) -> None:
    from s2r2.encoder.feature_head import with_feature_head

    update(photo_folder, precision="bfloat16")
    index = ImageIndex.open(photo_folder.parent / "index")
    matrix = np.eye(index.about.dimensions, dtype=np.float32)
    encoder = with_feature_head(index.encoder, torch.from_numpy(matrix))
    about = write_refined_index(index, encoder, matrix, tmp_path / "refined")
    assert about.precision == "bfloat16"
    assert update_index(encoder, photo_folder, tmp_path / "refined", progress=False).kept == 24


def test_a_sample_of_photos_is_read_for_auto(
    photo_folder: Path, used: list[str], processor: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo_folder / "red" / "0.jpg").write_bytes(b"no photo")
    monkeypatch.setattr("s2r2.encoder.precision.FEWEST", 10)
    monkeypatch.setattr(precision, "_AT_ONCE", 8)
    result = update(photo_folder, precision="auto")
    assert used[:6] == ["float32", "bfloat16"] * 3
    assert result.about.precision == used[-1]
    assert f"precision {used[-1]}: " in str(result)
    assert "among 23 photos" in str(result)
