"""Feed damaged and hostile bytes to everything that reads strangers' files, and to the server.

    python benchmarks/fuzzing.py                              all targets, ten minutes in all
    python benchmarks/fuzzing.py --seconds 60 --only tars     some of them, for a minute
    python benchmarks/fuzzing.py --atheris                    guided by coverage: manifests, tars and images
    python benchmarks/fuzzing.py --only index --replay 1234   one input again, with its traceback

Each input follows from the seed, the target and its number. A reader may read an input or refuse it with one line
(``S2R2Error``); anything else is a fault: another exception, the death of the process, more seconds than ``LIMIT``,
more memory than ``MEMORY``, a refusal of several lines, and, for an index, another answer than that of the undamaged
one. Every target runs in a process of its own, which is started again after a death. Exits with 1 if there was a fault.
``--atheris`` needs the package of that name (``make bench``), which mutates what reached new lines of the readers.
"""

import argparse
import csv
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raw_photo import raw_photo
from s2r2.errors import MistakesError, S2R2Error
from s2r2.images import UnreadableImage

RESULTS = Path(__file__).parent / "results" / "fuzzing.json"
LIMIT = 20.0
"""Seconds that one input may take."""
MEMORY = 2 << 30
"""Bytes of resident memory that a process may reach above those it began with."""
GUIDED = ("manifests", "tars", "images")


@dataclass
class Target:
    """Something that reads strangers' bytes.

    Attributes:
        seeds: Good inputs, which are damaged.
        read: Reads one input; raises S2R2Error or UnreadableImage to refuse it.
        make: Damages the seeds; by default bytes are changed anywhere.
    """

    seeds: list[bytes]
    read: Callable[[bytes], None]
    make: Callable[[random.Random, list[bytes]], bytes] | None = None


@dataclass
class Found:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    growth: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def fault(self, what: str, number: int) -> None:
        """Count a fault; its first input can be replayed."""
        self.faults[what] += 1
        self.examples.setdefault(what, number)


# ---------------------------------------------------------------------------------------------------- mutations


def damage(generator: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with bits flipped, bytes changed, cut, repeated or swapped, or a number made extreme."""
    content = bytearray(generator.choice(seeds))
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        place = generator.randrange(len(content) + 1)
        kind = generator.randrange(8)
        if kind == 0 and content:
            content[place % len(content)] ^= 1 << generator.randrange(8)
        elif kind == 1 and content:
            content[place % min(len(content), 600)] = generator.randrange(256)
        elif kind == 2:
            del content[place : place + generator.choice((1, 4, 100, len(content)))]
        elif kind == 3:
            content[place:place] = content[place : place + generator.choice((1, 16, 512, 5000))]
        elif kind == 4:
            other = generator.choice(seeds)
            start = generator.randrange(len(other) + 1)
            content[place:] = other[start:]
        elif kind == 5:
            content[place : place + 4] = generator.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
            )
        elif kind == 6:
            content[place:place] = generator.randbytes(generator.choice((1, 8, 300)))
        else:
            content[place : place + 2] = generator.choice(
                (b"\n\n", b'""', b",,", b"..", b"//", b"\xff\xfe", b"\xe9,", b"-1", b"99")
            )
    return bytes(content[: 64 << 20])


WORDS = (
    "a.jpg", "b.png", "./a.jpg", "/a.jpg", "x//a.jpg", "../a.jpg", "a.jpg ", "a\\b.jpg", "~/a.jpg",
    "", " ", "nan", "NaN", "None",
    "null", "0", "0.0", "1e3", "-1", "007", "true", "caf\xe9.jpg", "\U0001f600.jpg", "[red]", "a\x1b[2J.jpg",
    "=1+1", '"', "'",
    "a;b", ";",
    "\ufeffpath", "x" * 5000, "http://[::1", "ftp://127.0.0.1:9/a.jpg", "file:///etc/passwd", "s3://",
    "data:,x",
    "a.jpg\0", "CON", "a.heic", ".", "..",
)  # fmt: skip


def manifest(generator: random.Random, seeds: list[bytes]) -> bytes:
    """A table of odd cells; now and then a damaged good one."""
    if generator.random() < 0.3:
        return damage(generator, seeds)
    names = [
        generator.choice(("path", "label", "labels", "split", "x_split", "Path", "path ", ""))
        for _ in range(generator.randint(1, 4))
    ]
    rows = [names] + [
        [generator.choice(WORDS) for _ in range(len(names) + generator.choice((0, 0, 0, -1, 1)))]
        for _ in range(generator.randint(0, 12))
    ]
    text = io.StringIO()
    csv.writer(text, quoting=generator.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    content = text.getvalue().encode(generator.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")
    return damage(generator, [content]) if generator.random() < 0.3 else content


def odd_tar(generator: random.Random, seeds: list[bytes]) -> bytes:
    """A tar of odd members, with lying sizes and checksums put right now and then; or a damaged good one."""
    if generator.random() < 0.4:
        return damage(generator, seeds)
    buffer = io.BytesIO()
    photo = seeds[0][512:1536]
    with tarfile.open(
        fileobj=buffer,
        mode="w",
        format=generator.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)),
    ) as tar:
        for _ in range(generator.randint(1, 8)):
            member = tarfile.TarInfo(generator.choice(WORDS)[:90] or "a.jpg")
            member.type = generator.choice(
                (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
            )
            member.linkname = generator.choice(WORDS)[:90]
            content = generator.choice((photo, b"", b"cat\n", b"path,label\na.jpg,cat\n./b.png,dog\n"))
            member.size = len(content) if member.isreg() else 0
            if tar.format == tarfile.PAX_FORMAT and generator.random() < 0.3:
                member.pax_headers = {
                    generator.choice(("path", "size", "GNU.sparse.map", "comment")): generator.choice(WORDS)
                }
            try:
                tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
            except (ValueError, UnicodeError, tarfile.TarError):
                continue
    content = bytearray(buffer.getvalue())
    for start in range(0, len(content) - 511, 512):  # a size that lies, under a checksum that is right
        if generator.random() < 0.05:
            content[start + 124 : start + 136] = generator.choice(
                (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"abcdefghijk\0")
            )
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return bytes(content)


VALUES = (
    "1e-3", "-1", "0", "nan", ".inf", "1e309", "[]", "{}", "yes", "2020", "'32'", "[1e5]", "null", "~",
    "!!python/object:os.system x",
    "&a [*a, *a]", "99999999999999999999", "\"\\x1b[2J\"", "simclr", "1e5", "0x10", "1_000", "2020-01-01",
    "[[[[[[]]]]]]", "\t",
)  # fmt: skip


def settings(generator: random.Random, seeds: list[bytes]) -> bytes:
    """A good settings file with values or keys exchanged, lines repeated, dropped or indented."""
    lines = generator.choice(seeds).decode().splitlines()
    for _ in range(generator.choice((1, 1, 2, 5))):
        place = generator.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        kind = generator.randrange(5)
        if kind <= 1 and colon:
            lines[place] = f"{key}: {generator.choice(VALUES)}"
        elif kind == 2:
            lines.insert(place, lines[generator.randrange(len(lines))])
        elif kind == 3 and len(lines) > 1:
            del lines[place]
        else:
            lines[place] = generator.choice((" ", "\t", "- ", "? ")) + lines[place]
    content = "\n".join(lines).encode()
    return damage(generator, [content]) if generator.random() < 0.2 else content


# ------------------------------------------------------------------------------------------------------- targets


def picture(number: int = 0, side: tuple[int, int] = (40, 30)) -> Image.Image:
    """A small photo of colored noise."""
    pixels = np.random.default_rng(number).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(side)


def encoded(name: str, number: int = 0, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, name, **options)
    return buffer.getvalue()


def images(scratch: Path) -> Target:
    """Image files of every format that is read."""
    from s2r2.images import PhotoFacts, decode
    from s2r2.images.decoding.facts import checked
    from s2r2.images.decoding.formats import FORMATS, openable

    names = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "MPO", "AVIF", "JPEG2000", "HEIF")
    Image.init()
    if "HEIF" in FORMATS:
        openable(b"\0\0\0\x10ftypheic")  # adds it to Pillow
    seeds = [encoded(name) for name in names if name in Image.SAVE]
    seeds += [
        encoded("JPEG", progressive=True),
        encoded("TIFF", compression="tiff_lzw"),
        encoded("PNG", interlace=True),
    ]
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, "Maker"
    exif.get_ifd(0x8769).update({36867: "2024:05:01 12:34:56", 36881: "+02:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 30.0), 3: "E", 4: (8.0, 32.0, 0.0)})
    seeds.append(encoded("JPEG", exif=exif))
    seeds.append(encoded("TIFF", save_all=True, append_images=[picture(1, (50, 60)), picture(2)]))
    if "RAW" in FORMATS:
        seeds += [raw_photo(encoded("JPEG")), raw_photo(encoded("JPEG"), encoded("JPEG", 1))]

    def read(content: bytes) -> None:
        facts: list[PhotoFacts] = []
        decode(content, short_side=32, tell=facts.append)
        assert checked(list(facts[-1])) == facts[-1], "facts of the wrong types"

    return Target(seeds, read)


def read_all(place: Path) -> None:
    """Open a source, look at what it says of itself, and read a few of its images."""
    from s2r2.images import open_source

    source = open_source(place)
    assert len(set(source.keys)) == len(source.keys) == len(source), "keys are not unique"
    assert source.labels is None or len(source.labels) == len(source), "labels do not fit the images"
    for index in range(min(3, len(source))):
        source.location(index)
        try:
            source.stamp(index)
            source.read(index, 32)
        except UnreadableImage:
            continue


def manifests(scratch: Path) -> Target:
    """Tables of photos, as CSV."""
    (scratch / "a.jpg").write_bytes(encoded("JPEG"))
    (scratch / "b.png").write_bytes(encoded("PNG", 1))
    place = scratch / "photos.csv"

    def read(content: bytes) -> None:
        place.write_bytes(content)
        read_all(place)

    return Target(
        [b"path,label,split\na.jpg,cat,train\nb.png,dog,test\n", b"path,labels\na.jpg,red;round\nb.png,\n"],
        read,
        manifest,
    )


def parquets(scratch: Path) -> Target:
    """Tables of photos, as Parquet."""
    import pyarrow
    import pyarrow.parquet

    (scratch / "a.jpg").write_bytes(encoded("JPEG"))
    place = scratch / "photos.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.jpg", "b.png"] * 20, "label": ["cat", None] * 20}), place)
    seed = place.read_bytes()

    def read(content: bytes) -> None:
        place.write_bytes(content)
        read_all(place)

    return Target([seed], read)


def tars(scratch: Path) -> Target:
    """Tars of photos, with labels beside them and in a table."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {
            "cat/a.jpg": encoded("JPEG"), "dog/b.png": encoded("PNG"), "cat/a.cls": b"3",
            "labels.csv": b"path,label\ncat/a.jpg,cat\n",
            f"{'long' * 40}/c.jpg": encoded("JPEG"),
        }.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    numbers = itertools.count()

    def read(content: bytes) -> None:
        place = scratch / f"{next(numbers)}.tar"
        place.write_bytes(content)
        try:
            read_all(place)
        finally:
            place.unlink()

    return Target([buffer.getvalue()], read, odd_tar)


def encoders(scratch: Path) -> Target:
    """Encoder files."""
    import torch

    from s2r2.encoder import load

    torch.set_num_threads(1)
    place = load("untrained:test_resnet").save(scratch)
    seed = place.read_bytes()
    head = 8 + int.from_bytes(seed[:8], "little")

    def make(generator: random.Random, seeds: list[bytes]) -> bytes:
        if generator.random() < 0.6:  # the header, where names, shapes and settings are
            return damage(generator, [seeds[0][:head]]) + seeds[0][head:]
        return damage(generator, seeds)

    def read(content: bytes) -> None:
        place.write_bytes(content)
        vectors = load(place).embed([np.zeros((32, 32, 3), np.uint8)])
        assert np.isfinite(vectors).all(), "vectors are not finite"

    return Target([seed], read, make)


def checkpoints(scratch: Path) -> Target:
    """Checkpoints of training."""
    from s2r2.training import TrainConfig, train
    from s2r2.training.run.checkpoint import load_checkpoint

    config = TrainConfig(backbone="test_resnet", image_size=32, views=2, batch_size=4, epochs=1, steps=2, device="cpu")
    folder = scratch / "run"
    train("digits:test", config, out=folder, quiet=True)
    places = sorted((folder / "checkpoints").iterdir())
    seed = places[-1].read_bytes()

    def read(content: bytes) -> None:
        for place in places:
            place.write_bytes(content)
        load_checkpoint(folder)

    return Target([seed], read)


def studies(scratch: Path) -> Target:
    """Studies' YAML."""
    from s2r2.study.spec import read_study

    place = scratch / "study.yaml"
    seeds = [path.read_bytes() for path in sorted((Path(__file__).parent.parent / "studies").glob("*.yaml"))]

    def read(content: bytes) -> None:
        place.write_bytes(content)
        read_study(place, scratch)

    return Target(seeds, read, settings)


def recipes(scratch: Path) -> Target:
    """Recipes of views, as YAML."""
    import dataclasses

    import yaml

    from s2r2.views import get_recipe

    place = scratch / "recipe.yaml"
    seeds = [
        yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(get_recipe(name))))).encode()
        for name in ("photos", "documents")
    ]

    def read(content: bytes) -> None:
        place.write_bytes(content)
        get_recipe(str(place))

    return Target(seeds, read, settings)


def index(scratch: Path) -> Target:
    """An index with one bit flipped, or a piece missing, in any of its files: the right answer or a refusal."""
    from s2r2.search import ImageIndex, update_index

    photos, whole, place = scratch / "photos", scratch / "whole", scratch / "index"
    photos.mkdir()
    for number in range(24):
        picture(number).save(photos / f"{number:02}.png")
    update_index("untrained:test_resnet", photos, whole, progress=False)
    files = [path for path in sorted(whole.rglob("*")) if path.is_file() and path.stat().st_size]
    queries = {"encoder.safetensors": photos / "03.png"}  # a photo, which the encoder looks at; else a key: faster

    def answers(folder: Path, damaged: str) -> tuple[list[tuple[str, float]], list[bytes]]:
        opened = ImageIndex.open(folder)
        hits = opened.search(queries.get(damaged, "03.png"), k=6)
        found = [(Path(hit.path).name, round(float(hit.score), 4)) for hit in hits]
        return found, [opened.thumbnail(row) for row in range(len(opened.catalogue.ids))]

    right = {path.name: answers(whole, path.name) for path in files}

    def make(generator: random.Random, seeds: list[bytes]) -> bytes:
        file = generator.randrange(len(files))
        size = files[file].stat().st_size
        return json.dumps(
            [file, generator.randrange(size), generator.choice([1 << bit for bit in range(8)] + [-1])]
        ).encode()

    def read(content: bytes) -> None:
        number, at, flip = json.loads(content)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        damaged = place / files[number].relative_to(whole)
        data = bytearray(damaged.read_bytes())
        if flip < 0:
            del data[at:]
        else:
            data[at] ^= flip
        damaged.write_bytes(data)
        found = answers(place, damaged.name)
        assert found == right[damaged.name], f"another answer, damaged: {damaged.relative_to(place)}"

    return Target([b"[0, 0, 1]"], read, make)


def http(scratch: Path) -> Target:
    """Raw requests to a server: answered below 500 or hung up on, and an honest one still answered."""
    from s2r2.search import update_index

    photos = scratch / "photos"
    photos.mkdir()
    for number in range(6):
        picture(number).save(photos / f"{number}.png")
    update_index("untrained:test_resnet", photos, scratch / "index", progress=False)
    command = [sys.executable, "-m", "s2r2", "serve", str(scratch / "index"), "--port", "0"]
    with (scratch / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().split(":")[2].split("/")[0])
    body = encoded("JPEG")

    def ask(method: str, target: str, content: bytes = b"", kind: str = "image/jpeg") -> bytes:
        fields = {
            "host": f"127.0.0.1:{port}",
            "content-type": kind,
            "content-length": len(content),
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + content

    targets = (
        "/",
        "/api/about",
        "/api/photos?limit=3&offset=0",
        "/api/similar?k=3&box=1,1,20,20",
        "/api/duplicates",
        "/thumbnail/1",
        "/photo/1",
    )
    seeds = [ask("GET", target) for target in targets] + [
        ask("POST", "/api/similar?k=3", body),
        ask("POST", "/api/similar?k=3&box=0,0,9,9", body),
    ]
    honest = itertools.count()

    def answer(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT / 2) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
            return b"".join(parts)

    def read(content: bytes) -> None:
        try:
            status = answer(content)[9:10]
        except (ConnectionResetError, BrokenPipeError):
            status = b""
        assert status != b"5" or process.poll() is None, "the server ended"
        assert status != b"5", f"an answer of 5xx; log: {(scratch / 'log').read_text()[-300:]}"
        if next(honest) % 50 == 0:
            assert answer(seeds[1])[9:12] == b"200", "an honest request is not answered"
        if status == b"4":
            raise S2R2Error("refused")

    return Target(seeds, read)


TARGETS: dict[str, Callable[[Path], Target]] = {
    made.__name__: made
    for made in (images, tars, manifests, parquets, encoders, checkpoints, studies, recipes, index, http)
}


# ------------------------------------------------------------------------------------------------------- running


def input_number(target: Target, name: str, seed: int, number: int) -> bytes:
    """The input of a number."""
    generator = random.Random(f"{seed} {name} {number}")
    return (target.make or damage)(generator, target.seeds)


def attempt(target: Target, content: bytes) -> str:
    """``""`` read, ``"refused"``, or the fault."""
    try:
        target.read(content)
    except (S2R2Error, UnreadableImage) as error:
        several = "\n" in str(error).strip() and not isinstance(error, MistakesError)  # which has a line for each
        return f"a refusal of several lines: {str(error)[:160]!r}" if several else "refused"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = next(iter(str(error).splitlines()), "")[:160]
        return f"{type(error).__name__}: {line} ({Path(place.filename).name}:{place.lineno})"
    return ""


def resident() -> int:
    """Bytes of resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work(name: str, seed: int, first: int, scratch: str, wire: "multiprocessing.connection.Connection") -> None:
    """Read input after input from number ``first`` on, saying of each that it begins and how it ended."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # libraries in C complain there
        os.dup2(nowhere, descriptor)
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        os.chdir(own)
        try:
            target = TARGETS[name](Path(own))
        except Exception as error:
            wire.send((first, f"did not start: {error!r}", 0))
            return
        base = resident()
        for number in itertools.count(first):
            content = input_number(target, name, seed, number)
            wire.send((number, None, 0))
            wire.send((number, attempt(target, content), max(0, resident() - base)))


def fuzz(name: str, seconds: float, seed: int) -> Found:
    """Run a target for so long, starting its process again whenever it dies or hangs."""
    found, number, context = Found(), 0, multiprocessing.get_context("spawn")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() - began < seconds and not any(what.startswith("did not start") for what in found.faults):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(name, seed, number, scratch, there), daemon=False)
            process.start()
            there.close()
            number = _follow(here, process, found, number, began + seconds)
            end(process)
    found.seconds = time.monotonic() - began
    return found


def _follow(wire: Any, process: Any, found: Found, number: int, end: float) -> int:
    """Count what a process says until it dies, hangs or the time is over; the number to go on with."""
    started, patience = False, 180.0  # to make what the target needs
    while time.monotonic() < end:
        try:
            if not wire.poll(patience):
                found.fault(f"took more than {LIMIT:g} s" if started else "did not start", number)
                return number + 1
            number, outcome, growth = wire.recv()
        except EOFError:
            process.join()
            if started:
                found.fault(f"the process ended ({process.exitcode})", number)
            return number + 1
        if outcome is None:
            started, patience = True, LIMIT
            continue
        found.inputs += 1
        found.refused += outcome == "refused"
        found.growth = max(found.growth, growth)
        if growth > MEMORY:
            found.fault(f"more than {MEMORY >> 20} MiB", number)
            return number + 1
        if outcome not in ("", "refused"):
            found.fault(outcome, number)
    return number + 1


def end(process: Any) -> None:
    """End a process with its children."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    process.kill()
    process.join()
    for child in children.stdout.split():
        try:
            os.kill(int(child), 9)
        except ProcessLookupError:
            continue


def guided(name: str, seconds: float, seed: int) -> int:
    """Let atheris look for inputs that reach new lines; its exit status. A fault's input is kept among the results."""
    RESULTS.parent.mkdir(exist_ok=True)
    program = Path(__file__).with_name("fuzzing_guided.py")
    command = [sys.executable, str(program), name, str(int(seconds)), str(seed + 1), f"{RESULTS.parent}/{name}-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 300)
    print(name, flush=True)
    wanted = ("stat::", "SystemError", "Test unit written", "ERROR", "DONE", "ModuleNotFoundError")
    for line in (done.stdout + done.stderr).splitlines():
        if any(word in line for word in wanted):
            print(f"  {line.strip()}")
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int, help="run the input of this number of the target of --only, here")
    parser.add_argument("--atheris", action="store_true")
    a = parser.parse_args()
    names = a.only or list(GUIDED if a.atheris else TARGETS)
    if a.atheris:
        sys.exit(max(abs(guided(name, a.seconds / len(names), a.seed)) for name in names))
    if a.replay is not None:
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            target = TARGETS[names[0]](Path(scratch))
            content = input_number(target, names[0], a.seed, a.replay)
            print(content[:2000])
            target.read(content)
        return
    table: dict[str, Found] = {}
    print(f"{'':12s} {'inputs':>9s} {'refused':>9s} {'a second':>9s} {'MiB grown':>9s} {'faults':>7s}")
    for name in names:
        table[name] = found = fuzz(name, a.seconds / len(names), a.seed)
        counts = f"{found.inputs:9,} {found.refused:9,} {found.inputs / found.seconds:9.0f}"
        print(f"{name:12s} {counts} {found.growth / 2**20:9.0f} {sum(found.faults.values()):7,}", flush=True)
        for what, count in found.faults.most_common(12):
            print(f"    {count:6,}  {what}   (--only {name} --replay {found.examples[what]})", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({name: vars(found) for name, found in table.items()} | {"seed": a.seed}, indent=1))
    sys.exit(int(any(found.faults for found in table.values())))


if __name__ == "__main__":
    main()
