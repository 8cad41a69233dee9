"""When, where and with what a photo was taken: read once, kept beside the pixels, and nothing in EXIF raises."""

import datetime
import io
import json
import math
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from s2r2.images import ArraySource, PhotoFacts, PixelStore, decode, open_source
from s2r2.images.decoding import formats
from s2r2.images.decoding.decoder import photo_facts
from s2r2.images.decoding.facts import checked, facts_of, read_facts
from s2r2.images.store.journal import parse_line

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from raw_photo import raw_photo

TIME = {36867: "2024:05:01 12:34:56", 37521: "789", 36881: "+02:00"}
PLACE = {1: "N", 2: (47.0, 22.0, 30.5), 3: "W", 4: (8.0, 32.0, 12.25)}


def exif(
    details: dict[int, object] = TIME, place: dict[int, object] = PLACE, order: str = ">", **main: object
) -> Image.Exif:
    made = Image.Exif()
    made.endian = order
    phone = {"t271": "Apple", "t272": "iPhone 15", "t274": 6}
    made.update({int(tag[1:]): value for tag, value in (main or phone).items()})
    made._ifds[0x8769], made._ifds[0x8825] = dict(details), dict(place)
    return made


def photo(form: str = "JPEG", **options: object) -> bytes:
    if form == "HEIF":
        formats._add_heif()
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, form, **options)
    return buffer.getvalue()


def utc(*when: int) -> float:
    return datetime.datetime(*when, tzinfo=datetime.UTC).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_phone_writes(order: str) -> None:
    found = facts_of(exif(order=order).tobytes())
    assert found.taken == pytest.approx(utc(2024, 5, 1, 10, 34, 56) + 0.789, abs=1e-6)
    assert (found.offset, found.camera, found.orientation) == (120, "Apple iPhone 15", 6)
    assert found.latitude == pytest.approx(47 + 22 / 60 + 30.5 / 3600, abs=1e-6)
    assert found.longitude == pytest.approx(-(8 + 32 / 60 + 12.25 / 3600), abs=1e-6)


@pytest.mark.parametrize(
    ("details", "taken", "offset"),
    [
        ({36867: "2024:05:01 12:34:56"}, utc(2024, 5, 1, 12, 34, 56), None),
        ({36868: "2024:05:01 12:34:56", 36882: "-03:30"}, utc(2024, 5, 1, 16, 4, 56), -210),
        ({36867: "0000:00:00 00:00:00", 36868: "2001-02-03T04:05:06", 36882: "Z"}, utc(2001, 2, 3, 4, 5, 6), 0),
        ({36867: "1999:12:31 23:59:59", 37521: "x"}, utc(1999, 12, 31, 23, 59, 59), None),
        ({36867: "1999:12:31 23:59:59", 36881: "+99:00"}, utc(1999, 12, 31, 23, 59, 59), None),
        ({36867: "1962:01:01 00:00:00"}, utc(1962, 1, 1), None),
        ({36867: "2019:01:01 24:04:20"}, utc(2019, 1, 1, 0, 4, 20), None),
        ({36867: "    :  :     :  :  "}, None, None),
        ({36867: "2024:13:01 00:00:00"}, None, None),
        ({36867: "0001:01:01 00:00:00"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_times(details: dict[int, object], taken: float | None, offset: int | None) -> None:
    found = facts_of(exif(details, {}).tobytes())
    assert (found.taken, found.offset) == (taken, offset)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 0.0, 0.0)}, (-33.5, 151.0)),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, (None, None)),
        ({1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (8.0, 0.0, 0.0)}, (None, None)),
        ({1: "E", 2: (47.0, 0.0, 0.0), 3: "E", 4: (8.0, 0.0, 0.0)}, (None, None)),
        ({2: (47.0, 0.0, 0.0), 4: (8.0, 0.0, 0.0)}, (None, None)),
        ({1: "N", 2: (47.0, 0.0), 3: "E", 4: (8.0, 0.0, 0.0)}, (None, None)),
        ({1: "N", 2: (47.0, IFDRational(1, 0), 0.0), 3: "E", 4: (8.0, 0.0, 0.0)}, (None, None)),
    ],
)
def test_places(place: dict[int, object], expected: tuple[float | None, float | None]) -> None:
    found = facts_of(exif({}, place).tobytes())
    assert (found.latitude, found.longitude) == expected


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS R5", "Canon EOS R5"), ("NIKON", "Z 6\0\0", "NIKON Z 6"), ("", "", None),
        ("  ", "\x1b[31mX", "[31mX"), ("x" * 500, "", "x" * 100),
    ],
)  # fmt: skip
def test_cameras(make: str, model: str, camera: str | None) -> None:
    assert facts_of(exif({}, {}, t271=make, t272=model).tobytes()).camera == camera


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "RAW"])
def test_every_format_that_has_them(form: str) -> None:
    if form not in formats.FORMATS:
        pytest.skip(f"no {form}")
    made = exif().tobytes()
    content = raw_photo(photo(exif=made)) if form == "RAW" else photo(form, exif=made)
    told: list[PhotoFacts] = []
    pixels = decode(content, short_side=20, tell=told.append)
    (found,) = told
    assert photo_facts(content) == found
    assert (found.width, found.height) == (60, 40) if form == "RAW" else (40, 60)
    assert pixels.shape[:2] == ((20, 30) if form == "RAW" else (30, 20))
    if form == "RAW":
        assert found.camera == "Test Cam1"
        return
    assert found.taken is not None
    assert found.latitude is not None
    assert found.camera == "Apple iPhone 15"


def test_a_photo_that_says_nothing_has_its_size() -> None:
    assert photo_facts(photo()) == PhotoFacts(width=60, height=40)
    assert photo_facts(photo(exif=b"Exif\0\0nonsense")) == PhotoFacts(width=60, height=40)
    assert facts_of(b"") == facts_of(b"II*\0") == facts_of(b"II*\0\xff\xff\xff\xff") == PhotoFacts()


def test_what_a_raw_photos_reader_writes_as_the_change_is_when_it_was_taken() -> None:
    content = exif({}, {}, t306="2020:02:03 04:05:06").tobytes()
    assert facts_of(content).taken is None  # the time of an edit, in other files
    assert facts_of(content, changed_is_taken=True).taken == utc(2020, 2, 3, 4, 5, 6)


SEEDS = [exif(order=order).tobytes()[6:] for order in "<>"]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=8)), max_size=12),
    st.integers(0, 600),
)
def test_no_exif_raises_or_says_what_cannot_be(seed: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    content = bytearray(seed)
    for place, change in changes:
        content[place % len(content) : place % len(content) + len(change)] = change
    for cut in (bytes(content), bytes(content[:end])):
        found = facts_of(cut)
        assert found.latitude is None or abs(found.latitude) <= 90
        assert found.longitude is None or abs(found.longitude) <= 180
        assert found.offset is None or abs(found.offset) <= 14 * 60
        assert found.taken is None or math.isfinite(found.taken)
        assert found.orientation is None or 1 <= found.orientation <= 8
        assert found.camera is None or (found.camera.isprintable() and len(found.camera) <= 201)
        assert read_facts(json.dumps(found).encode()) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_exif_that_says_nothing_or_something(content: bytes) -> None:
    assert isinstance(facts_of(b"MM\0*\0\0\0\x08" + content), PhotoFacts)


def test_a_long_exif_costs_no_step_for_each_byte() -> None:
    rows = b"".join(struct.pack("<HHII", 40_000 + n % 1000, 2, 1 << 30, 8) for n in range(4_000))
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 4_000) + rows + bytes(60_000_000)
    began = time.process_time()
    assert facts_of(content) == PhotoFacts()
    assert time.process_time() - began < 0.5


def test_what_comes_from_elsewhere_is_checked() -> None:
    good = list(PhotoFacts(1.5, 60, 1, 2.0, "x", 1, 2, 3))
    assert checked(good) == tuple(good)
    for number, wrong in ((0, "x"), (0, math.nan), (1, 1.5), (4, 7), (7, []), (2, {})):
        assert checked([*good[:number], wrong, *good[number + 1 :]]) is None
    for content in (b"", b"{", b"[1]", b"[" * 100_000, b"7"):
        assert read_facts(content) is None


def test_a_store_keeps_them_and_looks_up_what_an_earlier_one_did_not(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        taken = {36867: f"2024:05:01 12:00:0{number}"}
        (photos / f"{number}.jpg").write_bytes(photo(exif=exif(taken), quality=90 - number))
    (photos / "bad.jpg").write_bytes(b"no photo")
    source = open_source(photos)

    def build() -> PixelStore:
        return PixelStore.build(source, 24, tmp_path / "stores", progress=False)

    first = build()
    expected = [utc(2024, 5, 1, 12, 0, number) for number in range(3)]
    assert [facts.taken for facts in first.facts()] == expected
    again = build()
    assert (again.decoded, again.facts()) == (0, first.facts())
    journal = next(first.path.glob("journal-*.jsonl"))
    lines = []
    for line in journal.read_bytes().splitlines():
        text = json.dumps(json.loads(line[9:])[:8], separators=(",", ":")).encode()  # as earlier versions wrote it
        lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
    journal.write_bytes(b"".join(lines))
    assert all(entry is not None and entry.facts is None for entry in map(parse_line, map(bytes.strip, lines)))
    old = build()
    assert (old.decoded, old.fingerprint) == (0, first.fingerprint)
    assert old.facts() == first.facts()
    (photos / "1.jpg").unlink()  # after it was opened
    assert [facts.taken for facts in old.facts()] == [expected[0], None, expected[2]]


def test_facts_of_what_has_no_file_and_of_what_is_at_an_address(tmp_path: Path) -> None:
    arrays = ArraySource("arrays", np.zeros((2, 30, 40, 3), np.uint8), None)
    assert PixelStore.build(arrays, 24, tmp_path / "stores", progress=False).facts() == [PhotoFacts()] * 2
    (tmp_path / "a.jpg").write_bytes(photo(exif=exif()))
    (tmp_path / "list.csv").write_text(f"path\nfile://{tmp_path}/a.jpg\n")
    store = PixelStore.build(open_source(tmp_path / "list.csv"), 24, tmp_path / "stores", progress=False)
    assert store.facts()[0].offset == 120
