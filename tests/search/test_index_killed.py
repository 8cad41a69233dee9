"""An index whose writers are killed, compete, or come often: nothing is lost, and nothing is left over."""

import io
import random
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import preloaded
from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, IndexGone, update_index
from s2r2.search.storage.rows import FACTS, Rows, photo_id


def noise_photos(folder: Path, count: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number:04d}.jpg")


def index_command(encoder: str, folder: Path, store: Path) -> list[str]:
    return ["-m", "s2r2", "index", encoder, str(folder), "--index", str(store)]


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
        assert all(batch[name].null_count == 0 for name in rows.schema.names if name not in FACTS)
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


def started_indexing(encoder: str, folder: Path, store: Path) -> preloaded.Process:
    """A process of its own that commits often, has loaded its libraries, and begins."""
    process = preloaded.start("-c", OFTEN, *index_command(encoder, folder, store)[2:], live=True)
    process.stdout.readline()
    return process


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_indexing_ends_as_undisturbed(tmp_path: Path, encoder_name: str) -> None:
    photos, kills = 1000, 6
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
    assert preloaded.run(*index_command(encoder_name, tmp_path / "photos", store)).returncode == 0
    assert opens(store, photos)
    killed = ImageIndex.open(store)
    for column in ("id", "key", "location", "content", "label", "stamp"):
        values = [index.catalogue.table[column].take(index.catalogue.by_key).to_pylist() for index in (calm, killed)]
        assert values[0] == values[1]
    vectors = [index.vectors[index.catalogue.by_key] for index in (calm, killed)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert {path.name for path in store.iterdir()} == {path.name for path in calm_store.iterdir()}


class Killed(BaseException):
    pass


def killed(*_: object) -> None:
    raise Killed


def test_readers_keep_the_old_state_until_an_update_is_complete(
    tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill leaves what a reader meets during an update: rows of changed and new photos that are not published."""
    encoder, photos, store = load(encoder_name), tmp_path / "photos", tmp_path / "index"

    def shown(index: ImageIndex) -> dict[str, tuple[bytes, bytes]]:
        keys = index.catalogue.table["key"].to_pylist()
        return {key: (index.thumbnail(row), index.vectors[row].tobytes()) for row, key in enumerate(keys)}

    noise_photos(photos, 8)
    update_index(encoder, photos, store, progress=False)
    earlier, unused, old = ImageIndex.open(store), ImageIndex.open(store), shown(ImageIndex.open(store))
    assert shown(earlier) == old
    Image.new("RGB", (50, 40), "red").save(photos / "0003.jpg")
    Image.new("RGB", (50, 40), "blue").save(photos / "new.jpg")
    (photos / "0005.jpg").unlink()
    for part in ("updating._Update._drop", "publishing.write_catalogue", "storage.published.Published.write"):
        with monkeypatch.context() as patch:
            patch.setattr(f"s2r2.search.{part}", killed)
            with pytest.raises(Killed):
                update_index(encoder, photos, store, progress=False)
        assert shown(ImageIndex.open(store)) == shown(earlier) == shown(unused) == old, part
    done = update_index(encoder, photos, store, progress=False)
    assert (done.embedded, done.kept) == (0, 8)
    new = shown(done.index)
    assert new["0001.jpg"] == old["0001.jpg"]
    assert new["0003.jpg"] != old["0003.jpg"]
    for index in (earlier, unused):
        assert index.thumbnail(index.catalogue.row_of_key("0001.jpg") or 0) == old["0001.jpg"][0]
        for key in ("0003.jpg", "0005.jpg"):
            with pytest.raises(IndexGone, match="changed or removed this photo: open it again"):
                index.thumbnail(index.catalogue.row_of_key(key) or 0)


@pytest.mark.parametrize("part", ["updating.Rows.prune", "storage.layout.remove_leftovers"])
def test_what_a_kill_after_publishing_left_goes_with_an_update_of_nothing(
    tmp_path: Path, encoder_name: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def files(store: Path) -> list[str]:
        """Names, less the numbers and what LanceDB names at random."""
        found = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
        return sorted(name.suffix if "lance" in name.parts else re.sub(r"\d+", "", str(name)) for name in found)

    encoder, photos, store, calm = load(encoder_name), tmp_path / "photos", tmp_path / "index", tmp_path / "calm"
    noise_photos(photos, 8)
    update_index(encoder, photos, store, progress=False)
    shutil.copytree(store, calm)
    (photos / "0003.jpg").unlink()
    update_index(encoder, photos, calm, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(f"s2r2.search.{part}", killed)
        with pytest.raises(Killed):
            update_index(encoder, photos, store, progress=False)
    assert len(files(store)) > len(files(calm))
    for _ in range(2):
        done = update_index(encoder, photos, store, progress=False)
        assert (done.embedded, done.kept, done.about.number) == (0, 7, 2)
        assert files(store) == files(calm)


def test_what_lancedb_had_half_written_at_a_kill_is_removed(tmp_path: Path, encoder_name: str) -> None:
    encoder, photos, store = load(encoder_name), tmp_path / "photos", tmp_path / "index"
    noise_photos(photos, 4)
    done = update_index(encoder, photos, store, progress=False)
    names = ("_versions/.tmpHW18WY", "_versions/18446744073709551610.manifest#1", "data/0101.lance#2")
    for generation in (done.about.generation, done.about.fingerprint):  # in force, and a rebuilding cut short
        for name in names:
            path = store / generation / "lance" / "photos.lance" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
    assert update_index(encoder, photos, store, progress=False).kept == 4
    assert not [path for path in store.rglob("*") if "#" in path.name or ".tmp" in path.name]
    assert [path.name for path in store.iterdir() if path.is_dir()] == [done.about.generation]


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
    writers = [preloaded.start(*index_command(encoder_name, tmp_path / "photos", store)) for _ in range(2)]
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_small_updates_do_not_bloat_the_folder(tmp_path: Path, encoder_name: str) -> None:
    encoder = load(encoder_name)
    folder = tmp_path / "photos"
    noise_photos(folder, 40)
    generator = np.random.default_rng(1)
    for number in range(150):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number % 30:04d}.jpg")
        update_index(encoder, folder, tmp_path / "updated", progress=False)
    update_index(encoder, folder, tmp_path / "fresh", progress=False)
    for part in ("**/*", "*/lance/**/*"):  # the copy of the encoder, in both, must not hide what the rows take
        files = [[f for f in (tmp_path / name).glob(part) if f.is_file()] for name in ("updated", "fresh")]
        updated, fresh = (sum(f.stat().st_size for f in found) for found in files)
        assert updated <= 1.5 * fresh
