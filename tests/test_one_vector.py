"""One photo, one vector: whichever way a file takes to an encoder, it comes to the same pixels."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from pyarrow import parquet
from sklearn.datasets import load_sample_images

from s2r2.encoder import Encoder, create_encoder, export, load, store_side
from s2r2.images import PixelStore, decode, open_source
from s2r2.search import update_index, write_embeddings
from s2r2.search.storage.layout import DESCRIPTION
from s2r2.search.storage.published import write_sealed

TOLERANCE = 1e-5
PHOTOS = [Image.fromarray(image) for image in load_sample_images().images]


def swapped_primaries() -> bytes:
    """A profile whose red is sRGB's green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {bytes(profile[p : p + 4]): p for p in range(132, 132 + 12 * int.from_bytes(profile[128:132]), 12)}
    red, green = table[b"rXYZ"] + 4, table[b"gXYZ"] + 4
    profile[red : red + 4], profile[green : green + 4] = profile[green : green + 4], profile[red : red + 4]
    return bytes(profile)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of all sizes and formats, in which every step of decoding shows."""
    place = tmp_path_factory.mktemp("one") / "photos"
    place.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    large = PHOTOS[0].resize((1900, 1283), Image.Resampling.LANCZOS)
    PHOTOS[0].save(place / "plain.jpg", quality=95)
    large.save(place / "large.jpg", quality=95, exif=turned)
    large.save(place / "progressive.jpg", quality=90, progressive=True)
    large.save(place / "double.mpo", save_all=True, append_images=[PHOTOS[1]])
    PHOTOS[1].save(place / "coloured.jpg", quality=95, icc_profile=swapped_primaries())
    PHOTOS[1].convert("CMYK").save(place / "inked.jpg", quality=95)
    PHOTOS[1].convert("L").save(place / "grey.png", exif=turned)
    PHOTOS[1].quantize(64).save(place / "palette.gif")
    PHOTOS[0].convert("P").save(place / "palette.png")
    clear = PHOTOS[0].copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(place / "clear.png")
    PHOTOS[0].crop((0, 0, 640, 9)).resize((4000, 20)).save(place / "strip.png")
    PHOTOS[0].resize((50, 37)).save(place / "tiny.bmp")
    PHOTOS[1].save(place / "web.webp", quality=95)
    PHOTOS[1].save(place / "scan.tif", compression="tiff_lzw")
    return place


@pytest.fixture(scope="module", params=[24, 64, 128])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return create_encoder("test_resnet", image_size=request.param, embedding_dimensions=0)


@pytest.fixture(scope="module")
def expected(encoder: Encoder, folder: Path) -> dict[str, np.ndarray]:
    names = sorted(path.name for path in folder.iterdir())
    return dict(zip(names, encoder.embed([folder / name for name in names]), strict=True))


def worst(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


def test_embed_index_query_upload_and_stores(
    encoder: Encoder, expected: dict[str, np.ndarray], folder: Path, tmp_path: Path
) -> None:
    from s2r2.search.server.uploads import decode_upload

    write_embeddings(encoder, open_source(folder), tmp_path / "table.parquet")
    rows = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert worst({Path(row["path"]).name: np.array(row["vector"]) for row in rows}, expected) < TOLERANCE

    index = update_index(encoder, open_source(folder), tmp_path / "index", progress=False).index
    keys = index.catalogue.table["key"].to_pylist()
    assert worst(dict(zip(keys, index.vectors, strict=True)), expected) < TOLERANCE

    for query in (
        {name: index.query_picture(str(folder / name)) for name in expected},
        {name: index.query_picture((folder / name).read_bytes()) for name in expected},
        {name: index.query_picture(name) for name in expected},
        {name: decode_upload((folder / name).read_bytes(), index.side, None) for name in expected},
        {name: decode_upload((folder / name).read_bytes(), index.side, (0, 0, 1, 1)) for name in expected},
    ):
        assert worst({name: index.embed(picture) for name, picture in query.items()}, expected) < TOLERANCE

    store = PixelStore.build(open_source(folder), store_side(encoder.image_size), tmp_path / "stores", progress=False)
    assert worst(dict(zip(store.keys, encoder.embed(store), strict=True)), expected) < TOLERANCE

    # A JPEG is drafted as it is decoded, and a turned photo turned after it was reduced: arrays of those differ a bit.
    others = [name for name in expected if not name.endswith((".jpg", ".mpo")) and name != "grey.png"]
    whole = {name: decode((folder / name).read_bytes()) for name in others}
    found = dict(zip(whole, encoder.embed(list(whole.values())), strict=True))
    assert worst(found, {name: expected[name] for name in whole}) < TOLERANCE


def test_an_export_and_its_card(
    encoder: Encoder, expected: dict[str, np.ndarray], folder: Path, tmp_path: Path
) -> None:
    written = export(encoder, tmp_path / "mine.safetensors")
    again = load(written.path)
    names = sorted(expected)
    assert worst(dict(zip(names, again.embed([folder / n for n in names]), strict=True)), expected) < TOLERANCE
    code = re.findall(r"```python\n(.*?)```", written.card.read_text(encoding="utf-8"), re.DOTALL)[0]
    room: dict[str, object] = {}
    exec(code.partition("import timm")[0], room)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (encoder.mean, encoder.std))
    pixels = np.stack([(room["pixels"](folder / name) - mean) / std for name in names])  # type: ignore[operator]
    assert worst(dict(zip(names, encoder.embed_pixels(pixels), strict=True)), expected) < TOLERANCE


def test_an_index_of_an_earlier_version_is_searched_as_it_was_made(folder: Path, tmp_path: Path) -> None:
    """It did not state its side, and decoded for the thumbnail: its queries and new photos are made likewise."""
    encoder = create_encoder("test_resnet", image_size=24, embedding_dimensions=0)
    photos, place = shutil.copytree(folder, tmp_path / "photos"), tmp_path / "index"
    update_index(encoder, open_source(photos), place, progress=False)
    content = json.loads((place / DESCRIPTION).read_text())
    del content["check"], content["side"]
    write_sealed(place / DESCRIPTION, content)
    PHOTOS[0].rotate(90, expand=True).save(photos / "new.jpg", quality=95)
    index = update_index(encoder, open_source(photos), place, progress=False).index
    pixels = decode((photos / "new.jpg").read_bytes(), short_side=192)
    expected = encoder.embed_pixels(encoder.prepare([pixels], side=192))[0]
    assert np.abs(index.vectors[index.catalogue.row_of_key("new.jpg")] - expected).max() < TOLERANCE
    assert np.abs(index.embed(index.query_picture(str(photos / "new.jpg"))) - expected).max() < TOLERANCE
    assert np.abs(encoder.embed(photos / "new.jpg")[0] - expected).max() > TOLERANCE
    rebuilt = update_index(encoder, open_source(photos), place, rebuild=True, progress=False).index
    assert rebuilt.side == 36
