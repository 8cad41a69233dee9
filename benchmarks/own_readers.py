"""What s2r2 reads itself beside the libraries that read it too: headers of tars (tarfile), strangers' images (Pillow).

python benchmarks/own_readers.py [--members 20000]
"""

import argparse
import io
import json
import multiprocessing
import statistics
import struct
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from s2r2.errors import UnreadableImage
from s2r2.images import decode
from s2r2.images.places import FilePlace
from s2r2.images.sources.tar_index import read_contents

ROUNDS = 7
GIVEN_UP = 30.0
"""Seconds after which Pillow is ended."""


def write_tar(path: Path, members: int) -> None:
    """Photos of 8 kB with a label beside each third, in folders, as ``tar`` writes them."""
    generator = np.random.default_rng(0)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(members):
            name = f"photos/{number % 40:02d}/{number // 3:06d}.{('jpg', 'png', 'cls')[number % 3]}"
            content = b"label" if number % 3 == 2 else generator.bytes(8_000)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def by_s2r2(path: Path) -> int:
    """Images that s2r2 finds, with their labels."""
    return len(read_contents(FilePlace(str(path)), path.name).images)


def by_tarfile(path: Path) -> int:
    """Members of the same endings that the standard library finds; labels are not read."""
    with tarfile.open(path) as tar:
        return sum(member.isfile() and member.name.endswith(("jpg", "png")) for member in tar)


def compare_tars(members: int, folder: Path) -> dict[str, object]:
    """Seconds of both on one tar, alternating; then what each finds of tars that are not as they should be."""
    path = folder / "whole.tar"
    write_tar(path, members)
    seconds: dict[str, list[float]] = {"s2r2": [], "tarfile": []}
    for _ in range(ROUNDS):
        for name, read in (("s2r2", by_s2r2), ("tarfile", by_tarfile)):
            began = time.process_time()
            read(path)
            seconds[name].append(time.process_time() - began)
    ratios = [theirs / ours for ours, theirs in zip(seconds["s2r2"], seconds["tarfile"], strict=True)]
    found = {"whole": _found(path)}
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 512 * 512
    middle = next(at for at in range(middle, len(content), 512) if content[at + 257 : at + 262] == b"ustar")
    (folder / "twice.tar").write_bytes(content + content)
    (folder / "cut.tar").write_bytes(content[: middle + 600])
    content[middle + 10] ^= 1
    (folder / "damaged.tar").write_bytes(content)
    found |= {name: _found(folder / f"{name}.tar") for name in ("damaged", "cut", "twice")}
    return {
        "members": members,
        "cpu_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "tarfile_by_s2r2": statistics.median(ratios),
        "found": found,
    }


def _found(path: Path) -> dict[str, str]:
    contents = read_contents(FilePlace(str(path)), path.name)
    ours = f"{len(contents.images):,} images"
    ours += f", and says: {contents.problems[-1].reason}" if contents.problems else ""
    try:
        theirs = f"{by_tarfile(path):,} images"
    except tarfile.TarError as error:
        theirs = f"error: {error}"
    return {"s2r2": ours, "tarfile": theirs}


def hostile_images() -> dict[str, bytes]:
    """Small images made large by what surrounds their pixels."""
    photo = Image.fromarray(load_sample_images().images[0]).resize((320, 212))
    jpeg, png = io.BytesIO(), io.BytesIO()
    photo.save(jpeg, "JPEG", progressive=True)
    photo.save(png, "PNG")
    whole = jpeg.getvalue()
    last = whole.rindex(b"\xff\xda")
    bomb = zlib.compress(bytes(64 << 20))
    header = 8 + 25
    before, after = png.getvalue()[:header], png.getvalue()[header:]
    return {
        "JPEG of 30,000 scans": whole[:last] + whole[last:-2] * 30_000 + b"\xff\xd9",
        "JPEG, 8 MB of padding": whole[:20] + b"\xff" * (8 << 20) + whole[20:],
        "JPEG of 2,000,000 segments": whole[:2] + b"\xff\xfe\0\2" * 2_000_000 + whole[2:],
        "PNG, 200 texts of 64 MB": before + _chunk(b"zTXt", b"a\0\0" + bomb) * 200 + after,
        "PNG of 2,000,000 chunks": before + _chunk(b"tEXt", b"") * 2_000_000 + after,
        "TIFF of a tag of 4 GB": b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 258, 3, 0x7FFFFFFF, 8) + bytes(64),
    }


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def compare_images() -> dict[str, dict[str, object]]:
    """CPU seconds and outcome of both on each image."""
    found = {}
    for name, content in hostile_images().items():
        outcome: dict[str, object] = {"bytes": len(content)}
        for reader, read in (("s2r2", _decode_by_s2r2), ("Pillow", _decode_by_pillow)):
            outcome[reader] = _in_a_process(read, content)
        found[name] = outcome
    return found


def _decode_by_s2r2(content: bytes) -> str:
    try:
        return f"read, {decode(content).shape[1]} px wide"
    except UnreadableImage as error:
        return error.reason


def _decode_by_pillow(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f"read, {image.convert('RGB').width} px wide"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _in_a_process(read: Callable[[bytes], str], content: bytes) -> dict[str, object]:
    receiving, sending = multiprocessing.Pipe(False)
    process = multiprocessing.Process(target=_timed, args=(read, content, sending))
    process.start()
    said = receiving.recv() if receiving.poll(GIVEN_UP) else (None, f"ended after {GIVEN_UP:g} s")
    process.kill()
    process.join()
    return {"cpu_seconds": said[0], "outcome": said[1]}


def _timed(read: Callable[[bytes], str], content: bytes, sending: Connection) -> None:
    began = time.process_time()
    outcome = read(content)
    sending.send((time.process_time() - began, outcome))


def main() -> None:
    """Print both comparisons, and keep them under ``results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=20_000)
    with tempfile.TemporaryDirectory() as folder:
        result = {"tars": compare_tars(parser.parse_args().members, Path(folder)), "images": compare_images()}
    print(json.dumps(result, indent=1))
    (Path(__file__).parent / "results" / "own_readers.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
