"""Remedies that are named where an index is made, searched and served."""

import re
import shutil
import socket
from functools import partial
from pathlib import Path

import numpy as np
from cases_images import provides
from performing import State, case, choices, command, named, named_command, noise
from PIL import Image
from starlette.testclient import TestClient

from s2r2.encoder import load
from s2r2.images import open_source
from s2r2.search import ImageIndex, update_index, updating as updating_module, write_embeddings
from s2r2.search.backends import base as backends_base
from s2r2.search.backends.base import SearchBackend, register_backend
from s2r2.search.backends.exact import top_k
from s2r2.search.backends.faiss_ivf import FaissSearch
from s2r2.search.backends.lance import LanceSearch
from s2r2.search.ranking_sheet import contact_sheet
from s2r2.search.server import serving
from s2r2.search.server.allowed_hosts import allowed_hosts
from s2r2.search.server.app import create_app
from s2r2.search.server.proxies import parse_proxies
from s2r2.search.server.security import checked_root
from s2r2.system.locking import locked

ENCODER = "untrained:test_resnet"


def indexes(state: State, *words: object, data: object = None, to: object = None) -> str:
    return command(
        "index", ENCODER, data or state.photos, "--index", to or state.tmp / "index", "--device", "cpu", *words
    )


def updates(state: State, **options: object) -> object:
    return update_index(
        state.shared.encoder, open_source(str(state.photos)), state.tmp / "index", progress=False, **options
    )  # type: ignore[arg-type]


def finds(state: State, *words: object) -> str:
    """A search that finds."""
    said = command("search", state.index, *(words or ("a/00.png",)))
    assert ".png" in said
    return said


# Making an index

case("`batch_size={}`: give at least 1", lambda s: updates(s, batch_size=0), lambda s, _: updates(s, batch_size=1))
case(
    "`approximate_from={}`: give a number of photos, 0 or more",
    lambda state: indexes(state, "--approximate-from", -1),
    lambda state, _: indexes(state, "--approximate-from", 0),
)


def busy(state: State) -> object:
    state.index  # noqa: B018 (there)
    state.kept["lock"] = held = locked(state.index / "lock", "writing the index", "wait")
    held.__enter__()
    return indexes(state)


def waited(state: State, said: str) -> None:
    state.kept["lock"].__exit__(None, None, None)
    indexes(state)


case("wait until it has finished$", busy, waited)
case(
    "cannot write the index {}: {}choose another `folder`",
    lambda state: indexes(state, to=state.write("file", "") / "index"),
    lambda state, said: indexes(state, to=state.tmp / "other"),
)


def full(state: State) -> object:
    with state.patch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), /code/x.rs:1")

        patch.setattr(updating_module._Update, "run", fail)
        return indexes(state)


case(
    "cannot write the index {}: {}choose another `folder`",
    full,
    lambda state, said: (indexes(state), indexes(state, to=state.tmp / "other")),
)


def by_another(state: State) -> object:
    return command("index", "untrained:test_vit", state.photos, "--index", state.index, "--device", "cpu")


def rebuilt(state: State, said: str) -> None:
    words = ["index", "untrained:test_vit", state.photos, "--device", "cpu", "--index"]
    command(*words, state.tmp / "other")
    command(*words, state.index, named(r"with (--rebuild),", said))
    finds(state)


case("was made by another encoder ({}): replace it with `rebuild=True`", by_another, rebuilt)


def in_the_other(state: State, said: str) -> None:
    command("index", ENCODER, state.photos, "--index", state.tmp / "other", "--precision", "bfloat16")
    words = named(r"with (--rebuild),", said), "--precision", "bfloat16"
    assert "16 embedded" in indexes(state, *words)


case(
    "is made in {}, not {}: replace it with `rebuild=True`, or choose another `folder`",
    lambda state: [indexes(state), indexes(state, "--precision", "bfloat16")],
    in_the_other,
)
case(
    "`precision={}` is not known: use float32, bfloat16 or auto",
    lambda state: updates(state, precision="half"),
    lambda state, said: [updates(state, precision=choice, rebuild=True) for choice in choices(said)],
)


def away(state: State) -> object:
    """Half of the photos are gone; the index is rebuilt."""
    assert state.index
    shutil.move(state.photos / "b", state.tmp / "b")
    return indexes(state, "--rebuild")


def dropped_or_back(state: State, said: str) -> None:
    assert len(ImageIndex.open(state.index)) == 16  # the old one stays in force
    indexes(state, "--rebuild", named(r"repeat the update with (--drop-missing)", said))
    assert len(ImageIndex.open(state.index)) == 8
    shutil.move(state.tmp / "b", state.photos / "b")
    indexes(state)
    assert len(ImageIndex.open(state.index)) == 16


case("stays in use; if they are gone for good, repeat the update with `drop_missing=True`", away, dropped_or_back)


def kept(state: State) -> object:
    assert state.index
    shutil.move(state.photos / "b", state.tmp / "b")
    return indexes(state)


case(
    "If they are gone for good, repeat the update with `drop_missing=True`",
    kept,
    lambda state, said: (
        indexes(state, named(r"repeat the update with (--drop-missing)", said)),
        one_half(state),
    ),
)


def one_half(state: State) -> None:
    assert len(ImageIndex.open(state.index)) == 8


case(
    "an index cannot be at an address ({}:); use a folder on this machine",
    lambda state: update_index(state.shared.encoder, open_source(str(state.photos)), "s3://bucket/index"),
    lambda state, _: indexes(state),
)
case(
    "the path of an index must be UTF-8 without control characters: choose another",
    lambda state: indexes(state, to=state.tmp / "a\nb"),
    lambda state, _: indexes(state),
)
case(
    "holds other files than an index ({}): choose another `folder`",
    lambda state: indexes(state, to=state.write("full/x.txt", "").parent),
    lambda state, _: indexes(state),
)


# Reading it


def told(state: State, said: str) -> None:
    """The command that the message names, with this library's encoder and photos."""
    words = re.search(r"(index ENCODER DATA --index .*)$", said, re.MULTILINE)[1].split()
    command(*({"ENCODER": ENCODER, "DATA": str(state.photos)}.get(word, word) for word in words))
    command("search", words[-1], "a/00.png")


case("make one with s2r2 index ENCODER DATA --index", lambda s: command("search", s.tmp / "none", "x.png"), told)
case("make one in a new folder with s2r2 index ENCODER", lambda s: command("search", s.photos, "x.png"), told)


def deleted(state: State) -> object:
    index = ImageIndex.open(state.index)
    shutil.rmtree(state.index)
    indexes(state)
    return index.search(noise(0), 3) and index.map()  # type: ignore[attr-defined]


def opened_again(state: State, said: str) -> None:
    assert "open it again" in said
    assert ImageIndex.open(state.index).search(noise(0), 3)


def replaced(state: State) -> object:
    index = ImageIndex.open(state.index)
    for _ in range(2):
        indexes(state, "--rebuild")
    return [index.picture(row) for row in range(len(index))] and index.thumbnail(0)


case("was deleted or replaced: open it again", replaced, opened_again)


def changed_under_its_reader(state: State) -> object:
    index = ImageIndex.open(state.index)
    place = state.photos / "a" / "00.png"
    row = next(row for row in range(len(index)) if index.catalogue.table["key"][row].as_py() == "a/00.png")
    Image.fromarray(noise(99)).save(place)
    indexes(state)
    return index.thumbnail(row)


case("has changed or removed this photo: open it again", changed_under_its_reader, opened_again)


def unreadable(state: State) -> object:
    (state.index / "index.json").unlink()
    (state.index / "index.json").mkdir()
    return finds(state)


def seen_to(state: State, said: str) -> None:
    """A folder where the description was; what was there is put back."""
    place = Path(named(r"cannot read (\S+):", said))
    place.rmdir()
    shutil.copy(state.shared.index / "index.json", place)
    finds(state)


case("check the disk and its permissions", unreadable, seen_to)
case(
    "-k {}: ask for at least 1 photo",
    lambda state: finds(state, "a/00.png", "-k", 0),
    lambda state, _: finds(state, "a/00.png", "-k", 1),
)
case(
    "give one photo, or a key such as",
    lambda state: finds(state, "nothing.png"),
    lambda state, said: (finds(state, named(r"such as (\S+)", said)), finds(state, state.photos / "a" / "00.png")),
)
case(
    "`box={}` lies outside the image of",
    lambda state: finds(state, "a/00.png", "--box", "0,0,99,99"),
    lambda state, said: finds(
        state, "a/00.png", "--box", ",".join(["0", "0", *re.search(r"of (\d+) x (\d+) pixels", said).groups()])
    ),
)

case(
    "`box={}` is for a query of one photo: leave it out",
    lambda state: finds(state, "a/00.png", "a/00.png", "--box", "0,0,9,9"),
    lambda state, _: finds(state, "a/00.png", "a/00.png"),
)
case(
    "a query needs at least one photo to be like",
    lambda state: ImageIndex.open(state.index).search([]),
    lambda state, _: ImageIndex.open(state.index).search(["a/00.png"]),
)
case(
    "a query of {} photos: give at most {}",
    lambda state: finds(state, *["a/00.png"] * 30, *["--less", "a/00.png"] * 3),
    lambda state, said: finds(
        state, *["a/00.png"] * (int(named(r"at most (\d+)", said)) - 3), *["--less", "a/00.png"] * 3
    ),
)
case(
    "--json and --csv: choose one of them; --out writes another form",
    lambda state: finds(state, "a/00.png", "--json", "--csv"),
    lambda state, said: [
        finds(state, "a/00.png", *words) for words in (["--json", "--out", state.tmp / "x.csv"], ["--csv"])
    ],
)
case(
    "`out={}`: give it the ending .csv",
    lambda state: finds(state, "a/00.png", "--out", state.tmp / "x.txt"),
    lambda state, said: [
        finds(state, "a/00.png", "--out", state.tmp / f"x{ending}") for ending in re.findall(r"\.(?:csv|jsonl?)", said)
    ],
)


def searched_for(state: State, *seeds: object) -> str:
    """What the server says of a query of several photos."""
    client = TestClient(create_app([state.index]), base_url="http://localhost")
    answer = client.post("/api/search", json={"more": seeds})
    return str(answer.json().get("error", "answered 200"))


def seed_of(state: State) -> dict[str, object]:
    return {"photo": f"{ImageIndex.open(state.index).catalogue.ids[0]:016x}"}


def seeded(state: State, said: str) -> None:
    size = re.search(r"give (\d+) numbers", said)
    vector = [1.0] * (int(size[1]) if size else ImageIndex.open(state.index).about.dimensions)
    assert searched_for(state, seed_of(state), {"vector": vector}) == "answered 200"


case("give either photo or vector", lambda s: searched_for(s, {**seed_of(s), "vector": [1.0]}), seeded)
case("vector: give {} numbers", lambda s: searched_for(s, {"vector": [1.0]}), seeded)


def boxed(state: State, said: str) -> None:
    Image.fromarray(noise(0, 96)).save(state.tmp / "large.png")
    finds(state, state.tmp / "large.png", "--box", named(r"such as ([\d,]+)", said))


case(
    "`box={}`: give left,top,width,height in pixels",
    lambda state: finds(state, "a/00.png", "--box", "1,2"),
    boxed,
)
case(
    "`threshold={}`: give a similarity between 0 and 1",
    lambda state: command("duplicates", state.index, "--threshold", 2),
    lambda state, _: command("duplicates", state.index, "--threshold", 1),
)


case(
    "`keep={}`: use largest, oldest, newest or path=GLOB, such as path=*/originals/*",
    lambda state: command("duplicates", state.index, "--keep", "biggest"),
    lambda state, said: [
        command("duplicates", state.index, "--keep", keep)
        for keep in ("largest", "oldest", "newest", named(r"such as (\S+)", said))
    ],
)
case(
    "give one of `move_to`, `trash` and `script`",
    lambda state: command("duplicates", state.index, "--keep", "largest", "--trash", "--script", state.tmp / "a.sh"),
    lambda state, _: command("duplicates", state.index, "--keep", "largest", "--script", state.tmp / "a.sh"),
)
case(
    "which photo of each group stays? Add `keep='largest'`, oldest, newest or path=GLOB",
    lambda state: command("duplicates", state.index, "--script", state.tmp / "a.sh"),
    lambda state, said: command(
        "duplicates", state.index, "--script", state.tmp / "a.sh", "--keep", named(r"--keep (\w+)", said)
    ),
)
case(
    "cannot make the folder {}: {}choose another `move_to`",
    lambda state: command(
        "duplicates", state.index, "--keep", "largest", "--move-to", state.write("no folder", "") / "x"
    ),
    lambda state, _: command("duplicates", state.index, "--keep", "largest", "--move-to", state.tmp / "copies"),
)
case(
    "nothing was changed: add `move_to=DIR`, `trash` or `script=FILE`",
    lambda state: command("duplicates", state.index, "--keep", "largest"),
    lambda state, _: command("duplicates", state.index, "--keep", "largest", "--script", state.tmp / "a.sh"),
)


def damaged_thumbnail(state: State) -> object:
    index = ImageIndex.open(state.index)
    with state.patch.context() as patch:
        patch.setattr(ImageIndex, "thumbnail", lambda *_: b"no picture")
        return contact_sheet(index, noise(0), index.search(noise(0), 3))


def sheet_after_rebuilding(state: State, said: str) -> None:
    indexes(state, named(r"with s2r2 index (--rebuild)", said))
    index = ImageIndex.open(state.index)
    contact_sheet(index, noise(0), index.search(noise(0), 3))


case(
    "damaged ({}): rebuild the index with s2r2 index --rebuild",
    damaged_thumbnail,
    sheet_after_rebuilding,
)


# Writing vectors


def embeds(state: State, out: object, *words: object) -> str:
    return command("embed", ENCODER, state.photos, "--out", out, "--device", "cpu", *words)


case(
    "`output={}` is not known: use feature or embedding",
    lambda state: write_embeddings(
        state.shared.encoder, open_source(str(state.photos)), state.tmp / "x.parquet", output="x"
    ),  # type: ignore[arg-type]
    lambda state, said: [
        write_embeddings(
            load(state.shared.run, device="cpu"), open_source(str(state.photos)), state.tmp / "x.parquet", output=choice
        )  # type: ignore[arg-type]
        for choice in choices(said)
    ],
)
case(
    "`batch_size={}`: give at least 1",
    lambda s: embeds(s, "x.parquet", "--batch-size", 0),
    lambda s, _: embeds(s, "x.parquet", "--batch-size", 1),
)
case(
    "give `out` a name that ends in .parquet, .npy or .csv, or `shards` for a folder of parts",
    lambda state: embeds(state, "x"),
    lambda state, said: [
        *(embeds(state, "x" + ending) for ending in re.findall(r"\.(?:parquet|npy|csv)", said)),
        embeds(state, "x", named(r"or (--shards)", said), 2),
    ],
)
case(
    "is a folder: give `out` the name of a file in it",
    lambda state: (state.tmp.joinpath("x.parquet").mkdir(), embeds(state, "x.parquet")),
    lambda state, _: embeds(state, "x.parquet/y.parquet"),
)
case(
    "its folder does not exist or is read-only; choose another `out`",
    lambda state: embeds(state, "nowhere/x.parquet"),
    lambda state, _: embeds(state, "x.parquet"),
)

# Serving

case(
    "give the path that the proxy uses, such as",
    lambda _: checked_root("photos"),
    lambda _, said: checked_root(named(r"such as (\S+)", said)),
)
case("give a path without . and ..", lambda _: checked_root("/a/../b"), lambda _, said: checked_root("/a/b"))
case(
    "the page's own addresses begin like this; choose another",
    lambda _: checked_root("/api"),
    lambda _, said: checked_root("/photos"),
)


def asks(state: State, host: str, *allow: str, path: str = "/", **headers: str) -> str:
    """An answer of the page; what it refuses is raised by nobody, but said."""
    with TestClient(
        create_app([state.index], hosts=allowed_hosts("127.0.0.1", allow)), base_url=f"http://{host}"
    ) as client:
        answer = client.get(path, headers=headers)
        return answer.text if answer.is_error else f"answered {answer.status_code}"


def allowed(state: State, said: str) -> None:
    assert "--allow-host" in said
    host = named(r"by the name '([\w.]+)'", said)
    assert asks(state, host, host) == "answered 200"


case(
    "`proxies`: {} is no address: give the one from which",
    lambda _: parse_proxies(["nginx"]),
    lambda _, said: parse_proxies(re.findall(r"[\d.:/]*\d", said)),
)
case("add it with s2r2 serve --allow-host", lambda state: asks(state, "photos.home"), allowed)


def posted(state: State, *allow: str) -> str:
    """An upload through a proxy that gives the server another name than the page has."""
    with TestClient(
        create_app([state.index], hosts=allowed_hosts("127.0.0.1", allow)), base_url="http://localhost"
    ) as client:
        photo = (state.photos / "a" / "00.png").read_bytes()
        answer = client.post("/api/similar", content=photo, headers={"origin": "http://photos.home"})
        return answer.text if answer.status_code == 403 else f"answered {answer.status_code}"


def page_added(state: State, said: str) -> None:
    assert "--allow-host" in said
    assert posted(state, "photos.home").startswith("answered")


case("if this is the page itself behind a proxy, add its name with", posted, page_added)
case(
    "is not the name of a host: give it as in",
    lambda _: allowed_hosts("127.0.0.1", ["http://photos.home/"]),
    lambda _, said: [
        allowed_hosts("127.0.0.1", [name]) for name in re.findall(r"photos\.home(?::\d+)?", said.rsplit("such as")[-1])
    ],
)


def box_question(state: State, said: str = "") -> str:
    box = re.search(r"as in ([\d.,]+)", said)
    photo = f"{ImageIndex.open(state.index).catalogue.ids[0]:016x}"
    answer = asks(state, "localhost", path=f"/api/similar/{photo}?box={box[1] if box else '1,2'}")
    assert not said or answer == "answered 200", answer
    return answer


case("box: give left,top,width,height in parts of the sides", box_question, box_question)


def listens(host: str = "127.0.0.1", port: int = 0) -> None:
    serving._listen(host, port).close()


case("a port is a number from 0 to 65535", lambda _: listens(port=70000), lambda _, said: listens(port=0))
case(
    "no such address ({}); give one of this machine's",
    lambda _: listens("no.such.host.invalid"),
    lambda _, said: listens(),
)


def taken(state: State) -> object:
    state.kept["socket"] = other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    return listens(port=other.getsockname()[1])


def free_port(state: State, said: str) -> None:
    assert "another `port` or `host`" in said
    port = int(named(r"127\.0\.0\.1:(\d+)", said))
    listens(port=0)
    listens("127.0.0.2", port)
    state.kept["socket"].close()


case("choose another `port` or `host`", taken, free_port)


def no_web(state: State) -> object:
    with state.patch.context() as patch:
        patch.setattr("s2r2.system.extras._is_installed", lambda name: name not in ("fastapi", "uvicorn"))
        return command("serve", state.index)


case("{} needs {}: pip install 's2r2[{}]'$", no_web, lambda _, said: provides(said, "uvicorn", "fastapi"))


def backends(state: State, said: str) -> None:
    for name in choices(said):
        indexes(state, "--backend", name)


case("no search backend {} is registered: use", lambda state: indexes(state, "--backend", "x"), backends)


def no_lancedb(state: State) -> object:
    from s2r2.search.backends import base

    def find(name: str) -> object:
        return None if name == "lancedb" else found(name)

    found = base.importlib.util.find_spec
    with state.patch.context() as patch:
        patch.setattr(base.importlib.util, "find_spec", find)
        return base.get_backend("lancedb")


case("the search backend {} needs {}: pip install", no_lancedb, lambda _, said: provides(said, "lancedb"))


def made_for_another(state: State, said: str) -> None:
    """First the search that needs nothing, then the index that the message asks for."""
    finds(state, "a/00.png", "--backend", named(r"or search with --backend (\w+)", said))
    indexes(state, "--backend", named(r"update it with --backend (\w+) first", said))
    finds(state, "a/00.png", "--backend", "lancedb")


case(
    "or search with `backend='exact'`",
    lambda state: finds(state, "a/00.png", "--backend", "lancedb"),
    made_for_another,
)


def unsearchable(state: State, backend: type[SearchBackend]) -> object:
    assert state.index
    indexes(state, "--backend", backend.name)
    with state.patch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("not found")

        patch.setattr(backend, "_candidates", fail)
        return finds(state, "a/00.png", "--backend", backend.name)


def exact_or_anew(state: State, said: str, backend: type[SearchBackend]) -> None:
    finds(state, "a/00.png", "--backend", named(r"use --backend (\w+),", said))
    indexes(state, "--backend", backend.name, named(r"s2r2 index (--rebuild)", said))
    finds(state, "a/00.png", "--backend", backend.name)


case(
    "names no {}: leave it out",
    lambda state: finds(state, "a/00.png", "--label", ""),
    lambda state, said: finds(state, "a/00.png"),
)
for searching in (LanceSearch, FaissSearch):
    case(
        "cannot search {} ({}): use `backend='exact'`",
        partial(unsearchable, backend=searching),
        partial(exact_or_anew, backend=searching),
    )


def open_to_all(state: State, host: str = "0.0.0.0") -> str:
    state.patch.setattr(serving, "_run", lambda *_: None)
    return command("serve", state.index, "--host", host, "--port", 0)


case(
    "there is no password and no encryption. Use `host='127.0.0.1'`",
    open_to_all,
    lambda state, said: quiet(open_to_all(state, named(r"Use --host (\S+) unless", said))),
)


def quiet(said: str) -> None:
    assert "WARNING" not in said
    assert "serving" in said


class OddEnding(SearchBackend):
    """A backend that writes a file with an ending of its own."""

    name = "odd-ending"
    ending = ".odd"

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> dict[str, float]:
        (folder / f"vectors{cls.ending}").write_bytes(b"1")
        return {}

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return top_k(self.vectors, query, k)


def odd_ending(state: State) -> object:
    register_backend(OddEnding)
    return updates(state, backend="odd-ending")


def usual_ending(state: State, _: str) -> None:
    OddEnding.ending = named(r"(\.bin)", _)
    updates(state, backend="odd-ending")
    backends_base._registered.pop("odd-ending")


case("the search backend wrote {}: give it an ending such as .bin", odd_ending, usual_ending)

case(
    "{}: {}; see s2r2 {} --help",
    lambda state: command("search", state.index, "a/00.png", "--kk", 3),
    lambda state, said: command(*named_command(said)),
)
