"""Every format that phones and cameras write: read, or listed with its reason and what would read it."""

import csv
import io
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from s2r2.cli import main
from s2r2.errors import UnreadableImage
from s2r2.images import PixelStore, decode, decode_expendable, open_source
from s2r2.images.decoding import formats, raw, tiff
from s2r2.images.decoding.decoder import decoded_size
from s2r2.images.decoding.nclx import profile_of
from s2r2.images.sources import names
from s2r2.search import ImageIndex

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from raw_photo import raw_photo

needs_heic = pytest.mark.skipif("HEIF" not in formats.FORMATS, reason="without the extra heic")
needs_raw = pytest.mark.skipif("RAW" not in formats.FORMATS, reason="without the extra raw")


def corner(side: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red at the top left, black elsewhere."""
    image = Image.new("RGB", side)
    image.paste("red", (0, 0, side[0] // 2, side[1] // 2))
    return image


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    if form == "HEIF":
        formats._add_heif()
    buffer = io.BytesIO()
    (image or corner()).save(buffer, form, **options)
    return buffer.getvalue()


def turned(form: str, orientation: int) -> bytes:
    """A picture that lies as told by EXIF, or, where formats have that, by the container."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if form == "RAW":
        return raw_photo(encoded("JPEG"), orientation=orientation)
    return encoded(form, exif=exif.tobytes() if form == "HEIF" else exif)


def where(pixels: np.ndarray) -> int:
    """Which corner is red: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    corners = pixels[3, 3], pixels[3, -4], pixels[-4, 3], pixels[-4, -4]
    (found,) = (number for number, color in enumerate(corners) if color[0] > 128)
    return found


UPRIGHT = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}
TURNED = [
    *("JPEG", "PNG", "WEBP", "TIFF"),
    pytest.param("AVIF", marks=pytest.mark.skipif("AVIF" not in formats.FORMATS, reason="this Pillow has no AVIF")),
    pytest.param("HEIF", marks=needs_heic),
    pytest.param("RAW", marks=needs_raw),
]


@pytest.mark.parametrize("form", TURNED)
def test_every_format_is_turned_upright_once(form: str) -> None:
    for orientation, at in UPRIGHT.items():
        content = turned(form, orientation)
        pixels = decode(content)
        assert pixels.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
        assert where(pixels) == at
        assert decoded_size(content) == pixels.shape[1::-1]
        assert where(decode(content, short_side=20)) == at


@needs_raw
def test_the_largest_preview_of_a_raw_photo_is_taken() -> None:
    small, large = encoded("JPEG", corner((12, 8))), encoded("JPEG")
    for content in (raw_photo(large), raw_photo(large, small), raw_photo(small, large)):
        np.testing.assert_array_equal(decode(content), decode(large))
    np.testing.assert_array_equal(decode(raw_photo(large), short_side=20), decode(large, short_side=20))


@needs_raw
def test_a_raw_photo_without_a_preview_or_with_a_damaged_one_is_a_line() -> None:
    content = bytearray(raw_photo(encoded("JPEG")))
    with pytest.raises(UnreadableImage, match="damaged: "):
        decode(bytes(content[:300]))
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 400] = bytes(400)
    with pytest.raises(UnreadableImage) as caught:
        decode(bytes(content))
    assert "\n" not in caught.value.reason
    for beginning in raw._BEGINNINGS:
        with pytest.raises(UnreadableImage, match="damaged: a raw photo of a camera"):
            decode(beginning + bytes(5000))


@needs_raw
def test_a_preview_that_is_a_bitmap_is_turned_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    import rawpy

    pixels = np.asarray(corner())

    class Bitmap:
        sizes = type("", (), {"flip": 6})

        def __enter__(self) -> "Bitmap":
            return self

        def __exit__(self, *_: object) -> None: ...

        def extract_thumb(self) -> object:
            return rawpy.Thumbnail(rawpy.ThumbFormat.BITMAP, pixels)

    monkeypatch.setattr(rawpy, "imread", lambda _: Bitmap())
    np.testing.assert_array_equal(decode(raw_photo(encoded("JPEG"))), np.rot90(pixels, -1))


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_a_cut_file_of_boxes_is_listed_and_what_follows_them_changes_nothing(form: str) -> None:
    if form not in formats.FORMATS:
        pytest.skip(f"no {form}")
    content = encoded(form, corner((300, 200)).rotate(20))
    for missing in (1, 5, len(content) // 3):
        with pytest.raises(UnreadableImage, match="the file ends before the image does"):
            decode(content[:-missing])
    whole = decode(content)
    for behind in (b"x", b"SEFT" * 20, bytes(50), b"\0\0\0\x18sefd" + bytes(16)):
        np.testing.assert_array_equal(decode(content + behind), whole)
    start = content.index(b"mdat") - 4  # as phones write it: the length in eight bytes
    long = content[:start] + (1).to_bytes(4) + b"mdat" + (len(content) - start).to_bytes(8) + content[start + 16 :]
    with pytest.raises(UnreadableImage, match="the file ends before the image does"):
        decode(long[:-5])


# TIFF


def pages(*sides: tuple[int, int], **options: object) -> bytes:
    first, *others = (Image.new("RGB", side, (number * 50, 0, 0)) for number, side in enumerate(sides, 1))
    return encoded("TIFF", first, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
def test_the_largest_page_of_a_tiff_is_shown(options: dict[str, object]) -> None:
    for sides, largest in (
        (((9, 9), (80, 60), (20, 20)), 2),
        (((80, 60), (9, 9)), 1),
        (((9, 9), (80, 60), (60, 80)), 2),
        (((10, 10), (20, 20), (30, 30)), 3),
    ):
        content = pages(*sides, **options)
        pixels = decode(content)
        assert pixels.shape == (sides[largest - 1][1], sides[largest - 1][0], 3)
        assert (pixels == (largest * 50, 0, 0)).all()
        assert decoded_size(content) == sides[largest - 1]


def grey_pages(order: str, *sides: tuple[int, int]) -> bytes:
    """A TIFF of gray pages, each lighter than the one before, of a byte order."""
    content, place = (b"II*\0" if order == "<" else b"MM\0*"), 4
    for number, (width, height) in enumerate(sides, 1):
        content += struct.pack(f"{order}I", len(content) + 4) if number == 1 else b""
        if number > 1:
            content = content[:place] + struct.pack(f"{order}I", len(content)) + content[place + 4 :]
        behind = len(content) + 2 + 9 * 12 + 4
        short = [
            (256, 3, width), (257, 3, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, behind), (277, 3, 1),
            (278, 3, height), (279, 4, width * height),
        ]  # fmt: skip
        rows = (
            struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}I" if kind == 4 else f"{order}Hxx", value)
            for tag, kind, value in short
        )
        content += struct.pack(f"{order}H", len(short)) + b"".join(rows)
        place, content = len(content), content + bytes(4) + bytes((number * 50,)) * (width * height)
    return content


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_of_either_byte_order(order: str) -> None:
    for sides, largest in ((((9, 9), (80, 60)), 2), (((80, 60), (9, 9)), 1), (((2, 300), (30, 30), (5, 5)), 2)):
        pixels = decode(grey_pages(order, *sides))
        assert pixels.shape == (sides[largest - 1][1], sides[largest - 1][0], 3)
        assert (pixels == largest * 50).all()


def test_pages_that_go_round_or_are_masks_do_not_count() -> None:
    content = bytearray(pages((40, 30), (80, 60)))
    directories = list(tiff._directories(bytes(content)))
    assert len(directories) == 2
    first, second = directories
    end = second.start + 2 + 12 * len(second.tags)
    content[end : end + 4] = first.start.to_bytes(4, "little")
    assert decode(bytes(content)).shape == (60, 80, 3)
    masks = pages((40, 30), (80, 60), tiffinfo={254: 4})
    assert [tiff._number(masks, found, 254) for found in tiff._directories(masks)] == [4, 4]
    assert decode(masks).shape == (30, 40, 3)


def test_a_tiff_of_endless_pages_costs_no_step_for_each() -> None:
    count = 200_000
    rows = [struct.pack("<HHHII", 1, 256, 3, 1, 1) + struct.pack("<I", 8 + 18 * (n + 1)) for n in range(count)]
    with pytest.raises(UnreadableImage):
        decode(b"II*\0\x08\0\0\0" + b"".join(rows))


# Colors


def p3() -> bytes:
    found = profile_of(b"\0\0\0\x18ftypavif" + bytes(20) + b"colrnclx" + struct.pack(">HHHB", 12, 13, 6, 128))
    assert found is not None
    return found


def matrix(colors: tuple[tuple[float, float], ...]) -> np.ndarray:
    """XYZ of full red, green and blue, from the definition."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in colors]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


def in_srgb_by_hand(colors: np.ndarray) -> np.ndarray:
    """Display P3 as sRGB, by the standards' formulas."""
    light = np.where(colors <= 10, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    to_xyz = matrix(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)))
    light = np.clip(light @ (np.linalg.inv(matrix(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))) @ to_xyz).T, 0, 1)
    level = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * level)


COLORS = np.array([(200, 100, 50), (50, 160, 60), (30, 40, 200), (128, 128, 128), (250, 20, 20), (255, 255, 255)])


@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [
        ("PNG", {}, 1),
        ("TIFF", {}, 1),
        ("JPEG", {"quality": 100, "subsampling": 0}, 4),
        pytest.param("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4, marks=TURNED[4].marks),
        pytest.param("HEIF", {"quality": -1, "chroma": 444, "matrix_coefficients": 0}, 1, marks=needs_heic),
    ],
)
def test_display_p3_looks_right(form: str, options: dict[str, object], tolerance: int) -> None:
    patches = Image.fromarray(np.repeat(np.repeat(COLORS[None].astype(np.uint8), 16, 1), 16, 0))
    found = decode(encoded(form, patches, icc_profile=p3(), **options))[8, 8::16]
    assert np.abs(found - in_srgb_by_hand(COLORS)).max() <= tolerance
    assert np.abs(found - COLORS).max() > 20  # as if there were no profile


@needs_heic
def test_colors_that_are_named_by_numbers_are_those_of_a_profile() -> None:
    patches = Image.fromarray(np.repeat(np.repeat(COLORS[None].astype(np.uint8), 16, 1), 16, 0))
    lossless = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    found = decode(encoded("HEIF", patches, color_primaries=12, transfer_characteristics=13, **lossless))[8, 8::16]
    assert np.abs(found - in_srgb_by_hand(COLORS)).max() <= 1
    bright = decode(encoded("HEIF", patches, color_primaries=9, transfer_characteristics=16, **lossless))[8, 8::16]
    assert (np.diff(bright[[3, 5], 0].astype(int)) >= 0).all()
    assert bright[3].tolist() == pytest.approx([np.mean(bright[3])] * 3, abs=2)  # gray stays gray
    plain = decode(encoded("HEIF", patches, color_primaries=1, transfer_characteristics=13, **lossless))[8, 8::16]
    assert np.abs(plain - COLORS).max() <= 1


def test_a_profile_that_is_srgb_needs_no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encoded("PNG", icc_profile=srgb)
    decode(content)
    monkeypatch.setattr(ImageCms, "applyTransform", None)
    monkeypatch.setattr(ImageCms, "buildTransform", None)
    np.testing.assert_array_equal(decode(content), np.asarray(corner()))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_deep_pictures_are_those_of_eight_bits(mode: str) -> None:
    bands = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, bands), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(">u2") * 257))
    kind = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[mode]

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = struct.pack(">IIBBBBB", 16, 12, 16, kind, 0, 0, 0)
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    flat = Image.fromarray(pixels if bands > 1 else pixels[..., 0], mode)
    np.testing.assert_allclose(decode(deep), decode(encoded("PNG", flat)), atol=1)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "HEIF"])
def test_of_moving_pictures_the_first_is_shown(form: str) -> None:
    if form not in formats.FORMATS:
        pytest.skip(f"no {form}")
    content = encoded(form, corner(), save_all=True, append_images=[corner().rotate(180)] * 3)
    assert where(decode(content)) == 0


# What is missing


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where pillow-heif and rawpy are not installed."""
    less = {f".{name}" for name in (*formats.HEIC, *formats.RAW)}
    monkeypatch.setattr(formats, "FORMATS", tuple(name for name in formats.FORMATS if name not in ("HEIF", "RAW")))
    monkeypatch.setattr(names, "EXTENSIONS", formats.EXTENSIONS - less)


@pytest.mark.usefixtures("without_extras")
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_without_the_extra_a_heic_photo_names_it(brand: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"a HEIC photo, which needs pillow-heif: pip install 's2r2\[heic\]'"):
        decode(b"\0\0\0\x18ftyp" + brand + bytes(80))
    assert names.why_unread("x.HEIC") == "HEIC needs pillow-heif: pip install 's2r2[heic]', or convert it to JPEG"


@pytest.mark.usefixtures("without_extras")
def test_without_the_extra_a_raw_photo_names_it() -> None:
    contents = [raw_photo(encoded("JPEG")), b"\0\0\0\x18ftypcrx " + bytes(80), b"FUJIFILMCCD-RAW" + bytes(80)]
    for content in contents:
        with pytest.raises(
            UnreadableImage, match=r"a raw photo of a camera, which needs rawpy: pip install 's2r2\[raw"
        ):
            decode(content)
    assert names.why_unread("x.cr3") == (
        "CR3, raw data of a camera, needs rawpy: pip install 's2r2[raw]', or save it as JPEG or TIFF"
    )


def test_a_package_that_cannot_be_loaded_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, "HEIF", "RAW"))
    formats._add_heif.cache_clear()
    for module, content in (("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(80)), ("rawpy", b"FUJIFILM" + bytes(80))):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UnreadableImage, match="cannot be loaded: "):
            decode(content)


def test_a_pillow_without_avif_and_jpeg_2000_lists_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    for name in ("b.avif", "c.jp2"):
        (tmp_path / name).write_bytes(b"?")
    program = (
        "import sys\n"
        "from PIL import features\n"
        "features.check = lambda name: False\n"
        "from s2r2.images import decode, open_source\n"
        "source = open_source(sys.argv[1])\n"
        "print(list(source.keys), [f'{p.key}: {p.reason}' for p in source.problems])\n"
        "for content in (b'\\0\\0\\0\\x10ftypavif', b'\\xff\\x4f\\xff\\x51'):\n"
        "    try:\n"
        "        decode(content + bytes(40))\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=100)
    listed, avif, jpeg_2000 = done.stdout.splitlines()
    assert listed == (
        "['a.png'] ['b.avif: AVIF is not read: convert it to JPEG, PNG or WebP', "
        "'c.jp2: JP2 is not read: convert it to JPEG, PNG or WebP']"
    )
    assert avif.startswith("an AVIF photo that this Pillow does not read")
    assert jpeg_2000 == "a JPEG 2000 photo, which is not read: convert it to JPEG or PNG"


def test_avif_of_any_brand_is_not_taken_for_heic() -> None:
    for first, others, kind in (
        (b"avif", b"mif1miaf", "AVIF"), (b"mif1", b"avifmiaf", "AVIF"), (b"mif1", b"heic", "HEIF"),
        (b"mif1", b"", "HEIF"), (b"crx ", b"isom", "RAW"), (b"isom", b"mp42", "another"),
    ):  # fmt: skip
        box = (16 + len(others)).to_bytes(4) + b"ftyp" + first + bytes(4) + others
        assert formats._container(box + b"avif" * 4) == kind
    assert formats._container(b"no boxes") == ""


def test_what_is_installed_later_is_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(encoded("PNG"))
    (tmp_path / "photos/b.jpg").write_bytes(b"unread")
    source = open_source(tmp_path / "photos")

    def decoded() -> int:
        return PixelStore.build(source, 24, tmp_path / "stores", progress=False).decoded

    assert [decoded(), decoded()] == [2, 0]
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, "MORE"))
    assert [decoded(), decoded()] == [1, 0]


@needs_heic
def test_the_kept_list_of_a_tar_does_not_hide_what_is_read_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "s-0.tar", "w") as archive:
        for name, content in (("a.png", encoded("PNG")), ("b.heic", encoded("HEIF"))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with monkeypatch.context() as patch:
        less = formats.EXTENSIONS - {".heic"}
        patch.setattr(names, "EXTENSIONS", less)
        patch.setattr("s2r2.images.sources.tar_index.EXTENSIONS", less)
        assert list(open_source(f"{tmp_path}/s-{{0..0}}.tar").keys) == ["s-0/a.png"]
    assert list(open_source(f"{tmp_path}/s-{{0..0}}.tar").keys) == ["s-0/a.png", "s-0/b.heic"]


def test_a_store_of_before_decodes_its_tiffs_again(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(encoded("PNG"))
    (photos / "b.TIF").write_bytes(pages((9, 9), (80, 60)))
    source = open_source(photos)
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert store[1].shape == (60, 80, 3)
    note = store.path / "store.json"
    note.write_text(re.sub(r'"decoder": \d+', '"decoder": 2', note.read_text()))
    again = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert (again.decoded, again.fingerprint) == (1, store.fingerprint)
    assert PixelStore.build(source, None, tmp_path / "stores", progress=False).decoded == 0


# A folder of one of each


def one_of_each(folder: Path) -> tuple[set[str], set[str]]:
    """Names of what must be read, and of what must be listed."""
    folder.mkdir()
    read, listed = set(), set()

    def put(name: str, content: Callable[[], bytes], there: bool = True) -> None:
        (folder / name).write_bytes(content() if there else b"?")
        (read if there else listed).add(name)

    image = corner((90, 60))
    for name, form, options in (
        ("jpeg.jpg", "JPEG", {}), ("progressive.jpeg", "JPEG", {"progressive": True}), ("png.png", "PNG", {}),
        ("webp.webp", "WEBP", {}), ("bmp.bmp", "BMP", {}), ("tiff.tif", "TIFF", {}), ("gif.gif", "GIF", {}),
        ("mpo.mpo", "MPO", {"save_all": True, "append_images": [image]}),
        ("avif.avif", "AVIF", {}), ("jpeg2000.jp2", "JPEG2000", {}), ("heic.heic", "HEIF", {}), ("hif.HIF", "HEIF", {}),
        ("named_jpg.jpg", "HEIF", {}),
    ):  # fmt: skip
        put(name, lambda f=form, o=options: encoded(f, image, **o), form == "MPO" or form in formats.FORMATS)  # type: ignore[misc]
    for name in formats.RAW:
        put(f"raw.{name}", lambda: raw_photo(encoded("JPEG", image)), "RAW" in formats.FORMATS)
    put("pages.tiff", lambda: pages((9, 9), (90, 60)))
    put("no_end.jpg", lambda: encoded("JPEG", image)[:-2])
    (folder / "half.jpg").write_bytes(encoded("JPEG", image)[:-300])
    others = [f"other.{ending}" for ending in ("jxl", "psd", "svg", "mp4", "mov", "zip", "qoi", "exr")]
    for name in others:
        (folder / name).write_bytes(b"?")
    (folder / "pair.jpg").write_bytes(encoded("JPEG", image))
    (folder / "pair.CR2").write_bytes(raw_photo(encoded("JPEG", image)))
    (folder / "notes.txt").write_text("no photo")
    return read | {"pair.jpg"}, listed | {*others, "half.jpg", "pair.CR2"}


def test_one_of_each_format_is_read_or_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, listed = one_of_each(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    main(["views", "photos", "--picture", "views.png", "--images", "4", "--image-size", "32"])
    main(["index", "untrained:test_resnet", "photos", "--index", "index"])
    main(["embed", "untrained:test_resnet", "photos", "--out", "vectors.parquet"])
    assert set(ImageIndex.open("index").catalogue.table["key"].to_pylist()) == read
    for place in ("index/skipped.csv", "vectors.skipped.csv"):
        with open(place, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        assert sorted(row[0] for row in rows) == sorted(listed)
        assert all(row[1] for row in rows)
        reasons = dict(rows)
        assert "ends before the image" in reasons["half.jpg"]
        if "RAW" in formats.FORMATS:
            assert reasons["pair.CR2"] == "the same photo as pair.jpg, which is read"


@needs_heic
@needs_raw
def test_libheif_and_libraw_never_run_in_the_main_process(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.heic").write_bytes(encoded("HEIF"))
    (tmp_path / "photos/b.dng").write_bytes(raw_photo(encoded("JPEG")))
    program = (
        "import sys\n"
        "from s2r2.images import PixelStore, decode_expendable, open_source\n"
        "source = open_source(sys.argv[1])\n"
        "assert len(PixelStore.build(source, 24, progress=False)) == 2\n"
        "assert [source.read(i, 24).shape[2] for i in range(2)] == [3, 3]\n"
        "print([name for name in sys.modules if 'heif' in name or 'rawpy' in name])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "photos")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=100)
    assert done.stdout == "[]\n"


@needs_heic
@needs_raw
def test_pixels_are_counted_before_they_are_made() -> None:
    for content in (encoded("HEIF", corner((600, 400))), raw_photo(encoded("JPEG", corner((600, 400))))):
        with pytest.raises(UnreadableImage, match="decompression bomb: 600 x 400"):
            decode_expendable(content, max_pixels=100_000)
        asked: list[int] = []
        decode(content, ask=asked.append)
        assert asked[0] >= 600 * 400
