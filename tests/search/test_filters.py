"""Filters by folder, label, date, camera and size: in rankings, on the server and in commands."""

import csv
import functools
import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from s2r2.cli import main
from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import Filter, ImageIndex, update_index
from s2r2.search.server.app import create_app
from s2r2.search.storage import catalog, published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import FACTS, Rows
from s2r2.system.files import checksum

CAMERAS = ("Canon EOS R5", "Apple iPhone 15", None)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """An index of 24 photos in two folders: of every third neither day nor camera is known, sizes grow."""
    root = tmp_path_factory.mktemp("filters")
    generator = np.random.default_rng(0)
    for number in range(24):
        folder = root / "photos" / ("sea", "deep")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40 + 2 * number, 50, 3), np.uint8)
        exif = Image.Exif()
        if camera := CAMERAS[number % 3]:
            exif[271], exif[272] = camera.split(" ", 1)
            exif.get_ifd(0x8769).update({36867: f"2024:05:{number + 1:02} 23:30:00", 36881: "+02:00"})
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg", exif=exif)
    update_index(encoder, root / "photos", root / "index", progress=False)
    return root


FILTERS: list[tuple[Filter, Callable[[int], bool]]] = [
    (Filter(), lambda _: True),
    (Filter(folder="deep"), lambda n: n % 2 == 1),
    (Filter(folder="se"), lambda _: False),
    (Filter(label="deep"), lambda n: n % 2 == 1),
    (Filter(camera="Canon EOS R5"), lambda n: n % 3 == 0),
    (Filter(camera="Canon"), lambda _: False),
    (Filter(taken_from=date(2024, 5, 10)), lambda n: n % 3 < 2 and n + 1 >= 10),
    (Filter(taken_to=date(2024, 5, 10)), lambda n: n % 3 < 2 and n + 1 <= 10),
    (Filter(taken_from=date(2024, 5, 10), taken_to=date(2024, 5, 10)), lambda n: n + 1 == 10),
    (Filter(megapixels_from=0.003), lambda n: (40 + 2 * n) * 50 >= 3000),
    (Filter(megapixels_to=0.003), lambda n: (40 + 2 * n) * 50 <= 3000),
    (
        Filter("deep", "deep", "Apple iPhone 15", date(2024, 5, 3), date(2024, 5, 20), 0.0021, 0.004),
        lambda n: n % 2 == 1 and n % 3 == 1 and 3 <= n + 1 <= 20 and n <= 20,
    ),
]


@pytest.mark.parametrize(("where", "passes"), FILTERS)
def test_a_ranking_has_what_passes_and_nothing_else(
    indexed: Path, where: Filter, passes: Callable[[int], bool]
) -> None:
    index = ImageIndex.open(indexed / "index")
    hits = index.search("sea/02.jpg", 50)
    expected = [hit.key for hit in hits if passes(int(Path(hit.key).stem))]
    assert [hit.key for hit in index.search("sea/02.jpg", 50, where=where)] == expected
    assert [hit.key for hit in index.search("sea/02.jpg", 3, where=where)] == expected[:3]
    several = [hit.key for hit in index.search(["sea/02.jpg", "sea/04.jpg"], 50, where=where)]
    assert set(several) == {key for key in expected if key != "sea/04.jpg"}


def test_a_folder_is_what_is_in_it_and_below_it() -> None:
    catalogue = SimpleNamespace(folders=(["sea", "sea/deep", "seaweed", ""], np.array([3, 2, 1, 0, 1])))
    assert Filter(folder="sea").mask(catalogue).tolist() == [False, False, True, True, True]  # type: ignore[arg-type, union-attr]


def test_what_is_known_of_a_photo_is_in_the_hit(indexed: Path) -> None:
    hits = {hit.key: hit for hit in ImageIndex.open(indexed / "index").search("sea/02.jpg", 50)}
    hit = hits["sea/06.jpg"]
    assert (hit.taken, hit.camera, hit.width, hit.height) == ("2024-05-07T23:30:00", "Canon EOS R5", 50, 52)
    assert (hits["sea/08.jpg"].taken, hits["sea/08.jpg"].camera, hits["sea/08.jpg"].height) == (None, None, 56)


@pytest.mark.parametrize("options", [{"taken_from": date(2024, 5, 2), "taken_to": date(2024, 5, 1)},
                                     {"megapixels_from": 2.0, "megapixels_to": 1.0},
                                     {"label": ""}, {"camera": ""}])  # fmt: skip
def test_what_no_photo_can_pass_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(S2R2Error, match=r"is more than|leave it out to search all photos"):
        Filter(**options)


def test_a_key_can_be_typed_as_it_is_shown() -> None:
    catalogue = SimpleNamespace(
        table={"key": pa.chunked_array([["a.jpg", "b\nc.jpg"], ["b\\nd.jpg", "\x1b\u202e.jpg"]])}
    )
    row = functools.partial(catalog.Catalogue.row_of_key, catalogue)  # type: ignore[arg-type]
    shown = ("b\nc.jpg", "b\\nc.jpg", "b\\nd.jpg", "\\x1b\\u202e.jpg", "\\n.jpg")
    assert [row(key) for key in shown] == [1, 1, 2, 3, None]


def as_version_4_wrote_it(folder: Path) -> None:
    """Make the rows, the catalogue and the description of an index those of format 4."""
    about = published.read_published(folder)
    assert about is not None
    generation = folder / about.generation
    rows = Rows(generation / "lance", about.dimensions)
    rows.table.drop_columns(list(FACTS))
    RowFiles(generation).record()
    described = generation / catalog.catalogue_files(about.number)[1]
    with pa.memory_map(str(described)) as file:
        table = pa.ipc.open_file(file).read_all().drop_columns(list(FACTS))
        content = table.to_batches()
    described.unlink()
    with pa.OSFile(str(described), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        for batch in content:
            writer.write_batch(batch)
    files = about.files | {described.name: checksum(described)}
    content_4 = {**vars(about), "files": files, "format": 4, "version": rows.version}
    published.Published(**content_4).write(folder)


def test_an_index_of_an_earlier_version_is_searched_and_completed_without_embedding(
    indexed: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_index(encoder, indexed / "photos", tmp_path / "index", progress=False)
    as_version_4_wrote_it(tmp_path / "index")
    old = ImageIndex.open(tmp_path / "index")
    assert old.about.format == 4
    hits = old.search("sea/02.jpg", 50, where=Filter(label="deep"))
    assert len(hits) == 12
    assert {(hit.taken, hit.camera, hit.width) for hit in hits} == {(None, None, None)}
    with pytest.raises(S2R2Error, match="run s2r2 index once more"):
        old.search("sea/02.jpg", 50, where=Filter(camera="Canon EOS R5"))
    (indexed / "photos" / "sea" / "02.jpg").touch()  # read again, and recognized by its content
    monkeypatch.setattr(Encoder, "embed_pixels", None)
    done = update_index(encoder, indexed / "photos", tmp_path / "index", progress=False)
    assert (done.embedded, done.moved, done.kept) == (0, 0, 24)
    expected = ImageIndex.open(indexed / "index")
    for name in FACTS:
        now = dict(zip(*(done.index.catalogue.table[column].to_pylist() for column in ("key", name)), strict=True))
        then = dict(zip(*(expected.catalogue.table[column].to_pylist() for column in ("key", name)), strict=True))
        assert now == then
    assert np.array_equal(np.sort(done.index.vectors, axis=0), np.sort(expected.vectors, axis=0))


def test_all_filters_of_a_search_hold_together(indexed: Path) -> None:
    index = ImageIndex.open(indexed / "index")
    found = index.search("sea/02.jpg", 50, folder="deep", where=Filter(camera="Canon EOS R5"))
    assert {hit.key for hit in found} == {f"deep/{number:02}.jpg" for number in range(3, 24, 6)}
    assert index.search("sea/02.jpg", 50, folder="deep", where=Filter(folder="sea")) == []


def test_the_server_filters_and_says_by_what(indexed: Path) -> None:
    with TestClient(create_app([indexed / "index"]), base_url="http://localhost") as client:
        about = client.get("/api/about").json()
        assert about["cameras"] == [{"name": camera, "photos": 8} for camera in sorted(filter(None, CAMERAS))]
        assert about["taken"] == ["2024-05-01", "2024-05-23"]
        assert about["megapixels"] == pytest.approx([0.002, 0.0043])
        asked = {"camera": "Canon EOS R5", "taken_from": "2024-05-05", "megapixels_to": 0.0035}
        found = client.get("/api/photos", params=asked).json()
        assert [photo["key"] for photo in found["photos"]] == ["deep/09.jpg", "deep/15.jpg", "sea/06.jpg", "sea/12.jpg"]
        photo = client.get("/api/photos", params={"folder": "deep"}).json()["photos"][0]
        details = client.get(f"/api/photos/{photo['id']}").json()
        assert (details["taken"], details["camera"], details["width"], details["height"]) == (
            "2024-05-02T23:30:00", "Apple iPhone 15", 50, 42,
        )  # fmt: skip
        hits = client.get(f"/api/similar/{photo['id']}", params={**asked, "k": 2}).json()["hits"]
        assert len(hits) == 2
        content = {"content": json.dumps({"more": [{"photo": photo["id"]}, {"photo": hits[0]["id"]}]})}
        kind = {"headers": {"content-type": "application/json"}}
        assert len(client.post("/api/search", params=asked, **content, **kind).json()["hits"]) == 3
        for wrong in ({"taken_from": "soon"}, {"taken_from": "0001-01-01"}, {"megapixels_to": "nan"},
                      {"taken_from": "2024-05-05", "taken_to": "2024-05-04"}):  # fmt: skip
            answer = client.get("/api/photos", params=wrong)
            assert answer.status_code == 422
            assert "_" in answer.json()["error"]


def test_the_command_filters(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", str(indexed / "index"), "sea/02.jpg", "--camera", "Apple iPhone 15", "--taken-to", "2024-05-06"]
    main([*words, "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["key"], row["taken"]) for row in rows} == {
        ("deep/01.jpg", "2024-05-02T23:30:00"), ("sea/04.jpg", "2024-05-05T23:30:00"),
    }  # fmt: skip
    main([*words, "--megapixels-from", "7"])
    assert capsys.readouterr().out.splitlines()[-1] == "no other photo of the index passes the filters"
    for asked, near in (("photos/sea", "sea"), ("./dep", "deep"), ("x", "deep, sea")):
        main([*words[:3], "--folder", asked])
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"has this folder: {Path(asked)}; try {near}"), asked
        main([*words[:3], "--folder", near.partition(",")[0]])
        assert capsys.readouterr().out.count("\n") > 1
    with pytest.raises(SystemExit) as ended:
        main([*words, "--taken-from", "2024-06-01"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--taken-from 2024-06-01" in said
    assert "--taken-to 2024-05-06" in said
    with pytest.raises(SystemExit) as ended:
        main([*words, "--taken-from", "May"])
    assert ended.value.code == 2
    assert "--taken-from: May is no day such as 2024-05-31" in capsys.readouterr().err
