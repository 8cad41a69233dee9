"""Remedies that are named where photos, tables and archives are read, and views are made."""

import errno
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pytest
from performing import State, case, choices, command, named, noise, small
from PIL import Image
from pyarrow import parquet

from s2r2.images import PixelStore, open_source
from s2r2.images.decoding import formats
from s2r2.images.sources import names as naming
from s2r2.images.sources.source import ArraySource
from s2r2.images.store import writer as writing
from s2r2.images.store.direct import DirectImages
from s2r2.views import RECIPES
from s2r2.views.loader import ViewLoader
from s2r2.views.rendering import choose_backend
from video import write_video

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from raw_photo import raw_photo


def store(state: State, data: object, **settings: object) -> PixelStore:
    return PixelStore.build(open_source(str(data)), 32, state.tmp / "store", progress=False, **settings)  # type: ignore[arg-type]


def reasons(state: State, data: object) -> str:
    """Why photos are left out."""
    return "\n".join(skipped.reason for skipped in store(state, data).skipped)


def all_read(state: State, data: object, count: int) -> None:
    made = store(state, data)
    assert len(made) == count, made.skipped
    assert not made.skipped


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise(0)).save(content, "JPEG")
    return content.getvalue()


def unread(piece: str, name: str, content: bytes | Callable[[], bytes], kind: str = "JPEG") -> None:
    """A photo that is not read; in its place the same, converted to a format that the message names."""

    def wrong(state: State) -> str:
        (state.photos / name).write_bytes(content if isinstance(content, bytes) else content())
        return reasons(state, state.photos)

    def right(state: State, said: str) -> None:
        line = next(line for line in said.splitlines() if piece.split("{}")[-1] in line)
        assert kind in line
        (state.photos / name).unlink()
        Image.fromarray(noise(0)).save(state.photos / f"{Path(name).stem}.{kind.lower()}", kind)
        all_read(state, state.photos, 17)

    case(piece, wrong, right)


unread("{}, which is not read: convert it to JPEG or PNG", "a/x.jpg", b"8BPS" + bytes(80), "PNG")
unread("{} is not read: convert it to JPEG, PNG or WebP", "a/x.psd", b"8BPS" + bytes(80), "WebP")


def extra(piece: str, library: str, ending: str, content: Callable[[], bytes], kind: str) -> None:
    """A photo that is read with an extra; without it, the same as a JPEG or TIFF."""

    def wrong(state: State) -> str:
        less = frozenset(f".{name}" for name in (*formats.HEIC, *formats.RAW))
        state.patch.setattr(naming, "EXTENSIONS", formats.EXTENSIONS - less)
        (state.photos / "a" / f"x.{ending}").write_bytes(content())
        return reasons(state, state.photos)

    def right(state: State, said: str) -> None:
        provides(said, library)
        assert kind in said
        converted = state.photos / "b" / f"x.{kind.lower()}"
        Image.fromarray(noise(0)).save(converted)
        assert len(store(state, state.photos)) == 17
        converted.unlink()
        if importlib.util.find_spec(library.replace("-", "_")):
            state.patch.undo()
            all_read(state, state.photos, 17)

    case(piece, wrong, right)


def heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(noise(0))).save(content)
    return content.getvalue()


extra("needs pillow-heif: pip install", "pillow-heif", "heic", heic, "JPEG")
extra("needs rawpy: pip install", "rawpy", "nef", lambda: raw_photo(jpeg()), "TIFF")


def without_preview() -> bytes:
    if "RAW" not in formats.FORMATS:
        pytest.skip("without the extra raw")
    content = bytearray(raw_photo(jpeg()))
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 400] = bytes(400)
    return bytes(content)


unread("a raw photo without a preview that is read: save it", "a/x.dng", without_preview, "TIFF")


def tiff(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "TIFF")
    return content.getvalue()


RAMP = np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40)


def deep(piece: str, values: np.ndarray) -> None:
    def wrong(state: State) -> str:
        (state.photos / "a" / "x.tif").write_bytes(tiff(values))
        return reasons(state, state.photos)

    def right(state: State, said: str) -> None:
        assert "convert it to 8 or 16 bits" in said
        for bits, kind in ((8, np.uint8), (16, np.uint16)):
            (state.photos / "a" / "x.tif").write_bytes(tiff((RAMP * (2**bits - 1)).astype(kind)))
            all_read(state, state.photos, 17)

    case(piece, wrong, right)


deep("32-bit samples below zero or not finite", RAMP - 0.5)
deep("32-bit samples up to {} have no fixed white", RAMP * 1e6)


def complex_tiff(state: State) -> str:
    """Samples of 64 bits, as scientific programs write them."""
    content = tiff((RAMP * 65535).astype(np.uint16))
    at = content.index(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00")  # BitsPerSample, SHORT, one, 16
    (state.photos / "a" / "x.tif").write_bytes(content[: at + 8] + b"\x40\x00" + content[at + 10 :])
    return reasons(state, state.photos)


def converted_tiff(state: State, said: str) -> None:
    (state.photos / "a" / "x.tif").write_bytes(tiff((RAMP * 65535).astype(np.uint16)))
    all_read(state, state.photos, 17)


case("a TIFF of a kind that is not read", complex_tiff, converted_tiff)


def a_video(state: State) -> str:
    write_video(state.photos / "a" / "x.mp4")
    return reasons(state, state.photos)


def with_frames(state: State, said: str) -> None:
    command("frames", str(state.photos / "a" / "x.mp4"), "--out", str(state.tmp / "frames"))
    (state.photos / "a" / "x.mp4").unlink()
    shutil.copytree(state.tmp / "frames" / "x.mp4", state.photos / "x")
    all_read(state, state.photos, 16 + 3)


case("a video: take pictures out of it with s2r2 frames", a_video, with_frames)
case(
    "is not empty: choose another `out` for pictures",
    lambda state: (a_video(state), command("frames", str(state.photos), "--out", str(state.photos))),
    lambda state, _: command("frames", str(state.photos), "--out", str(state.tmp / "frames")),
)
case(
    "no video is named: give at least one, or a folder of them",
    lambda state: (a_video(state), command("frames", "--out", str(state.tmp / "f"))),
    lambda state, _: command("frames", str(state.photos), "--out", str(state.tmp / "f")),
)
case(
    "`every` is {}: give seconds, 0 or more",
    lambda state: (
        a_video(state),
        command("frames", str(state.photos), "--every", "-1", "--out", str(state.tmp / "f")),
    ),
    lambda state, _: command("frames", str(state.photos), "--every", "0", "--out", str(state.tmp / "f")),
)


def an_archive(state: State) -> str:
    shutil.make_archive(str(state.photos / "a" / "more"), "tar", state.photos / "b")
    return reasons(state, state.photos)


def unpack_or_name(state: State, said: str) -> None:
    all_read(state, state.photos / "a" / "more.tar", 8)
    shutil.unpack_archive(state.photos / "a" / "more.tar", state.photos / "more")
    (state.photos / "a" / "more.tar").unlink()
    all_read(state, state.photos, 24)


case("an archive is not opened here: unpack it", an_archive, unpack_or_name)


def git_lfs(state: State) -> str:
    (state.photos / "a" / "00.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return reasons(state, state.photos)


def fetched(state: State, said: str) -> None:
    shutil.copy(state.shared.photos / "a" / "00.png", state.photos / "a")  # what git lfs pull leaves
    all_read(state, state.photos, 16)


case("fetch the photos with git lfs pull", git_lfs, fetched)


def bomb(state: State) -> str:
    state.patch.setenv("S2R2_MAX_PIXELS", "100")
    return reasons(state, state.photos)


def allowed(state: State, said: str) -> None:
    variable, pixels = named(r"\((S2R2_\w+)\)", said), named(r"([\d,]+) pixels, allowed", said)
    state.patch.setenv(variable, pixels)
    all_read(state, state.photos, 16)


case("{} (S2R2_MAX_PIXELS)", bomb, allowed)


def max_pixels(value: str) -> Callable[[State], object]:
    def build(state: State) -> object:
        state.patch.setenv("S2R2_MAX_PIXELS", value)
        return store(state, state.photos)

    return build


case(
    "it must be a whole number of pixels, such as",
    max_pixels("many"),
    lambda state, said: max_pixels(named(r"such as (\d+)", said))(state),
)

# Tables


def table(content: str, name: str = "photos.csv") -> Callable[[State], object]:
    def opened(state: State) -> object:
        source = open_source(state.write(f"photos/{name}", content) and str(state.photos / name))
        return "\n".join(problem.reason for problem in source.problems)

    def build(state: State) -> object:
        assert state.photos
        return opened(state)

    return build


def good_table(content: str) -> Callable[[State, str], object]:
    def build(state: State, said: str) -> None:
        reported = table(content)(state)
        assert not reported, reported
        assert len(store(state, state.photos / "photos.csv")) == 2

    return build


ROWS = "a/00.png,x\nb/01.png,y\n"
case("add one, in its first line", table(ROWS), good_table(f"path,label\n{ROWS}"))
case(
    "save it as a comma-separated table in UTF-8",
    lambda state: (
        state.photos,
        state.write("photos/photos.csv", "path,label\n".encode("utf-16")),
        open_source(str(state.photos / "photos.csv")),
    ),
    good_table(f"path,label\n{ROWS}"),
)
case(
    "separate its columns by commas",
    table(f"path;label\n{ROWS}".replace(",", ";")),
    good_table(f"path,label\n{ROWS}"),
)
case(
    "has a column label and a column labels: rename the one",
    table("path,label,labels\na/00.png,x,x;y\nb/01.png,y,y\n"),
    good_table("path,kind,labels\na/00.png,x,x;y\nb/01.png,y,y\n"),
)
case("has two columns named {}: rename one", table(f"path,Path\n{ROWS}"), good_table(f"path,other\n{ROWS}"))
case(
    "put quotes around what has a comma in it",
    table("path,label\na/00.png,one, two\nb/01.png,y\n"),
    good_table('path,label\na/00.png,"one, two"\nb/01.png,y\n'),
)
case(
    "runs over several lines: close its quote",
    table('path,label\na/00.png,"x\nb/01.png,y"\n'),
    good_table('path,label\na/00.png,"x"\nb/01.png,y\n'),
)


def renamed(state: State, said: str) -> None:
    """The file of that very name gets another; its row, too."""
    shutil.move(state.photos / "a" / "00.png#2", state.photos / "a" / "other.png")
    good = table("path\na/00.png\na/00.png\na/other.png\n")
    assert not good(state)
    all_read(state, state.photos / "photos.csv", 3)


case(
    "more than once, and {} as well: rename that file",
    lambda state: (
        shutil.copy(state.photos / "a" / "00.png", state.photos / "a" / "00.png#2"),
        table("path\na/00.png\na/00.png\na/00.png#2\n")(state),
    ),
    renamed,
)


def parquet_table(column: object) -> Callable[[State], object]:
    def build(state: State) -> object:
        parquet.write_table(pyarrow.table({"path": column}), state.photos / "photos.parquet")
        return store(state, state.photos / "photos.parquet")

    return build


case(
    "has two images called {}: give each a key",
    lambda state: PixelStore.build(ArraySource("x", [noise(0)] * 2, None, ["k", "k"]), 8, state.tmp, progress=False),
    lambda state, said: PixelStore.build(
        ArraySource("x", [noise(0)] * 2, None, ["k", "l"]), 8, state.tmp, progress=False
    ),
)

# DATA of all kinds


def opens_what_it_offers(state: State, said: str) -> None:
    """Each kind of data that the message offers and that needs no download is opened."""
    offered = said.rsplit("give ", 1)[-1]
    table(f"path,label\n{ROWS}")(state)
    shutil.make_archive(str(state.tmp / "packed"), "tar", state.photos)
    shutil.copy(state.tmp / "packed.tar", state.tmp / "s-0.tar")
    coco(state)
    annotations(state, state.tmp / "coco" / "annotations" / "instances_val.json")
    voc(state, "")
    stl10(state, "train")
    cifar(state, "train")
    kinds = {
        "folder": state.photos,
        "manifest": state.photos / "photos.csv",
        ".tar": state.tmp / "packed.tar",
        "shards": state.tmp / "s-{0..0}.tar",
        "digits": "digits",
        "COCO": state.tmp / "coco",
        "VOC": state.tmp / "voc",
        "STL-10": state.tmp / "stl10_binary",
        "CIFAR-10": state.tmp / "cifar-10-batches-bin",
    }
    opened = [len(open_source(str(data))) for word, data in kinds.items() if word.lower() in offered.lower()]
    assert len(opened) > 3, said
    assert all(opened)


case("no `data`: give {}", lambda _: open_source([]), opens_what_it_offers)
case("no `data`: give {}", lambda state: command("train", "--out", state.tmp / "run"), opens_what_it_offers)
case("give {}$", lambda _: open_source("nowhere"), opens_what_it_offers)
case(
    "is not data that can be read: give {}",
    lambda state: open_source(str(state.write("photos.txt", "a"))),
    opens_what_it_offers,
)


def regular(state: State) -> object:
    os.mkfifo(state.tmp / "pipe")
    return open_source(str(state.tmp / "pipe"))


case(
    "is neither a folder nor a regular file",
    regular,
    lambda state, said: (open_source(str(state.photos)), table(f"path\n{ROWS}".replace(",x", ""))(state)),
)


def coco(state: State) -> Path:
    place = state.tmp / "coco"
    if not place.exists():
        shutil.copytree(state.shared.photos / "a", place / "val")
    return place


def annotations(state: State, place: Path) -> None:
    names = sorted(path.name for path in (state.shared.photos / "a").iterdir())
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 0, "category_id": 1}],
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(content))


def with_annotations(state: State, said: str) -> None:
    name, folder = re.search(r"put (\S+) into (\S+) ", said).groups()
    assert len(open_source(named(r"or name (\S+) itself", said))) == 8
    annotations(state, Path(folder) / name)
    assert open_source(f"{coco(state)}:val").labels is not None


case("put {}{}.json into {}", lambda state: open_source(f"{coco(state)}:val"), with_annotations)


def without_images(state: State) -> object:
    place = coco(state)
    annotations(state, place / "annotations" / "instances_val.json")
    shutil.move(place / "val", state.tmp / "packed")
    return open_source(f"{place}:val")


def unpacked(state: State, said: str) -> None:
    shutil.move(state.tmp / "packed", named(r"are not in (\S+): unpack", said))
    assert len(open_source(f"{coco(state)}:val")) == 8


case("the images of {} are not in {}: unpack them there", without_images, unpacked)


def voc(state: State, part: str) -> object:
    place = state.tmp / "voc"
    if not place.exists():
        (place / "Annotations").mkdir(parents=True)
        (place / "ImageSets" / "Main").mkdir(parents=True)
        (place / "JPEGImages").mkdir()
        for name in ("train", "test"):
            (place / "ImageSets" / "Main" / f"{name}.txt").write_text("0\n")
        Image.fromarray(noise(0)).save(place / "JPEGImages" / "0.jpg")
    return open_source(f"{place}:{part}")


case(
    "{} has no part {}: use {}$",  # VOC's
    lambda state: voc(state, "x"),
    lambda state, said: [voc(state, choice) for choice in choices(said)],
)


def stl10(state: State, part: str) -> object:
    place = state.tmp / "stl10_binary"
    for name in ("train", "test", "unlabeled"):
        state.write(f"stl10_binary/{name}_X.bin", bytes(2 * 3 * 96 * 96))
        if name != "unlabeled":
            state.write(f"stl10_binary/{name}_y.bin", bytes([1, 2]))
    return open_source(f"{place}:{part}")


def stl10_parts(state: State, said: str) -> None:
    listed, symbol = re.search(r"use (.*), or several joined by (.)", said).groups()
    for part in (*listed.split(", "), listed.replace(", ", symbol)):
        stl10(state, part)


case("or several joined by +", lambda state: stl10(state, "x"), stl10_parts)


def bad_folds(state: State) -> object:
    state.write("stl10_binary/fold_indices.txt", "0 one\n")
    return stl10(state, "train")


def deleted_folds(state: State, said: str) -> None:
    Path(named(r"cannot read (\S+) \(", said)).unlink()
    stl10(state, "train")


case("or delete it to do without folds", bad_folds, deleted_folds)


def cifar(state: State, part: str) -> object:
    content = b"".join(bytes([number]) + bytes(3 * 32 * 32) for number in range(3))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        state.write(f"cifar-10-batches-bin/{name}.bin", content)
    return open_source(f"{state.tmp / 'cifar-10-batches-bin'}:{part}")


case(
    "has no part {}: use train or test",
    lambda state: cifar(state, "x"),
    lambda state, said: [cifar(state, choice) for choice in choices(said)],
)
case(
    "{} is not known: use digits, digits:train or digits:test",
    lambda _: open_source("digits:x"),
    lambda _, said: [open_source(choice) for choice in choices(said)],
)


def no_download(state: State) -> object:
    state.patch.setenv("S2R2_CACHE", str(state.tmp / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    state.patch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    return open_source("stl10:train")


def put_there(state: State, said: str) -> None:
    stl10(state, "train")
    folder, place = re.search(r"folder (\S+) into (\S+)", said).groups()
    shutil.move(state.tmp / folder, place)
    assert len(open_source("stl10:train")) == 2


case("cannot be downloaded ({}): put its published folder", no_download, put_there)


def no_place_for_data_sets(state: State) -> object:
    state.write("file", "")
    state.patch.setenv("S2R2_CACHE", str(state.tmp / "file"))
    return open_source("stl10:train")


def another_cache(state: State, said: str) -> None:
    variable = named(r"set (S2R2_\w+) to another", said)
    assert "put its published folder" in state.said(lambda state: no_download(state))
    stl10(state, "train")
    state.patch.setenv(variable, str(state.tmp / "other"))
    shutil.move(state.tmp / "stl10_binary", state.tmp / "other" / "datasets" / "stl10_binary")
    assert len(open_source("stl10:train")) == 2


def make_other(state: State, said: str) -> None:
    (state.tmp / "other" / "datasets").mkdir(parents=True)
    another_cache(state, said)


case("cannot make {}: {}set S2R2_CACHE to another folder", no_place_for_data_sets, make_other)


def homeless(state: State) -> object:
    for name in ("S2R2_CACHE", "XDG_CACHE_HOME", "HOME"):
        state.patch.delenv(name, raising=False)
    state.patch.setattr("s2r2.system.cache_folder.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    state.patch.setattr("s2r2.system.cache_folder.private_folder", lambda _: None)
    return PixelStore.build(open_source(str(state.photos)), 32, progress=False)


def with_a_cache(state: State, said: str) -> None:
    state.patch.setenv(named(r"set (\w+) to a folder", said), str(state.tmp / "cache"))
    assert len(PixelStore.build(open_source(str(state.photos)), 32, progress=False)) == 16


case("there is no home folder for decoded photos", homeless, with_a_cache)

# Archives and addresses


def packed(state: State, name: str, mode: str = "w") -> Path:
    with tarfile.open(state.tmp / name, mode) as tar:  # type: ignore[call-overload]
        tar.add(state.photos / "a", "a")
    return state.tmp / name


case(
    "shards are read in place, pack their files without compression",
    lambda state: (packed(state, "s-0.tar.gz", "w:gz"), open_source(str(state.tmp / "s-{0..0}.tar.gz"))),
    lambda state, said: (packed(state, "s-0.tar"), all_read(state, state.tmp / "s-{0..0}.tar", 8)),
)
case(
    "is no uncompressed tar: pack its files again",
    lambda state: open_source(str(packed(state, "photos.tar", "w:gz"))),
    lambda state, said: all_read(state, packed(state, "photos.tar"), 8),
)


def sparse(state: State, *options: str) -> Path:
    """Packed by GNU tar; a BMP of one color has holes."""
    photo = state.photos / "hole.bmp"
    with open(photo, "wb") as file:
        content = io.BytesIO()
        Image.fromarray(np.zeros((600, 600, 3), np.uint8)).save(content, "BMP")
        file.write(content.getvalue()[:54])
        file.truncate(len(content.getvalue()))
    command = ["tar", *options, "-cf", state.tmp / "s.tar", "-C", state.photos, "hole.bmp", "a/00.png"]
    subprocess.run(command, check=True)
    return state.tmp / "s.tar"


case(
    "a file with holes: pack it again without --sparse",
    lambda state: reasons(state, sparse(state, "--sparse")),
    lambda state, said: all_read(state, sparse(state), 2),
)
case(
    "write the numbers of shards as {000..099}, or names as {a,b}",
    lambda state: (packed(state, "s-0.tar"), open_source(str(state.tmp / "s-{0-1}.tar"))),
    lambda state, said: (
        packed(state, "s-1.tar"),
        all_read(state, state.tmp / "s-{0..1}.tar", 16),
        all_read(state, state.tmp / "s-{0,1}.tar", 16),
    ),
)


def no_listing(state: State) -> object:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/remedies/s-{number}.tar", packed(state, "s.tar").read_bytes())
    state.patch.setattr(type(memory), "glob", lambda *_, **__: (_ for _ in ()).throw(OSError("listing is forbidden")))
    return open_source("memory://remedies/s-*.tar")


case(
    "write the shards as {000..099} instead",
    no_listing,
    lambda state, said: all_read(state, "memory://remedies/s-{0..1}.tar", 16),
)


def stranger(state: State) -> str:
    fsspec.filesystem("memory").pipe("/remedies/x.jpg", jpeg())
    state.patch.setenv("S2R2_PROTOCOLS", "")
    table(f"path\n{state.photos / 'a' / '00.png'}\nmemory://remedies/x.jpg\n")(state)
    return reasons(state, state.photos / "photos.csv")


def trusted(state: State, said: str) -> None:
    state.patch.setenv(*re.search(r"set (S2R2_\w+)=(\w+) if", said).groups())
    all_read(state, state.photos / "photos.csv", 2)


case("addresses of the kind {}:// are not read", stranger, trusted)

# Pixel stores


def full_disk(state: State) -> object:
    free = shutil.disk_usage(state.tmp)
    state.patch.setattr(writing.shutil, "disk_usage", lambda _: free._replace(free=1000))
    return PixelStore.build(open_source(str(state.photos)), None, state.tmp / "store", progress=False)


def room(state: State, said: str) -> None:
    """More room; smaller images need less of it."""
    few = shutil.disk_usage(state.tmp).free
    assert few == 1000
    state.patch.undo()
    state.patch.setenv("S2R2_CACHE", str(state.tmp / "cache"))
    assert len(PixelStore.build(open_source(str(state.photos)), None, state.tmp / "store", progress=False)) == 16
    assert "`image_size`" in said
    size = PixelStore.build(open_source(str(state.photos)), 16, state.tmp / "small", progress=False)
    assert sum(image.nbytes for image in size) < 16 * 40 * 40 * 3


case("the pixel store needs about {} in {}", full_disk, room)


def no_folder(state: State) -> object:
    return store(state, state.photos) if state.write("store", "a file") else None


def another_store(state: State, said: str) -> None:
    assert "another `store`" in said
    command(*small(state.photos, "--store", state.tmp / "other", "--out", state.tmp / "run"))


case("cannot write the pixel store in {}: {}choose another", no_folder, another_store)


def failing(number: int) -> Callable[[State], object]:
    def build(state: State) -> object:
        sync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        with state.patch.context() as patch:
            patch.setattr(os, "fsync", fail)
            return store(state, state.photos)

    return build


case(
    "the disk is full after {} of {} images: free space and run again",
    failing(errno.ENOSPC),
    lambda state, said: all_read(state, state.photos, 16),
)
case("{}choose another `store`$", failing(errno.EIO), another_store)


def store_none(state: State, said: str) -> None:
    assert "only for training" in said
    command(*small(state.photos, "--store", "none", "--out", state.tmp / "run"))
    command("evaluate", state.shared.run, "--test", state.photos, "--store", state.tmp / "kept", "--out", state.tmp)


case(
    "`store='none'` is only for training",
    lambda state: command("evaluate", state.shared.run, "--test", state.photos, "--store", "none"),
    store_none,
)


def changed_pixel(state: State) -> object:
    made = store(state, state.photos)
    pixels = next(made.path.glob("pixels-*.bin"))
    content = bytearray(pixels.read_bytes())
    content[5] ^= 255
    pixels.write_bytes(content)
    return list(store(state, state.photos))


def built_again(state: State, said: str) -> None:
    made = store(state, state.photos)
    assert (made[0] == np.asarray(open_source(str(state.photos)).read(0, 32))).all()
    assert len(list(made)) == 16


case("the pixel store {} is damaged at {}: run the command again", changed_pixel, built_again)

# Views


def loader(state: State, batch_size: int, world_size: int = 1) -> object:
    images = store(state, state.photos)
    made = ViewLoader(
        images,
        RECIPES["photos"],
        view_size=16,
        views=2,
        batch_size=batch_size,
        seed=0,
        world_size=world_size,
    )
    return next(iter(made.epoch(0)))


case(
    "must be at least 1, and at most the number of images",
    lambda state: loader(state, 17),
    lambda state, _: loader(state, 16),
)
case(
    "cannot share `batch_size={}`: use a larger one",
    lambda state: loader(state, 2, 4),
    lambda state, _: loader(state, 4, 4),
)


def views(state: State, *words: object) -> str:
    return command("views", state.photos, "--images", 2, "--views", 2, "--image-size", 16, *words)


def recipes(state: State, said: str) -> None:
    for name in choices(said)[:-1]:
        views(state, "--recipe", name)
    views(state, "--recipe", state.write("mine.yaml", "hue: 0.1\n"))


case("use {}, or a .yaml file", lambda state: views(state, "--recipe", "xyz"), recipes)
case(
    "is not known: use auto, numba or torchvision",
    lambda _: choose_backend("x"),  # type: ignore[arg-type]
    lambda _, said: [choose_backend(choice) for choice in choices(said)],  # type: ignore[arg-type]
)


def without_numba(state: State) -> object:
    state.patch.setattr("s2r2.views.rendering.numba_is_here", lambda: False)
    return choose_backend("numba")


def by_torchvision(state: State, said: str) -> None:
    offered = named(r"or use (\w+)", said)
    assert choose_backend(offered) == offered  # type: ignore[arg-type]
    assert named(r"pip install (\S+?),", said) == "numba"
    state.patch.undo()  # installed
    assert choose_backend("numba") == "numba"


case("views backend numba is not installed", without_numba, by_torchvision)
case(
    "give it a name that ends in .png or .jpg",
    lambda state: views(state, "--picture", state.tmp / "x.xyz"),
    lambda state, said: [
        views(state, "--picture", state.tmp / f"x{kind}") for kind in re.findall(r"(\.[pj][np]g)", said)
    ],
)


# Photos without a store


def direct(state: State, steps: int, *words: object) -> str:
    settings = ["--batch-size", 8, "--steps", steps, "--out", state.tmp / "run", *words]
    return command(
        *small(state.photos, "--store", "none", *settings) if "--resume" not in words else ["train", *settings]
    )


def spoil(state: State, count: int) -> None:
    for photo in sorted(state.photos.rglob("*.png"))[:count]:
        photo.write_bytes(b"")


def restored(state: State, said: str) -> None:
    shutil.copytree(state.shared.photos, state.photos, dirs_exist_ok=True)
    assert "--resume" in said
    assert "report" in direct(state, 2, "--resume")


case(
    "restore them and continue with `resume=True`",
    lambda state: (direct(state, 1), spoil(state, 14), direct(state, 2, "--resume")),
    restored,
)


def full_list(state: State) -> object:
    direct(state, 1)
    spoil(state, 1)
    with state.patch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(DirectImages, "_list", fail)
        return direct(state, 3, "--resume")


case(
    "cannot write {}: {}go on with `resume=True`",
    full_list,
    lambda state, said: direct(state, 3, "--resume"),
)


# Data sets that are damaged, and fetched again


def again(piece: str, open_it: Callable[[State], object], spoil: Callable[[State], object]) -> None:
    """A data set that is damaged; in its place the published files."""

    def wrong(state: State) -> object:
        open_it(state)
        place = spoil(state)
        assert place is not None
        return open_source(str(place))

    def right(state: State, said: str) -> None:
        assert "again" in said
        assert len(open_it(state))  # type: ignore[arg-type]

    case(piece, wrong, right)


def cifar_file(content: bytes | None) -> Callable[[State], Path]:
    def spoil(state: State) -> Path:
        place = state.tmp / "cifar-10-batches-bin"
        if content is None:
            (place / "data_batch_3.bin").unlink()
        else:
            (place / "data_batch_3.bin").write_bytes(content)
        return place

    return spoil


again("cannot read {}: {}; fetch cifar-10-binary.tar.gz again", lambda s: cifar(s, "train"), cifar_file(None))
again("bytes are not a whole number of 32 x 32 images; fetch", lambda s: cifar(s, "train"), cifar_file(b"x"))
again("a label is not between 0 and 9; fetch", lambda s: cifar(s, "train"), cifar_file(bytes([99]) + bytes(3072)))


def spoilt_stl10(state: State) -> str:
    state.write("stl10_binary/train_X.bin", b"x")
    return f"{state.tmp / 'stl10_binary'}:train"


again("fetch stl10_binary.tar.gz again from", lambda state: stl10(state, "train"), spoilt_stl10)


def whole_coco(state: State) -> object:
    coco(state)
    annotations(state, state.tmp / "coco" / "annotations" / "instances_val.json")
    return open_source(f"{state.tmp / 'coco'}:val")


def spoilt_coco(state: State) -> str:
    (state.tmp / "coco" / "annotations" / "instances_val.json").write_text("{")
    return f"{state.tmp / 'coco'}:val"


again("fetch it again from https://cocodataset.org", whole_coco, spoilt_coco)


def spoilt_voc(state: State) -> str:
    (state.tmp / "voc" / "ImageSets" / "Main" / "train.txt").write_text("")
    return f"{state.tmp / 'voc'}:train"


def whole_voc(state: State) -> object:
    shutil.rmtree(state.tmp / "voc", ignore_errors=True)
    return voc(state, "train")


again("fetch it again from http://host.robots.ox.ac.uk", whole_voc, spoilt_voc)


class Published:
    """CIFAR-10 as torchvision reads it where the checksums are right: its pickles are too large to be made here."""

    def __init__(self, root: str, train: bool) -> None:
        self.data, self.targets = np.zeros((3, 32, 32, 3), np.uint8), [0, 1, 2]
        if (Path(root) / "cifar-10-batches-py" / "data_batch_1").read_bytes() != b"published":
            raise RuntimeError("Dataset not found or corrupted.")


def pickled(state: State, name: str, content: bytes) -> object:
    state.patch.setattr("torchvision.datasets.CIFAR10", Published)
    state.write(f"{name}/data_batch_1", content)
    return open_source(str(state.tmp / name))


case(
    "holds CIFAR-10's batches: name it {}",
    lambda state: pickled(state, "mine", b"published"),
    lambda state, said: open_source(str((state.tmp / "mine").rename(state.tmp / named(r"name it (\S+),", said)))),
)
case(
    "is damaged or incomplete ({}): fetch cifar-10-python",
    lambda state: pickled(state, "cifar-10-batches-py", b"other"),
    lambda state, said: pickled(state, "cifar-10-batches-py", b"published"),
)


def provides(said: str, *libraries: str) -> None:
    """The extra that a message names installs what it says is missing."""
    extras = [named(r"pip install '?s2r2\[(\w+)\]'?", said)]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = ""
    for extra in extras:
        entries = " ".join(project["optional-dependencies"][extra])
        extras += [name for listed in re.findall(r"s2r2\[([\w,]+)\]", entries) for name in listed.split(",")]
        wanted += entries
    assert all(library in wanted for library in libraries), extras


def failing_plugin(state: State) -> object:
    from s2r2.images.sources import register

    class Plugin:
        value = "mine.photos:kind"

        def load(self) -> None:
            raise ImportError("no module named mine")

    with state.patch.context() as patch:
        patch.setattr(importlib.metadata, "entry_points", lambda group: [Plugin()])
        register.load_plugins.cache_clear()
        try:
            return register.source_kinds()
        finally:
            register.load_plugins.cache_clear()


case(
    "cannot be loaded ({}): update or uninstall it",
    failing_plugin,
    lambda state, said: all_read(state, state.photos, 16),
)


def named_whole(state: State, said: str) -> None:
    """The folder without a part, and data that have some, with one that the message lists."""
    assert "name it without a part" in said
    assert len(open_source(str(state.photos))) == 16
    assert len(open_source("digits:" + named(r"digits: (\w+)", said)))


case("it is an ordinary folder, name it without a part", lambda s: open_source(f"{s.photos}:x"), named_whole)
