"""What a command reads is never written over, and options that mean nothing to it are refused."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.images import open_source
from s2r2.search import Filter, ImageIndex, find_duplicates, update_index, write_embeddings
from s2r2.search.duplicates.planning import plan
from s2r2.search.storage.missing_photos import MissingPhotos
from s2r2.search.storage.rows import Known


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


def refused(run: Callable[[], object], file: Path, said: str = "would be lost: choose another name") -> None:
    before = file.read_bytes()
    with pytest.raises(S2R2Error, match=said):
        run()
    assert file.read_bytes() == before


def test_a_table_is_not_overwritten_by_the_vectors_of_its_photos(
    encoder: Encoder, photo_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("path,label,split\nphotos/red/0.jpg,a,test\nphotos/red/1.jpg,b,train\n")
    (tmp_path / "linked.csv").symlink_to(table)
    other = tmp_path / "vectors.skipped.csv"
    shutil.copy(table, other)
    for data, out in (
        (table, "photos.csv"),
        (f"{table}:test", "photos.csv"),
        (tmp_path / "linked.csv", "photos.csv"),
        (other, "vectors.parquet"),
        ([photo_folder, table], "photos.csv"),
    ):
        source = open_source(data)
        kept = other if out == "vectors.parquet" else table
        refused(lambda source=source, out=out: write_embeddings(encoder, source, tmp_path / out), kept)
    assert write_embeddings(encoder, open_source(table), tmp_path / "x.csv").count == 2


def test_photos_are_not_overwritten_by_what_is_told_of_them(
    encoder: Encoder, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update_index(encoder, photo_folder, tmp_path / "index", progress=False)
    photo, query = photo_folder / "red" / "0.jpg", tmp_path / "query.png"
    Image.open(photo).save(query)
    table, tar = tmp_path / "list.csv", tmp_path / "all.tar"
    table.write_text(f"path\n{photo}\n")
    with tarfile.open(tar, "w") as archive:
        archive.add(photo, "0.jpg")
    for words, file, option in (
        (["search", tmp_path / "index", query, "--picture", query], query, "--picture"),
        (["search", tmp_path / "index", query, "--less", photo, "--picture", photo], photo, "--picture"),
        (["duplicates", tmp_path / "index", "--out", photo], photo, "--out"),
        (["duplicates", tmp_path / "index", "--keep", "largest", "--script", photo], photo, "--script"),
        (["views", photo_folder, "--picture", photo], photo, "--picture"),
        (["views", table, "--picture", table], table, "--picture"),
        (["views", tar, "--picture", tar], tar, "--picture"),
    ):
        before = file.read_bytes()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr().err.splitlines()[-1]  # a kernel may be compiled before
        assert ended.value.code == 2
        assert said.startswith(f"s2r2: {option} {file} is read by this command"), said
        assert file.read_bytes() == before
    main(["search", str(tmp_path / "index"), str(query), "--picture", str(tmp_path / "other.png")])
    assert (tmp_path / "other.png").exists()


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--devices", "2", "--nodes", "2"]])
def test_options_without_meaning_beside_vectors_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["index", "photos", "--vectors", "x.parquet", "--index", str(tmp_path / "index"), *words])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"s2r2: {words[0]} {words[1]}"), said
    assert said.endswith("with --vectors nothing is embedded, leave this out\n")


def test_photos_are_never_those_of_the_working_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, missing in (
        (["--vectors", "x.parquet"], "DATA"),
        (["", "--vectors", "x.parquet"], "DATA"),
        (["untrained:test_vit", ""], "DATA"),
        ([], "ENCODER, DATA"),
    ):
        with pytest.raises(SystemExit):
            main(["index", *words, "--index", str(tmp_path / "index")])
        assert capsys.readouterr().err == f"s2r2: index: missing {missing}; see s2r2 index --help\n"


@pytest.mark.slow
def test_two_colons_in_a_name_are_no_archive(
    encoder: Encoder, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photo_folder / "red" / "a::b.jpg"
    (photo_folder / "red" / "0.jpg").rename(photo)
    shutil.copy(photo, photo_folder / "red" / "copy.jpg")
    (photo_folder / "red" / "linked.jpg").symlink_to(photo_folder / "blue" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    update_index(encoder, "photos", "index", progress=False)
    index = ImageIndex.open("index")
    places = {hit.key: hit.path for hit in index.search("red/a::b.jpg", k=30)}
    assert places["red/copy.jpg"] == str(photo_folder / "red" / "copy.jpg")
    assert places["red/linked.jpg"] == str(photo_folder / "red" / "linked.jpg")
    row = index.catalogue.row_of_key("red/a::b.jpg")
    assert row is not None
    assert index.location(row) == str(photo)
    assert [copy.path for copy in plan(index, find_duplicates(index), "path=*/copy.jpg").copies] == [str(photo)]
    monkeypatch.chdir(photo_folder)
    assert update_index(encoder, photo_folder, "../index", progress=False).moved == 0  # the places are the same

    known = Known("", "", "", str(photo))
    found = MissingPhotos(open_source(photo_folder), {}, set()).classify(
        {"red/a::b.jpg": known}, {"red/a::b.jpg": str(photo).encode()}
    )
    assert found.missing == found.unreadable == {}


def test_a_folder_is_filtered_by_as_it_is_typed(encoder: Encoder, photo_folder: Path, tmp_path: Path) -> None:
    update_index(encoder, photo_folder, tmp_path / "index", progress=False)
    catalogue = ImageIndex.open(tmp_path / "index").catalogue
    counts = {text: int(Filter(folder=text).mask(catalogue).sum()) for text in ("red", "red/", "./red", "red//", ".")}
    assert counts == {"red": 8, "red/": 8, "./red": 8, "red//": 8, ".": 24}
    assert not Filter(folder="re").mask(catalogue).any()


def test_a_picture_among_the_photos_would_be_one_of_them(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run could not be resumed after that, and labels, which are folders, would be lost."""
    monkeypatch.chdir(photo_folder)
    before = sorted(photo_folder.rglob("*"))
    few = ["views", ".", "--images", "1", "--views", "1", "--image-size", "32"]
    with pytest.raises(SystemExit):
        main(few)
    said = capsys.readouterr().err
    assert "--picture views.png lies in ., and would be one of its photos: choose a folder beside it" in said
    assert sorted(photo_folder.rglob("*")) == before
    main([*few, "--picture", "../views.png"])
    assert (photo_folder.parent / "views.png").is_file()
