"""What is taken away: lists and zips hold just the photos that were selected, under names that do no harm."""

import asyncio
import csv
import gc
import io
import os
import threading
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi import HTTPException
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, update_index
from s2r2.search.ranking_output import FIELDS
from s2r2.search.server import selections as selections_module
from s2r2.search.server.app import create_app
from s2r2.search.server.selections import KEPT, MOST_PHOTOS, ZIPS_AT_ONCE, Zip, name_in_zip


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


@pytest.fixture
def index(photo_folder: Path, tmp_path: Path, encoder: Encoder) -> ImageIndex:
    (tmp_path / "secret.txt").write_text("not for the page")
    return update_index(encoder, photo_folder, tmp_path / "index", progress=False).index


@pytest.fixture
def client(index: ImageIndex) -> TestClient:
    return TestClient(create_app([index.folder]), base_url="http://localhost")


def ids(index: ImageIndex) -> dict[str, str]:
    keys = index.catalogue.table["key"].to_pylist()
    return dict(zip(keys, (f"{number:016x}" for number in index.catalogue.ids), strict=True))


def selected(client: TestClient, photos: list[str]) -> str:
    answer = client.post("/api/selections", json={"photos": photos})
    assert answer.status_code == 200, answer.text
    return f"/api/selections/{answer.json()['selection']}"


def test_paths_a_table_and_the_files(client: TestClient, index: ImageIndex, photo_folder: Path) -> None:
    keys = ["red/3.jpg", "blue/0.jpg", "green/7.jpg"]
    place = selected(client, [ids(index)[key] for key in [*keys, keys[0]]])
    files = [photo_folder / key for key in keys]
    assert client.get(f"{place}/paths.txt").text.splitlines() == [str(file) for file in files]
    rows = list(csv.DictReader(io.StringIO(client.get(f"{place}/photos.csv").text)))
    assert tuple(rows[0]) == FIELDS[2:]  # as s2r2 search has them, without rank and similarity
    assert [(row["width"], row["height"], row["camera"]) for row in rows] == [("80", "60", "")] * 3
    assert [(row["path"], row["label"], row["key"]) for row in rows] == [
        (str(file), key.split("/")[0], key) for file, key in zip(files, keys, strict=True)
    ]
    answer = client.get(f"{place}/photos.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="photos.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == keys
        assert [archive.read(key) for key in keys] == [file.read_bytes() for file in files]


def test_a_store_that_does_not_answer_is_asked_once(
    client: TestClient, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try waits for seconds; the photos of another store are there all the same."""
    keys, asked = [f"red/{number}.jpg" for number in range(4)], []
    place = selected(client, [ids(index)[key] for key in keys])
    elsewhere = index.catalogue.table["key"].to_pylist().index(keys[3])

    def original_file(_: object, row: int) -> bytes:
        asked.append(row)
        if row != elsewhere:
            raise S2R2Error("cannot reach s3://photos")
        return b"content"

    monkeypatch.setattr(selections_module, "original_file", original_file)
    monkeypatch.setattr(selections_module, "server_of", lambda file: "b" if file.endswith("3.jpg") else "s3://photos")
    with zipfile.ZipFile(io.BytesIO(client.get(f"{place}/photos.zip").content)) as archive:
        assert archive.namelist() == [keys[3], "not included.txt"]
        lines = archive.read("not included.txt").decode().splitlines()
    assert lines == [f"{key}: cannot reach s3://photos" for key in keys[:3]]
    assert len(asked) == 2


def test_what_cannot_be_given_is_listed_and_the_rest_is_there(
    client: TestClient, index: ImageIndex, photo_folder: Path, tmp_path: Path
) -> None:
    """Gone, changed, or by now a link to something else: none of it is read, and the reason is in the zip."""
    place = selected(client, [ids(index)[f"red/{number}.jpg"] for number in range(4)])
    os.unlink(photo_folder / "red" / "0.jpg")
    (photo_folder / "red" / "1.jpg").write_bytes(b"another file")
    os.unlink(photo_folder / "red" / "2.jpg")
    os.symlink(tmp_path / "secret.txt", photo_folder / "red" / "2.jpg")
    with zipfile.ZipFile(io.BytesIO(client.get(f"{place}/photos.zip").content)) as archive:
        assert archive.namelist() == ["red/3.jpg", "not included.txt"]
        lines = archive.read("not included.txt").decode().splitlines()
    assert [line.split(": ")[0] for line in lines] == ["red/0.jpg", "red/1.jpg", "red/2.jpg"]
    assert "has changed since it was indexed" in lines[1]
    assert "reached through a link" in lines[2]


def test_one_file_is_in_memory_at_a_time(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch, photo_folder: Path
) -> None:
    """Ten thousand entries are sent as they are read; no piece is larger than what one read gives."""
    monkeypatch.setattr(selections_module, "_PIECE", 512)
    live = type("Live", (), {"now": type("Shown", (), {"index": index})})()
    photos = list(ids(index).values()) * 40
    pieces = list(selections_module.zipped([live], photos))
    assert max(map(len, pieces[:-1])) < 2048
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert len(set(archive.namelist())) == len(photos)
        assert "red/0 (40).jpg" in archive.namelist()


def test_names_in_a_zip_lead_nowhere_else() -> None:
    used: set[str] = set()
    names = [
        name_in_zip(key, used)
        for key in (
            "../../etc/passwd", "/etc/passwd", "C:\\x\\a.jpg", "a\0\n.jpg", "A.JPG", "a.jpg", "..", "", "/.//",
            "x" * 999,
        )
    ]  # fmt: skip
    assert names[:3] == ["etc/passwd", "etc/passwd (2)", "C__x_a.jpg"]
    assert names[4:9] == ["A.JPG", "a (2).jpg", "photo", "photo (2)", "photo (3)"]
    for name in names:
        assert name.isprintable()
        assert len(name) <= 400
        assert not {"", ".", ".."} & set(name.split("/"))
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    "photos",
    [None, [], ["../../secret.txt"], ["0" * 15], ["0" * 16], [1], ["f" * 16] * (MOST_PHOTOS + 1), "0" * 16, {"a": 1}],
)
def test_what_is_no_selection_is_refused(client: TestClient, photos: object) -> None:
    answer = client.post("/api/selections", json={"photos": photos})
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]


def test_selections_are_bounded_and_files_can_be_kept_back(client: TestClient, index: ImageIndex) -> None:
    one = [ids(index)["red/3.jpg"]]
    first = selected(client, one)
    for _ in range(KEPT):
        latest = selected(client, one)
    assert client.get(f"{first}/paths.txt").status_code == 404
    assert "select the photos again" in client.get(f"{first}/photos.zip").json()["error"]
    assert client.get(f"{latest}/paths.txt").status_code == 200
    for path in ("/api/selections/..%2f..%2fsecret.txt/photos.zip", f"{latest}/secret.txt", f"{latest}/../secret.txt"):
        assert client.get(path).status_code == 404
    content = {"content": b"{}", "headers": {"content-type": "application/json", "origin": "http://evil.example"}}
    assert client.post("/api/selections", **content).status_code == 403  # type: ignore[arg-type]
    kept_back = TestClient(create_app([index.folder], originals=False), base_url="http://localhost")
    place = selected(kept_back, one)
    assert kept_back.get(f"{place}/photos.zip").status_code == 403
    assert kept_back.get(f"{place}/paths.txt").status_code == 200


def test_zips_are_bounded_and_an_ended_one_makes_room_at_once(client: TestClient, index: ImageIndex) -> None:
    """Whether it was sent or given up, and although no garbage is collected."""
    place = f"{selected(client, [ids(index)['red/3.jpg']])}/photos.zip"
    gc.disable()
    try:
        statuses = {client.get(place).status_code for _ in range(2 * ZIPS_AT_ONCE)}
    finally:
        gc.enable()
    assert statuses == {200}
    slots = threading.Semaphore(2)
    receive: Any = asyncio.Future

    async def start(send: Any) -> None:
        await Zip(iter([b"a", b"b"]), slots, {})({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    async def ask() -> None:
        read = asyncio.Event()
        waiting = [asyncio.create_task(start(lambda _: read.wait())) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="too many downloads at once"):
            await start(lambda _: read.wait())
        read.set()
        await asyncio.gather(*waiting)
        for _ in range(3):
            with pytest.raises(ClientDisconnect):
                await start(AsyncMock(side_effect=OSError))  # the client hung up
        await start(AsyncMock())

    asyncio.run(ask())
