"""A photo library as people have them, through every command: what is read, listed and passed over adds up.

    python benchmarks/messy_library.py                  2,000 files
    python benchmarks/messy_library.py --files 300      fewer
    python benchmarks/messy_library.py --keep FOLDER    keep the library and what the commands made of it

Files of all formats and modes of pixels, with odd names (no UTF-8, line breaks, markup, control characters, the longest
that the system takes), links (to photos, to nothing, round in circles), copies, folders of network drives and of other
programs, damaged and empty files, photos of formats that are not read, tars inside the folder, and what is no photo or
no file at all. Each command must end well, without a traceback; the photos that it takes must be exactly those that are
good; those that it lists as skipped exactly those that a person would call photos and that cannot be read. Exits with 1
otherwise.
"""

import argparse
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from raw_photo import raw_photo
from s2r2.images.decoding import formats
from s2r2.images.sources.names import printable
from s2r2.system.terminal import csv_plain

TRAIN = (
    "--backbone", "test_resnet", "--image-size", "32", "--views", "2", "--batch-size", "16", "--epochs", "1",
    "--recipe", "documents", "--device", "cpu",
)  # fmt: skip


@dataclass
class Library:
    """What was put into a folder.

    Attributes:
        folder: Where.
        read: Names, relative to the folder, of photos that must be read.
        listed: Of those that must be listed as skipped.
        passed: Of everything else: what nobody would call a photo.
    """

    folder: Path
    read: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)

    def put(self, name: str, content: bytes, into: set[str]) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        into.add(name)
        return path


def photo(number: int, mode: str = "RGB", side: tuple[int, int] = (60, 44)) -> Image.Image:
    """A small photo, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    """A photo as a file of a format."""
    if name == "HEIF":
        formats.openable(b"\0\0\0\x10ftypheic")  # adds it to Pillow
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def make_library(folder: Path, files: int = 2000) -> Library:
    """Fill a folder."""
    folder.mkdir(parents=True)
    library = Library(folder)
    for part in (_formats, _names, _links, _other_programs, _damaged, _not_read, _no_photos):
        part(library)
    number = 10_000
    while len(library.read) + len(library.listed) + len(library.passed) < files:  # an ordinary library around them
        year, kind = 2015 + number % 9, number % 17
        name = f"{year}/{year}-{number % 12 + 1:02}/IMG_{number}"
        content = saved(photo(number), "JPEG", quality=85)
        if kind == 0:
            library.put(f"{name}.jpg", content[: len(content) // 3], library.listed)
        elif kind == 1:
            library.put(f"{name}.HEIC", b"\0\0\0\x18ftypheic" + bytes(200), library.listed)
        elif kind == 5:
            library.put(f"{name}.heic", *_if("HEIF", lambda n=number: saved(photo(n), "HEIF"), library))
        elif kind == 6:  # as cameras write both
            library.put(f"{name}.JPG", content, library.read)
            library.put(f"{name}.CR2", raw_photo(content), library.listed)
        elif kind == 2:
            library.put(f"{name}.xmp", b"<x:xmpmeta/>", library.passed)
        elif kind == 3:
            library.put(f"{name}.png", saved(photo(number), "PNG"), library.read)
        else:
            library.put(f"{name}.jpg", content, library.read)
        number += 1
    return library


def _if(form: str, content: Callable[[], bytes], library: Library) -> tuple[bytes, set[str]]:
    """A photo of a format that is read only where its decoder is installed, and where it must be found then."""
    return (content(), library.read) if form in formats.FORMATS else (b"?", library.listed)


def _formats(library: Library) -> None:
    """One of each format and mode that is read."""
    good = library.read
    for name, form in (("new.avif", "AVIF"), ("new.jp2", "JPEG2000"), ("new.HEIC", "HEIF"), ("camera.hif", "HEIF")):
        library.put(f"formats/{name}", *_if(form, lambda f=form: saved(photo(45), f), library))  # type: ignore[misc]
    for number, ending in enumerate(formats.RAW):
        turned = number % 8 + 1
        preview = saved(photo(70 + number), "JPEG")
        library.put(
            f"formats/raw.{ending}",
            *_if("RAW", lambda p=preview, t=turned: raw_photo(p, orientation=t), library),  # type: ignore[misc]
        )
    library.put("formats/both.JPG", saved(photo(46), "JPEG"), good)
    library.put("formats/both.NEF", raw_photo(saved(photo(46), "JPEG")), library.listed)
    for number, mode in enumerate(("RGB", "L", "CMYK")):
        library.put(f"formats/{mode}.jpg", saved(photo(number, mode), "JPEG"), good)
    for number, mode in enumerate(("1", "L", "LA", "P", "RGB", "RGBA", "I;16")):
        library.put(f"formats/{mode.replace(';', '')}.png", saved(photo(10 + number, mode), "PNG"), good)
    for number, mode in enumerate(("1", "L", "RGB", "CMYK", "I;16")):
        library.put(f"formats/{mode.replace(';', '')}.tif", saved(photo(20 + number, mode), "TIFF"), good)

    def several(name: str) -> bytes:
        frames = [photo(30 + number) for number in range(3)]
        return saved(frames[0], name, save_all=True, append_images=frames[1:])

    library.put("formats/moving.gif", several("GIF"), good)
    library.put("formats/moving.webp", several("WEBP"), good)
    library.put("formats/two.mpo", several("MPO"), good)
    library.put("formats/pages.TIFF", several("TIFF"), good)
    library.put("formats/old.bmp", saved(photo(40), "BMP"), good)
    library.put("formats/UPPER.JPEG", saved(photo(41), "JPEG", progressive=True), good)
    library.put("formats/really_a_png.jpg", saved(photo(42), "PNG"), good)
    library.put("formats/long_strip.png", saved(photo(43, side=(900, 3)), "PNG"), good)
    library.put("formats/one_pixel.png", saved(photo(44, side=(1, 1)), "PNG"), good)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        library.put(f"formats/turned{orientation}.jpg", saved(photo(50 + orientation), "JPEG", exif=exif), good)


def _names(library: Library) -> None:
    """Names that programs stumble over."""
    names = [
        "name with spaces .jpg", "späß.jpg", "\u304a\u5bfa.jpg", "\U0001f600.jpg", "e\u0301.jpg", "\xe9.jpg",
        "[red]x.jpg", "a [/b].jpg", ":cat:.jpg", "IMG[edited].jpg", "-rf.jpg", "--out.jpg", "=1+1.jpg", "@SUM(A1).jpg",
        "a,b.jpg", 'a"b.jpg', "a'b.jpg", "a;b.jpg", "a\nb.jpg", "a\tb.jpg", "a\x1b[31mb.jpg", "a\rb.jpg", "a\\b.jpg",
        "%00.jpg", "%2e%2e.jpg", "<img src=x>.jpg", "&amp;.jpg", "{x}.jpg", "$HOME.jpg", "~.jpg", "#1.jpg", "a?b.jpg",
        "*.jpg", "nul.jpg", "two..dots.jpg", "double.jpg.jpg", "cat::dog.jpg", "C:x.jpg", "nan.jpg", "None.jpg",
        "\u202egpj.jpg", "\ufeffbom.jpg", "n" * 251 + ".jpg", os.fsdecode(b"caf\xe9.jpg"),
    ]  # fmt: skip
    for number, name in enumerate(names):
        library.put(f"names/{name}", saved(photo(100 + number), "JPEG"), library.read)
    folders = ["[bold]", "a\nb", os.fsdecode(b"\xe9t\xe9"), "with.jpg", "x" * 120, " ", "=cmd"]
    for number, name in enumerate(folders):
        library.put(f"folders/{name}/1.jpg", saved(photo(200 + number), "JPEG"), library.read)


def _links(library: Library) -> None:
    """Links, copies and what only looks like a file."""
    first = library.put("links/original.jpg", saved(photo(300), "JPEG"), library.read)
    (library.folder / "links/link.jpg").symlink_to("original.jpg")
    library.read.add("links/link.jpg")
    os.link(first, library.folder / "links/hard.jpg")
    library.read.add("links/hard.jpg")
    for number in range(3):
        library.put(f"links/copy{number}.jpg", first.read_bytes(), library.read)
    (library.folder / "links/dangling.jpg").symlink_to("nowhere.jpg")
    (library.folder / "links/itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(library.folder / "links/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(library.folder / "links")  # such a path must be short
        server.bind("socket.jpg")
        os.chdir(here)
    library.listed |= {f"links/{name}.jpg" for name in ("dangling", "itself", "pipe", "socket")}
    (library.folder / "links/up").symlink_to("..")
    (library.folder / "links/round").symlink_to("round")
    library.listed |= {"links/up", "links/round"}


def _other_programs(library: Library) -> None:
    """What network drives, cameras and other programs leave behind."""
    small = saved(photo(400), "JPEG")
    for name in (
        ".DS_Store", "Thumbs.db", "desktop.ini", ".nomedia", "._IMG.jpg", "@eaDir/IMG.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".thumbnails/1.jpg",
        "__MACOSX/._IMG.jpg", "#recycle/IMG.jpg", ".Trash-1000/files/old.jpg", ".git/x.png",
    ):  # fmt: skip
        library.put(f"nas/{name}", small, library.passed)


def _damaged(library: Library) -> None:
    """Photos that cannot be read."""
    good = saved(photo(500, side=(200, 150)), "JPEG")
    png = saved(photo(501, side=(200, 150)), "PNG")
    bad = {
        "empty.jpg": b"", "one_byte.png": b"\x89", "text.jpg": b"I am no picture", "page.gif": b"<html>404</html>",
        "half.jpg": good[: len(good) // 2], "head.jpg": good[:100], "half.png": png[: len(png) // 2],
        "zeros.webp": bytes(5000), "noise.tif": b"II*\0" + bytes(range(256)) * 4,
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }  # fmt: skip
    for name, content in bad.items():
        library.put(f"damaged/{name}", content, library.listed)


def _not_read(library: Library) -> None:
    """What a person would call a photo and is not read: of other formats, or no more than called so."""
    for ending in ["heic", "heif", "jxl", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "psd", "svg", "eps"]:
        library.put(f"not_read/photo.{ending}", b"not really one" * 20, library.listed)


def _no_photos(library: Library) -> None:
    """What nobody would call a photo."""
    for name in (
        "notes.txt",
        "list.csv",
        "album.xmp",
        "film.srt",
        "song.mp3",
        "page.html",
        "no_ending",
        "IMG_1.AAE",
    ):
        library.put(f"other/{name}", b"path,label\n", library.passed)
    (library.folder / "other/empty_folder").mkdir()
    library.passed.add("other/empty_folder")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        content = saved(photo(600), "JPEG")
        member = tarfile.TarInfo("inside.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    library.put("other/album.tar", buffer.getvalue(), library.listed)
    library.put("other/album.zip", b"PK", library.listed)


# ------------------------------------------------------------------------------------------------------- commands


class Check:
    """Runs commands and keeps what was wrong."""

    def __init__(self, library: Library, scratch: Path) -> None:
        self.library = library
        self.scratch = scratch
        self.wrong: list[str] = []
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "S2R2_CACHE": str(scratch / "cache")}

    def run(self, *arguments: str) -> str:
        """A command's output; a fault if it fails or shows a traceback."""
        began = time.monotonic()
        command = [sys.executable, "-m", "s2r2", *arguments]
        done = subprocess.run(
            command, cwd=self.scratch, env=self.environment, capture_output=True, check=False, timeout=1200
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        self.expect(done.returncode == 0, f"{arguments[0]}: exit status {done.returncode}: {said[-1500:]}")
        self.expect("Traceback" not in said, f"{arguments[0]}: a traceback")
        self.expect("\x1b[31m" not in said, f"{arguments[0]}: a control sequence of a file name reaches the terminal")
        print(f"{arguments[0]:11s} {time.monotonic() - began:6.1f} s", flush=True)
        return said

    def expect(self, holds: bool, otherwise: str) -> None:
        """Keep and print what is wrong."""
        if not holds:
            self.wrong.append(otherwise)
            print(f"  WRONG: {otherwise}", flush=True)

    def same(
        self, what: str, found: Sequence[str], expected: set[str], spell: Callable[[str], str] = lambda name: name
    ) -> None:
        """Compare names, each of which may be there once."""
        wanted = {spell(name) for name in expected}
        missing, surplus = sorted(wanted - set(found)), sorted(set(found) - wanted)
        self.expect(not missing, f"{what}: {len(missing)} missing: {missing[:5]!r}")
        self.expect(not surplus, f"{what}: {len(surplus)} too many: {surplus[:5]!r}")
        self.expect(len(found) == len(set(found)), f"{what}: {len(found) - len(set(found))} twice")

    def skipped(self, what: str, path: Path) -> None:
        """Compare a list of skipped photos."""
        if not path.is_file():
            self.expect(False, f"{what}: there is no {path.name}")
            return
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        self.same(f"{what}: skipped", [csv_plain(row[0]) for row in rows], self.library.listed, printable)
        self.expect(all(row[1].strip() for row in rows), f"{what}: a photo is skipped without a reason")


def through_all_commands(library: Library, scratch: Path) -> list[str]:
    """Run every command on a library; what was wrong."""
    check, photos = Check(library, scratch), str(library.folder)
    check.run("views", photos, "--picture", "views.png", "--images", "12", "--image-size", "32")
    check.run("train", photos, *TRAIN, "--out", "run")
    check.skipped("train", scratch / "run" / "skipped.csv")
    said = check.run("index", "run", photos, "--index", "index")
    check.expect(
        re.search(rf"\b{len(library.listed):,} skipped", said) is not None, f"index: its count of skipped: {said}"
    )
    check.skipped("index", scratch / "index" / "skipped.csv")
    keys = _keys(scratch / "index")
    check.same("index: keys", keys, library.read, printable)
    said = check.run("index", "run", photos, "--index", "index")
    check.expect(" 0 new" in said or " 0 embedded" in said, f"index: something is new the second time: {said}")
    check.run("embed", "run", photos, "--out", "vectors.parquet")
    check.skipped("embed", scratch / "vectors.skipped.csv")
    _check_vectors(check)
    for name in sorted(library.read)[:: max(1, len(library.read) // 5)]:
        check.run("search", "index", os.path.join(photos, name), "-k", "3", "--picture", "found.png")
    said = check.run("duplicates", "index", "--out", "copies.csv")
    check.expect("links/hard.jpg" in (scratch / "copies.csv").read_text("utf-8"), "duplicates: a copy is not found")
    check.run("export", "run", "--out", "encoder.safetensors")
    check.run("evaluate", "run", "--test", photos, "--device", "cpu")
    _serve(check)
    counts = {name: len(getattr(library, name)) for name in ("read", "listed", "passed")}
    print(f"{sum(counts.values()):,} entries:", *(f"{count:,} {name}" for name, count in counts.items()))
    return check.wrong


def _keys(folder: Path) -> list[str]:
    from s2r2.search import ImageIndex

    opened = ImageIndex.open(folder)
    root = f"{folder.parent / 'photos'}{os.sep}"
    return [opened.hit(0, number, 0.0).path.removeprefix(root) for number in range(len(opened))]


def _check_vectors(check: Check) -> None:
    from pyarrow import parquet

    table = parquet.read_table(check.scratch / "vectors.parquet")
    check.expect(
        len(table) == len(check.library.read), f"embed: {len(table)} rows for {len(check.library.read)} photos"
    )
    vectors = np.array(table["vector"].to_pylist())
    check.expect(bool(np.isfinite(vectors).all()), "embed: vectors that are not finite")


def _serve(check: Check) -> None:
    """Start the server, look at every page of photos and every thumbnail, and stop it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "s2r2", "serve", "index", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=check.scratch, env=check.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = re.search(r"http://\S+?/", process.stdout.readline())
    assert address is not None
    found: list[str] = []
    while page := json.load(urllib.request.urlopen(f"{address[0]}api/photos?limit=500&offset={len(found)}"))["photos"]:
        found += [entry["id"] for entry in page]
    check.expect(
        len(set(found)) == len(check.library.read), f"serve: {len(set(found))} photos of {len(check.library.read)}"
    )
    for identity in found[:: max(1, len(found) // 100)]:
        for kind in ("thumbnail", "photo"):
            status = urllib.request.urlopen(f"{address[0]}{kind}/{identity}").status
            check.expect(status == 200, f"serve: {kind} {identity} answers {status}")
    process.terminate()
    _, said = process.communicate(timeout=60)
    check.expect("Traceback" not in said, f"serve: a traceback: {said[-2000:]}")
    print(f"{'serve':11s} {time.monotonic() - began:6.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    scratch = a.keep or Path(tempfile.mkdtemp())
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        wrong = through_all_commands(make_library(scratch / "photos", a.files), scratch)
    finally:
        if a.keep is None:
            shutil.rmtree(scratch)
    print(f"{len(wrong)} faults")
    sys.exit(int(bool(wrong)))


if __name__ == "__main__":
    main()
