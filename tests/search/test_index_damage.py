"""Damage to an index is said in one line, its remedy works, and a power cut does not make any."""

import contextlib
import json
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import DamagedIndex, ImageIndex, IndexGone, update_index, updating
from s2r2.search.storage.published import FORMAT, write_sealed

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc says which file is synced")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve digits."""
    with tarfile.open(Path(__file__).parent / "data" / "index_of_format_2.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "photos"


@pytest.fixture
def store(encoder: Encoder, photos: Path, tmp_path: Path) -> Path:
    """Their index."""
    update_index(encoder, photos, tmp_path / "index", progress=False)
    return tmp_path / "index"


def answers(store: Path) -> list[object]:
    """All that an index can be asked."""
    index = ImageIndex.open(store)
    thumbnails = [index.thumbnail(row) for row in range(len(index))]
    query = np.asarray(Image.new("L", (32, 32), 90).convert("RGB"))
    hits = [[(hit.key, round(hit.score, 5)) for hit in index.search(q, 12)] for q in ("0/1.png", query)]
    return [*hits, sorted(zip(index.catalogue.table["key"].to_pylist(), thumbnails, strict=True))]


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def files_of(store: Path) -> Iterator[Path]:
    return (path for path in sorted(store.rglob("*")) if path.is_file() and path.stat().st_size)


def test_every_flipped_bit_is_harmless_or_said(store: Path, tmp_path: Path) -> None:
    right = answers(store)
    generator = random.Random(0)
    said = 0
    for path in files_of(store):
        whole = path.read_bytes()
        for _ in range(6):
            flipped(path, generator.randrange(8 * len(whole)))
            line = ""
            try:
                assert answers(store) == right, path
            except S2R2Error as error:
                line = str(error)
            assert not line or ("--rebuild" in line and "\n" not in line), path
            said += bool(line)
            path.write_bytes(whole)
    assert said > 12


@pytest.mark.slow
def test_the_remedy_repairs_every_file(encoder: Encoder, photos: Path, store: Path, tmp_path: Path) -> None:
    right = answers(store)
    for number, name in enumerate(path.relative_to(store) for path in list(files_of(store))):
        for damage in (lambda path: flipped(path, 333), lambda path: path.write_bytes(b""), Path.unlink):
            hurt = tmp_path / f"hurt {number}"
            shutil.copytree(store, hurt)
            damage(hurt / name)
            update_index(encoder, photos, hurt, rebuild=True, progress=False)
            assert answers(hurt) == right, (name, damage)
            assert len([path for path in hurt.iterdir() if path.is_dir()]) == 1  # nothing is left of the old
            shutil.rmtree(hurt)


def test_an_update_mends_what_it_can_and_names_the_remedy_for_the_rest(
    encoder: Encoder, photos: Path, store: Path
) -> None:
    right = answers(store)
    generation = next(path for path in store.iterdir() if path.is_dir())
    for name in ("encoder.safetensors", "vectors-1.npy", "catalogue-1.arrow"):
        (path,) = generation.glob(name.replace("1", "*"))
        flipped(path, 999)
        assert update_index(encoder, photos, store, progress=False).embedded == 0
        assert answers(store) == right
    (data,) = generation.rglob("*.lance/data/*.lance")
    flipped(data, 4000)
    with pytest.raises(DamagedIndex, match="--rebuild"):
        update_index(encoder, photos, store, progress=False)


def test_rebuilding_always_makes_a_new_generation(encoder: Encoder, photos: Path, store: Path) -> None:
    before = ImageIndex.open(store).about.generation
    done = update_index(encoder, photos, store, rebuild=True, progress=False)
    assert done.embedded == 12
    assert done.about.generation != before
    assert not (store / before).exists()


@pytest.mark.parametrize("change", [-1, 1])
def test_vectors_and_descriptions_of_unequal_number_are_one_line(store: Path, change: int) -> None:
    (vectors,) = store.rglob("vectors-*.npy")
    rows = np.load(vectors)
    np.save(vectors, rows[:-1] if change < 0 else np.concatenate([rows, rows[:1]]))
    with pytest.raises(DamagedIndex, match="--rebuild"):
        ImageIndex.open(store).search("0/1.png", 3)


def test_descriptions_of_other_kinds_are_one_line(store: Path, tmp_path: Path) -> None:
    good = (store / "index.json").read_text()
    said = json.loads(good)
    for other in (
        "{", "[]", "7", "{}", "null", json.dumps(said | {"format": 9}), json.dumps(said | {"photos": 13}),
        json.dumps(said | {"format": 2, "photos": "12"}),
        json.dumps(said | {"format": 2, "backend_settings": {"x": "y"}}),
        json.dumps(said | {"format": 2, "fingerprint": "../.."}), "[" * 100_000,
    ):  # fmt: skip
        (store / "index.json").write_text(other)
        with pytest.raises(DamagedIndex, match="--rebuild"):
            ImageIndex.open(store)


def test_an_index_of_format_2_opens_and_is_brought_up_to_date_without_embedding(
    photos: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "old.index"
    index = ImageIndex.open(store)
    assert index.about.format == 2
    before = index.search("0/1.png", 11)
    assert before[0].score > before[-1].score
    assert Image.open(photos / "0" / "1.png").size == (32, 32)
    assert len(index.thumbnail(0)) > 100
    monkeypatch.setattr(Encoder, "fingerprint", index.about.fingerprint)  # whatever this torch draws as first weights
    done = update_index(encoder, photos, store, progress=False)
    assert (done.embedded, done.kept, done.dropped) == (0, 12, 0)
    now = ImageIndex.open(store)
    assert now.about.format == FORMAT
    assert [(hit.key, hit.score) for hit in now.search("0/1.png", 11)] == [(hit.key, hit.score) for hit in before]
    assert now.search("0/1.png", 1)[0].path == str(photos / now.search("0/1.png", 1)[0].key)
    assert update_index(encoder, photos, store, rebuild=True, progress=False).embedded == 12


def test_links_in_an_index_are_not_followed(encoder: Encoder, photos: Path, store: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "lance" / "photos.lance" / "data").mkdir(parents=True)
    kept = [precious / "vectors-1.npy", precious / "lance" / "photos.lance" / "data" / "mine.lance"]
    for path in kept:
        path.write_text("not an index's")
    (store / ("a" * 24)).symlink_to(precious)  # as if it were an older generation
    (store / ".index.json.abc.tmp").symlink_to(kept[0])
    old = store / f"{'b' * 24}-1"
    (old / "lance" / "photos.lance").mkdir(parents=True)
    (old / "lance" / "photos.lance" / "data").symlink_to(kept[1].parent)
    (old / "notes.txt").write_text("mine")
    update_index(encoder, photos, store, rebuild=True, progress=False)
    assert all(path.exists() for path in kept)
    assert (old / "notes.txt").exists()
    generation = store / ImageIndex.open(store).about.generation
    shutil.move(generation, tmp_path / "elsewhere")
    generation.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedIndex, match="is a link"):
        update_index(encoder, photos, store, progress=False)
    update_index(encoder, photos, store, rebuild=True, progress=False)
    assert list((tmp_path / "elsewhere").rglob("*.lance"))
    assert len(ImageIndex.open(store)) == 12


def test_an_index_deleted_or_replaced_under_its_reader_is_said(encoder: Encoder, photos: Path, store: Path) -> None:
    for delete in (False, True):
        index = ImageIndex.open(store)
        if delete:
            shutil.rmtree(store)
        else:
            update_index(encoder, photos, store, rebuild=True, progress=False)
        assert len(index.search("0/1.png", 20)) == 11
        with pytest.raises(IndexGone, match="open it again"):
            index.thumbnail(0)
        with pytest.raises(IndexGone, match="open it again"):
            _ = index.encoder


def test_a_read_only_index_is_searched(store: Path) -> None:
    right = answers(store)
    paths = [store, *store.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert answers(store) == right
    finally:
        for path in paths:
            path.chmod(0o755)


@on_linux
def test_files_are_synced_before_what_points_to_them(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful_disk: Any
) -> None:
    (tmp_path / "disk").mkdir()
    disk = forgetful_disk(tmp_path / "disk", monkeypatch)
    store = tmp_path / "disk" / "index"
    replace = os.replace

    def replaced(source: str, target: Path) -> None:
        replace(source, target)
        disk.syncs.append(Path(str(target) + " published"))

    monkeypatch.setattr(os, "replace", replaced)
    update_index(encoder, photos, store, progress=False)
    generation = store / ImageIndex.open(store).about.generation
    order = disk.syncs

    def last(path: Path) -> int:
        return len(order) - 1 - order[::-1].index(path)

    published = order.index(Path(f"{store / 'index.json'} published"))
    for path in (generation / "vectors-1.npy", generation / "catalogue-1.arrow", *generation.glob("lance/*/data/*")):
        assert order.index(path) < published
        assert order.index(path.parent, order.index(path)) < published
    written_down = max(n for n in range(published) if order[n] == Path(f"{generation / 'rows.json'} published"))
    for path in generation.rglob("lance/*/*/*"):
        if path.name != "latest_version_hint.json":
            assert order.index(path) < written_down
    assert order[published + 1] == store  # the folder, in which the name is new
    assert last(generation) > 0


@on_linux
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_power_cuts_leave_an_index_that_opens_and_goes_on(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful_disk: Any
) -> None:
    monkeypatch.setattr(updating, "COMMIT_ROWS", 4)
    start, place, after = tmp_path / "start", tmp_path / "disk", tmp_path / "after"
    start.mkdir()
    held = photos.rename(tmp_path / "all")
    shutil.copytree(held / "0", tmp_path / "photos" / "0")
    shutil.copytree(held / "1", tmp_path / "photos" / "1")
    update_index(encoder, photos, start / "index", progress=False)
    shutil.copytree(held, photos, dirs_exist_ok=True)
    (photos / "0" / "2.png").unlink()
    changed = sorted((photos / "1").iterdir())[0]
    Image.new("RGB", (32, 32), "red").save(changed)

    def until(cut: int) -> int:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(start, place)
        with monkeypatch.context() as patch:
            disk = forgetful_disk(place, patch, cut)
            with contextlib.suppress(forgetful_disk.PowerCut):
                update_index(encoder, photos, place / "index", batch_size=4, progress=False)
            disk.after_the_cut(after)
        return len(disk.syncs)

    total = until(-1)
    assert total > 20
    assert len(ImageIndex.open(after / "index")) == 11  # a power cut after all is done
    said: list[str] = []
    for cut in sorted(random.Random(1).sample(range(total), min(60, total))):
        until(cut)
        index = ImageIndex.open(after / "index")
        assert len(index.search("0/1.png", 20)) == len(index) - 1, cut
        assert len(index) in (6, 11)
        try:
            assert all(index.thumbnail(row) for row in range(len(index)))
        except IndexGone as error:  # LanceDB opens nothing where its newest version did not come to the disk
            said.append(str(error))
        done = update_index(encoder, photos, after / "index", progress=False)
        assert len(done.index) == 11, cut
        answers(after / "index")
    assert all("run s2r2 index once more" in line for line in said), said


def test_an_approximate_index_of_format_3_is_searched_exactly_and_brought_up_to_date(
    tmp_path: Path, photo_folder: Path, encoder_name: str
) -> None:
    """LanceDB's index was then inside of the rows, and its settings were called ``approximate``."""
    store = tmp_path / "index"
    done = update_index(encoder_name, photo_folder, store, progress=False)
    expected = [hit.key for hit in done.index.search("red/1.jpg", 5)]
    said = json.loads((store / "index.json").read_text())
    for name in ("check", "backend", "backend_settings", "chosen_backend"):
        del said[name]
    settings = {"probes": 10.0, "factor": 10.0, "recall": 0.98, "trained_on": 24.0}
    write_sealed(store / "index.json", said | {"format": 3, "approximate": settings})
    old = ImageIndex.open(store)
    assert (old.about.format, old.backend_name) == (3, "exact")
    assert [hit.key for hit in old.search("red/1.jpg", 5)] == expected
    (photo_folder / "blue" / "0.jpg").unlink()
    now = update_index(encoder_name, photo_folder, store, progress=False)
    assert (now.embedded, now.dropped, now.about.format) == (0, 1, FORMAT)
    assert [hit.key for hit in now.index.search("red/1.jpg", 5)] == expected
