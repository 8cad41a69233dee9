"""Marks of the page: kept whole, told by whoever asks later, bounded, and never written by anybody else."""

import contextlib
import csv
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, update_index
from s2r2.search.server.app import create_app
from s2r2.search.storage import marks as marks_module
from s2r2.search.storage.marks import Asked, MarkBook, TooManyMarks, read_marks
from s2r2.system.locking import locked

CAT = Asked("cat.jpg")


def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """One question to an application in this process."""
    return TestClient(app, base_url="http://localhost").request(method, path, **options)


@pytest.fixture
def store(served: tuple[str, Path], tmp_path: Path) -> Path:
    """A copy of the index of 25 photos, without marks."""
    shutil.copytree(served[1] / "index", tmp_path / "index", ignore=shutil.ignore_patterns("marks.csv"))
    return tmp_path / "index"


def ids(store: Path) -> dict[str, str]:
    index = ImageIndex.open(store)
    keys = index.catalogue.table["key"].to_pylist()
    return {key: f"{number:016x}" for key, number in zip(keys, index.catalogue.ids.tolist(), strict=True)}


def test_a_mark_is_kept_and_can_be_taken_back(tmp_path: Path) -> None:
    book = MarkBook(tmp_path)
    book.set(CAT, "dog.jpg", right=False)
    book.set(CAT, "kitten.jpg", right=True)
    book.set(Asked("cat.jpg", "0.0000,0.0000,0.5000,0.5000"), "kitten.jpg", right=False)
    assert MarkBook(tmp_path).of(CAT) == {"dog.jpg": False, "kitten.jpg": True}
    book.set(CAT, "dog.jpg", right=None)
    assert MarkBook(tmp_path).of(CAT) == {"kitten.jpg": True}
    with open(tmp_path / "marks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["photo"], row["mark"]) for row in rows] == [
        ("cat.jpg", "kitten.jpg", "right"), ("cat.jpg", "kitten.jpg", "wrong")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["=1+1.jpg", "'=x", "a,b.jpg", 'say "x".jpg', "two\nlines", "\r", " -x", "é\u202e", "+1"]
)
def test_any_name_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    MarkBook(tmp_path).set(Asked(name), name + ".png", right=True)
    assert read_marks(tmp_path).keys() == {Asked(name)}
    assert read_marks(tmp_path)[Asked(name)].keys() == {name + ".png"}
    assert not (tmp_path / "marks.csv").read_text().splitlines()[1].startswith(("=", "+1."))


@pytest.mark.parametrize(
    "line", ["cat,,dog,maybe,now", "cat", 'cat,,"dog', "cat,0.1,dog,right,now", "cat,,dog,right,now,more"]
)
def test_a_line_that_is_no_mark_is_named_and_nothing_is_overwritten(tmp_path: Path, line: str) -> None:
    MarkBook(tmp_path).set(CAT, "dog.jpg", right=True)
    before = (tmp_path / "marks.csv").read_text() + line + "\n"
    (tmp_path / "marks.csv").write_text(before)
    with pytest.raises(S2R2Error, match="line 3, is no mark") as error:
        MarkBook(tmp_path).set(CAT, "dog.jpg", right=False)
    assert "\n" not in str(error.value)
    assert (tmp_path / "marks.csv").read_text() == before
    (tmp_path / "marks.csv").write_text("".join(before.splitlines(keepends=True)[:-1]))  # the remedy
    assert MarkBook(tmp_path).of(CAT) == {"dog.jpg": True}


def test_bytes_that_are_no_text_and_a_huge_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marks.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(S2R2Error, match="correct it, or move it away"):
        read_marks(tmp_path)
    monkeypatch.setattr(marks_module, "MOST_BYTES", 1)
    with pytest.raises(S2R2Error, match="remove lines, or move it away"):
        read_marks(tmp_path)
    (tmp_path / "marks.csv").rename(tmp_path / "away.csv")
    assert read_marks(tmp_path) == {}


def test_marks_are_bounded_in_number_and_in_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_module, "MOST_MARKS", 3)
    book = MarkBook(tmp_path)
    for number in range(3):
        book.set(CAT, f"{number}", right=True)
    with pytest.raises(TooManyMarks, match="full"):
        book.set(CAT, "3", right=True)
    book.set(CAT, "0", right=False)  # no further mark
    book.set(CAT, "0", right=None)  # the remedy
    book.set(CAT, "3", right=True)
    assert len(book.of(CAT)) == 3
    monkeypatch.setattr(book, "_left", 0.0)
    with pytest.raises(TooManyMarks, match="wait a second"):
        book.set(CAT, "3", right=False)
    monkeypatch.setattr(book, "_counted", book._counted - 1)  # the remedy
    book.set(CAT, "3", right=False)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("part", ["os.replace", "s2r2.system.files.sync_folder", "s2r2.search.storage.marks._as_csv"])
def test_a_kill_while_a_mark_is_written_leaves_the_marks_before_or_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    MarkBook(tmp_path).set(CAT, "dog.jpg", right=False)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(part, killed)
        with pytest.raises(Killed):
            MarkBook(tmp_path).set(CAT, "kitten.jpg", right=True)
    assert MarkBook(tmp_path).of(CAT) in ({"dog.jpg": False}, {"dog.jpg": False, "kitten.jpg": True})
    MarkBook(tmp_path).set(CAT, "kitten.jpg", right=True)
    assert MarkBook(tmp_path).of(CAT) == {"dog.jpg": False, "kitten.jpg": True}
    assert [path.name for path in tmp_path.iterdir()] == ["marks.csv"]


def test_a_power_cut_at_any_moment_loses_no_mark_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful_disk: Any
) -> None:
    for cut in range(4):
        place = tmp_path / f"{cut}"
        place.mkdir()
        MarkBook(place).set(CAT, "dog.jpg", right=False)
        with monkeypatch.context() as patch:
            disk = forgetful_disk(place, patch, cut)
            with contextlib.suppress(disk.PowerCut):
                MarkBook(place).set(CAT, "kitten.jpg", right=True)
        disk.after_the_cut(tmp_path / "left")
        taken = {"dog.jpg": False, "kitten.jpg": True}
        found = MarkBook(tmp_path / "left").of(CAT)
        assert found == taken or (cut < 2 and found == {"dog.jpg": False})


def test_two_servers_of_one_index_lose_no_mark(tmp_path: Path) -> None:
    books = [MarkBook(tmp_path), MarkBook(tmp_path)]

    def work(which: int) -> None:
        for number in range(20):
            books[which].set(CAT, f"{which} {number}", right=True)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(books[0].of(CAT)) == len(books[1].of(CAT)) == 40


def test_while_another_server_writes_a_mark_waits_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "_WAIT", 0.0)
    book = MarkBook(tmp_path)
    with locked(tmp_path / "marks.lock", "writing", "wait"), pytest.raises(S2R2Error, match="mark it again"):
        book.set(CAT, "dog.jpg", right=True)
    book.set(CAT, "dog.jpg", right=True)


def test_an_update_and_a_rebuilding_keep_marks_and_those_of_photos_that_left_are_not_used(
    store: Path, served: tuple[str, Path], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(served[1] / "photos", photos)
    known = ids(store)
    book = MarkBook(store)
    book.set(Asked("red/0.jpg"), "red/1.jpg", right=True)
    book.set(Asked("red/0.jpg"), "red/2.jpg", right=True)
    before = (store / "marks.csv").read_bytes()
    (photos / "red" / "2.jpg").unlink()
    app = create_app([store])
    address = f"/api/marks/{known['red/0.jpg']}"
    assert len(asked(app, "GET", address).json()["marks"]) == 2
    for options in ({}, {"rebuild": True}):
        update_index("untrained:test_resnet", photos, store, progress=False, **options)
        assert (store / "marks.csv").read_bytes() == before
        answer = asked(create_app([store]), "GET", address).json()
        assert answer["marks"] == {known["red/1.jpg"]: "right"}


def test_the_server_takes_marks_only_from_its_own_page(store: Path) -> None:
    known = ids(store)
    app = create_app([store])
    address = f"/api/marks/{known['red/0.jpg']}"
    right = {"photo": known["red/1.jpg"], "mark": "right"}
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert asked(app, "POST", address, params=right, headers=headers).status_code == 403
    assert asked(app, "POST", address, params=right, headers={"host": "evil.example"}).status_code == 400
    bad: list[dict[str, str]] = [
        {}, right | {"mark": "maybe"}, right | {"photo": "0" * 16}, right | {"photo": "../../secret.txt"},
        right | {"box": "0,0,2,2"}, right | {"index": "1"}, right | {"of": "9"}, {"mark": "right"},
    ]  # fmt: skip
    for params in bad:
        assert asked(app, "POST", address, params=params).status_code in (404, 422), params
    for path in ("/api/marks/" + "f" * 16, "/api/marks/..%2f..%2fsecret.txt", "/api/marks/"):
        assert asked(app, "POST", path, params=right).status_code in (404, 405)
    assert asked(app, "GET", address, params=right).json() == {"marks": {}}  # asking marks nothing
    assert not (store / "marks.csv").exists()
    assert asked(app, "POST", address, params=right).json() == {"mark": "right"}
    part = {"box": "0.1,0.1,0.5,0.5"}
    asked(app, "POST", address, params=right | part | {"mark": "wrong"})
    assert asked(app, "GET", address).json() == {"marks": {known["red/1.jpg"]: "right"}}
    assert asked(app, "GET", address, params=part).json() == {"marks": {known["red/1.jpg"]: "wrong"}}
    asked(app, "POST", address, params=right | {"mark": "none"})
    assert asked(app, "GET", address).json() == {"marks": {}}


def test_a_server_that_may_not_write_shows_marks_and_refuses_new_ones(store: Path) -> None:
    known = ids(store)
    MarkBook(store).set(Asked("red/0.jpg"), "red/1.jpg", right=True)
    before = (store / "marks.csv").read_bytes()
    app = create_app([store], read_only=True)
    address = f"/api/marks/{known['red/0.jpg']}"
    assert asked(app, "GET", "/api/about").json()["keeps_marks"] is False
    assert asked(app, "GET", address).json() == {"marks": {known["red/1.jpg"]: "right"}}
    answer = asked(app, "POST", address, params={"photo": known["red/1.jpg"], "mark": "wrong"})
    assert answer.status_code == 403
    assert "--read-only" in answer.json()["error"]
    assert (store / "marks.csv").read_bytes() == before


def test_marks_that_cannot_be_written_are_said_without_the_place(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ids(store)
    app = create_app([store])
    (store / "marks.csv").write_text("nonsense\n")
    address = f"/api/marks/{known['red/0.jpg']}"
    for answer in (
        asked(app, "GET", address),
        asked(app, "POST", address, params={"photo": known["red/1.jpg"], "mark": "wrong"}),
    ):
        assert answer.status_code == 503
        assert str(store) not in answer.text
    with pytest.raises(S2R2Error, match="line 1, is no mark"):
        create_app([store])


@pytest.mark.slow
def test_a_flood_of_marks_is_held_back_and_leaves_the_server_well(
    store: Path, running: Callable[..., contextlib.AbstractContextManager[str]]
) -> None:
    """Many marks at once, and bodies that nobody reads: the file stays small and others are answered."""
    known = list(ids(store).values())
    with running(store.parent) as address, httpx.Client(base_url=address, timeout=60) as client:
        where = f"/api/marks/{known[0]}"
        part = client.get(f"/api/similar/{known[0]}", params={"box": "0,0,0.5,0.5"})  # by then the encoder is loaded
        assert part.status_code == 200
        statuses = [
            client.post(where, params={"photo": known[n % 25], "mark": ("right", "wrong")[n % 2]}).status_code
            for n in range(400)
        ]
        assert set(statuses) == {200, 429}
        assert client.get("/api/about").status_code == 200
        large = client.post(where, params={"photo": known[1], "mark": "right"}, content=b"x" * (8 << 20))
        assert large.status_code in (200, 413, 429)
        assert len(client.get(where).json()["marks"]) <= 25
    assert os.path.getsize(store / "marks.csv") < 4096
    assert "Traceback" not in (store.parent / "server.log").read_text()


def test_the_command_starts_no_server_over_marks_that_cannot_be_read(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "marks.csv").write_text("cat\n")
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(store), "--port", "0"])
    assert ended.value.code == 2
    assert "is no mark" in capsys.readouterr().err
