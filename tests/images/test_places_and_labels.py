"""A photo's place, pixels and labels are what they seem, from whatever folder; what is not read is listed."""

import hashlib
import inspect
import io
import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from pyarrow import parquet

from s2r2.errors import S2R2Error
from s2r2.evaluation.report.rankings import FOLDER
from s2r2.images import ImageSource, PixelStore, absolute_data, open_source, write_skipped
from s2r2.images.sources.names import inside, printable, unique
from s2r2.images.sources.tables import label_lists
from s2r2.images.sources.tar_headers import DamagedTar, headers
from s2r2.runs import RunFolder

COLOURS = ("red", "lime", "blue", "white", "black", "yellow")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def colour(pixels: np.ndarray) -> str:
    names = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}
    return names[tuple(pixels[0, 0].tolist())]


def make_tar(path: Path, members: Sequence[tuple[str, bytes | tuple[bytes, str]]]) -> Path:
    """A tar of files, and of links where a type and a target stand for the content."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


def seen(source: ImageSource) -> dict[str, tuple[str, list[str]]]:
    """Colour and labels of each image, by key."""
    labels = [[]] * len(source) if source.labels is None else source.labels.lists()
    return {key: (colour(source.read(i)), labels[i]) for i, key in enumerate(source.keys)}


def reasons(source: ImageSource) -> dict[str, str]:
    return {problem.key: problem.reason for problem in source.problems}


# ---------------------------------------------------------------------------------------------------------- places


def test_manifests_of_equal_names_have_stores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, name in (("c", "red"), ("d", "blue")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(name))
        (tmp_path / folder / "photos.csv").write_text("path\na.png\n")
    stores = [PixelStore.build(open_source(f"{f}/photos.csv"), None, tmp_path / "s", progress=False) for f in "cd"]
    assert [colour(store[0]) for store in stores] == ["red", "blue"]
    assert [store.decoded for store in stores] == [1, 1]
    monkeypatch.chdir(tmp_path / "c")
    again = PixelStore.build(open_source("photos.csv"), None, tmp_path / "s", progress=False)
    assert (again.path, again.decoded) == (stores[0].path, 0)


def test_a_link_to_a_manifest_is_not_the_manifest(tmp_path: Path) -> None:
    """Its rows are relative to the folder of the link."""
    for folder, name in (("c", "red"), ("d", "blue")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(name))
    (tmp_path / "c/photos.csv").write_text("path\na.png\n")
    (tmp_path / "d/photos.csv").symlink_to("../c/photos.csv")
    (tmp_path / "link").symlink_to("c")
    c, d, link = (open_source(tmp_path / name / "photos.csv") for name in ("c", "d", "link"))
    assert c.identity != d.identity
    assert c.identity == link.identity
    assert colour(open_source(absolute_data(tmp_path / "d/photos.csv")).read(0)) == "blue"


@pytest.mark.parametrize(
    "data", ["photos", "photos/", "./photos", "list.csv", "list.csv:train", "one.tar", "s-{0,1}.tar"]
)
def test_data_is_found_again_from_any_folder(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png("red"))
    (tmp_path / "list.csv").write_text("path,split\nphotos/a.png,train\n")
    for name in ("one.tar", "s-0.tar", "s-1.tar"):
        make_tar(tmp_path / name, [("a.png", png("red"))])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    place, source, both = absolute_data(data), open_source(data), open_source([data, "digits:test"])
    monkeypatch.chdir("elsewhere")
    again, both_again = open_source(place), open_source([place, absolute_data("digits:test")])
    assert colour(source.read(0)) == "red"
    assert (again.identity, again.fingerprint) == (source.identity, source.fingerprint)
    assert (both_again.identity, both_again.fingerprint) == (both.identity, both.fingerprint)


def test_a_folder_that_a_link_leads_to_has_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png("red"))
    (tmp_path / "now").symlink_to("photos")
    assert open_source(tmp_path / "now").identity == open_source(tmp_path / "photos").identity


# --------------------------------------------------------------------------------------------------- names of members


@pytest.mark.parametrize("written", ["{}", "./{}", "/{}", "photos//{}", "./photos/./{}", "../photos/{}", "a/../{}"])
def test_members_are_named_by_their_place_however_it_is_written(written: str, tmp_path: Path) -> None:
    names = ["cat/0.png", "cat/1.png", "dog/0.png"]
    tar = make_tar(tmp_path / "x.tar", [(written.format(n), png(c)) for n, c in zip(names, COLOURS, strict=False)])
    assert seen(open_source(tar)) == {
        "cat/0.png": ("red", ["cat"]), "cat/1.png": ("lime", ["cat"]), "dog/0.png": ("blue", ["dog"]),
    }  # fmt: skip
    os.rename(tar, tmp_path / "s-0.tar")
    shards = open_source(str(tmp_path / "s-{0..0}.tar"))
    assert {key.rpartition("/")[2] for key in shards.keys} == {"0.png", "1.png"}
    assert not any(part in {".", "..", ""} for key in shards.keys for part in key.split("/"))


def test_runs_that_earlier_versions_began_on_a_tar_of_a_folder_go_on(tmp_path: Path) -> None:
    """Then the keys of ``tar cf x.tar -C photos .`` began with ``./``, as the hash in a checkpoint remembers."""
    members = [(f"./{name}", png("red")) for name in ("cat/0.png", "cat/1.png", "dog/0.png")]
    source = open_source(make_tar(tmp_path / "x.tar", members))
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert store.former_fingerprint == "14c8a9eea808a8fc52f95db9acd1508f"
    assert (
        source.former_fingerprint
        == hashlib.blake2b(b"./cat/0.png\n./cat/1.png\n./dog/0.png\n", digest_size=16).hexdigest()
    )
    plain = open_source(make_tar(tmp_path / "y.tar", [(name[2:], content) for name, content in members]))
    assert plain.former_fingerprint == plain.fingerprint == source.fingerprint


def test_of_two_members_of_one_name_the_later_one_counts_and_the_other_is_listed(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "x.tar", [("a.png", png("red")), ("b.png", png("lime")), ("./a.png", png("blue"))])
    for source in (open_source(tar), open_source(str(tmp_path / "{x,x}.tar"))):
        assert {key.rpartition("/")[2]: c for key, (c, _) in seen(source).items()} == {"a.png": "blue", "b.png": "lime"}
        assert reasons(source) == {f"{tar}::a.png": "a later member of this name takes its place"}


def test_links_of_a_tar_are_what_they_lead_to_or_listed(tmp_path: Path) -> None:
    hard, soft, pipe = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE
    tar = make_tar(
        tmp_path / "x.tar",
        [
            ("p/early.png", (soft, "../q/late.png")), ("p/a.png", png("red")), ("p/hard.png", (hard, "p/a.png")),
            ("q/late.png", png("blue")), ("q/chain.png", (soft, "../p/early.png")), ("q/blob.png", (soft, "data")),
            ("q/data", png("lime")), ("q/lost.png", (soft, "nowhere.png")), ("q/self.png", (soft, "self.png")),
            ("q/out.png", (soft, "/etc/x.png")), ("q/pipe.png", (pipe, "")), ("q/lost_hard.png", (hard, "none.png")),
        ],
    )  # fmt: skip
    source = open_source(tar)
    assert {key: c for key, (c, _) in seen(source).items()} == {
        "p/a.png": "red", "p/hard.png": "red", "p/early.png": "blue", "q/late.png": "blue", "q/chain.png": "blue",
        "q/blob.png": "lime",
    }  # fmt: skip
    listed = {key.rpartition("/")[2] for key in reasons(source)}
    assert listed == {"lost.png", "self.png", "out.png", "pipe.png", "lost_hard.png"}


@pytest.mark.parametrize("format", ["gnu", "0.0", "1.0"])
def test_a_sparse_member_is_listed_and_what_follows_is_read(format: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    info = tarfile.TarInfo("holes.png" if format != "1.0" else "GNUSparseFile.1/holes.png")
    info.size = 1024
    if format == "gnu":
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        block[156:157], block[482] = b"S", 1
        total = sum(block[:148]) + sum(block[156:]) + 8 * 32
        block[148:156] = b"%06o\0 " % total
        more = bytearray(512)
        more[504] = 0
        buffer.write(bytes(block) + bytes(more) + bytes(1024))
        archive.offset = buffer.tell()
    else:
        info.pax_headers = (
            {"GNU.sparse.major": "1", "GNU.sparse.name": "holes.png"}
            if format == "1.0"
            else {"GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1"}
        )
        archive.addfile(info, io.BytesIO(bytes(1024)))
    after = tarfile.TarInfo("after.png")
    after.size = len(png("red"))
    archive.addfile(after, io.BytesIO(png("red")))
    archive.close()
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    source = open_source(tmp_path / "x.tar")
    assert source.keys == ["after.png"]
    assert reasons(source) == {f"{tmp_path / 'x.tar'}::holes.png": "a file with holes: pack it again without --sparse"}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab./\\ é\n\",#'\udce9"), min_size=1, max_size=12), min_size=1, max_size=8))
def test_any_names_of_members_give_unique_keys_and_lose_nothing(names: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        members: list[tuple[str, bytes | tuple[bytes, str]]] = [(f"{n}.png", png("red")) for n in [*names, "last"]]
        source = open_source(make_tar(Path(folder) / "x.tar", members))
        assert len(set(source.keys)) == len(source.keys)
        assert all(source.read(index).shape == (8, 8, 3) for index in range(len(source)))
        for key in source.keys:
            key.encode()
            assert not {".", "..", ""} & set(key.split("/"))
        hidden = sum(any(p.startswith(".") for p in inside(f"{name}.png").split("/")) for name in names)
        assert len(source) + len(source.problems) + hidden >= len(names) + 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "b", "a#2#2"]), max_size=12))
def test_keys_are_unique_by_construction(names: list[str]) -> None:
    keys = list(unique(names))
    assert len(set(keys)) == len(keys)
    firsts = [keys[names.index(name)] for name in set(names)]
    assert sorted(firsts) == sorted(set(names))  # the first of a name has it


# --------------------------------------------------------------------------------------------------- tables inside tars

TABLES: list[tuple[str, str, list[list[str]], bool]] = [
    ("photos/labels.csv", "path,label\ncat/0.png,cat\ndog/0.png,dog\n", [["cat"], ["dog"]], False),
    ("labels.csv", "path,label\nphotos/cat/0.png,c\nphotos/dog/0.png,d\n", [["c"], ["d"]], False),
    ("labels.csv", "file_name,label\n./cat/0.png,c\ncat//0.png,c\n", [["c"], []], False),
    ("labels.csv", "path,label\n0.png,x\n", [["cat"], ["dog"]], True),
    ("photos/labels.csv", "path,label\ncat/0.png,a\ncat/0.png,b\ndog/0.png,d\n", [[], ["d"]], True),
    ("photos/labels.csv", 'path,label\ncat/0.png,"a\n', [["cat"], ["dog"]], True),
    ("photos/labels.csv", "path,label\ncat/0.png,a,b\ndog/0.png,d\n", [[], ["d"]], True),
    ("photos/labels.csv", "Path , Label\r\ncat\\0.png, a \r\n", [["a"], []], False),
    ("photos/labels.csv", "path,label\ncat/0.png,3.0\ndog/0.png,nan\n", [["3"], []], False),
    ("photos/labels.csv", "path,label\n../photos/cat/0.png,c\n", [["c"], []], False),
]


@pytest.mark.parametrize(("table", "content", "expected", "listed"), TABLES)
def test_tables_in_tars_name_photos_in_full(
    table: str, content: str, expected: list[list[str]], listed: bool, tmp_path: Path
) -> None:
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("photos/cat/0.png", png("red")), (table, content.encode()), ("photos/dog/0.png", png("blue")),
    ]  # fmt: skip
    source = open_source(make_tar(tmp_path / "x.tar", members))
    assert source.keys == ["cat/0.png", "dog/0.png"]
    assert labels_of(source) == expected
    assert bool(source.problems) == listed


def test_a_table_that_contradicts_an_earlier_one_is_left_out(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("a.png", png("red")), ("b.png", png("blue")), ("1.csv", b"path,label\na.png,x\n"),
        ("2.csv", b"path,label\nb.png,y\n"), ("3.csv", b"path,label\nb.png,z\na.png,x\n"), ("4.csv", b"\xff\xfe"),
    ]  # fmt: skip
    source = open_source(make_tar(tmp_path / "x.tar", members))
    assert {key: labels for key, (_, labels) in seen(source).items()} == {"a.png": ["x"], "b.png": ["y"]}
    assert [key.rpartition("::")[2] for key in reasons(source)] == ["3.csv", "4.csv"]


def test_labels_beside_photos_go_by_their_whole_name(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("z/0.png", png("lime")), ("z/0.cls", b"3\n4\n"),
        ("./x/0.png", png("red")), ("x/0.cls", b"3\n"), ("y/0.png", png("blue")), ("y/0.cls", b"caf\xe9"),
    ]  # fmt: skip
    source = open_source(make_tar(tmp_path / "x.tar", members))
    assert seen(source) == {
        "x/0.png": ("red", ["3"]), "y/0.png": ("blue", ["caf\\xe9"]), "z/0.png": ("lime", []),
    }  # fmt: skip
    assert reasons(source) == {f"{tmp_path / 'x.tar'}::z/0.cls": "no label is taken from it: it has several lines"}


# ------------------------------------------------------------------------------------------------------- tars that lie


def changed(content: bytes, **fields: bytes) -> bytes:
    """A tar with other fields in its first header, and the checksum that fits them."""
    block = bytearray(content)
    if "size" in fields:
        block[124 : 124 + len(fields["size"])] = fields["size"]
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:512]) + 8 * 32)
    return bytes(block)


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80\0\0\0\0\0\0\x0f\xff\xff\xff\xff", b"00000777777\0"]
)
def test_a_size_that_lies_is_a_line(size: bytes, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "x.tar", [("a.png", png("red")), ("b.png", png("blue"))])
    tar.write_bytes(changed(tar.read_bytes(), size=size))
    with pytest.raises(S2R2Error, match=r"the tar ends before a\.png does"):
        open_source(tar)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60)
    | st.sampled_from([b"99999999999 path=x\n", b"0 a=b\n", b"5 a=b\n", b"-6 a=b\n", b" 6 a=b\n"])
)
def test_any_extended_header_is_read_or_a_line(content: bytes) -> None:
    found, blocks = 0, b""
    for kind, body in ((tarfile.XHDTYPE, content), (tarfile.REGTYPE, b"x")):
        info = tarfile.TarInfo("a.png")
        info.type, info.size = kind, len(body)
        blocks += info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")
    blocks += bytes(1024)
    try:
        found = len(list(headers(lambda offset, size: blocks[offset : offset + size], len(blocks))))
    except DamagedTar:
        return
    assert found == 1


def test_a_tar_that_was_cut_off_says_so(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "x.tar", [(f"{n}.png", png(c)) for n, c in enumerate(COLOURS)])
    whole = tar.read_bytes()
    for cut in (512 * 4, 512 * 5, 512 * 5 + 300):
        tar.write_bytes(whole[:cut])
        source = open_source(tar)
        assert 0 < len(source) < len(COLOURS)
        assert "damaged" in reasons(source)[str(tar)]


def test_tars_one_behind_another_are_all_read(tmp_path: Path) -> None:
    tars = [make_tar(tmp_path / f"{c}.tar", [(f"{c}.png", png(c))]).read_bytes() for c in COLOURS]
    (tmp_path / "all.tar").write_bytes(b"".join(tars))
    source = open_source(tmp_path / "all.tar")
    assert sorted(source.keys) == sorted(f"{c}.png" for c in COLOURS)
    assert source.problems == []


@pytest.mark.slow
def test_a_large_extended_header_takes_time_in_proportion_and_a_larger_one_is_refused(tmp_path: Path) -> None:
    import time

    def opened(records: int) -> float:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {f"k{i}": "v" for i in range(records)}
        info.size = len(png("red"))
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(info, io.BytesIO(png("red")))
        began = time.monotonic()
        assert open_source(tmp_path / "x.tar").keys == ["a.png"]
        return time.monotonic() - began

    opened(10)
    assert opened(80_000) < 2.0  # the square of this took half a minute
    with pytest.raises(S2R2Error, match="an extended header at byte 0 of"):
        opened(150_000)


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_every_photo_of_a_folder_is_read_or_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for folder in (
        "sub",
        "@eaDir/a.png",
        ".hidden",
        "#recycle",
        "__MACOSX",
    ):
        os.makedirs(photos / folder)
    for name in (
        "a.png",
        "sub/B.PNG",
        "blank.png ",
        "@eaDir/a.png/t.png",
        ".hidden/h.png",
        "#recycle/r.png",
        "._a.png",
    ):
        (photos / name).write_bytes(png("red"))
    unread = ["x.heic", "x.jxl", "x.DNG", "x.psd", "x.svg", "x.mp4", "x.zip", "x.tar", "sub/y.CR2"]
    for name in (*unread, "notes.txt", "a.xmp", "list.csv"):
        (photos / name).write_bytes(b"?")
    os.mkfifo(photos / "pipe.png")
    for name, target in (
        ("self.png", "self.png"),
        ("round", "round"),
        ("up", "."),
        ("none.png", "none"),
        ("in", "sub"),
    ):
        (photos / name).symlink_to(target)
    source = open_source(photos)
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert sorted(store.keys) == ["a.png", "blank.png ", "sub/B.PNG"]
    listed = {entry.key: entry.reason for entry in store.skipped}
    assert set(listed) == {*unread, "pipe.png", "self.png", "round", "up", "none.png", "in"}
    assert listed["x.jxl"] == "JXL is not read: convert it to JPEG, PNG or WebP"
    assert all(listed.values())


def test_pictures_of_runs_inside_the_folder_are_no_photos(tmp_path: Path) -> None:
    """Who trains there would find them at the resume, which refuses other photos, and labels would be lost."""
    run, judged = RunFolder(tmp_path / "runs/mine"), RunFolder(tmp_path / "judged")
    for path in (tmp_path / "a/1.png", tmp_path / "b/2.png", run.views_file, judged.path / FOLDER / "0.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png("red"))
    for path in (run.config_file, judged.evaluation_file):
        path.touch()
    source = open_source(tmp_path)
    assert (list(source.keys), source.problems) == (["a/1.png", "b/2.png"], [])
    assert source.labels is not None
    assert list(open_source(run.path).keys) == ["views.png"]  # asked for by name


def test_folders_deeper_than_any_stack_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "/".join("d" * 200)
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png("red"))
    depth = len(inspect.stack())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 100)
    try:
        found = open_source(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


def test_a_folder_of_tars_lists_what_is_not_in_them(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        make_tar(tmp_path / name, [(f"{name}.png", png("red"))])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c.tar").write_bytes(b"?")
    (tmp_path / "x.JXL").write_bytes(b"?")
    source = open_source(tmp_path)
    assert sorted(source.keys) == ["a/a.tar.png", "b/b.tar.png"]
    assert set(reasons(source)) == {"sub/c.tar", "x.JXL"}


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.parametrize("name", ["x.csv", "x.tar", "x.parquet", "x\0.csv", "n" * 300])
def test_what_is_no_file_is_a_line(name: str, tmp_path: Path) -> None:
    if "\0" not in name and len(name) < 100:
        os.mkfifo(tmp_path / name)
    with pytest.raises(S2R2Error):
        open_source(f"{tmp_path}/{name}")


def test_a_kept_list_of_members_that_is_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    make_tar(tmp_path / "s-0.tar", [("a.png", png("red")), ("x.jxl", b"?"), ("b.png", png("blue"))])
    pattern = str(tmp_path / "s-{0..0}.tar")
    first = open_source(pattern)
    (kept,) = (tmp_path / "cache/shards").iterdir()
    content = kept.read_bytes()
    for place in range(0, len(content), 7):
        kept.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        again = open_source(pattern)
        assert (again.keys, reasons(again)) == (first.keys, reasons(first))
        assert [again.place(index) for index in range(2)] == [first.place(index) for index in range(2)]
        assert kept.read_bytes() == content
    assert reasons(first) == {f"{tmp_path / 's-0.tar'}::x.jxl": "JXL is not read: convert it to JPEG, PNG or WebP"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes such names")
def test_names_that_are_no_utf8_are_read_labeled_and_listed(tmp_path: Path) -> None:
    photos = tmp_path / os.fsdecode(b"ph\xe9tos")
    for folder in (os.fsdecode(b"caf\xe9"), "caf\\xe9", "dog"):
        (photos / folder).mkdir(parents=True)
        (photos / folder / os.fsdecode(b"\xff.png")).write_bytes(png("red"))
        (photos / folder / os.fsdecode(b"\xfe.png")).write_bytes(b"damaged")
    source = open_source(photos)
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert sorted(store.keys) == ["caf\\xe9/\\xff.png", "caf\\xe9/\\xff.png#2", "dog/\\xff.png"]
    assert len(set(store.image_ids.tolist())) == 3
    assert store.labels is not None
    write_skipped(tmp_path / "skipped.csv", store.skipped)
    assert len((tmp_path / "skipped.csv").read_text("utf-8").splitlines()) == 4
    for text in (source.name, source.fingerprint, *source.keys, *map(source.location, range(len(source)))):
        text.encode()


# ----------------------------------------------------------------------------------------------------------- manifests


def manifest(folder: Path, content: str | bytes, name: str = "list.csv") -> ImageSource:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return open_source(folder / name)


def labels_of(source: ImageSource) -> list[list[str]]:
    return [[]] * len(source) if source.labels is None else source.labels.lists()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3.0", "", "4.0"], [["3"], [], ["4"]]),
        (["3", "nan", "4"], [["3"], [], ["4"]]),
        (["3.5", "NaN", "4.0"], [["3.5"], [], ["4.0"]]),
        (["1.0", "2.0", "1.5"], [["1.0"], ["2.0"], ["1.5"]]),
        (["007", "1e3", "None", "true", "nan"], [["007"], ["1e3"], ["None"], ["true"], ["nan"]]),
        ([" cat ", "", "a; b;;a"], [["cat"], [], ["a", "b", "a"]]),
    ],
)
def test_cells_of_labels(cells: list[str], expected: list[list[str]]) -> None:
    assert label_lists(cells, "list.csv") == expected


def test_rows_are_read_as_people_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    import unicodedata

    accent = unicodedata.normalize("NFD", "é.png")
    for name in ("sub/a.png", "home/h.png", accent, "a\nb.png", 'q",x.png', "back\\slash.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png("red"))
    source = manifest(
        tmp_path,
        "\ufeffPath , LABEL\r\nsub\\a.png,x\r\n sub/a.png ,y \r\n~/h.png,\r\n,\r\n\u00e9.png,z\r\n"
        f'"a\nb.png",n\r\n"q"",x.png",q\r\nback\\slash.png,s\r\nfile://{tmp_path}/sub/a.png,f\r\n',
    )
    assert {colour(source.read(index)) for index in range(len(source))} == {"red"}
    assert labels_of(source) == [["x"], ["y"], [], ["z"], ["n"], ["q"], ["s"], ["f"]]
    assert source.problems == []
    assert PixelStore.build(source, None, tmp_path / "stores", progress=False).decoded == 8


def test_one_bad_row_is_one_skip(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "x.heic").write_bytes(b"?")
    (tmp_path / "sub").mkdir()
    bad = [
        "a, b.png,cat", " ,dog", "none.png,x", "x\0.png,x", "sub,x", f"{'n' * 300}.png,x", "ftp://x/a.png,x",
        "http://[/a.png,x", "zip://a::http://x/b.zip,x", "::file:///a.png,x", "://a.png,x", "x.heic,x",
    ]  # fmt: skip
    for row in bad:
        source = manifest(tmp_path, f"path,label\na.png,cat\n{row}\na.png,dog\n")
        store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
        assert store.keys == ["a.png", "a.png#2"], row
        assert store.labels is not None
        assert store.labels.lists() == [["cat"], ["dog"]]
        (skipped,) = store.skipped
        assert skipped.reason
    everything = manifest(tmp_path, "path,label\na.png,cat\n" + "\n".join(bad) + "\n")
    store = PixelStore.build(everything, None, tmp_path / "stores", progress=False)
    assert (len(store), len(store.skipped)) == (1, len(bad))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'path,label\na.png,"cat\nb.png,dog\n', r"from line 2 on \(a quote is not closed\)"),
        (b'path,label\na.png,"cat\nb.png,dog"\n', "runs over several lines: close its quote"),
        (b'path,label\n"a".png,cat\n', "from line 2 on"),
        (b"path;label\na.png;cat\n", "separate its columns by commas"),
        (b"path\tlabel\na.png\tcat\n", "separate its columns by commas"),
        ("path,label\na.png,x\n".encode("utf-16"), "not UTF-8"),
        (b"path,label\na.png,caf\xe9\n", r"line 2: 'caf\\+xe9' is not UTF-8"),
        (b"path,label\ncaf\xe9.png,x\n", "line 2: .* is not UTF-8"),
        (b"path,label,Label \na.png,x,y\n", "two columns named label: rename one"),
        (b"Path,path\na.png,b.png\n", "two columns named path: rename one"),
        (b"a.png,cat\nb.png,dog\n", "no column named path"),
        (b"path,label\n\n , \n,\n", "lists no images"),
        (b"label,path\nx,\ny, \n", r"lists no images.*\(list\.csv, line 2: it names no file\)"),
        (b"path,label\n" + b"x" * 200_000 + b",y\n", "from line 2 on"),
    ],
)
def test_a_table_that_cannot_be_told_apart_is_a_line(content: bytes, line: str, tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match=line) as raised:
        manifest(tmp_path, content)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes such names")
def test_a_table_names_files_that_are_no_utf8(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"caf\\xe9.png"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(png("red" if b"\\" not in name else "blue"))
    source = manifest(tmp_path, b"path,label\ncaf\xe9.png,x\ncaf\\xe9.png,y\n")
    assert seen(source) == {"caf\\xe9.png": ("red", ["x"]), "caf\\xe9.png#2": ("blue", ["y"])}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pyarrow.array([3, None, 4]), [["3"], [], ["4"]]),
        (pyarrow.array([3.0, None, float("nan")]), [["3"], [], []]),
        (pyarrow.array([0.5, None, 2.0]), [["0.5"], [], ["2.0"]]),
        (pyarrow.array([b"cat", None, b"dog"]), [["cat"], [], ["dog"]]),
        (pyarrow.array(["cat", None, "cat"]).dictionary_encode(), [["cat"], [], ["cat"]]),
        (pyarrow.array([["a;b", None], [], ["c"]]), [["a;b"], [], ["c"]]),
        (pyarrow.array([[1.5, float("nan")], None, [2.0]]), [["1.5"], [], ["2.0"]]),
        (pyarrow.array([True, None, False]), [["True"], [], ["False"]]),
        (pyarrow.nulls(3), [[], [], []]),
    ],
)
def test_parquet_columns_of_any_type(labels: pyarrow.Array, expected: list[list[str]], tmp_path: Path) -> None:
    table = pyarrow.table({"path": ["a.png", "b.png", "c.png"], "label": labels})
    parquet.write_table(table, tmp_path / "list.parquet")
    assert labels_of(open_source(tmp_path / "list.parquet")) == expected


@pytest.mark.parametrize("column", ["path", "label"])
def test_parquet_columns_that_hold_no_names_are_a_line(column: str, tmp_path: Path) -> None:
    columns = {"path": ["a.png"], "label": ["x"], column: [{"bytes": b"?", "path": "a.png"}]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    with pytest.raises(S2R2Error, match=f"its column {column} holds struct.*: it must be text"):
        open_source(tmp_path / "list.parquet")


CELLS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["a.png", "", " ", '"', "a\\b", "~/", "nan", "3.0", "../a.png", "http://x", "\0", "a;b", "\n"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=0, max_size=4), max_size=8))
def test_any_rows_are_images_skips_or_a_line(rows: list[list[str]]) -> None:
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "list.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "label"], *rows])
        try:
            source = open_source(Path(folder) / "list.csv")
        except S2R2Error:
            return
        written = [row for row in rows if any(cell.strip() for cell in row)]
        assert len(source) + len(source.problems) == len(written)
        assert len(set(source.keys)) == len(source)
        for index in range(len(source)):
            source.location(index).encode()
            with pytest.raises(S2R2Error):
                source.read(index)


@pytest.mark.parametrize("name", ["a", "caf\udce9", "\ud800x", "é"])
def test_printable_names_are_utf8_and_told_apart(name: str) -> None:
    printable(name).encode()
    assert printable(printable(name)) == printable(name)


def test_addresses_of_other_kinds_are_read_where_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/kinds/a.png", png("red"))
    source = manifest(tmp_path, "path\nmemory://kinds/a.png\n")
    assert colour(source.read(0)) == "red"
    monkeypatch.delenv("S2R2_PROTOCOLS")
    with pytest.raises(S2R2Error, match="set S2R2_PROTOCOLS=memory if you trust"):
        source.read(0)
    with pytest.raises(S2R2Error, match="set S2R2_PROTOCOLS=memory if you trust"):
        open_source("memory://kinds/x.tar")


def test_a_damaged_photo_at_an_address_is_one_skip_and_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number in range(5):
        memory.pipe_file(f"/damaged/{number}.png", png("red") if number != 2 else b"damaged")
    source = manifest(tmp_path, "path\n" + "".join(f"memory://damaged/{n}.png\n" for n in range(5)))
    fetched: list[str] = []
    cat = type(memory).cat_file
    monkeypatch.setattr(
        type(memory), "cat_file", lambda self, path, *a, **k: (fetched.append(path), cat(self, path, *a, **k))[1]
    )
    store = PixelStore.build(source, None, tmp_path / "stores", progress=False)
    assert len(store) == 4
    assert [entry.key for entry in store.skipped] == ["memory://damaged/2.png"]
    assert len(fetched) == 5
