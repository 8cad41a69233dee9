"""Tar shards: every tar that Python writes is indexed as Python reads it, on disk and at an address."""

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images import DirectImages, PixelStore, open_source
from s2r2.images.sources.kinds import shards as module
from s2r2.images.sources.tar_headers import FILE, headers
from s2r2.images.sources.tars import TarSource

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def jpeg(number: int) -> bytes:
    generator = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes, time: float = 0.0) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), time  # type: ignore[assignment]
    archive.addfile(member, io.BytesIO(content))


def shard(first: int, count: int = 3, *, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A shard as WebDataset writes it: an image, its class and more beside it, times with fractions."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for number in range(first, first + count):
            add(archive, f"{number:06d}.jpg", jpeg(number), 1.5)
            add(archive, f"{number:06d}.cls", str(number % 2).encode(), 1.5)
            add(archive, f"{number:06d}.json", b"{}", 1.5)
    return buffer.getvalue()


def write_shards(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        (folder / f"shard-{number:03d}.tar").write_bytes(shard(3 * number, format=FORMATS[number]))
    return folder


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_python_finds(format: int) -> None:
    buffer = io.BytesIO()
    long = "f/" * 30 + "name"
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name in ("a.jpg", long, "f/" * 40 + "x.jpg", "photo of a cat.jpg"):
            add(archive, name, name.encode() * 100, 1.5)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
        if format != tarfile.USTAR_FORMAT:
            add(archive, "ü" * 200 + ".jpg", b"x" * 513)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        add(archive, "empty.jpg", b"")
    content = buffer.getvalue()
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
    found = headers(lambda offset, size: content[offset : offset + size], len(content))
    assert [(h.name, h.offset, h.size) for h in found if h.kind == FILE] == expected


def test_a_folder_a_pattern_and_an_address_give_the_same_images(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    places = [
        folder, folder / "shard-{000..002}.tar", folder / "shard-{000,001,002}.tar", folder / "*.tar",
        "memory://bucket/shard-{000..002}.tar", "memory://bucket/*.tar",
    ]  # fmt: skip
    for place in places:
        source = open_source(place if isinstance(place, Path) else str(place))
        assert isinstance(source, TarSource)
        assert [key.partition("/")[2] for key in source.keys] == [f"{n:06d}.jpg" for n in range(9)]
        assert source.keys[4] == "shard-001/000004.jpg"
        assert source.labels is not None
        assert source.labels.lists() == [[str(n % 2)] for n in range(9)]
        for number in range(9):
            np.testing.assert_array_equal(source.read(number), np.asarray(Image.open(io.BytesIO(jpeg(number)))))
        assert source.location(4).endswith("shard-001.tar::000004.jpg")


def test_one_tar_has_the_classes_beside_its_images_as_labels(tmp_path: Path) -> None:
    (tmp_path / "one.tar").write_bytes(shard(0))
    labels = open_source(tmp_path / "one.tar").labels
    assert labels is not None
    assert labels.lists() == [["0"], ["1"], ["0"]]


def test_a_store_of_remote_shards_holds_what_direct_images_read(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/stored/a-0.tar", shard(0, 6))
    source = open_source("memory://stored/a-0.tar")
    store = PixelStore.build(source, 20, tmp_path, progress=False)
    direct = DirectImages(source, 20)
    assert store.labels is not None
    for index in range(6):
        np.testing.assert_array_equal(store[index], direct[index])
    assert PixelStore.build(source, 20, tmp_path, progress=False).decoded == 0


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards")
    first = open_source(folder)
    monkeypatch.setattr("s2r2.images.sources.tar_index._build", lambda *_: pytest.fail("read again"))
    again = open_source(folder)
    assert again.keys == first.keys
    np.testing.assert_array_equal(again.read(5), first.read(5))
    assert again.labels is not None
    assert first.labels is not None
    assert again.labels.lists() == first.labels.lists()
    monkeypatch.undo()
    (folder / "shard-001.tar").write_bytes(shard(20, 4))
    changed = open_source(folder)
    assert len(changed) == 10
    assert changed.keys[3] == "shard-001/000020.jpg"
    for kept in (tmp_path.parent / "s2r2-cache" / "shards").glob("*.arrow"):
        kept.write_bytes(kept.read_bytes()[:100])
    assert open_source(folder).keys == changed.keys


def test_a_damaged_shard_costs_what_follows(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    path = folder / "shard-001.tar"
    content = bytearray(path.read_bytes())
    second = content.index(b"000004.jpg")
    content[second : second + 50] = b"?" * 50
    path.write_bytes(content)
    source = open_source(folder)
    assert len(source) == 7
    (problem,) = source.problems
    assert problem.key.endswith("shard-001.tar")
    assert "damaged: no tar header at byte" in problem.reason
    path.write_bytes(shard(3)[: second + 200])  # cut short within an image
    cut = DirectImages(open_source(folder), None)
    assert sum(cut[index] is not None for index in range(len(cut))) == 7


def test_what_is_no_shard_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    folder = write_shards(tmp_path / "shards")
    (folder / "shard-003.tar").write_bytes(gzip.compress(shard(0)))
    with pytest.raises(S2R2Error, match=r"shard-003\.tar is no uncompressed tar"):
        open_source(folder)
    with pytest.raises(S2R2Error, match=r"is no \.tar"):
        open_source(f"{folder}/shard-{{000..003}}.tar.gz")
    with pytest.raises(S2R2Error, match=r"cannot read the shard .*shard-009\.tar: No such file"):
        open_source(f"{folder}/shard-{{000,009}}.tar")
    with pytest.raises(S2R2Error, match="stands for no file"):
        open_source(f"{folder}/nothing-*.tar")
    with pytest.raises(S2R2Error, match=r"write the numbers of shards as \{000\.\.099\}"):
        open_source(f"{folder}/shard-{{9..1}}.tar")
    with pytest.raises(S2R2Error, match=r"cannot read the shard memory://none\.tar: No such file"):
        open_source("memory://none.tar")
    with pytest.raises(S2R2Error, match=r"nosuch://x\.tar: addresses of the kind nosuch:// are not read"):
        open_source("nosuch://x.tar")
    with pytest.raises(S2R2Error, match="addresses of the kind nosuch:// are not read"):
        open_source(f"nosuch://x.tar?signature={'0' * 5_000}")  # longer than a file's name can be
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(S2R2Error, match=r"needs fsspec: pip install 's2r2\[s3\]'"):
        open_source("s3://bucket/shard-{000..009}.tar")


def test_braces_combine() -> None:
    assert module._braces("a{8..11}-{x,y}.tar") == [f"a{n}-{c}.tar" for n in (8, 9, 10, 11) for c in "xy"]
    assert module._braces("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]


def test_a_damaged_tar_costs_what_follows(tmp_path: Path) -> None:
    content = bytearray(shard(0, 4))
    third = content.index(b"000002.jpg")
    content[third : third + 50] = b"?" * 50
    (tmp_path / "one.tar").write_bytes(content)
    source = open_source(tmp_path / "one.tar")
    assert source.keys == ["000000.jpg", "000001.jpg"]
    (problem,) = source.problems
    assert problem.key.endswith("one.tar")
    assert "damaged: no tar header at byte" in problem.reason
    (tmp_path / "one.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(S2R2Error, match=r"one\.tar is no uncompressed tar"):
        open_source(tmp_path / "one.tar")
