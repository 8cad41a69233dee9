"""Headers that cost time or memory without end, files that are nearly images, colours: read, or refused in one line."""

import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from sklearn.datasets import load_sample_images

from s2r2.images import UnreadableImage, decode
from s2r2.images.decoding.decoder import decoded_size
from s2r2.images.decoding.formats import EXTENSIONS, FORMATS

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((320, 212))
PATIENCE = 2.0
"""Seconds that any of these may take on a busy machine; unguarded, each takes from ten seconds to hours."""


def encoded(form: str, image: Image.Image = PHOTO, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def refused(content: bytes) -> str:
    began = time.process_time()
    with pytest.raises(UnreadableImage) as caught:
        decode(content)
    assert time.process_time() - began < PATIENCE
    return caught.value.reason


def read(content: bytes, **options: int) -> np.ndarray:
    began = time.process_time()
    pixels = decode(content, **options)  # type: ignore[arg-type]
    assert time.process_time() - began < PATIENCE
    return pixels


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + (len(content) + 2).to_bytes(2) + content


def many_scans(count: int) -> bytes:
    content = encoded("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused_unseen() -> None:
    assert refused(many_scans(30_000)) == "refused: a JPEG of more than 100 scans"
    assert read(many_scans(40)).shape == (212, 320, 3)


@pytest.mark.parametrize(
    "filling",
    [
        b"\xff" * (8 << 20),
        b"\0" * (8 << 20),
        b"\xff\0" * (4 << 20),
        segment(0xFE, b"comment") * 4_000,
        segment(0xE1, b"Exif\0\0" + b"II*\0" + b"\x55" * 60_000) * 300,
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_000) * 200,
        segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0" + b"\xff" * 60_000) * 100,
    ],
    ids=["padding", "zeros", "stuffing", "comments", "exif", "photoshop", "pictures"],
)
def test_a_padded_jpeg_costs_no_step_for_each_byte(filling: bytes) -> None:
    content = encoded("JPEG")
    first = 20  # bytes of the mark and JFIF's segment
    np.testing.assert_array_equal(read(content[:first] + filling + content[first:]), decode(content))


def test_a_jpeg_of_endless_segments_is_refused() -> None:
    content = encoded("JPEG")
    assert "more than 5,000 segments" in refused(content[:2] + segment(0xFE, b"") * 2_000_000 + content[2:])
    assert "without image data" in refused(content[:2] + b"\xff" * 10_000_000)


def test_a_jpeg_that_only_lacks_its_end_is_read_and_one_that_lacks_more_is_not() -> None:
    for options in ({}, {"progressive": True}, {"optimize": True}):
        content = encoded("JPEG", **options)
        np.testing.assert_array_equal(decode(content[:-2]), decode(content))
        np.testing.assert_array_equal(decode(content[:-1]), decode(content))
        np.testing.assert_array_equal(decode(content[:-2] + b"\0" * 50), decode(content))
        for missing in (len(content) // 10, *range(3, 200, 19)):
            assert "ends before the image" in refused(content[:-missing])


def test_a_film_behind_a_jpeg_and_a_second_picture_change_nothing() -> None:
    content = encoded("JPEG")
    scans = b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 500
    np.testing.assert_array_equal(decode(content + scans), decode(content))
    double = io.BytesIO()
    PHOTO.save(double, "MPO", save_all=True, append_images=[PHOTO.rotate(180)])
    np.testing.assert_array_equal(decode(double.getvalue(), short_side=40), decode(encoded("JPEG"), short_side=40))


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


BOMB = zlib.compress(b"\0" * (64 << 20))


@pytest.mark.parametrize(
    "filling",
    [
        chunk(b"IDAT", b"") * 400_000,
        chunk(b"tEXt", b"a\0b") * 400_000,
        chunk(b"zTXt", b"a\0\0" + BOMB) * 200,
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB) * 200,
        chunk(b"iCCP", b"a\0\0" + BOMB),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\1\2\0\xff\xff\xff\0\0\0\0\0" * 1_000_000),
        chunk(b"acTL", struct.pack(">II", 1_000_000, 0)) + chunk(b"fcTL", b"\0" * 26) * 100_000,
    ],
    ids=["pixels", "text", "zTXt", "xmp", "profile", "exif", "frames"],
)
def test_a_padded_png_is_read_as_if_it_were_not(filling: bytes) -> None:
    content = encoded("PNG")
    header = 8 + 25
    np.testing.assert_array_equal(read(content[:header] + filling + content[header:]), decode(content))


def test_a_png_of_endless_chunks_is_refused() -> None:
    content = encoded("PNG")
    assert "more than 500,000 chunks" in refused(content[:33] + chunk(b"tEXt", b"") * 2_000_000 + content[33:])
    assert "without image data" in refused(content[:33])
    assert refused(content[: len(content) // 2])


def test_a_gif_of_endless_blocks_or_frames() -> None:
    content = encoded("GIF")
    start = content.index(b",", 13 + 768)
    comment = b"!\xfe" + b"\1a" * 400_000 + b"\0"
    np.testing.assert_array_equal(read(content[:start] + comment + content[start:]), decode(content))
    frames = content[:-1] + content[start:-1] * 20
    np.testing.assert_array_equal(read(frames), decode(content))
    assert "blocks before its picture" in refused(content[:start] + b"!\xfe\0" * 600_000 + content[start:])


def tiff(*tags: tuple[int, int, int, int], extra: bytes = b"") -> bytes:
    rows = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + rows + b"\0" * 4 + extra


SIZE = ((256, 3, 1, 8), (257, 3, 1, 8), (262, 3, 1, 1), (258, 3, 1, 8), (273, 4, 1, 8), (279, 4, 1, 64))


def test_tiffs_whose_tags_cost_without_end_are_refused() -> None:
    lying = tuple((51_000 + i, 1, 1 << 20, 8) for i in range(4_000))
    assert "tags are larger than the file" in refused(tiff(*SIZE, *lying, extra=b"\0" * (1 << 20)))
    assert "more than 4,096 tags" in refused(tiff(*SIZE, *((50_000, 3, 1, 1),) * 60_000))
    big = b"II+\0\x08\0\0\0" + (16).to_bytes(8, "little") + (1_000_000).to_bytes(8, "little")
    assert "more than 4,096 tags" in refused(big + struct.pack("<HHQQ", 50_000, 3, 1, 1) * 1_000_000)


def test_a_tiff_that_is_not_read_says_what_it_is() -> None:
    bits = 10 + 12 * 8 + 4
    kind = (
        (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (339, 3, 3, bits + 6), (273, 4, 1, 8),
    )  # fmt: skip
    content = tiff(*kind, extra=struct.pack("<6H", 32, 32, 32, 3, 3, 3) + b"\0" * 200)
    assert "3 x 32 bits a pixel, floating point, compression 1): convert it" in refused(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\0\0\x18ftypisom" + b"\0" * 40, "a film"),
        (b"\xff\x0a" + b"\0" * 40, "a JPEG XL photo"),
        (b"8BPS" + b"\0" * 40, "a Photoshop file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"<!DOCTYPE html><html>", "a web page or drawing"),
        (b'<?xml version="1.0"?><svg/>', "a web page or drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0" * 5_000, "nothing but zero bytes"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"") + chunk(b"IDAT", b"a"), "damaged: "),
        (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 40, "damaged: "),
        (b"no photo", "not an image in a format that is read"),
    ],
)
def test_what_is_no_photo_says_what_it_is(content: bytes, what: str) -> None:
    assert what in refused(content)


def profile(*primaries: tuple[float, float]) -> bytes:
    """An ICC profile with sRGB's curve and other primaries, as a matrix of D50 colorants."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    count = int.from_bytes(srgb[128:132])
    table = {srgb[132 + 12 * i : 136 + 12 * i]: 132 + 12 * i for i in range(count)}
    places = [int.from_bytes(srgb[table[name] + 4 : table[name] + 8]) for name in names]
    values = [srgb[place : place + 20] for place in places]
    changed = bytearray(srgb)
    for place, which in zip(places, primaries, strict=True):
        changed[place : place + 20] = values[int(which[0])]
    return bytes(changed)


SWAPPED = ((1, 0), (0, 0), (2, 0))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_colours_are_those_of_the_profile(form: str) -> None:
    options: dict[str, object] = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    plain = decode(encoded(form, **options)).astype(int)
    swapped = decode(encoded(form, icc_profile=profile(*SWAPPED), **options)).astype(int)
    assert np.abs(swapped - plain[..., [1, 0, 2]]).mean() < 1.5
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for same in (srgb, b"no profile", srgb[:200], profile(*SWAPPED)[:300]):
        np.testing.assert_array_equal(decode(encoded(form, icc_profile=same, **options)), plain)
    small = decode(encoded(form, icc_profile=profile(*SWAPPED), **options), short_side=64).astype(int)
    assert np.abs(small - decode(encoded(form, **options), short_side=64).astype(int)[..., [1, 0, 2]]).mean() < 1.5


def test_a_profile_of_other_colours_than_the_image_is_ignored() -> None:
    grey = PHOTO.convert("L")
    expected = decode(encoded("PNG", grey))
    np.testing.assert_array_equal(decode(encoded("PNG", grey, icc_profile=profile(*SWAPPED))), expected)
    inked = PHOTO.convert("CMYK")
    expected = decode(encoded("JPEG", inked))
    np.testing.assert_array_equal(decode(encoded("JPEG", inked, icc_profile=profile(*SWAPPED))), expected)


@pytest.mark.parametrize(("form", "ending"), [("AVIF", ".avif"), ("JPEG2000", ".jp2")])
def test_newer_formats_are_read_where_pillow_reads_them(form: str, ending: str) -> None:
    assert (ending in EXTENSIONS) == (form in FORMATS)
    if form not in FORMATS:
        pytest.skip(f"this Pillow has no {form}")
    content = encoded(form, **({"quality": 90} if form == "AVIF" else {}))
    assert np.abs(decode(content).astype(int) - np.asarray(PHOTO).astype(int)).mean() < 12
    for cut in (10, 100, len(content) // 2, len(content) - 20):
        try:
            assert decode(content[:cut]).shape == (212, 320, 3)
        except UnreadableImage as error:
            assert error.reason  # noqa: PT017


def test_a_part_is_decoded_to_its_own_short_side() -> None:
    large = PHOTO.resize((1600, 1060))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("JPEG", large, exif=exif, quality=95)
    whole = decode(content)
    assert whole.shape[:2] == decoded_size(content)[::-1] == (1600, 1060)
    part = decode(content, short_side=100, part=(0.25, 0.5, 0.25, 0.25))
    assert abs(min(part.shape[:2]) - 100) <= 1
    expected = Image.fromarray(whole[800:1200, 265:530]).resize(part.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(part.astype(int) - np.asarray(expected).astype(int)).mean() < 3
    np.testing.assert_array_equal(decode(content, short_side=100, part=(0, 0, 1, 1)), decode(content, short_side=100))


def test_nothing_of_pillow_or_python_stays_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[object, ...]:
        from PIL import ImageFile

        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), warnings.showwarning

    before = state()
    for limit in (10**6, 10**10):
        monkeypatch.setenv("S2R2_MAX_PIXELS", str(limit))
        decode(encoded("JPEG"))
        for bad in (b"no photo", encoded("JPEG")[:2000], many_scans(500)):
            with pytest.raises(UnreadableImage):
                decode(bad)
    assert state() == before


def test_images_are_opened_in_one_place() -> None:
    import ast

    import s2r2

    places = []
    for path in Path(s2r2.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("Image.open", "PIL.Image.open", "ImageFile.Parser", "plt.imread", "cv2.imread"):
                places.append((path.name, name))
    assert places == [("decoder.py", "Image.open")]
