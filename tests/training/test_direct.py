"""Training without a pixel store: the same run, whatever becomes of the files meanwhile, and with millions of them."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images.store.pixel_store import NO_STORE
from s2r2.runs import RunFolder
from s2r2.training import TrainConfig, loop, train
from s2r2.training.setup import images as stores

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = TrainConfig(
    backbone="test_resnet", image_size=32, views=2, batch_size=8, epochs=2, check_every=1, head_hidden=32,
    embedding_dimensions=16, threads=1, device="cpu", store=NO_STORE,
)  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A manifest of 24 rows over 24 photos, with labels."""
    generator = np.random.default_rng(0)
    for i in range(24):
        pixels = generator.integers(0, 255, (40 + i, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.jpg")
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\n" + "".join(f"{i:02d}.jpg,{i % 2}\n" for i in range(24)))
    return manifest


def figures(folder: Path) -> list[Any]:
    return [entry.get("loss", entry.get("check")) for entry in RunFolder(folder).read_metrics()]


def skipped(folder: Path) -> list[str]:
    with (folder / "skipped.csv").open(newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


def test_the_run_is_that_with_a_store(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(photos, TINY, out=tmp_path / "direct")
    said = capsys.readouterr().out
    assert "store     none (as asked)" in said
    assert "photos    24 of list.csv, 2 labels" in said
    train(photos, dataclasses.replace(TINY, store=tmp_path / "stores"), out=tmp_path / "stored", quiet=True)
    assert figures(tmp_path / "direct") == figures(tmp_path / "stored")
    assert "knn" in figures(tmp_path / "direct")[-1]


@pytest.mark.parametrize("method", ["s2r2", "simclr", "swav"])
def test_files_that_go_during_a_run_are_left_out(
    method: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = loop._Run._backward
    steps: list[int] = []

    def lose_files(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            (tmp_path / "03.jpg").unlink()
            (tmp_path / "08.jpg").write_bytes(b"")
        return backward(*arguments)

    monkeypatch.setattr(loop._Run, "_backward", lose_files)
    config = dataclasses.replace(TINY, method=method, views=2, epochs=3)
    result = train(photos, config, out=tmp_path / "run", quiet=True)
    assert result.steps == 9
    assert sorted(skipped(tmp_path / "run")) == ["03.jpg", "08.jpg"]


def test_it_stops_with_one_line_when_most_is_gone(photos: Path, tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.jpg").unlink()
    with pytest.raises(S2R2Error, match=r"of the 8 images of a step cannot be read \(skipped\.csv says why\)"):
        train(photos, TINY, out=tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_a_resume_goes_on_as_the_run_began(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "05.jpg").unlink()
    run = tmp_path / "run"
    train(photos, TINY, out=tmp_path / "whole", quiet=True)

    class Stop(Exception):
        pass

    save = loop._Run._save

    def save_and_stop(run: Any) -> None:
        save(run)
        if run.step == 2:
            raise Stop

    monkeypatch.setattr(loop._Run, "_save", save_and_stop)
    with pytest.raises(Stop):
        train(photos, dataclasses.replace(TINY, checkpoint_minutes=1e-9), out=run, quiet=True)
    monkeypatch.undo()
    for store in (tmp_path / "stores", Path("other")):
        with pytest.raises(S2R2Error, match="was started without a pixel store: leave out `store="):
            train(None, dataclasses.replace(TINY, store=store), out=run, resume=True, quiet=True)
    rows = photos.read_text()
    photos.write_text(rows.replace("00.jpg", "99.jpg"))
    with pytest.raises(S2R2Error, match=r"the photos of list\.csv are not those"):
        train(None, TINY, out=run, resume=True, quiet=True)
    photos.write_text(rows)
    train(None, TrainConfig(), out=run, resume=True, quiet=True)
    assert figures(run) == figures(tmp_path / "whole")
    assert skipped(run) == ["05.jpg"]


def test_many_images_are_not_decoded_beforehand(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("s2r2.images.store.direct.MANY_IMAGES", 20)
    monkeypatch.setattr(stores.PixelStore, "build", lambda *_, **__: pytest.fail("a store is made"))
    train(photos, dataclasses.replace(TINY, store=None, steps=2), out=tmp_path / "run")
    assert (
        "store     none (24 images are more than 20): photos are decoded when a step needs them"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_million_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`s2r2 train` on a manifest of a million rows, in a process of its own: its memory is small and stays."""
    results = tmp_path / "results.json"
    script = REPOSITORY / "benchmarks" / "manifest.py"
    command = [sys.executable, str(script), "--rows", "1000000", "--steps", "220", "--results", str(results)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with capsys.disabled():
        print(said)
    few, million, again = json.loads(results.read_text())["rows"]
    assert million["images"] == again["images"] == 1_000_000
    for run in (million, again):
        assert run["peak_mib"] < few["peak_mib"] + 300
        before, after = (run[f"at_{step}"][0]["own"] for step in (50, 200))
        assert abs(after - before) < 32
    # the check during training has more photos than 48; rows that each process keeps would be 100 MiB on top
    assert again["at_200"][0]["own"] < few["at_200"][0]["own"] + 100
