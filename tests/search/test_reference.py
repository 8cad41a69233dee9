"""The JSON API keeps its names: what is answered is what its OpenAPI says, on a page that loads nothing."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from s2r2.search import update_index
from s2r2.search.server import answers
from s2r2.search.server.app import create_app

NAMES = (
    "GET /api/about", "GET /api/photos", "GET /api/photos/{identity}", "GET /thumbnail/{identity}",
    "GET /photo/{identity}", "GET /api/similar/{identity}", "POST /api/similar", "POST /api/vector", "GET /api/words",
    "POST /api/search", "GET /api/duplicates", "GET /api/duplicates/script", "POST /api/selections",
    "GET /api/selections/{name}/paths.txt", "GET /api/selections/{name}/photos.csv",
    "GET /api/selections/{name}/photos.zip", "GET /api/marks/{identity}", "POST /api/marks/{identity}",
)  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "search.md"
PHOTO = {"id", "version", "key", "labels", "taken"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of three photos and a copy."""
    root = tmp_path_factory.mktemp("reference")
    (root / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((70, 60), 90).save(root / "photos" / f"{number}.png")
    shutil.copy(root / "photos" / "0.png", root / "photos" / "copy.png")
    update_index("untrained:test_vit", root / "photos", root / "index", progress=False)
    return root / "index"


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app([folder], docs=True, root="/photos"), base_url="http://localhost") as opened:
        yield opened


def body(client: TestClient) -> dict[str, Any]:
    content: dict[str, Any] = client.get("/openapi.json").json()
    return content


def test_names_and_objects_are_these(client: TestClient) -> None:
    """A program relies on them: before you change one, read docs/formats.md."""
    described = body(client)
    assert described["openapi"].startswith("3.1")
    assert described["servers"] == [{"url": "/photos"}]
    routes = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert {f"{method} {path}" for method, path in routes} >= set(NAMES)
    documented = DOCS.read_text()
    for method, path in routes:
        assert f"`{method} {path}`" in documented
    references = set(re.findall(r'"#/components/schemas/(\w+)"', client.get("/openapi.json").text))
    assert references <= described["components"]["schemas"].keys()
    assert {"Seed", "SeveralPhotos", "Selection", "Problem"} <= references
    names = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def fields(kind: type[answers.Answer]) -> set[str]:
    return set(kind.model_fields)


def test_what_is_answered_is_what_is_described(client: TestClient) -> None:
    about = client.get("/api/about").json()
    assert about.keys() == fields(answers.About)
    assert about["indexes"][0].keys() == fields(answers.IndexAbout)
    listed = client.get("/api/photos").json()
    assert listed.keys() == {"total", "photos"}
    photo = listed["photos"][0]
    assert photo.keys() == PHOTO == fields(answers.Photo)
    assert client.get(f"/api/photos/{photo['id']}").json().keys() == fields(answers.PhotoDetails)
    ranking = client.get(f"/api/similar/{photo['id']}").json()
    assert ranking.keys() == {"hits", "milliseconds"}
    assert ranking["hits"][0].keys() == fields(answers.Hit) == PHOTO | {"rank", "score"}
    made = client.post("/api/selections", json={"photos": [photo["id"]]}).json()
    assert made.keys() == fields(answers.Selected)
    asked = {"photo": ranking["hits"][0]["id"], "mark": "right"}
    assert client.post(f"/api/marks/{photo['id']}", params=asked).json() == {"mark": "right"}
    assert client.get(f"/api/marks/{photo['id']}").json() == {"marks": {asked["photo"]: "right"}}
    while (answer := client.get("/api/duplicates")).status_code == 202:
        assert answer.json() == {"working": True}
    assert answer.json().keys() == fields(answers.Copies)
    assert answer.json()["groups"][0]["photos"][0].keys() == fields(answers.Copy)
    for address in ("/api/photos/0", "/api/photos?limit=0", "/nothing"):
        assert client.get(address).json().keys() == {"error"}


def test_the_reference_is_a_page_without_scripts(client: TestClient) -> None:
    page = client.get("/photos/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<style|style=|\son\w+=|https?://", page.text)
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert all(client.get(address).status_code == 200 for address in addresses)
    for text in ("GET /api/similar/{identity}", "array of Hit", "integer from 1 to 500 (60)", "Of length 1."):
        assert text in page.text


def test_it_is_not_there_unless_asked_for(folder: Path) -> None:
    plain = TestClient(create_app([folder]), base_url="http://localhost")
    assert [plain.get(address).status_code for address in ("/docs", "/openapi.json")] == [404, 404]
