"""The pixel store: only what changed is decoded, nothing is lost by a kill, a changed byte is noticed."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images import ArraySource, PixelStore, clear_stores, list_stores, open_source
from s2r2.images.store.journal import Entry, parse_line
from s2r2.system.cache_folder import cache_folder

WORKER = Path(__file__).with_name("building_worker.py")


def write_photos(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        pixels = generator.integers(0, 255, (60 + i % 7, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{i:04d}.jpg", quality=80)
    return folder


def build(photos: Path, place: Path) -> PixelStore:
    return PixelStore.build(open_source(photos), 48, place, progress=False)


def contents(place: Path) -> dict[str, bytes]:
    """The files of the one store in a folder, but for the lock."""
    (folder,) = [entry for entry in place.iterdir() if entry.is_dir()]
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def test_only_new_changed_and_deleted_photos_matter(tmp_path: Path) -> None:
    photos, place = write_photos(tmp_path / "photos", 100), tmp_path / "stores"
    first = build(photos, place)
    assert (len(first), first.decoded) == (100, 100)
    assert build(photos, place).decoded == 0
    write_photos(photos, 10, seed=1)
    grown = build(photos, place)
    assert (len(grown), grown.decoded) == (110, 10)
    Image.new("RGB", (80, 70), "red").save(photos / "0-0003.jpg")
    (photos / "0-0004.jpg").unlink()
    changed = build(photos, place)
    assert (len(changed), changed.decoded) == (109, 1)
    assert changed[changed.keys.index("0-0003.jpg")].mean((0, 1)).round().tolist() == [254, 0, 0]
    os.utime(photos / "0-0005.jpg")  # touched, and the same
    assert build(photos, place).decoded == 0


def test_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    whole = PixelStore.build(open_source(photos), None, tmp_path / "stores", progress=False)
    for index, key in enumerate(whole.keys):
        np.testing.assert_array_equal(whole[index], np.asarray(Image.open(photos / key)))
    assert build(photos, tmp_path / "stores").sizes.min() == 48


def test_a_store_of_a_tar_is_that_of_its_folder(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photos, "photos")
    expected, found = build(photos, tmp_path / "stores"), build(tmp_path / "photos.tar", tmp_path / "stores")
    assert found.keys == expected.keys
    assert found.path != expected.path
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    again = build(tmp_path / "photos.tar", tmp_path / "stores")
    assert (again.path, again.decoded) == (found.path, 0)


@pytest.mark.slow
def test_a_killed_build_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    photos, kills = write_photos(tmp_path / "photos", 2000), 12
    calm = tmp_path / "calm"
    began = time.monotonic()
    build_in_process(photos, calm)
    lasts = time.monotonic() - began
    generator = random.Random(7)
    place = tmp_path / "killed"
    while kills:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(photos), str(place)], start_new_session=True, stdout=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.2, 1.0) * lasts)
        if process.poll() is not None:  # it was quicker: begin again
            shutil.rmtree(place)
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills -= 1
    build_in_process(photos, place)
    assert contents(place) == contents(calm)
    assert not build(photos, place).verify()


def build_in_process(photos: Path, place: Path) -> None:
    subprocess.run([sys.executable, str(WORKER), str(photos), str(place)], check=True, stdout=subprocess.DEVNULL)


def test_a_torn_line_costs_only_its_image(tmp_path: Path) -> None:
    photos, place = write_photos(tmp_path / "photos", 20), tmp_path / "stores"
    build(photos, place)
    (journal,) = place.glob("*/journal-0.jsonl")
    (journal.parent / "store.json").unlink()
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b"0", b"1", 1)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    again = build(photos, place)
    assert (len(again), again.decoded) == (20, 2)
    assert not again.verify()


def test_a_flipped_byte_is_noticed_and_mended(tmp_path: Path) -> None:
    photos, place = write_photos(tmp_path / "photos", 20), tmp_path / "stores"
    store = build(photos, place)
    (pixels,) = place.glob("*/pixels-0.bin")
    original = store[11].copy()
    content = bytearray(pixels.read_bytes())
    content[store._entries[11].offset + 100] ^= 1
    pixels.write_bytes(content)
    opened = build(photos, place)
    with pytest.raises(S2R2Error, match=r"damaged at 0-0011\.jpg: run the command again"):
        [opened[i] for i in range(20)]
    mended = build(photos, place)
    assert mended.decoded == 1
    np.testing.assert_array_equal(mended[11], original)
    assert not mended.verify()


def run_limited(photos: Path, place: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Build where files may not grow beyond ``limit`` bytes: the system refuses to write as it does on a full disk."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = (
        "import sys; from pathlib import Path; from s2r2.cli import main; from s2r2.errors import S2R2Error\n"
        "from s2r2.images import PixelStore, open_source\n"
        "try: PixelStore.build(open_source(sys.argv[1]), 48, Path(sys.argv[2]), progress=False)\n"
        "except S2R2Error as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, str(photos), str(place)]
    return subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=False)


def test_a_disk_that_fills_up_leaves_what_a_later_build_goes_on_from(tmp_path: Path) -> None:
    photos, place = write_photos(tmp_path / "photos", 1200), tmp_path / "stores"
    failed = run_limited(photos, place, 5 << 20)
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "the disk is full after" in failed.stderr
    later = build(photos, place)
    assert len(later) == 1200
    assert 0 < later.decoded < 1200
    assert not later.verify()


def test_a_store_that_will_not_fit_is_refused_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))
    images = np.zeros((4, 2000, 2000, 3), np.uint8)
    with pytest.raises(S2R2Error, match=r"needs about 48\.0 MB .* free"):
        PixelStore.build(ArraySource("large", images, None), None, tmp_path / "stores", progress=False)
    assert not list((tmp_path / "stores").glob("*/pixels-0.bin")) or not any(
        file.stat().st_size for file in (tmp_path / "stores").glob("*/pixels-0.bin")
    )


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(S2R2Error, match="cannot write the pixel store"):
        build(photos, tmp_path / "file" / "stores")


def test_two_builds_at_once_give_one_store(tmp_path: Path) -> None:
    photos, place = write_photos(tmp_path / "photos", 400), tmp_path / "stores"
    command = [sys.executable, str(WORKER), str(photos), str(place)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0] for process in running}
    assert len(answers) == 1
    assert not build(photos, place).verify()


def test_a_store_most_of_whose_photos_went_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2r2.images.store.building.PACK_BYTES", 1 << 16)
    photos, place = write_photos(tmp_path / "photos", 60), tmp_path / "stores"
    before = build(photos, place)
    kept = before.keys[::6]
    pixels = [before[i].copy() for i in range(0, 60, 6)]
    for key in set(before.keys) - set(kept):
        (photos / key).unlink()
    packed = build(photos, place)
    (folder,) = place.iterdir()
    assert sorted(file.name for file in folder.glob("pixels-*")) == ["pixels-1.bin"]
    assert (folder / "pixels-1.bin").stat().st_size == sum(array.nbytes for array in pixels)
    assert packed.keys == kept
    for index, array in enumerate(pixels):
        np.testing.assert_array_equal(packed[index], array)
    assert build(photos, place).decoded == 0


def test_the_cache_is_listed_and_cleared(tmp_path: Path) -> None:
    build(write_photos(tmp_path / "photos", 3), tmp_path / "stores")
    build(write_photos(tmp_path / "more", 4), tmp_path / "stores")
    assert {store.images for store in list_stores(tmp_path / "stores")} == {3, 4}
    assert clear_stores(tmp_path / "stores") > 0
    assert list_stores(tmp_path / "stores") == []
    assert not list((tmp_path / "stores").iterdir())


def test_clearing_removes_nothing_that_a_store_has_not_written(tmp_path: Path) -> None:
    """Neither folders that look like a store, nor what somebody put into one, nor what a link leads to."""
    stores, diary = tmp_path / "stores", tmp_path / "stores" / "diary"
    build(write_photos(tmp_path / "photos", 3), stores)
    (store,) = list_stores(stores)
    diary.mkdir()
    elsewhere = tmp_path / "elsewhere" / "photos-32-0123456789ab"
    elsewhere.mkdir(parents=True)
    for place in (diary, elsewhere):
        (place / "journal-0.jsonl").write_text("my days")
        (place / "thesis.txt").write_text("years of work")
    (stores / "photos-48-0123456789ab").symlink_to(elsewhere)
    (store.path / "notes.txt").write_text("mine")
    (store.path / "journal-1.jsonl").symlink_to(elsewhere / "journal-0.jsonl")
    (store.path / "pixels-final.bin").write_text("mine")
    assert [kept.path for kept in list_stores(stores)] == [store.path]
    assert clear_stores(stores) > 0
    assert sorted(file.name for file in store.path.iterdir()) == ["journal-1.jsonl", "notes.txt", "pixels-final.bin"]
    assert all((place / "thesis.txt").exists() and (place / "journal-0.jsonl").exists() for place in (diary, elsewhere))


def test_nothing_removes_a_tree() -> None:
    """No folder that a user named is ever given to rmtree."""
    sources = (Path(__file__).parents[2] / "src").rglob("*.py")
    assert not [path for path in sources if "rmtree" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("change", [lambda line: line[:-3], lambda line: line.replace(b"7", b"8"), lambda line: b""])
def test_damaged_lines_are_not_believed(change: Callable[[bytes], bytes]) -> None:
    entry = Entry("a/ü\n.jpg", (7, 12), 77, 4, 5, 6, 7, "")
    assert parse_line(entry.line()[:-1]) == entry
    assert parse_line(change(entry.line()[:-1])) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no numbers here")
def test_without_a_home_the_cache_is_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("S2R2_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = cache_folder().parent
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # somebody else made it first
    with pytest.raises(S2R2Error, match="set S2R2_CACHE"):
        cache_folder()
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
