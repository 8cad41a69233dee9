"""``--grades``: what photos know of each other reaches the loss, is said, recorded, kept at a resume, or refused."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.evaluation import evaluate_run, run_evaluation
from s2r2.images import PixelStore, open_source
from s2r2.images.grades import group_photos, read_grades, refuse_unknown_columns
from s2r2.images.grouping import bursts, nested, places
from s2r2.losses import GradedRankingLoss
from s2r2.training import TrainConfig, train
from s2r2.training.config import read_config
from s2r2.training.methods import build_method, resolve
from s2r2.views import ViewLoader, get_recipe
from s2r2.views.orders import together_order

BURSTS = (3, 4, 1, 2, 3, 3)
SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet", "image_size": 16, "head_hidden": 16, "batch_size": 8, "views": 2, "recipe": "photos",
    "steps": 2, "threads": 1, "device": "cpu", "grades": "time:30s,place:50m",
}  # fmt: skip


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six bursts of photos ten seconds apart at three places; two photos without EXIF, and two with a time only."""
    folder = tmp_path_factory.mktemp("album") / "photos"
    folder.mkdir()
    random, number = np.random.default_rng(0), 0
    for burst, size in enumerate(BURSTS):
        for shot in range(size):
            exif = Image.Exif()
            if number not in (7, 15):
                exif.get_ifd(34665)[36867] = f"2026:05:01 {10 + burst}:00:{10 * shot:02d}"
                if number not in (1, 8):
                    exif.get_ifd(34853).update(
                        {1: "N", 2: (46.0, 10.0 * (burst // 2), 0.0), 3: "E", 4: (7.0, 0.0, 0.0)}
                    )
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((24, 24)).save(folder / f"{number:02d}.jpg", exif=exif)
            number += 1
    Image.fromarray(pixels).resize((24, 24)).save(folder / "16.png")
    Image.fromarray(pixels[::-1]).resize((24, 24)).save(folder / "17.png")
    return folder


def store_of(data: Path, folder: Path) -> PixelStore:
    return PixelStore.build(open_source(data), 20, folder, workers=1, progress=False)


def test_train_says_records_and_keeps_them(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(album, TrainConfig(**SETTINGS), out=out)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("grades")]
    assert len(said) == 1
    assert re.fullmatch(r"grades    \d+ bursts hold \d+ of 18 photos \(4 have no time\), "
                        r"3 places hold \d+ \(6 have no GPS\)", said[0])  # fmt: skip
    assert read_config(out)[0].grades == SETTINGS["grades"]
    train(None, TrainConfig(steps=3, threads=1), out=out, resume=True)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("grades")] == said
    with pytest.raises(S2R2Error, match="leave out `grades` to resume"):
        train(None, TrainConfig(grades="time:60s"), out=out, resume=True, quiet=True)


def test_an_evaluation_judges_by_them_without_labels(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(run_evaluation, "open_source", lambda data: opened.append(data) or open_source(data))
    found = evaluate_run(
        "untrained:test_resnet", album, grades="time:30s,place:50m", store=tmp_path, device="cpu", progress=False
    )
    assert opened == [album]  # a long list of photos is read once
    figures = found.rows[-1].figures
    assert set(figures) == {"graded_ndcg", "map time:30s", "map place:50m", "view_ap"}
    assert all(0 < figure.value <= 1 and figure.low < figure.value < figure.high for figure in figures.values())
    assert any(re.match(r"Grades: \d+ bursts hold \d+ of 18 photos", note) for note in found.notes)
    assert any("random views and photos by their grades could be judged" in note for note in found.notes)
    with pytest.raises(S2R2Error, match="shop is neither time, place or folder nor a column"):
        evaluate_run("untrained:test_resnet", album, grades="shop", store=tmp_path, device="cpu", progress=False)


def test_groups_are_those_of_the_album(album: Path, tmp_path: Path) -> None:
    found = group_photos(read_grades(SETTINGS["grades"]), store_of(album, tmp_path))
    burst, place = found.columns.T
    for photo, other, together in (
        (0, 2, True),
        (0, 1, True),
        (2, 3, False),
        (5, 6, True),
        (5, 7, False),
        (16, 17, False),
    ):
        assert (burst[photo] == burst[other]) == together
    assert place[0] == place[1] == place[3]  # photo 1 has no GPS: it is where its burst is
    assert place[0] != place[9]
    assert len(set(burst[[7, 15, 16, 17]])) == 4  # without a time alone
    again = group_photos(read_grades("time:3h"), store_of(album, tmp_path))
    assert again.sentence == "1 burst holds 14 of 18 photos (4 have no time)"


def test_bursts_are_of_one_camera_and_end_with_a_pause() -> None:
    taken = np.array([100.0, 0, 20, np.nan, 45, 76, 10])
    numbers = bursts(taken, ["a", "a", "a", "a", "a", "a", "b"], 30)
    assert numbers.tolist() == [1, 0, 0, -1, 0, 1, 2]


def test_a_burst_lasts_ten_pauses_at_most() -> None:
    frames = np.array([0.0, 1, 2, 3, 5, *range(100, 145)])  # a pause, then a video of 45 seconds
    sizes = np.bincount(bursts(frames, [None] * len(frames), 2))
    assert sizes.tolist() == [5, 20, 20, 5]


@pytest.mark.parametrize("start", [0, 1_777_638_600])
@pytest.mark.parametrize("pause", [0.1, 1 / 30])
def test_frames_that_are_one_pause_apart_stay_together(start: int, pause: float) -> None:
    frames = np.round(start + pause * np.arange(60), 6)  # as they are written
    assert np.bincount(bursts(frames, [None] * 60, round(pause, 6))).tolist() == [10] * 6


def test_places_do_not_grow_along_a_walk_and_cross_the_date_line() -> None:
    step = 40 / 111_195  # degrees in 40 meters
    north = np.array([0, step, 2 * step, 3 * step, 10, 10, np.nan, 90, 90])
    east = np.array([0.0, 0, 0, 0, 179.9999, -179.9999, 0, 0, 123])
    found = places(north, east, 50)
    assert found[0] == found[1] != found[2] == found[3]
    assert found[4] == found[5]
    assert found[7] == found[8]
    assert found[6] == -1


def test_coarser_groups_hold_finer_ones_whole() -> None:
    columns = nested([np.array([0, 0, 0, 1, 1, -1, -1]), np.array([5, 5, 2, 2, -1, 2, -1])])
    assert columns[:3, 1].tolist() == [columns[0, 1]] * 3  # two of three photos say 5
    assert columns[3, 1] == columns[4, 1] == columns[5, 1] != columns[0, 1]
    assert len(set(columns[[3, 5], 0])) == 2
    assert (columns[6] != columns[:6]).all()
    random = np.random.default_rng(0)
    for _ in range(20):
        columns = nested([random.integers(-1, 4, 30) for _ in range(3)])
        for finer, coarser in zip(columns.T[:-1], columns.T[1:], strict=True):
            assert all(len(set(coarser[finer == group])) == 1 for group in finer)


def test_an_epoch_brings_groups_together_and_every_photo_once() -> None:
    fine = np.repeat(np.arange(60), 6)
    groups = np.stack([fine, fine // 5], axis=1)
    orders = [together_order(groups, 3, epoch, 32) for epoch in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    for order in orders:
        assert sorted(order) == list(range(360))
        batches = fine[order[:352]].reshape(-1, 32)
        shared = [(batch[:, None] == batch).sum(1) - 1 for batch in batches]
        assert np.mean(np.concatenate(shared) > 0) > 0.9  # at random: 0.37
        assert max(np.bincount(batch).max() for batch in batches) <= 12


@pytest.mark.parametrize("worlds", [1, 2])
def test_views_know_their_groups_in_every_process_and_after_a_resume(album: Path, tmp_path: Path, worlds: int) -> None:
    store = store_of(album, tmp_path)
    groups = group_photos(read_grades("time:30s"), store).columns

    def batches(rank: int, world: int, start: int = 0) -> list[Any]:
        loader = ViewLoader(store, get_recipe("photos"), view_size=16, views=2, batch_size=8, seed=1, threads=1,
                            backend="torchvision", rank=rank, world_size=world, groups=groups)  # fmt: skip
        with loader:
            return list(loader.epoch(1, start))

    whole = batches(0, 1)
    parts = [batches(rank, worlds) for rank in range(worlds)]
    for step, batch in enumerate(whole):
        table, pixels = (torch.cat([getattr(part[step], name)[0] for part in parts]) for name in ("groups", "pixels"))
        assert torch.equal(table, batch.groups[0])
        assert torch.equal(pixels, batch.pixels[0])
        assert table.shape == (16, 2)
        assert np.array_equal(table[::2, 1].numpy(), groups[batch.images, 0])
    (resumed,) = batches(0, 1, start=1)
    assert torch.equal(resumed.groups[0], whole[1].groups[0])
    assert torch.equal(resumed.pixels[0], whole[1].pixels[0])


@pytest.mark.parametrize("options", [{}, {"graded": "ndcg", "grade_weight": 0.3, "spread": 1.0, "contrastive": 0.1}])
def test_s2r2_ranks_by_grades(options: dict[str, Any]) -> None:
    config = resolve(TrainConfig(**{**SETTINGS, "options": options}))
    method = build_method(config, 18)
    groups = torch.tensor([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]).repeat_interleave(2, 0)
    z = torch.nn.functional.normalize(torch.randn(8, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    weights = [options.get("grade_weight", 0.5) ** level for level in range(3)]
    expected = GradedRankingLoss(options.get("graded", "h-ap"), weights=weights)(z, groups)
    found = method(z, groups)
    assert (found > expected) if options else torch.equal(found, expected)
    assert torch.isfinite(torch.as_tensor(method.statistics(z, groups)["positive_cosine"]))
    contrast = build_method(resolve(TrainConfig(**{**SETTINGS, "method": "simclr"})), 18)
    assert torch.equal(contrast(z, groups), contrast(z, groups[:, 2]))  # the coarsest as plain positives


def test_columns_of_a_manifest_stand_for_exif(album: Path, tmp_path: Path) -> None:
    rows = [
        ("00.jpg", "2020-01-01 10:00:00", "1.0", "2.0", "a"), ("01.jpg", "2020-01-01T10:00:20", "1.0", "2.0", "a"),
        ("02.jpg", "1577872830", "", "2.0", "b"), ("03.jpg", "2020:01:02 10:00:00", "1.0", "2.0", ""),
        ("04.jpg", "2020-01-03", "3.0", "2.0", "a"),
    ]  # fmt: skip
    table = album.parent / "photos.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "time", "Lat", "lon", "Sequence"), *((f"photos/{r[0]}", *r[1:]) for r in rows)]
        )
    store = store_of(table, tmp_path)
    assert store.columns == ("path", "time", "lat", "lon", "sequence")
    columns = group_photos(read_grades("time:30s,sequence"), store).columns
    assert columns[0, 0] == columns[1, 0] != columns[2, 0] != columns[3, 0]  # photo 2 is of another sequence
    assert columns[0, 1] == columns[1, 1] == columns[4, 1] != columns[3, 1]
    place = group_photos(read_grades("place:50m"), store).columns[:, 0]
    assert place[0] == place[1] == place[3] != place[2]  # its latitude is EXIF's
    with pytest.raises(S2R2Error, match=r"neither time, place or folder nor a column of .*time, lat, lon, sequence"):
        refuse_unknown_columns(read_grades("album"), open_source(table))
    table.write_text("path,time\nphotos/00.jpg,yesterday\nphotos/01.jpg,\n")
    with pytest.raises(S2R2Error, match=r"the time of photos/00.jpg in the manifest is 'yesterday': write it as"):
        group_photos(read_grades("time:30s"), store_of(table, tmp_path))


def test_what_a_manifest_leaves_open_is_exifs_or_unknown(tmp_path: Path) -> None:
    for number, camera in enumerate("ABAB"):
        exif = Image.Exif()
        exif[272] = camera
        if number < 2:
            exif.get_ifd(34853).update({1: "N", 2: (46.0, 0.0, 0.0), 3: "E", 4: (7.0, 0.0, 0.0)})
        Image.fromarray(np.full((24, 24, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.jpg", exif=exif)
    table = tmp_path / "photos.csv"

    def groups(grades: str, header: str, *cells: str) -> list[int]:
        table.write_text("\n".join([f"path,{header}", *(f"{n}.jpg,{c}" for n, c in enumerate(cells))]))
        return group_photos(read_grades(grades), store_of(table, tmp_path)).columns[:, 0].tolist()

    assert groups("time:9s", "time", "0", "1", "2", "3") == [0, 1, 0, 1]  # two cameras, of which only EXIF knows
    assert groups("time:9s", "time,camera", "0,A", "1,A", "2,", "30,") == [0, 0, 0, 1]
    assert groups("drive", "drive", "1.0", "1.0", "NaN", "nan") == [0, 0, 1, 2]
    days = ("20260501", "20260501", "20260502", "20260501")
    assert groups("time:30s", "time", *days) == [0, 2, 1, 2]  # as seconds, camera A's two would be one apart
    assert groups("place:9m", "lat,lon", "46,7", "46,7", "0,0", "0.0,-0") == [0, 0, 1, 2]
    assert groups("place:9m", "lat,lon", "1,", ",1", "3,3", "NaN,3") == [0, 0, 1, 2]  # half a pair is none
    for time in ("1777638600000", "20260501123000"):
        with pytest.raises(S2R2Error, match=f"'{time}': write it as"):
            groups("time:9s", "time", time, "1", "2", "3")


def test_bursts_lie_within_the_columns_that_are_named(album: Path, tmp_path: Path) -> None:
    table = album.parent / "drives.csv"
    drives = ("a", "b", "a", "b", "a", "b")  # each from second 0; a pause of b is filled by a frame of a
    seconds = (0, 0, 1, 4, 2, 5)
    rows = [f"photos/{n:02d}.jpg,{t},{d}" for n, (t, d) in enumerate(zip(seconds, drives, strict=True))]
    table.write_text("\n".join(["path,time,drive", *rows]))
    burst, drive = group_photos(read_grades("time:2s,drive"), store_of(table, tmp_path)).columns.T
    assert burst[0] == burst[2] == burst[4] != burst[1] != burst[3] == burst[5]
    assert drive[1] == drive[3] != drive[0]


def test_a_burst_without_gps_is_not_said_to_be_a_place(album: Path, tmp_path: Path) -> None:
    table = album.parent / "half.csv"
    photos = ("00.jpg,0,1,1", "01.jpg,1,1,1", "02.jpg,900,1,1", "07.jpg,1800,,", "16.png,1801,,", "17.png,1802,,")
    rows = [f"photos/{photo}" for photo in photos]  # the last three have no EXIF
    table.write_text("\n".join(["path,time,lat,lon", *rows]))
    said = group_photos(read_grades("time:2s,place:50m"), store_of(table, tmp_path)).sentence
    assert said == "2 bursts hold 5 of 6 photos, 1 place holds 3 (3 have no GPS)"


@pytest.mark.parametrize(
    ("grades", "said"),
    [
        ("time", "time needs a width above 0 in s, min, h, d: write it like time:30s"),
        ("place:50s", "place needs a width above 0 in m, km: write it like place:50m"),
        ("time:0s", "time needs a width above 0"),
        ("time:30s,,folder", "a name is missing: write it like"),
        ("folder:3", "only time and place have a width: write folder"),
        ("folder,folder", "folder is there twice: leave one out"),
    ],
)
def test_wrong_grades_are_refused_in_one_line(grades: str, said: str) -> None:
    with pytest.raises(S2R2Error, match=re.escape(said)) as caught:
        resolve(TrainConfig(grades=grades))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "swav"}, "has no use for `grades`: leave them out, or use `method='s2r2'` or `method='simclr'`"),
        ({"options": {"bank": 64}}, "bank does not know the `grades`"),
        ({"options": {"surrogate": "sup-ap"}}, "surrogate and outer are of ranking without `grades`"),
        ({"options": {"graded": "map"}}, "graded must be h-ap or ndcg"),
        ({"options": {"graded": "ndcg"}, "grades": ""}, "graded and grade_weight need `grades`"),
    ],
)
def test_what_grades_do_not_go_with(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(S2R2Error, match=re.escape(said)):
        build_method(resolve(TrainConfig(**{"grades": "time:30s", **settings})), 18)


@pytest.mark.parametrize(
    ("grades", "said"),
    [
        ("folder", "folder puts all 18 photos into one group, which tells nothing apart: leave it out"),
        ("time:1s", "finds no two of the 18 photos that belong together: leave it out or give it a larger width"),
    ],
)
def test_grades_that_teach_nothing_are_refused(album: Path, tmp_path: Path, grades: str, said: str) -> None:
    with pytest.raises(S2R2Error, match=re.escape(said)):
        group_photos(read_grades(grades), store_of(album, tmp_path))
