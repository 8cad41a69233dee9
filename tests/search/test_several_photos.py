"""Queries of several photos, by the library and by the server: what is found, what is left out, what is refused."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import ImageIndex, update_index
from s2r2.search.backends.exact import ExactSearch
from s2r2.search.server.app import create_app
from s2r2.search.several_photos import MOST_PHOTOS


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_vit")


@pytest.fixture
def index(photo_folder: Path, tmp_path: Path, encoder: Encoder) -> ImageIndex:
    return update_index(encoder, photo_folder, tmp_path / "index", progress=False).index


def by_hand(more: np.ndarray, less: np.ndarray) -> float:
    """The similarity that docs/search.md states."""
    soft = [math.log(sum(math.exp(20 * c) for c in cosines) / len(cosines)) / 20 for cosines in (more, less)]
    return soft[0] - soft[1] / 4


def test_photos_of_the_query_are_not_found(index: ImageIndex, photo_folder: Path) -> None:
    vectors, keys = np.asarray(index.vectors), index.catalogue.table["key"].to_pylist()
    more, less = ["red/0.jpg", "red/3.jpg"], ["blue/1.jpg"]
    hits = index.search(more, 50, less=less)
    assert {hit.key for hit in hits} == set(keys) - {*more, *less}
    rows = {key: vectors[keys.index(key)] for key in keys}
    like, unlike = (np.stack([rows[key] for key in seeds]) for seeds in (more, less))
    scores = [by_hand(like @ rows[hit.key], unlike @ rows[hit.key]) for hit in hits]
    assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    file = str(photo_folder / "red" / "0.jpg")
    assert [hit.key for hit in index.search([file, file], 3)] == [hit.key for hit in index.search(file, 3)]
    assert all(hit.label == "green" for hit in index.search(more, 3, less=less, label="green"))
    for query, away, options in ((more, [], {"box": (0, 0, 9, 9)}), ([], less, {}), (more * 16, less, {})):
        with pytest.raises(S2R2Error, match=r"query of one photo|at least one photo|at most 32"):
            index.search(query, 3, less=away, **options)  # type: ignore[arg-type]


def test_an_approximate_backend_proposes_what_is_near_one_of_the_photos(index: ImageIndex) -> None:
    asked: list[int] = []

    class Nearest(ExactSearch):
        def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append(k)
            return super().search(query, k)

    exact = index.search(["red/0.jpg", "green/3.jpg"], 3, less=["blue/1.jpg"])
    index.backend_name, index.__dict__["backend"] = "nearest", Nearest(index.vectors, index.folder, {})
    assert [hit.key for hit in index.search(["red/0.jpg", "green/3.jpg"], 3, less=["blue/1.jpg"])] == [
        hit.key for hit in exact
    ]
    assert asked == [24, 24]


@pytest.fixture
def client(index: ImageIndex) -> TestClient:
    return TestClient(create_app([index.folder]), base_url="http://localhost")


def asked(client: TestClient, query: Any, **options: Any) -> Any:
    content = json.dumps(query)
    return client.post("/api/search", content=content, params=options, headers={"content-type": "application/json"})


def test_an_upload_loads_the_encoder_once(
    client: TestClient, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once load it once, the page's status says whether it is there, and nobody else waits meanwhile."""
    loads: list[str] = []
    gate = threading.Event()

    def load_slowly(path: object) -> Encoder:
        loads.append(str(path))
        assert gate.wait(20)
        return load(path)  # type: ignore[arg-type]

    monkeypatch.setattr("s2r2.encoder.load", load_slowly)
    content = (photo_folder / "red" / "0.jpg").read_bytes()
    assert client.get("/api/about").json()["indexes"][0]["ready"] is False
    with ThreadPoolExecutor(2) as pool, client:
        headers = {"content-type": "image/jpeg"}
        sent = [pool.submit(client.post, "/api/similar", content=content, headers=headers) for _ in range(2)]
        assert client.get("/api/photos").status_code == 200
        assert not any(answer.done() for answer in sent)
        gate.set()
        assert [answer.result().status_code for answer in sent] == [200, 200]
    assert len(loads) == 1
    assert client.get("/api/about").json()["indexes"][0]["ready"] is True


def test_the_server_ranks_as_the_library_does(client: TestClient, index: ImageIndex, photo_folder: Path) -> None:
    identity = {hit.key: hit.id for hit in index.search("red/0.jpg", 50)}
    content = (photo_folder / "red" / "0.jpg").read_bytes()
    sent = client.post("/api/vector", content=content, headers={"content-type": "image/jpeg"}).json()["vector"]
    query = {"more": [{"vector": sent}, {"photo": identity["red/3.jpg"]}], "less": [{"photo": identity["blue/1.jpg"]}]}
    hits = asked(client, query, k=30).json()["hits"]
    expected = index.search([str(photo_folder / "red" / "0.jpg"), "red/3.jpg"], 30, less=["blue/1.jpg"])
    assert [hit["key"] for hit in hits] == [hit.key for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    part = asked(client, {"more": [{"photo": identity["red/3.jpg"], "box": "0,0,0.5,0.5"}]}, label="blue").json()
    assert {hit["labels"][0] for hit in part["hits"]} == {"blue"}


SEED = {"photo": "0" * 16}
BAD: list[Any] = [
    None, [], {}, {"more": []}, {"more": [{}]}, {"less": [SEED]}, {"more": [SEED] * (MOST_PHOTOS + 1)}, "x",
    {"more": [{"photo": "../../secret.txt"}]}, {"more": [{"photo": "0" * 16, "vector": [1.0]}]},
    {"more": [{"vector": [1.0]}]}, {"more": [{"vector": []}]}, {"more": [{"vector": ["x"]}]},
    {"more": [{"vector": [0.0] * 64}]}, {"more": [{**SEED, "box": "1,2"}]}, {"more": [{**SEED, "of": 2}]},
    {"more": [SEED], "k": 3}, {"more": [{"vector": [1e308] * 64}]},
]  # fmt: skip


@pytest.mark.parametrize("query", BAD)
def test_what_is_no_query_is_refused(client: TestClient, query: Any) -> None:
    answer = asked(client, query)
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]


def test_a_body_is_limited_and_is_json(client: TestClient, index: ImageIndex) -> None:
    kind = {"content-type": "application/json"}
    for content, headers, status in (
        (b"[" * (1 << 20), kind, 422),
        (b" " * ((1 << 20) + 1), kind, 413),
        (b'{"more": [{"vector": [NaN, Infinity]}]}', kind, 422),
        (b"\xff\xfe", kind, 422),
        (b"", kind, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {**kind, "content-encoding": "gzip"}, 415),
        (b"{}", {**kind, "origin": "http://evil.example"}, 403),
    ):
        answer = client.post("/api/search", content=content, headers=headers)
        assert answer.status_code == status, answer.text
