"""The index: only what changed is embedded, searches are exact, nothing is lost by a kill."""

import io
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, find_duplicates, positions, update_index
from s2r2.search.duplicates import suggest_threshold
from s2r2.search.exact import top_k
from s2r2.search.rows import Rows, photo_id


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
    assert update() == (2, 1, 21, 2)
    index = ImageIndex.open(store)
    assert len(index) == 24
    keys = set(index.catalogue.table["key"].to_pylist())
    assert {"red/new.png", "blue/moved.jpg"} <= keys
    assert not {"green/3.jpg", "blue/5.jpg"} & keys


def test_search_is_exact_and_leaves_the_query_out(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    index = ImageIndex.build(encoder_name, photo_folder, tmp_path / "index", progress=False)
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
    index = ImageIndex.build(encoder_name, photo_folder, tmp_path / "index", progress=False)
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
    with pytest.raises(S2R2Error, match="--rebuild"):
        update_index("untrained:test_vit", photo_folder, store, progress=False)
    before = ImageIndex.open(store).about.fingerprint
    done = update_index("untrained:test_vit", photo_folder, store, rebuild=True, progress=False)
    assert done.embedded == 24
    assert ImageIndex.open(store).about.fingerprint != before
    with pytest.raises(S2R2Error, match="something else than an index"):
        update_index(encoder_name, photo_folder, photo_folder, progress=False)


def test_a_second_writer_is_refused_and_readers_go_on(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    from s2r2.locking import locked
    from s2r2.search.layout import LOCK

    store = tmp_path / "index"
    reader = update_index(encoder_name, photo_folder, store, progress=False).index
    with locked(store / LOCK, "writing the index", "wait"), pytest.raises(S2R2Error, match="another process"):
        update_index(encoder_name, photo_folder, store, progress=False)
    Image.new("RGB", (50, 40), "white").save(photo_folder / "red" / "new.png")
    update_index(encoder_name, photo_folder, store, progress=False)
    assert reader.stale
    assert len(reader.search("red/1.jpg", 50)) == 23
    assert len(ImageIndex.open(store).search("red/1.jpg", 50)) == 24


def noise_photos(folder: Path, count: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number:04d}.jpg")


def index_command(encoder: str, folder: Path, store: Path) -> list[str]:
    return [sys.executable, "-m", "s2r2", "index", encoder, str(folder), "--store", str(store)]


def whole_rows(store: Path) -> int:
    """How many rows LanceDB holds; each must be complete, and of an id of its own."""
    tables = list(store.glob("*/lance"))
    if not tables:
        return 0
    try:
        rows = Rows(tables[0])
    except FileNotFoundError:  # killed before the table was made
        return 0
    ids: list[int] = []
    for batch in rows.scan(rows.schema.names):
        assert all(batch[name].null_count == 0 for name in rows.schema.names)
        vectors = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
        assert all(Image.open(io.BytesIO(picture)).size == (50, 40) for picture in batch["thumbnail"].to_pylist())
        assert batch["id"].to_pylist() == [photo_id(key) for key in batch["key"].to_pylist()]
        ids += batch["id"].to_pylist()
    assert len(set(ids)) == len(ids)
    return len(ids)


def opens(store: Path, photos: int) -> bool:
    """Whether an index is in force, which then is complete; if none is, that must be said."""
    if not (store / "index.json").exists():
        with pytest.raises(S2R2Error, match="no index in"):
            ImageIndex.open(store)
        return False
    index = ImageIndex.open(store)
    assert len(index) == photos
    assert len(index.search(index.catalogue.table["key"][0].as_py(), 5)) == 5
    return True


OFTEN = (
    "from s2r2.search import updating; updating.COMMIT_ROWS = 64; print(flush=True); from s2r2.cli import main; main()"
)


def started_indexing(encoder: str, folder: Path, store: Path) -> subprocess.Popen[bytes]:
    """A process of its own that commits often, has loaded its libraries, and begins."""
    command = index_command(encoder, folder, store)
    process = subprocess.Popen([*command[:1], "-c", OFTEN, *command[3:]], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_indexing_ends_as_undisturbed(tmp_path: Path, encoder_name: str) -> None:
    photos, kills = 1500, 20
    noise_photos(tmp_path / "photos", photos)
    calm_store, store = tmp_path / "calm", tmp_path / "killed"
    process = started_indexing(encoder_name, tmp_path / "photos", calm_store)
    began = time.monotonic()
    process.communicate()
    lasts = time.monotonic() - began
    calm = ImageIndex.open(calm_store)
    moments = random.Random(3)
    held: list[int] = []
    while len(held) < kills:
        process = started_indexing(encoder_name, tmp_path / "photos", store)
        time.sleep(moments.uniform(0, 0.6) * lasts)
        if process.poll() is not None:  # it was complete before the kill: begin anew
            assert process.returncode == 0
            shutil.rmtree(store)
            continue
        process.kill()
        process.communicate()
        held.append(whole_rows(store))
        opens(store, photos)
    assert any(0 < count < photos for count in held), held  # some kills hit it half-way
    subprocess.run(index_command(encoder_name, tmp_path / "photos", store), check=True, stdout=subprocess.DEVNULL)
    assert opens(store, photos)
    killed = ImageIndex.open(store)
    for column in ("id", "key", "location", "content", "label", "stamp"):
        values = [index.catalogue.table[column].take(index.catalogue.by_key).to_pylist() for index in (calm, killed)]
        assert values[0] == values[1]
    vectors = [index.vectors[index.catalogue.by_key] for index in (calm, killed)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert {path.name for path in store.iterdir()} == {path.name for path in calm_store.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_writers_at_once_while_a_reader_goes_on(tmp_path: Path, encoder_name: str) -> None:
    noise_photos(tmp_path / "photos", 600)
    store = tmp_path / "index"
    reader = update_index(encoder_name, tmp_path / "photos", store, progress=False).index
    generator = np.random.default_rng(1)
    for number in range(1500):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"new {number:04d}.jpg")
    writers = [
        subprocess.Popen(
            index_command(encoder_name, tmp_path / "photos", store),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    reads = 0
    while any(writer.poll() is None for writer in writers):
        assert len(reader.search(f"{reads % 600:04d}.jpg", 5)) == 5
        assert len(reader.thumbnail(reads % 600)) > 100
        assert len(ImageIndex.open(store)) in (600, 2100)
        reads += 1
    said = [writer.communicate()[1] for writer in writers]
    codes = [writer.returncode for writer in writers]
    assert 0 in codes
    for code, text in zip(codes, said, strict=True):
        if code:
            assert "is writing the index" in text
            assert len(text.strip().splitlines()) == 1
    assert reads > 3
    assert whole_rows(store) == 2100
    assert len(set(ImageIndex.open(store).catalogue.ids.tolist())) == 2100


@pytest.mark.parametrize("updates", [15, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_many_small_updates_do_not_bloat_the_folder(tmp_path: Path, encoder_name: str, updates: int) -> None:
    encoder = load(encoder_name)
    folder = tmp_path / "photos"
    noise_photos(folder, 40)
    generator = np.random.default_rng(1)
    for number in range(updates):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number % 30:04d}.jpg")
        update_index(encoder, folder, tmp_path / "updated", progress=False)
    update_index(encoder, folder, tmp_path / "fresh", progress=False)
    for part in ("**/*", "*/lance/**/*"):  # the copy of the encoder, in both, must not hide what the rows take
        files = [[f for f in (tmp_path / name).glob(part) if f.is_file()] for name in ("updated", "fresh")]
        updated, fresh = (sum(f.stat().st_size for f in found) for found in files)
        assert updated <= 1.5 * fresh


def test_duplicates_are_found(photo_folder: Path, tmp_path: Path, encoder_name: str) -> None:
    shutil.copy(photo_folder / "red" / "1.jpg", photo_folder / "blue" / "copy.jpg")
    Image.open(photo_folder / "green" / "2.jpg").save(photo_folder / "green" / "saved again.jpg", quality=70)
    index = ImageIndex.build(encoder_name, photo_folder, tmp_path / "index", progress=False)
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


def test_top_k_orders_ties_by_position() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 0]]
    rows, scores = top_k(vectors, np.array([1, 0, 0], np.float32), 4)
    assert rows.tolist() == [0, 2, 4, 1]
    assert scores.tolist() == [1, 1, 1, 0]
    assert top_k(vectors, np.array([1, 0, 0], np.float32), 9, np.array([0, 1, 1, 1, 0], bool))[0].tolist() == [2, 1, 3]


def test_the_map_puts_every_photo_into_the_square() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for count, landmarks in ((300, 100), (5, 100), (1, 100)):
        places = positions(rows[:count], landmarks=landmarks)
        assert places.shape == (count, 2)
        assert places.min() >= 0
        assert places.max() <= 1


def test_an_approximate_index_reaches_its_recall(tmp_path: Path, photo_folder: Path, capsys) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(600):
        low = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    arguments = ["index", "untrained:test_resnet", str(folder), "--store", str(tmp_path / "index")]
    main([*arguments, "--approximate-from", "500"])
    assert "recall@10" in capsys.readouterr().out
    index = ImageIndex.open(tmp_path / "index")
    assert index.about.approximate is not None
    assert index.about.approximate["recall"] >= 0.97
    hits = index.search("007.png", 10)
    row = index.catalogue.row_of_key("007.png")
    scores = index.vectors @ index.vectors[row]
    np.testing.assert_allclose([hit.score for hit in hits], [scores[index.row(hit.id)] for hit in hits], atol=1e-5)


def test_a_damaged_or_missing_index_is_said(tmp_path: Path, photo_folder: Path, encoder_name: str) -> None:
    with pytest.raises(S2R2Error, match="no index in"):
        ImageIndex.open(tmp_path / "none")
    update_index(encoder_name, photo_folder, tmp_path / "index", progress=False)
    (tmp_path / "index" / "index.json").write_text("{")
    with pytest.raises(S2R2Error, match="is damaged"):
        ImageIndex.open(tmp_path / "index")


def test_object_storage_is_refused_in_one_line(photo_folder: Path, encoder_name: str) -> None:
    for address in ("s3://bucket/photos.index", "gs:/bucket/photos.index"):
        with pytest.raises(S2R2Error, match="a folder of this machine"):
            update_index(encoder_name, photo_folder, address, progress=False)
        with pytest.raises(S2R2Error, match="a folder of this machine"):
            ImageIndex.open(address)
    assert not Path("s3:").exists()
