"""Manifests: what a row means, and that a million of them are nothing to speak of."""

import errno
import io
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import csv, parquet

from s2r2.errors import S2R2Error
from s2r2.images import ImageSource, Labels, PixelStore, open_source
from s2r2.images.sources import manifest_rows
from s2r2.images.sources.kinds import manifest
from s2r2.images.sources.listing import ListingWriter
from s2r2.images.sources.strings import Computed, joined


def opened(folder: Path, content: str, name: str = "list.csv") -> ImageSource:
    (folder / name).write_text(content, encoding="utf-8")
    return open_source(folder / name)


def test_columns_mean_what_they_say_and_no_file_is_looked_at(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        "\ufeffpath,labels,note,split,five_split\n"
        "sub/a.png, red ; round ,x,train,fold 1\n"
        "\n"
        f'"{tmp_path.parent}/b,1.png",,x, test ,\n'
        "c.png,red;red\n",
    )
    assert source.keys == ["sub/a.png", f"{tmp_path.parent}/b,1.png", "c.png"]
    assert [source.location(i) for i in range(3)] == [
        str(tmp_path / "sub/a.png"), f"{tmp_path.parent}/b,1.png", str(tmp_path / "c.png"),
    ]  # fmt: skip
    assert source.labels is not None
    assert source.labels.lists() == [["red", "round"], [], ["red"]]
    assert {name: part.tolist() for name, part in source.parts.items()} == {"train": [0], "test": [1], "fold 1": [0]}
    part = open_source(f"{tmp_path / 'list.csv'}:test")
    assert part.keys == source.keys[1:2]
    assert part.name == "list.csv:test"


def test_parquet_says_the_same(tmp_path: Path) -> None:
    table = {"path": ["a.png", "b.png", "c.png"], "labels": [["x", "y"], [], None], "split": [1, None, 2], "n": [0] * 3}
    parquet.write_table(pyarrow.table(table), tmp_path / "list.parquet")
    source = open_source(tmp_path / "list.parquet")
    assert source.keys == ["a.png", "b.png", "c.png"]
    assert source.labels is not None
    assert source.labels.lists() == [["x", "y"], [], []]
    assert {name: part.tolist() for name, part in source.parts.items()} == {"1": [0], "2": [2]}


def test_rows_that_name_one_file_are_images_of_their_own(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / name)
    source = opened(tmp_path, "path,label\na.png,x\nb.png,y\na.png,z\na.png,x\n")
    assert source.keys == ["a.png", "b.png", "a.png#2", "a.png#3"]
    assert [source.read(i)[0, 0].tolist() for i in (0, 2, 3)] == [[255, 0, 0]] * 3
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert len(set(store.image_ids.tolist())) == 4
    with pytest.raises(S2R2Error, match=r"lists a\.png more than once, and a\.png#2 as well: rename that file"):
        opened(tmp_path, "path\na.png\na.png\na.png#2\n")
    assert opened(tmp_path, "path\na.png#2\na.png\nb.png\nb.png\n").keys == ["a.png#2", "a.png", "b.png", "b.png#2"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "no column named path (it has none)"),
        ("file,label\na,b\n", "no column named path (it has file, label)"),
        ("path\n", "lists no images: it has a header and no rows"),
        ("path,label,labels\na,b,c;d\n", "a column label and a column labels: rename the one that is not meant"),
    ],
)
def test_tables_that_are_no_manifests(content: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(S2R2Error) as raised:
        opened(tmp_path, content)
    assert line in str(raised.value)
    (tmp_path / "latin.csv").write_bytes("path\nß.png\n".encode("latin-1"))
    with pytest.raises(S2R2Error, match="must be a comma-separated table in UTF-8"):
        open_source(tmp_path / "latin.csv")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(S2R2Error, match="must be a parquet table"):
        open_source(tmp_path / "no.parquet")


def test_rows_may_be_addresses(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    fsspec.filesystem("memory").pipe_file("/photos/a.png", buffer.getvalue())
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "b.png")
    source = opened(tmp_path, "path\nmemory://photos/a.png\nb.png\nmemory://photos/none.png\n")
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert [image[0, 0].tolist() for image in store] == [[255, 0, 0], [0, 0, 255]]
    assert [(entry.key, entry.reason) for entry in store.skipped] == [
        ("memory://photos/none.png", "No such file or directory")
    ]


def test_many_rows_take_little_memory(tmp_path: Path) -> None:
    """A row costs some tens of bytes, its path included; a Python string alone would be more."""
    rows = 50_000
    path = tmp_path / "many.csv"
    path.write_text("path,label\n" + "".join(f"{i % 40_000:07d}.jpg,class {i % 500}\n" for i in range(rows)))
    tracemalloc.start()
    before, arrow = tracemalloc.get_traced_memory()[0], pyarrow.total_allocated_bytes()
    source = open_source(path)
    used = tracemalloc.get_traced_memory()[0] - before + pyarrow.total_allocated_bytes() - arrow
    tracemalloc.stop()
    assert len(source) == rows
    assert source.keys[-1] == "0009999.jpg#2"
    assert used < 60 * rows
    assert source.labels is not None
    assert len(source.labels.names) == 500


LONG = (
    "path,label,split,seen\n"
    + "".join(f"{i:04}.jpg,class {i % 7},{'test' if i % 5 == 0 else 'train'},{i}\n" for i in range(900))
    + "0003.jpg,class 1,train,x\n,nothing,,y\nsub/ü.jpg,,,z\n0003.jpg,class 2;class 3,test,w\n"
)


def described(source: ImageSource) -> dict[str, Any]:
    """All that a source says without looking at a file."""
    return {
        "keys": list(source.keys),
        "one by one": [source.keys[i] for i in range(len(source))],
        "labels": source.labels and source.labels.lists(),
        "fingerprints": (source.fingerprint, source.former_fingerprint),
        "parts": {name: numbers.tolist() for name, numbers in source.parts.items()},
        "columns": (source.columns, source.column("seen"), source.column("path"), source.column("label")),
        "places": [source.location(i) for i in range(len(source))],
        "problems": source.problems,
        "identity": (source.name, source.identity),
    }


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ImageSource]:
    """Opens a table as a long one, in blocks of few rows."""
    (tmp_path / "list.csv").write_text(LONG, encoding="utf-8")
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest_rows, "ROWS_AT_ONCE", 100)

    def opened(part: str = "", many: int = 0) -> ImageSource:
        monkeypatch.setattr(manifest, "MANY_BYTES", many)
        monkeypatch.setattr(manifest, "MANY_ROWS", many)
        return open_source(f"{tmp_path / 'list.csv'}{part}")

    return opened


@pytest.mark.parametrize("part", ["", ":test"])
def test_a_long_manifest_is_mapped_and_says_the_same(part: str, long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = described(long(part, many=1 << 30))
    first = described(long(part))
    monkeypatch.setattr(manifest, "_kept", lambda *_: pytest.fail("the table is read again"))
    mapped = long(part)
    monkeypatch.setattr(ImageSource, "_hash_of_keys", lambda *_: pytest.fail("keys are gone through"))
    assert described(mapped) == first == expected
    assert "0003.jpg#3" in expected["keys"]
    assert any("names no file" in problem.reason for problem in mapped.problems)


def test_a_long_manifest_that_changes_is_read_again(long: Any, tmp_path: Path) -> None:
    before = long()
    (tmp_path / "list.csv").write_text(LONG.replace("0001.jpg,class 1", "new.jpg,class 9"), encoding="utf-8")
    after = long()
    assert (before.keys[1], after.keys[1]) == ("0001.jpg", "new.jpg")  # what is mapped stays as it was
    assert after.labels.of(1) == ["class 9"]
    assert after.fingerprint == described(long(many=1 << 30))["fingerprints"][0] != before.fingerprint
    assert len(list((tmp_path / "cache" / "manifests").iterdir())) == 1  # the former one's files are gone


def test_a_parquet_table_is_mapped_like_a_csv(long: Any, tmp_path: Path) -> None:
    expected = described(long())
    table = csv.read_csv(tmp_path / "list.csv", convert_options=csv.ConvertOptions(strings_can_be_null=False))
    parquet.write_table(table, tmp_path / "list.parquet")
    found = described(open_source(tmp_path / "list.parquet"))
    assert any((tmp_path / "cache" / "manifests").glob("*/about.json"))
    assert {name: found[name] for name in ("keys", "labels", "fingerprints", "parts", "columns", "places")} == {
        name: expected[name] for name in ("keys", "labels", "fingerprints", "parts", "columns", "places")
    }


@pytest.mark.parametrize("damage", ["about.json", "names.arrow", "0.cells", "repeats.bin", "1.part"])
def test_damaged_files_of_the_cache_are_made_again(damage: str, long: Any, tmp_path: Path) -> None:
    expected = described(long())
    (file,) = (tmp_path / "cache").glob(f"manifests/*/{damage}")
    file.write_bytes(file.read_bytes()[:-9])
    assert described(long()) == expected
    assert described(long()) == expected


def test_where_nothing_can_be_kept_a_long_manifest_is_read_into_memory(
    long: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = described(long(many=1 << 30))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, name in ((manifest, "keep_listing"), (ListingWriter, "_keep_names")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            assert described(long()) == expected
        assert not list((tmp_path / "cache" / "manifests").iterdir())  # nothing half written is left
    (tmp_path / "file").touch()
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "file"))
    assert described(long()) == expected


def test_two_processes_read_a_long_manifest_once(long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, read = manifest.read_manifest, []

    def slowly(*arguments: Any, **more: Any) -> Any:
        read.append(1)
        time.sleep(0.2)
        return reading(*arguments, **more)

    monkeypatch.setattr(manifest, "read_manifest", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: long(), range(2))
    assert len(read) == 1
    assert first.keys == second.keys


def test_a_long_manifest_with_mistakes_is_refused_like_a_short_one(long: Any, tmp_path: Path) -> None:
    for table, line in ((LONG + "0003.jpg#2,,,\n", "rename that file"), ('path\n"a', "a quote is not closed")):
        (tmp_path / "list.csv").write_text(table, encoding="utf-8")
        for many in (1 << 30, 0):
            with pytest.raises(S2R2Error, match=line):
                long(many=many)
    (tmp_path / "list.csv").write_text("path\n" + '"",\n' * 300, encoding="utf-8")
    with pytest.raises(S2R2Error, match="lists no images"):
        long()
    assert not list((tmp_path / "cache" / "manifests").iterdir())


def test_labels_are_those_of_a_table() -> None:
    generator = np.random.default_rng(0)
    targets = generator.random((30, 7)) < 0.2
    labels = Labels(list("abcdefg"), targets)
    np.testing.assert_array_equal(labels.targets, targets)
    chosen = generator.integers(0, 30, 50)
    np.testing.assert_array_equal(labels.subset(chosen).targets, targets[chosen])
    assert labels.single is None
    again = Labels.from_lists(labels.lists())
    assert again is not None
    np.testing.assert_array_equal(again.targets, targets)
    both = Labels.join([(labels, 30), (None, 2), (Labels(["c", "z"], np.array([[True, True], [False, True]])), 2)])
    assert both is not None
    assert both.names == [*"abcdefg", "z"]
    assert both.lists() == [*labels.lists(), [], [], ["c", "z"], ["z"]]
    one = Labels(["x", "y"], np.array([[False, True], [False, False], [True, False]])).single
    assert one is not None
    assert one.tolist() == [1, -1, 0]


def test_computed_strings_are_a_sequence() -> None:
    texts = Computed(5, lambda i: f"<{i}>")
    assert texts == ["<0>", "<1>", "<2>", "<3>", "<4>"]
    assert texts != ["<0>"]
    assert (texts[-1], texts[1:3], len(texts)) == ("<4>", ["<1>", "<2>"], 5)
    with pytest.raises(IndexError):
        texts[5]
    assert joined(["a/", "b/"], [texts[:2], texts[:1]]) == ["a/<0>", "a/<1>", "b/<0>"]
