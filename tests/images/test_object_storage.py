"""Photos in object storage, at a server that the tests start: as from the same folder here, and refused in one line."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import preloaded
from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.images import ImageSource, PixelStore, UnreadableImage, open_source
from s2r2.images.remote import Stamp
from s2r2.images.sources import listed_stamps
from s2r2.search import ImageIndex, find_duplicates, update_index
from s2r2.search.duplicates.planning import plan

SMALL = [
    "--backbone=test_resnet",
    "--image-size=32",
    "--views=2",
    "--batch-size=8",
    "--recipe=photos",
    "--head-hidden=16",
    "--embedding-dimensions=8",
    "--threads=2",
    "--device=cpu",
    "--check-every=0",
    "--checkpoint-minutes=0.001",
]


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """A server of S3, in a process of its own."""
    with server() as (process, address):
        yield address
        process.terminate()


class server:
    """A server of S3; leaving it ends it."""

    def __enter__(self) -> tuple[subprocess.Popen[bytes], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    return self.process, f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise AssertionError("the server of S3 has not started")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def access(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> fsspec.AbstractFileSystem:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget()
    return fsspec.filesystem("s3")


def forget() -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    yield access(monkeypatch, endpoint)
    forget()


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(content, "JPEG", quality=95)
    return content.getvalue()


def folder(place: Path, photos: int = 12) -> Path:
    """Photos in two folders; one of them is damaged, and one is twice there."""
    for number in range(photos):
        path = place / "ab"[number % 2] / f"{number:02d} é#.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    (place / "a" / "damaged.jpg").write_bytes(photo(99)[:300])
    (place / "b" / "copy.jpg").write_bytes(photo(0))
    (place / "b" / ".hidden.jpg").write_bytes(photo(1))
    (place / "b" / "film.mp4").write_bytes(b"film")
    return place


def uploaded(store: fsspec.AbstractFileSystem, place: Path, bucket: str) -> str:
    store.mkdir(bucket)
    for path in sorted(place.rglob("*")):
        if path.is_file():
            store.pipe_file(f"{bucket}/photos/{path.relative_to(place).as_posix()}", path.read_bytes())
    return f"s3://{bucket}/photos"


def s2r2(*words: object) -> subprocess.CompletedProcess[str]:
    return preloaded.run("-m", "s2r2", *words)


def test_a_table_needs_a_place_for_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_PROTOCOLS", "memory")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/copied/list.csv", b"path,label\na.jpg,x\n")
    memory.pipe_file("/copied/a.jpg", photo(1))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "file"))
    with pytest.raises(S2R2Error, match=r"^cannot copy memory://copied/list\.csv to .*; set S2R2_CACHE to"):
        open_source("memory://copied/list.csv")
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    assert open_source("memory://copied/list.csv").content(0) == photo(1)
    (copy,) = (tmp_path / "cache" / "tables").rglob("*.csv")
    os.utime(copy, (0, 0))
    memory.pipe_file("/copied/another.csv", b"path\na.jpg\n")
    open_source("memory://copied/another.csv")
    assert not copy.parent.exists()  # nobody has opened that table for long


@pytest.mark.slow
def test_a_bucket_is_as_the_same_folder_here(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    here = folder(tmp_path / "photos")
    address = uploaded(store, here, "same")
    local, remote = open_source(here), open_source(f"{address}/")
    assert list(remote.keys) == list(local.keys)
    assert remote.problems == local.problems
    assert remote.labels is not None
    assert local.labels is not None
    assert remote.labels.lists() == local.labels.lists()

    one, other = (PixelStore.build(source, 32, tmp_path / "stores", progress=False) for source in (local, remote))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [entry.key for entry in other.skipped if "damaged" in entry.key] == ["a/damaged.jpg"]
    assert PixelStore.build(open_source(address), 32, tmp_path / "stores", progress=False).decoded == 0

    encoder = load("untrained:test_resnet", device="cpu")
    rows = []
    for name, source in (("local", local), ("remote", remote)):
        result = update_index(encoder, source, tmp_path / name, progress=False)
        assert [entry.key for entry in result.skipped] == ["b/film.mp4", "a/damaged.jpg"]
        index = ImageIndex.open(tmp_path / name)
        columns = [index.catalogue.table[column].to_pylist() for column in ("key", "label", "bytes", "content")]
        rows.append((columns, index.catalogue.vectors.tobytes(), [index.thumbnail(i) for i in range(len(index))]))
        assert {index.location(row).rpartition("/photos/")[2] for row in range(len(index))} == set(columns[0])
        assert index.original(3) == (here / columns[0][3]).read_bytes()  # what the page shows and packs into a zip
    assert rows[0] == rows[1]
    assert update_index(encoder, open_source(address), tmp_path / "remote", progress=False).kept == 13

    found = find_duplicates(index)
    assert len(found.groups) == 1
    planned = plan(index, found, "largest")
    assert not planned.copies
    assert {why for _, why in planned.left} == {"it is no file on this machine"}

    store.rm(f"same/photos/{columns[0][0]}")
    assert update_index(encoder, open_source(address), tmp_path / "remote", progress=False).dropped == 1


@pytest.mark.slow
def test_tables_and_tars_in_a_bucket(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    address = uploaded(store, folder(tmp_path / "photos"), "tables")
    rows = {"path": ["photos/a/00 é#.jpg", "./photos/a/02 é#.jpg", f"{address}/b/01 é#.jpg", "photos/none.jpg"]}
    table = pa.table(rows | {"label": ["x", "y", "y", "x"], "split": ["train", "test", "test", "train"]})
    content = io.BytesIO()
    parquet.write_table(table, content)
    store.pipe_file("tables/list.parquet", content.getvalue())
    store.pipe_file("tables/list.csv", b"path,label\nphotos/a/00 \xc3\xa9#.jpg,x\n,y\n")

    source = open_source("s3://tables/list.parquet")
    assert source.location(1) == f"{address}/a/02 é#.jpg"
    assert [source.content(i) for i in range(3)] == [photo(0), photo(2), photo(1)]
    with pytest.raises(UnreadableImage, match="No such file"):
        source.content(3)
    assert list(open_source("s3://tables/list.parquet:test").keys) == rows["path"][1:3]
    with pytest.raises(S2R2Error, match=r"no part none; it has train, test"):
        open_source("s3://tables/list.parquet:none")

    listed = open_source("s3://tables/list.csv")
    assert [(p.key, p.reason) for p in listed.problems] == [("list.csv, line 3", "it names no file")]
    assert listed.column("label") == ["x"]
    store.pipe_file("tables/list.csv", b"path\nphotos/a/00 \xc3\xa9#.jpg\nphotos/a/02 \xc3\xa9#.jpg\n")
    assert len(open_source("s3://tables/list.csv")) == 2
    assert len(list((tmp_path / "cache" / "tables").rglob("*.csv"))) == 1  # the copy of the table before is gone
    with pytest.raises(S2R2Error, match=r"^cannot read s3://tables/none\.csv: No such file or directory$"):
        open_source("s3://tables/none.csv")
    store.pipe_file("tables/bad.csv", b"file\nx.jpg\n")
    with pytest.raises(S2R2Error, match=r"^s3://tables/bad\.csv has no column named path"):
        open_source("s3://tables/bad.csv")

    subprocess.run(["tar", "-cf", tmp_path / "s-0.tar", "-C", tmp_path / "photos", "a"], check=True)
    store.pipe_file("tables/tars/s-0.tar", (tmp_path / "s-0.tar").read_bytes())
    tars = open_source("s3://tables/tars")
    assert len(tars) == 7
    assert tars.content(0) in [photo(number) for number in range(0, 12, 2)] + [photo(99)[:300]]


@pytest.mark.slow
def test_what_is_not_there_and_who_may_not_look_is_one_line(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = uploaded(store, folder(tmp_path / "photos", 2), "refused")

    def refused(data: str) -> str:
        forget()
        with pytest.raises(S2R2Error) as refusal:
            open_source(data)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert refused("s3://nobucket/photos") == ("cannot list s3://nobucket/photos: The specified bucket does not exist")
    assert refused("s3://refused/Photos") == (
        "there is nothing at s3://refused/Photos: check the name, in which capitals count"
    )
    assert refused(f"{address}/b/copy.jpg").endswith("no .tar: give the folder that it is in")
    assert open_source(f"{address}/b") is not None
    store.pipe_file("refused/texts/a.txt", b"text")
    assert refused("s3://refused/texts").startswith("no images in s3://refused/texts: looked for ")
    assert refused("https://example.org/photos/").endswith(
        "folders on web servers cannot be listed, name their photos in a table"
    )

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refused(address) == (
        f"no access to {address} (Unable to locate credentials): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "FSSPEC_S3_ANON=true if it is open to all"
    )
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")  # which fsspec reads when it is imported
    count = "from s2r2.images import open_source; print(len(open_source('s3://refused/photos')))"
    open_to_all = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert open_to_all.stdout == "4\n"

    access(monkeypatch, "http://127.0.0.1:9")
    assert "check the network and the server (for s3 AWS_ENDPOINT_URL)" in refused(address)


@pytest.mark.slow
def test_commands_with_a_bucket_and_a_server_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    with server() as (process, endpoint):
        store = access(monkeypatch, endpoint)
        address = uploaded(store, folder(tmp_path / "photos", 40), "commands")
        run, index = tmp_path / "run", tmp_path / "index"
        for words in (
            ("train", address, *SMALL, "--steps=3", "--out", run),
            ("index", run, address, "--index", index),
            ("embed", run, address, "--out", tmp_path / "vectors.parquet"),
            ("evaluate", run, "--test", address),
            ("search", index, tmp_path / "photos" / "a" / "00 é#.jpg", "-k", "2"),
        ):
            done = s2r2(*words)
            assert done.returncode == 0, done.stderr
            if words[0] == "search":
                assert f"{address}/b/copy.jpg" in done.stdout.replace("\n", "")
        assert "a/damaged.jpg" in (run / "skipped.csv").read_text()
        assert "a/damaged.jpg" in (tmp_path / "vectors.skipped.csv").read_text()
        for words in (
            ("train", address, *SMALL, "--out", "s3://commands/run"),
            ("index", run, address, "--index", "s3://commands/index"),
            ("embed", run, address, "--out", "s3://commands/v.parquet"),
            ("export", run, "--out", "s3://commands/e.safetensors"),
        ):
            done = s2r2(*words)
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1, done.stderr
            assert "on this machine" in done.stderr
        lost = ("train", address, *SMALL, "--store=none", "--steps=100000", "--out", tmp_path / "lost")
        going = preloaded.start("-m", "s2r2", *lost)
        deadline = time.monotonic() + 120
        while not (tmp_path / "lost" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        said = "".join(going.communicate(timeout=120))
    assert going.returncode == 2, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"s2r2: cannot reach {address}/"), said
    assert last.endswith("then run the command again"), said
    for words in (("index", run, address, "--index", index), ("embed", run, address, "--out", tmp_path / "v.csv")):
        done = s2r2(*words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"s2r2: cannot reach {address} ("), done.stderr
    assert len(ImageIndex.open(index)) == 41
    with server() as (_, endpoint):
        store = access(monkeypatch, endpoint)
        assert uploaded(store, tmp_path / "photos", "commands") == address
        assert s2r2("index", run, address, "--index", index).returncode == 0
        shorter = 1 + max(step["step"] for step in map(json.loads, (tmp_path / "lost" / "metrics.jsonl").open()))
        resumed = s2r2("train", "--resume", "--out", tmp_path / "lost", f"--steps={shorter}")
        assert resumed.returncode == 0, resumed.stderr


class Requests:
    """Counts what a store is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        kind = fsspec.get_filesystem_class("s3")
        for name in ("call_s3", "_call_s3"):
            monkeypatch.setattr(kind, name, self.counted(getattr(kind, name)))

    def counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counting(system: object, method: str, *words: object, **named: object) -> object:
            self.made.append(method)
            return call(system, method, *words, **named)

        return counting

    def of(self, source: ImageSource) -> tuple[int, int, list[Stamp | None]]:
        """Listings and requests for single files while all stamps are asked for, and the stamps."""
        self.made.clear()
        stamps: list[Stamp | None] = []
        source.prepare_stamps(range(len(source)))
        for index in range(len(source)):
            try:
                stamps.append(source.stamp(index))
            except UnreadableImage:
                stamps.append(None)
        return self.made.count("list_objects_v2"), self.made.count("head_object"), stamps


@pytest.mark.slow
def test_stamps_of_a_table_are_listed_where_that_takes_fewer_requests(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed_stamps, "PAGE", 50)
    store.mkdir("listed")
    names = [f"{folder}/{number:04d} é#.jpg" for folder in ("a", "b") for number in range(75)]
    store.pipe({f"listed/photos/{name}": name.encode() for name in names})
    store.pipe({f"listed/other/{number:04d}.jpg": b"x" for number in range(100)})
    requests = Requests(monkeypatch)

    def table(rows: list[str]) -> ImageSource:
        (tmp_path / "t.csv").write_text("path\n" + "\n".join(f"s3://listed/{row}" for row in rows) + "\n")
        forget()
        return open_source(tmp_path / "t.csv")

    every = [f"photos/{name}" for name in names]
    shuffled = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    listings, heads, stamps = requests.of(table([*shuffled, shuffled[0]]))
    assert (listings, heads) == (3, 0)
    assert stamps[-1] == stamps[0]
    assert len(set(stamps)) == 150
    few = table([*shuffled[:8], "photos/a/none.jpg"])
    for _ in range(2):  # a stamp is given once
        listings, heads, alone = requests.of(few)
        assert heads == 9
        assert alone == [*stamps[:8], None]  # the same, however they were found
    joined = open_source([tmp_path / "t.csv", tmp_path / "t.csv"])
    assert requests.of(joined)[1:] == (18, [*alone, *alone])

    sparse = [f"other/{number:04d}.jpg" for number in range(0, 100, 10)] + every[::20]
    listings, heads, _ = requests.of(table(sparse))
    assert (listings, heads) == (1, len(sparse) - 5)  # it names few, and no more are made
    assert requests.of(table(every[:40] + every[-40:]))[:2] == (2, 0)  # nothing between them is listed
