"""Pictures inside an index or a run folder may come from strangers: no decoder that starts a program sees them."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from s2r2.errors import S2R2Error
from s2r2.evaluation.report.contents import read_contents
from s2r2.search.hit import Hit
from s2r2.search.ranking_sheet import contact_sheet

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
PAPER = np.full((40, 50, 3), 200, np.uint8)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)


@pytest.mark.parametrize("thumbnail", [EPS, png(20_000, 20_000), b"", b"no photo"])
def test_thumbnails_of_a_contact_sheet(thumbnail: bytes) -> None:
    index: Any = SimpleNamespace(row=lambda identity: 0, thumbnail=lambda row: thumbnail, folder=Path("x.index"))
    hit = Hit(1, "a.jpg", 0.5, "", "a.jpg", "0" * 16)
    with pytest.raises(S2R2Error, match=r"the thumbnail of a\.jpg in x\.index is damaged .* --rebuild"):
        contact_sheet(index, PAPER, [hit])
    index.thumbnail = lambda row: png(192, 100)
    assert contact_sheet(index, PAPER, [hit]).width > 200


@pytest.mark.parametrize("content", [EPS, png(20_000, 20_000), b"", b"no photo"])
def test_pictures_of_a_run_folder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    for name in ("views.png", "other.png"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(png(20, 10))
    run = read_contents(tmp_path)
    assert run.views is None
    assert run.picture("other.png") is None
    assert run.picture("metrics.jsonl") is None
    assert str(run.picture("good.png")).startswith("data:image/png;base64,")
