"""A ranking and near-duplicates on a terminal or in a pipe: names as they are, a line a photo, advice that helps."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, duplicates_and_show, search_and_show, update_index
from s2r2.system.console import PlainConsole
from s2r2.system.terminal import csv_plain, visible

NAMES = ("a [", "[red]x.jpg", ":cat:.jpg", "IMG[edited].jpg", "tab\there.jpg", "\x1b[31mred.jpg", "=1+1.jpg", "é😀.jpg")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


@pytest.fixture
def odd(photo_folder: Path, tmp_path: Path, encoder: Encoder) -> Path:
    """An index of copies of one photo under odd names."""
    folder = tmp_path / ("a rather long name of a folder " * 5).strip()
    folder.mkdir()
    for name in NAMES:
        target = folder / name if name.endswith(".jpg") else folder / name / "b].jpg"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(photo_folder / "red" / "0.jpg", target)
    update_index(encoder, folder, tmp_path / "odd.index", progress=False)
    return tmp_path / "odd.index"


def shown(width: int | None, action: object, *arguments: object, **options: object) -> list[str]:
    said = io.StringIO()
    action(*arguments, PlainConsole(file=said, width=width), **options)  # type: ignore[operator]
    return said.getvalue().splitlines()


@pytest.mark.parametrize("width", [None, 20, 80])
def test_a_line_a_photo_with_its_name_as_it_is(odd: Path, width: int | None) -> None:
    lines = shown(width, search_and_show, odd, "[red]x.jpg", 50)
    assert len(lines) == len(NAMES)  # a heading, and all but the query
    for name in ("b].jpg", ":cat:.jpg", "IMG[edited].jpg", "tab\\there.jpg", "\\x1b[31mred.jpg", "=1+1.jpg", "é😀.jpg"):
        assert sum(line.endswith(f"/{name}") for line in lines) == 1, name
    lines = shown(width, duplicates_and_show, odd, None, None)
    assert sum("a rather long name" in line for line in lines) == len(NAMES)


def test_paths_are_shown_as_seen_from_here(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(next(odd.parent.glob("a rather*")))
    assert any(line.endswith("  :cat:.jpg") for line in shown(None, search_and_show, odd, "[red]x.jpg", 50))
    monkeypatch.chdir("/")
    assert any(str(odd.parent) in line for line in shown(None, search_and_show, odd, "[red]x.jpg", 50))


@pytest.mark.parametrize("width", [None, 20])
def test_a_ranking_for_other_programs(odd: Path, tmp_path: Path, width: int | None) -> None:
    """A line a photo as JSON and as CSV, on the terminal and in a file; every name is there, and none is a formula."""
    found = {hit.key: hit for hit in ImageIndex.open(odd).search("[red]x.jpg", 50)}
    for form, out in (("json", "ranking.csv"), ("csv", "ranking.json")):
        lines = shown(width, search_and_show, odd, "[red]x.jpg", 50, form=form, out=tmp_path / out)
        assert all(line.isascii() and line.isprintable() for line in lines) or form == "csv"
        texts = {form: lines, out.rpartition(".")[2]: (tmp_path / out).read_text().splitlines()}
        objects = [json.loads(line) for line in texts["json"]]
        rows = list(csv.DictReader(texts["csv"]))
        assert len(objects) == len(rows) == len(NAMES) - 1
        for rank, (one, row) in enumerate(zip(objects, rows, strict=True), start=1):
            hit = found[one["key"]]
            assert (one["rank"], one["label"], one["id"], one["path"]) == (rank, hit.label, hit.id, hit.path)
            assert one["similarity"] == pytest.approx(hit.score, abs=1e-6) == pytest.approx(float(row["similarity"]))
            assert csv_plain(row["key"]) == visible(one["key"])
            assert not row["key"].startswith("=")
    with pytest.raises(S2R2Error, match=r"give it the ending .csv, .json or .jsonl"):
        shown(None, search_and_show, odd, "[red]x.jpg", 50, out=tmp_path / "ranking.txt")


def test_a_list_of_duplicates_is_no_program(photo_folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    shutil.copy(photo_folder / "red" / "0.jpg", photo_folder / "red" / "=1+1.jpg")
    update_index(encoder, photo_folder / "red", tmp_path / "index", progress=False)
    shown(None, duplicates_and_show, tmp_path / "index", 1.0, tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths
    assert not any(path.startswith(("=", "+", "-", "@")) for path in paths)
    assert all(Path(path).is_file() for path in paths)


def test_what_is_no_query_is_one_line(photo_folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    index = update_index(encoder, photo_folder, tmp_path / "index", progress=False).index
    for query, said in (
        (str(photo_folder), "is a folder: give one photo"),
        ("nowhere.jpg", "neither an image file nor the key"),
        ("red", "neither an image file nor the key"),
        ("a\0b", "neither an image file nor the key"),
        ("", "neither an image file nor the key"),
    ):
        with pytest.raises(S2R2Error, match=said):
            index.search(query, 3)
    for k in (0, -1, 1.5, float("nan"), True):
        with pytest.raises(S2R2Error, match="ask for at least 1 photo"):
            index.search("red/0.jpg", k)  # type: ignore[arg-type]
    assert len(index.search("red/0.jpg", 10**9)) == 23
    for box in ((0, 0, 81, 60), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, float("nan"), 5), (0.5, 0, 4, 4), (1, 2, 3)):
        with pytest.raises(S2R2Error, match="lies outside the image of 80 x 60"):
            index.search(str(photo_folder / "red" / "0.jpg"), 3, box=box)  # type: ignore[arg-type]
    for box in ("nan,0,1,1", "1,2,3", "1,2,3,4,5", "a", "", "1e3,0,1,1", "1.5,0,1,1"):
        with pytest.raises(S2R2Error, match="give left,top,width,height"):
            shown(None, search_and_show, tmp_path / "index", "red/0.jpg", 3, box=box)


def test_a_file_comes_before_a_key(
    photo_folder: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = update_index(encoder, photo_folder, tmp_path / "index", progress=False).index
    (tmp_path / "red").mkdir()
    shutil.copy(photo_folder / "blue" / "5.jpg", tmp_path / "red" / "0.jpg")
    assert len(index.search("red/0.jpg", 50)) == 23
    monkeypatch.chdir(tmp_path)
    assert ImageIndex.open("index").search("red/0.jpg", 50)[0].key == "blue/5.jpg"
