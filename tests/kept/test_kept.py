"""Runs, indexes and studies of earlier versions open, resume and search: a small one of each, made by ``make.py``."""

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_backbone
from PIL import Image

from s2r2.cli import main as s2r2
from s2r2.encoder import load
from s2r2.search import ImageIndex
from s2r2.study.claims import Claim
from s2r2.study.local import LocalExecutor

VERSIONS = sorted(path.name.removesuffix(".tar.xz") for path in Path(__file__).parent.glob("*.tar.xz"))
tiny_backbone.register()


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a version has made, in the working folder."""
    with tarfile.open(Path(__file__).parent / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_version_is_kept() -> None:
    assert VERSIONS


def test_a_stopped_run_resumes_to_the_encoder_that_it_would_have_been(kept: Path) -> None:
    before, expected = vectors("stopped"), vectors("finished")
    s2r2(["train", "photos", "--resume", "--out", "stopped"])
    moved, away = np.abs(before - expected).max(), np.abs(vectors("stopped") - expected).max()
    assert away < moved / 20
    assert losses("stopped") == pytest.approx(losses("finished"), rel=0.001)


def vectors(run: str) -> np.ndarray:
    """Of all photos, after the projection head."""
    return load(run).embed(sorted(Path("photos").rglob("*.png")), output="embedding")


def losses(run: str) -> dict[int, float]:
    """Of each step."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_finished_run_trains_longer_is_evaluated_and_reported(kept: Path) -> None:
    figures = Path("finished/evaluation.json")
    before = json.loads(figures.read_text())
    s2r2(["evaluate", "finished", "--train", "photos", "--test", "others"])
    now = json.loads(figures.read_text())
    assert [row["encoder"] for row in now["rows"]] == [row["encoder"] for row in before["rows"]]
    for row, old in zip(now["rows"], before["rows"], strict=True):
        if row["encoder"] != "untrained":  # another torch may draw other first weights
            assert row["figures"]["map"][0] == pytest.approx(old["figures"]["map"][0], abs=1e-4)
    page = Path("finished/report.html").read_text()
    assert "photos" in page
    assert page.count("data:image/") > 3
    s2r2(["train", "photos", "--resume", "--steps", "12", "--out", "finished"])
    assert len(losses("finished")) == 12


def test_an_index_is_searched_and_updated(kept: Path) -> None:
    index = ImageIndex.open("photos.index")
    assert len(index) == 12
    hits = index.search("rings/0.png", 11)
    assert hits[0].score >= hits[-1].score
    assert index.search(np.asarray(Image.open("photos/rings/0.png").convert("RGB")), 1)[0].key == "rings/0.png"
    assert len(index.thumbnail(0)) > 100
    shutil.copy("others/rings/0.png", "photos/rings/new.png")
    s2r2(["index", "finished", "photos", "--index", "photos.index"])
    now = ImageIndex.open("photos.index")
    assert len(now) == 13
    found = {hit.key: hit.score for hit in now.search("rings/0.png", 12)}
    assert found.keys() - {hit.key for hit in hits} == {"rings/new.png"}
    for hit in hits:
        assert found[hit.key] == pytest.approx(hit.score, abs=1e-5)


def values(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Figures without their intervals."""
    return {method: {name: figure["value"] for name, figure in row.items()} for method, row in rows.items()}


def test_a_study_makes_its_page_again_and_runs_nothing_twice(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: LocalExecutor, claims: Sequence[Claim]) -> None:
        raise AssertionError([claim.folder for claim in claims])

    monkeypatch.setattr(LocalExecutor, "start", refuse)
    before = json.loads(Path("study/results.json").read_text())
    s2r2(["compare", "study.yaml", "--out", "study"])
    now = json.loads(Path("study/results.json").read_text())
    for name in ("study", "reference", "cells", "done", "costs", "tuning"):
        assert now[name] == before[name]
    for comparison, old in zip(now["comparisons"], before["comparisons"], strict=True):
        assert (comparison["task"], comparison["images"]) == (old["task"], old["images"])
        for kind in ("figures", "differences"):  # their intervals are those of 1,000 resamples now, not of 300
            assert values(comparison[kind]) == values(old[kind])
    assert "SimCLR" in Path("study/study.html").read_text()
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace("- 1\n", "- 1\n- 2\n", 1))
    with pytest.raises(AssertionError, match="64-seed-2"):  # a seed more is a run more
        s2r2(["compare", "study.yaml", "--out", "study", "--processes", "1"])
