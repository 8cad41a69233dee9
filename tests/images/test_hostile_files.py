"""Thousands of damaged images: each is decoded or listed, and nothing crashes, hangs or grows."""

import contextlib
import io
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from s2r2.images import PixelStore, open_source
from s2r2.images.decoding.pool import DecodingPool, shared_pool
from s2r2.images.decoding.protocol import DECODED, UNREADABLE, Job, Settings

EXTENSIONS = (".jpg", ".png", ".gif", ".bmp", ".webp", ".tif")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")


def originals(photos: Path | None) -> list[bytes]:
    """Real photos in every format, from the shared tar or from scikit-learn."""
    if photos is None:
        pictures = [Image.fromarray(image).resize((320, 240)) for image in load_sample_images().images]
        jpegs: list[bytes] = []
    else:
        with tarfile.open(photos / "coco_fullsize_100.tar") as archive:
            members = [m for m in archive if m.name.endswith(".jpg")]
            jpegs = [archive.extractfile(m).read() for m in members]  # type: ignore[union-attr]
        pictures = [Image.open(io.BytesIO(content)).resize((320, 240)) for content in jpegs[:4]]
    encoded = list(jpegs)
    for picture in pictures:
        for name in FORMATS:
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, name)
            encoded.append(buffer.getvalue())
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "TIFF", compression="tiff_lzw")
        encoded.append(buffer.getvalue())
    return encoded


def damaged(contents: list[bytes], count: int) -> Iterator[bytes]:
    """Bit flips, truncations, wiped and swapped parts, headers that promise absurd sizes, random bytes."""
    generator = random.Random(5)
    for number in range(count):
        content = bytearray(generator.choice(contents))
        kind = number % 6
        if kind == 0:
            for _ in range(generator.choice((1, 8, 64))):
                content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del content[generator.randrange(len(content)) :]
        elif kind == 2:
            for _ in range(4):  # in the header, where sizes and tables are
                content[generator.randrange(min(600, len(content)))] = generator.randrange(256)
        elif kind == 3:
            begin = generator.randrange(len(content))
            content[begin : begin + 500] = generator.randbytes(min(500, len(content) - begin))
        elif kind == 4:
            _absurd_size(content, generator)
        else:
            cut = generator.randrange(len(content))
            content = content[:cut] + generator.choice(contents)[cut:]
        yield bytes(content)


def _absurd_size(content: bytearray, generator: random.Random) -> None:
    side = generator.choice((0, 1, 65_535, 2**31 - 1, 2**32 - 1))
    if content.startswith(b"\x89PNG"):
        content[16:24] = struct.pack(">II", side, generator.choice((1, 30_000, side)))
    elif content.startswith(b"BM"):
        content[18:26] = struct.pack("<II", side, side)
    elif content.startswith(b"GIF"):
        content[6:10] = struct.pack("<HH", side & 0xFFFF, 65_535)
    elif (marker := re.search(rb"\xff[\xc0\xc2]", content)) is not None:
        content[marker.start() + 5 : marker.start() + 9] = struct.pack(">HH", 65_535, side & 0xFFFF)
    else:
        content[4:12] = generator.randbytes(8)


COUNTS = [
    pytest.param(300, id="some"),
    pytest.param(6_000, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_images_are_decoded_or_listed(count: int, tmp_path: Path, photos_if_there: Path | None) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, content in enumerate(damaged(originals(photos_if_there), count)):
        (folder / f"{number:05d}{EXTENSIONS[number % len(EXTENSIONS)]}").write_bytes(content)
    # VmHWM and not ru_maxrss, which a process inherits from the one that started it.
    code = (
        "import re, resource, sys; from pathlib import Path; from s2r2.images import PixelStore, open_source\n"
        "store = PixelStore.build(open_source(sys.argv[1]), 96, Path(sys.argv[2]), progress=False)\n"
        "own = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(len(store), len(store.skipped), all(s.reason for s in store.skipped), own, workers)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "stores")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    decoded, skipped, reasons, own, workers = done.stdout.split()
    print(
        f"{decoded} decoded, {skipped} skipped; at most {int(own) >> 10} MiB here, {int(workers) >> 10} MiB in a worker"
    )
    assert int(decoded) + int(skipped) == count
    assert reasons == "True"
    assert int(skipped) > count // 4
    assert int(decoded) > count // 20
    assert int(own) < 1 << 19  # kilobytes: 512 MiB
    assert int(workers) < 3 << 20
    assert not PixelStore.build(open_source(folder), 96, tmp_path / "stores", progress=False).decoded


NASTY = """
import json, os, sys, time
sys.path[:] = json.loads(sys.argv.pop(1))
from s2r2.images.decoding import worker
decode = worker.decode
def nasty(content, **settings):
    if content == b"crash":
        os.abort()
    if content == b"hang":
        time.sleep(600)
    if content == b"greedy":
        return bytearray(1 << 40)
    return decode(content, **settings)
worker.decode = nasty
worker.main()
"""


def test_a_decoder_that_crashes_hangs_or_grows_costs_its_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2r2.images.decoding.member.PROGRAM", NASTY)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "blue").save(buffer, "PNG")
    contents = [buffer.getvalue()] * 12
    contents[3], contents[5], contents[8] = b"crash", b"hang", b"greedy"
    jobs = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.png"
        path.write_bytes(content)
        jobs.append(Job(str(path)))
    pool = DecodingPool(2)
    answers = list(pool.run(jobs, Settings(None, 10**6, seconds=2.0)))
    pool.close()
    assert [answer.status for answer in answers] == [
        UNREADABLE if number in (3, 5, 8) else DECODED for number in range(12)
    ]
    assert "crashed" in answers[3].reason
    assert "took more than 2 s" in answers[5].reason
    assert answers[8].reason


def test_a_pool_that_is_left_early_ends_its_processes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "blue").save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    shared_pool().close()  # what earlier tests left
    pool = DecodingPool(2)
    answers = pool.run([Job(str(tmp_path / "a.png"))] * 500, Settings(None, 10**6))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    pool.close()
    assert not [command for command in _children() if "images.worker" in command]


def _children() -> list[str]:
    """Command lines of this process's children."""
    own = f"PPid:\t{os.getpid()}\n"
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            if own in status.read_text():
                found.append(status.with_name("cmdline").read_text())
    return found
