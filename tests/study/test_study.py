"""Studies: what is asked for, the figures and their intervals, and a real one that is killed and goes on."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import average_precision_score

from browser import barriers, watch
from s2r2.encoder import store_side
from s2r2.errors import S2R2Error
from s2r2.evaluation import evaluate
from s2r2.images import PixelStore, open_source
from s2r2.study import Estimate, compare, difference, figure, read_study
from s2r2.study.cell import run_cell
from s2r2.study.checking import check_study, prepare_images
from s2r2.study.near_duplicates import CopiesSource
from s2r2.study.plan import (
    CELL_FILE,
    RESULT_FILE,
    SCORES_FILE,
    Cell,
    changes,
    final_cells,
    is_done,
    steps_for,
    tuning_cells,
)
from s2r2.study.report_page import write_page
from s2r2.study.results import Comparison, Results, read_scores, refuse_other_images, to_dict
from s2r2.study.spec import folder_name, only_with, parse_study
from s2r2.study.statistics import holm, value_of
from s2r2.study.tables import to_markdown
from s2r2.study.tasks import TARGETS, targets_of
from s2r2.study.tuning import choose_settings
from s2r2.system.console import PlainConsole
from s2r2.training import TrainConfig
from s2r2.training.setup.encoder import first_encoder, with_start
from s2r2.views import get_recipe
from small_study import SMALL_STUDY

STUDIES = Path(__file__).resolve().parents[2] / "studies"
STUDY: dict[str, Any] = {
    **SMALL_STUDY,
    "budgets": [1280],
    "methods": {
        "S2R2": {"method": "s2r2", "views": 4, "temperature": 0.3},
        "SimCLR <b>": {"method": "simclr", "views": 4, "options": {"form": "inside"}},
    },
}
TUNING: dict[str, Any] = {
    "trials": 2,
    "budget": 640,
    "search": {"S2R2": {"lr": [0.002, 0.004]}, "SimCLR <b>": [{"lr": 0.002}, {"options": {"form": "geometric"}}]},
}
COSTS = {"pixels": 1, "seconds": 1.0, "steps": 1, "peak_memory": 1}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "colour"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"budgets": [0]}, "budgets"),
        ({"reference": "BYOL"}, "BYOL"),
        ({"differences": [["S2R2", "BYOL"]]}, "names of two methods"),
        ({"methods": {"untrained": {}}}, "untrained"),
        ({"methods": {"S2R2": {"seed": 3}}}, "seed is set by the study"),
        ({"config": {"epochs": 3}}, "epochs is set by the study"),
        ({"data": {"digits": {"train": "digits", "tasks": {}}}}, "task"),
        ({"data": {"digits": {"train": "digits", "task": {}}}}, "task"),
        ({"tuning": {**TUNING, "trials": 3}}, "2 settings for 3 trials"),
        ({"tuning": {**TUNING, "search": {"S2R2": []}}}, "every method"),
        ({"tuning": {**TUNING, "figure": "loss"}}, "figure"),
        ({"tuning": {**TUNING, "seeds": [1000, 0]}}, "seed"),
        ({"tuning": {**TUNING, "seeds": []}}, "at least one"),
        ({"tuning": TUNING, "held_out": 0.5}, "leave one out"),
        ({"data": 3}, "data: 3: must be settings"),
        ({"data": {"d": {"train": "digits", "tasks": {"a/b": {"train": "digits", "test": "digits"}}}}}, "has no /"),
        ({"settings": {"letters": {}}}, '"letters" is none of the data sets'),
        ({"settings": {"digits": {"BYOL": {}}}}, '"BYOL" is none of the methods'),
        (
            {"settings": {"digits": {"S2R2": {"lr": 0.1, "seed": 3}}}},
            "settings.digits.S2R2.seed: seed is set by the study",
        ),
        ({"settings": {"digits": {"S2R2": {"lr": "fast"}}}}, "settings.digits.S2R2.lr"),
        ({"settings": {"digits": {"S2R2": {}}}, "tuning": TUNING}, "choose them anew: leave one out"),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match=words) as error:
        read_study(written(tmp_path, **changes))
    lines = str(error.value).splitlines()
    assert all("study.yaml" in line for line in lines if not line.endswith("mistakes:"))


def test_wrong_settings_are_said_before_anything_runs(tmp_path: Path) -> None:
    for change, words in (({"lr_rate": 1}, "lr_rate"), ({"method": "byol"}, "byol"), ({"recipe": "phots"}, "phots")):
        path = written(tmp_path, methods={"S2R2": change})
        with pytest.raises(S2R2Error, match=words):
            compare(path, out=tmp_path / "out", quiet=True)


def test_settings_of_an_earlier_study_hold_for_one_data_set(tmp_path: Path) -> None:
    settings = {"digits": {"S2R2": {"lr": 0.25, "options": {"outer": "log"}}}}
    data = {**STUDY["data"], "again": STUDY["data"]["digits"]}
    path = written(tmp_path, settings=settings, data=data)
    study = read_study(path)
    check_study(study, tmp_path / "out")
    found = {(cell.data, cell.method): cell.content for cell in final_cells(study, study.settings)}
    assert found["digits", "S2R2"]["config"]["lr"] == 0.25
    assert found["digits", "S2R2"]["config"]["options"]["outer"] == "log"
    for other in (("again", "S2R2"), ("digits", "SimCLR <b>")):
        assert found[other]["config"]["lr"] != 0.25
        assert not found[other]["settings"]
    results = compare(path, out=tmp_path / "out", minutes=0, quiet=True)
    assert "| digits | S2R2 | lr 0.25, outer log |" in to_markdown(results)
    assert "lr 0.25, outer log" in (tmp_path / "out" / "study.html").read_text()


def test_a_study_on_one_of_its_data_sets_has_the_same_cells_there(tmp_path: Path) -> None:
    data = {**STUDY["data"], "again": STUDY["data"]["digits"]}
    study = read_study(written(tmp_path, data=data, settings={"digits": {"S2R2": {"lr": 0.25}}}))
    few = only_with(study, ["digits"])
    cells = final_cells(study, study.settings)
    assert final_cells(few, few.settings) == [cell for cell in cells if cell.data == "digits"]
    assert not only_with(study, ["again"]).settings
    with pytest.raises(S2R2Error, match=r"no data set .*letters.*: use again, digits"):
        compare(study, out=tmp_path / "out", only=["letters"])


def test_settings_of_an_earlier_study_are_looked_at_before_the_first_run(tmp_path: Path) -> None:
    path = written(tmp_path, settings={"digits": {"S2R2": {"options": {"outter": "log"}}}})
    with pytest.raises(S2R2Error, match=r"settings\.digits\.S2R2.*outter"):
        compare(path, out=tmp_path / "out", quiet=True)


MISTAKES = """
name: bad
seeds: 3
budgets: [1e5]
config: {backbone: test_vit, image_size: "32", lr: 1e-3}
data:
  2020: {train: "digits:train", tasks: {yes: {train: "digits:train", tests: "digits:test"}}}
methods:
  A: {method: s2r2, temprature: 3}
  B: simclr
  yes: {method: simclr, lr: .nan}
  C: {method: simclr}
  C: {method: swav}
"""


def test_all_mistakes_are_said_at_once_each_with_key_and_line(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(MISTAKES)
    with pytest.raises(S2R2Error) as error:
        read_study(tmp_path / "study.yaml")
    first, *lines = str(error.value).splitlines()
    assert first == "9 mistakes:"
    said = [re.search(r"line (\d+): ([^:]*): ", line) for line in lines]
    assert sorted((int(m[1]), m[2]) for m in said if m) == [
        (3, "seeds"), (4, "budgets[0]"), (5, "config.image_size"), (7, "data.2020.tasks.yes"),
        (7, "data.2020.tasks.yes.tests"), (9, "methods.A.temprature"), (10, "methods.B"), (11, "methods.yes.lr"),
        (13, "methods.C"),
    ]  # fmt: skip


def test_every_cell_is_looked_at_before_the_first(tmp_path: Path) -> None:
    methods = {
        "fine": {"method": "s2r2"},
        "bank": {"method": "simclr", "options": {"bank": "many"}},
        "form": {"method": "simclr", "options": {"form": "insid"}},
        "swav": {"method": "swav", "options": {"freeze_epochs": -1}},
        "big": {"backbone": "resnet81"},
    }
    with pytest.raises(S2R2Error, match="4 mistakes") as error:
        compare(written(tmp_path, methods=methods), out=tmp_path / "out", quiet=True)
    for name in list(methods)[1:]:
        assert f"methods.{name}: " in str(error.value)
    assert not (tmp_path / "out").exists()


def test_names_that_share_or_leave_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match="same folder"):
        read_study(written(tmp_path, methods={"a b": {}, "a-b": {}}))
    assert folder_name("..") == "unnamed"
    long = [folder_name("β" * 300 + end) for end in "ab"]
    assert len({*long}) == 2
    assert all(len(name.encode()) <= 200 for name in long)


def test_code_that_a_study_names_runs_only_if_the_user_has_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2r2.training.run import trust

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("S2R2_METHODS_NAMED", "")
    monkeypatch.setattr(trust, "_NAMED", set())
    method, marker = tmp_path / "meth.py", tmp_path / "ran"
    method.write_text(
        f"open({str(marker)!r}, 'w')\nfrom s2r2.training import Method\n"
        "class Mine(Method):\n    def forward(self, embeddings, groups):\n        return embeddings.sum()\n"
    )
    path = written(tmp_path, methods={"mine": {"method": str(method)}})
    with pytest.raises(S2R2Error, match=r"would run the code .* add `trust_methods=\[") as error:
        compare(path, out=tmp_path / "out", minutes=0, quiet=True)
    assert not marker.exists()
    assert "\n" not in str(error.value)
    compare(path, out=tmp_path / "out", minutes=0, trust_methods=[method], quiet=True)
    assert marker.exists()
    monkeypatch.setattr(trust, "_NAMED", set())
    monkeypatch.setenv("S2R2_METHODS_NAMED", "")
    compare(path, out=tmp_path / "out", minutes=0, quiet=True)  # remembered


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    cell = final_cells(read_study(written(tmp_path)), {})[0]
    folder = cell.folder(tmp_path / "out")
    folder.mkdir(parents=True)
    with pytest.raises(S2R2Error, match=r"scores.npz is damaged: delete"):
        read_scores(cell, tmp_path / "out")  # it is gone
    for content in ("{", "[1]", '{"cell": 1, "costs": {}}'):
        (folder / RESULT_FILE).write_text(content)
        with pytest.raises(S2R2Error, match="is damaged: delete"):
            is_done(cell, tmp_path / "out")


def test_results_and_specifications_with_former_names_of_settings_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(written(tmp_path, config={**read_study(written(tmp_path)).config, "optimiser": "sgd"}))
    assert "optimiser is now called optimizer" in capsys.readouterr().err
    cell = final_cells(study, {})[0]
    assert cell.content["config"]["optimizer"] == "sgd"
    folder = cell.folder(tmp_path / "out")
    folder.mkdir(parents=True)
    config = {"optimiser" if name == "optimizer" else name: v for name, v in cell.content["config"].items()}
    (folder / RESULT_FILE).write_text(json.dumps({"cell": {**cell.content, "config": config}, "costs": COSTS}))
    assert is_done(cell, tmp_path / "out")


def test_every_method_encodes_the_same_pixels() -> None:
    methods = {
        "two": {"method": "simclr", "batch_size": 256},
        "eight": {"method": "s2r2", "batch_size": 64, "recipe": "photos"},
        "crops": {"method": "swav", "batch_size": 64},
        "larger": {"method": "simclr", "batch_size": 64, "image_size": 112},
        "one size": {"method": "swav", "batch_size": 64, "backbone": "swin_tiny_patch4_window7_224"},
    }
    study = parse_study({**STUDY, "methods": methods, "budgets": [100_000], "config": {"image_size": 56}}, Path())
    configs = {c.method: c.content["config"] for c in final_cells(study, {}) if c.seed == 0}
    assert configs["one size"]["recipe"] == "photos"  # as training would have it
    per_image = {"two": 2.0, "eight": 8.0, "crops": 2 + 6 * (24 / 56) ** 2, "larger": 8.0, "one size": 8.0}
    for method, views in per_image.items():
        encoded = configs[method]["steps"] * configs[method]["batch_size"] * views
        assert encoded == pytest.approx(100_000, rel=0.005), method
    assert steps_for(10, 10**9, 32) == 1


def test_an_encoder_to_start_from_decides_the_same_in_plan_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**STUDY["config"], "start": "untrained:test_resnet", "image_size": 48}
    del config["backbone"], config["head_hidden"], config["embedding_dimensions"]
    study = parse_study({**STUDY, "config": config, "methods": {"S2R2": {"views": 4}}}, Path())
    cell = final_cells(study, {})[1]
    planned = cell.content["config"]
    assert (planned["backbone"], planned["image_size"], planned["recipe"]) == ("test_resnet", 48, "documents")
    cell.folder(tmp_path).mkdir(parents=True)
    (cell.folder(tmp_path) / CELL_FILE).write_text(json.dumps(cell.content))
    asked: list[TrainConfig] = []

    def stop(source: Any, config: TrainConfig, **_: Any) -> None:
        asked.append(config)
        raise S2R2Error("enough")

    monkeypatch.setattr("s2r2.study.cell.train", stop)
    with pytest.raises(S2R2Error, match="enough"):
        run_cell(cell.folder(tmp_path))
    made, _ = with_start(asked[0], asked[0].given, PlainConsole(quiet=True))
    assert {name: value for name, value in made.to_dict().items() if name in planned} | {"threads": 0} == planned
    with pytest.raises(S2R2Error, match="decides the backbone: leave out backbone"):
        check_study(parse_study({**STUDY, "config": {**config, "backbone": "resnet18"}}, Path()))


def test_a_result_is_that_of_what_files_held(tmp_path: Path) -> None:
    method, recipe = tmp_path / "meth.py", tmp_path / "mine.yaml"
    code = (
        "from s2r2.training import Method\nclass Mine(Method):\n"
        "    def forward(self, embeddings, groups):\n        return embeddings.sum()\n"
    )
    method.write_text(code)
    recipe.write_text("hue: 0.1\n")
    study = parse_study({**STUDY, "methods": {"mine": {"method": str(method), "recipe": str(recipe)}}}, Path())

    def cell() -> Cell:
        return final_cells(study, {})[1]

    folder = cell().folder(tmp_path)
    folder.mkdir(parents=True)

    def leave(content: dict[str, Any]) -> None:
        (folder / RESULT_FILE).write_text(json.dumps({"cell": content, "costs": COSTS}))

    leave(cell().content)
    assert is_done(cell(), tmp_path)
    earlier = {name: value for name, value in cell().content.items() if name not in ("files", "recipe")}
    method.write_text(code + "# changed\n")
    with pytest.raises(S2R2Error, match=r"was run with another \S+meth\.py:"):
        is_done(cell(), tmp_path)
    leave(cell().content)
    recipe.write_text("hue: 0.2\n")
    with pytest.raises(S2R2Error, match="was run with another hue:"):
        is_done(cell(), tmp_path)
    leave(earlier)  # nothing is known
    assert is_done(cell(), tmp_path)


def test_paths_start_from_the_data_folder_with_parts_and_patterns_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("coco", "shards", "photos"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shards" / "a-001.tar").touch()
    task = {"train": "coco:train2017", "test": "shards/a-{000..001}.tar"}

    def read(root: Path, train: str) -> Cell:
        data = {"d": {"train": [train, "digits:test", "s3://bucket/photos:x"], "tasks": {"t": task}}}
        return final_cells(parse_study({**STUDY, "data": data}, root), {})[0]

    cell = read(tmp_path, "photos")
    assert cell.content["train"] == [str(tmp_path / "photos"), "digits:test", "s3://bucket/photos:x"]
    assert cell.content["tasks"]["t"] == {name: str(tmp_path / path) for name, path in task.items()}
    monkeypatch.chdir(tmp_path)
    assert read(Path(), "photos").content == cell.content
    assert not changes({**cell.content, "train": ["photos", *cell.content["train"][1:]]}, cell.content)
    assert changes({**cell.content, "train": ["coco"]}, cell.content) == ["train"]


def test_trials_are_as_many_for_all_and_drawn_alike() -> None:
    space = {"lr": [0.001, 0.002, 0.004], "temperature": [0.1, 0.2]}
    search = {"S2R2": space, "SimCLR <b>": [{"lr": 0.001 * k} for k in range(1, 5)]}
    study = parse_study({**STUDY, "tuning": {"trials": 4, "budget": 100, "search": search}}, Path())
    assert study.tuning is not None
    drawn = study.tuning.settings("S2R2")
    assert len(drawn) == 4
    assert drawn == study.tuning.settings("S2R2")
    assert len({tuple(d.items()) for d in drawn}) == 4
    assert len(tuning_cells(study)) == 8


def test_intervals_of_one_figure_cover_as_they_should() -> None:
    """Seeds and images both vary; the truth lies in about 95 of 100 intervals."""
    generator = np.random.default_rng(0)
    targets, hits = np.zeros(200, np.int64), 0
    for _ in range(100):
        difficulty = generator.normal(0, 0.5, 200)  # shared by all runs: the same test images
        chances = [0.5 + generator.normal(0, 0.03) for _ in range(4)]
        estimate = figure([(generator.normal(size=200) + difficulty < 0) + c - 0.5 for c in chances], targets)
        hits += estimate.low <= 0.5 <= estimate.high
    assert hits >= 90


def test_pairs_are_surer_than_singles() -> None:
    generator = np.random.default_rng(0)
    targets = np.zeros(500, np.int64)
    runs = [generator.random(500) < 0.6 for _ in range(3)]
    better = [run | (generator.random(500) < 0.05) for run in runs]
    gap = difference(better, runs, targets)
    assert gap.low > 0
    assert gap.half_width < figure(runs, targets).half_width
    assert difference(runs, runs, targets).value == 0
    alone = difference(better[:1], runs[:1], targets)
    assert math.isinf(alone.half_width)
    assert math.isfinite(alone.images)


def test_figures_of_several_labels_are_scikit_learns_mean_ap() -> None:
    generator = np.random.default_rng(0)
    targets = generator.random((60, 5)) < 0.3
    scores = generator.normal(size=(60, 5)).astype(np.float32)
    expected = np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in range(5)])
    assert figure([scores], targets).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("written_down", [True, False])
def test_scores_of_single_labels_are_judged_by_the_labels_they_are_for(written_down: bool) -> None:
    """Such as those of the SVM: the mean of the scores themselves would say nothing. Earlier cells lack the bits."""
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 3, 40), generator.standard_normal((40, 3))
    bits = labels[:, None] == np.arange(3)
    found = {f"t/{TARGETS}": labels, "t/svm": scores} | ({f"t/{TARGETS} svm": bits} if written_down else {})
    wanted = np.mean([average_precision_score(bits[:, c], scores[:, c]) for c in range(3)])
    assert value_of(found["t/svm"], targets_of(found, "t", "svm")) == pytest.approx(wanted)


def test_runs_on_other_images_or_labels_are_not_compared() -> None:
    labels = np.array([0, 1])
    refuse_other_images([labels, labels], [{"images": ["a", "b"]}, {}])  # an earlier version wrote the second
    with pytest.raises(S2R2Error, match="different images"):
        refuse_other_images([labels, labels], [{"images": ["a", "b"]}, {"images": ["a", "c"]}])


def test_a_difference_that_is_asked_for_twice_is_counted_once() -> None:
    there, back = Estimate(0.2, 0.1, 3, 0.05), Estimate(-0.2, 0.1, 3, 0.05)
    study = parse_study(STUDY, Path())
    one = Comparison("d", "t", 1, False, 9, {"map": "mAP"}, differences={"SimCLR <b>": {"map": there}})
    one.pairs["SimCLR <b>", "S2R2"] = {"map": back}
    results = Results(study, 1, 1, [one])
    assert results.differences == [there]
    assert results.no_chance == {there, back}
    plain = to_dict(results)
    assert plain["differences"] == 1
    (compared,) = plain["comparisons"]
    assert compared["pairs"][0]["figures"]["map"]["certain"] is True
    assert compared["differences"]["SimCLR <b>"]["map"]["images"] == 0.05
    assert holm([math.nan, 0.04, math.nan, 0.001]) == [False, True, False, True]


def test_queries_without_relevant_images_do_not_count() -> None:
    values = np.array([0.5, np.nan, 0.7], np.float32)
    assert figure([values], np.zeros(3, np.int64)).value == pytest.approx(0.6)


NEAREST_MEAN = """
import numpy as np
from s2r2.evaluation import Column, Protocol

class NearestMean(Protocol):
    name, summary = "nearest-mean", "the class whose mean is nearest"

    def columns(self, task):
        return {"nearest-mean": Column("mean <i>", "Share of images that lie nearest to the mean of their own class.")}

    def evaluate(self, space, task):
        rows, labels = space.training(task)
        means = np.stack([rows[labels == number].mean(0) for number in range(len(task.names))])
        return {"nearest-mean": task.outcome(2 * space.testing(task)[0] @ means.T - (means**2).sum(1))}
"""


@pytest.mark.slow
def test_a_study_has_the_figures_of_evaluate_and_a_protocol_of_ones_own_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    protocol, out = tmp_path / "mine.py", tmp_path / "out"
    protocol.write_text(NEAREST_MEAN)
    path = written(tmp_path, seeds=[0], protocols=[str(protocol)])
    with pytest.raises(S2R2Error, match=r"protocols: .*would run the code .* add `trust_methods=\["):
        compare(path, out=out, minutes=0, quiet=True)
    compare(path, out=out, minutes=0, trust_methods=[protocol], quiet=True)
    cell = final_cells(read_study(path), {})[0]
    assert cell.method == "untrained"
    cell.folder(out).mkdir(parents=True)
    (cell.folder(out) / CELL_FILE).write_text(json.dumps(cell.content))
    found = run_cell(cell.folder(out))["tasks"]["classes"]
    [comparison] = compare(path, out=out, minutes=0, quiet=True).comparisons

    config = TrainConfig.from_dict(cell.content["config"])
    parts = [open_source(f"digits:{part}") for part in ("train", "test")]
    stores = [PixelStore.build(part, store_side(32), progress=False) for part in parts]
    encoder = first_encoder(config, get_recipe(config.recipe)).eval()
    row = evaluate({"same": encoder}, *stores, raw_pixels=False, protocols=[str(protocol)]).row("same", "feature")
    names = {"map": "map", "knn": "knn@20", "linear": "probe", "nearest-mean": "nearest-mean"}
    assert list(comparison.titles.items()) == [
        ("map", "mAP"), ("knn", "kNN 20"), ("linear", "linear"), ("nearest-mean", "mean <i>")
    ]  # fmt: skip
    for name, there in names.items():
        assert found["figures"][name]["figure"] == row.figures[there].to_list()
        shown = comparison.figures["untrained"][name]
        assert shown.value == row.figures[there].value
        assert shown.images == row.figures[there].half_width
    shown_figures = [row.figures[there] for there in names.values()]
    figures = " | ".join(f"{100 * figure.value:.1f} (±{100 * figure.half_width:.1f})" for figure in shown_figures)
    assert f"| untrained | {figures} |" in (out / "table.md").read_text()
    assert "mean <i>: Share of images" in (out / "table.md").read_text()
    assert ">mean &lt;i&gt;</th>" in (out / "study.html").read_text()


def test_cautions_stand_below_the_table_and_in_the_page(tmp_path: Path) -> None:
    known, unknown = Estimate(0.5, 0.1, 2, 0.05), Estimate(math.nan, math.nan, 2, math.nan)
    titles = {"map": "mAP", "knn": "kNN"}
    comparison = Comparison("digits", "classes", 1280, False, 4, titles, notes=["Only <4> images."])
    comparison.figures = {method: {"map": known, "knn": unknown} for method in ("untrained", "S2R2", "SimCLR <b>")}
    comparison.differences = {"SimCLR <b>": {"map": known, "knn": unknown}}
    results = Results(parse_study(STUDY, Path()), 4, 4, [comparison])
    text = to_markdown(results)
    assert "\n- Only <4> images." in text
    assert "| S2R2 | 50.0 ±10.0 | n/a |" in text
    assert "| 2 |" in text
    assert "**+50.0 ±10.0** | n/a |" in text
    page = write_page(results, tmp_path).read_text()
    assert "<li>Only &lt;4&gt; images.</li>" in page
    assert page.count("<td>n/a</td>") == 3
    assert (tmp_path / "differences-digits,classes,1280.svg").is_file()
    json.dumps(to_dict(results), allow_nan=False)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
@pytest.mark.slow
def test_the_page_keeps_nobody_out(finished: tuple[Path, Path], browser: Any, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    problems = watch(page, finished[1].as_uri())
    page.goto((finished[1] / "study.html").as_uri())
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    assert problems == []


def test_the_former_name_of_budgets_works_and_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    former = {**STUDY, "views": [1280], "tuning": {**TUNING, "views": 640}}
    del former["budgets"], former["tuning"]["budget"]
    study = parse_study(former, Path())
    assert study == parse_study({**STUDY, "tuning": TUNING}, Path())
    said = capsys.readouterr().err
    assert "views is now called budgets" in said
    assert "views is now called budget;" in said


def test_copies_are_near_duplicates_with_names_of_their_own(tmp_path: Path) -> None:
    source = open_source("digits:test")
    copies = CopiesSource(source, 0.25)
    assert len(copies) == 450
    assert len(set(copies.keys)) == 450
    store = PixelStore.build(copies, 32, tmp_path, progress=False)
    assert len(store) == 450
    original, copy = source.read(int(copies.originals[0])), copies.read(360)
    assert copy.shape[0] < original.shape[0]
    cut = original[2:-2, 2:-2].astype(float)
    assert np.corrcoef(cut.ravel(), copy.astype(float).ravel())[0, 1] > 0.99
    assert copies.identity != CopiesSource(source, 0.5).identity


def test_a_trial_counts_with_the_mean_over_its_seeds(tmp_path: Path) -> None:
    study = parse_study({**STUDY, "tuning": {**TUNING, "seeds": [1000, 1001]}}, Path())
    cells = tuning_cells(study)
    assert len({cell.folder(tmp_path) for cell in cells}) == len(cells) == 2 * 2 * 2
    right = {(0, 1000): 9, (0, 1001): 2, (1, 1000): 6, (1, 1001): 7}  # of ten: the first seed alone would mislead
    for cell in cells:
        folder = cell.folder(tmp_path)
        folder.mkdir(parents=True)
        hits = np.arange(10) < right[cell.trial, cell.seed]
        (folder / RESULT_FILE).write_text(json.dumps({"cell": cell.content, "costs": COSTS}))
        np.savez(folder / SCORES_FILE, **{"classes/knn": hits.astype(float), "classes/targets": np.arange(10) % 2})
    chosen, record = choose_settings(study, cells, tmp_path)
    assert chosen["digits"]["S2R2"] == {"lr": 0.004}
    assert [trial["knn"] for trial in record["digits"]["S2R2"]["trials"]] == [0.55, 0.65]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small study with a tuning stage, killed in the middle of a run, gone on with, and done."""
    folder = tmp_path_factory.mktemp("study")
    path, out = written(folder, tuning=TUNING), folder / "out"
    command = [sys.executable, "-m", "s2r2", "compare", str(path), "--out", str(out)]
    environment = {**os.environ, "S2R2_CACHE": str(folder / "cache")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not list(out.rglob(RESULT_FILE)):
        time.sleep(0.1)
    assert list(out.rglob(RESULT_FILE)), "no cell was finished"
    assert not (out / "study.html").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all 6 runs" in done.stdout
    return path, out


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_whole_table(finished: tuple[Path, Path]) -> None:
    out = finished[1]
    results = json.loads((out / "results.json").read_text())
    assert (results["cells"], results["done"]) == (6, 6)
    [comparison] = results["comparisons"]
    assert set(comparison["figures"]) == {"untrained", "S2R2", "SimCLR <b>"}
    assert set(comparison["differences"]) == {"untrained", "SimCLR <b>"}
    for row in comparison["figures"].values():
        assert all(0 <= figures["value"] <= 1 and figures["seeds"] == 2 for figures in row.values())
    assert all(cost["views"] == pytest.approx(1280, rel=0.06) and cost["seconds"] > 0 for cost in results["costs"])
    table = (out / "table.md").read_text()
    assert "| S2R2 |" in table
    assert "±" in table
    assert "Not finished" not in table
    assert yaml.safe_load((out / "tuning.yaml").read_text())["digits"].keys() == STUDY["methods"].keys()


@pytest.mark.slow
def test_the_page_is_one_file_and_escapes_names(finished: tuple[Path, Path]) -> None:
    page = (finished[1] / "study.html").read_text()
    assert "SimCLR &lt;b&gt;" in page
    assert "SimCLR <b>" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<svg") == 2
    assert (finished[1] / "curves-digits.svg").is_file()


@pytest.mark.slow
def test_tuning_takes_the_best_trial_and_looks_at_no_test_image(finished: tuple[Path, Path]) -> None:
    path, out = finished
    study = read_study(path)
    trials = tuning_cells(study)
    chosen, record = choose_settings(study, trials, out)
    for method, tried in record["digits"].items():
        figures = [trial["knn"] for trial in tried["trials"]]
        assert chosen["digits"][method] == tried["trials"][int(np.argmax(figures))]["settings"]
    with np.load(trials[0].folder(out) / SCORES_FILE) as scores:
        assert len(scores["classes/knn"]) == round(0.25 * len(open_source("digits:train")))
    with np.load(final_cells(study, chosen)[1].folder(out) / SCORES_FILE) as scores:
        assert len(scores["classes/knn"]) == len(open_source("digits:test"))


@pytest.mark.slow
def test_a_second_call_runs_nothing_and_another_setting_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = finished
    study = read_study(path)
    before = {file: file.stat().st_mtime_ns for file in out.rglob(RESULT_FILE)}
    assert compare(study, out=out, quiet=True).done == 6
    assert {file: file.stat().st_mtime_ns for file in out.rglob(RESULT_FILE)} == before
    other = dataclasses.replace(study, config={**study.config, "head_hidden": 64})
    with pytest.raises(S2R2Error, match="another head_hidden"):
        compare(other, out=out, quiet=True)
    more = dataclasses.replace(study, seeds=[0, 1, 2])
    assert (
        sum(is_done(cell, out) for cell in final_cells(more, choose_settings(study, tuning_cells(study), out)[0])) == 6
    )
    copy = shutil.copytree(out, tmp_path / "out")
    assert compare(more, out=copy, minutes=0, quiet=True).done == 6
    result = copy / "final/digits/S2R2/1280-seed-0" / RESULT_FILE
    content = json.loads(result.read_text())
    assert content["photos"]
    result.write_text(json.dumps({**content, "photos": "of others"}))
    with pytest.raises(S2R2Error, match=r"S2R2/1280-seed-0 was trained on other photos than digits\S* has now"):
        compare(more, out=copy, minutes=0, quiet=True)


@pytest.mark.parametrize("name", ["small", "small_v3", "long", "gpu", "recipe", "duplicates"])
def test_the_studies_of_the_repository_are_well_formed(name: str, tmp_path: Path) -> None:
    study = read_study(STUDIES / f"{name}.yaml", tmp_path)
    assert study.name == name
    cells = [*tuning_cells(study), *final_cells(study, study.settings)]
    folders = {cell.folder(tmp_path) for cell in cells}
    assert len(folders) == len(cells)
    check_study(study)


def test_the_study_in_the_docs_is_well_formed(tmp_path: Path) -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", (STUDIES.parent / "docs" / "study.md").read_text(), re.DOTALL)
    study = parse_study(yaml.safe_load(block), tmp_path)
    assert list(study.methods) == ["S2R2", "SimCLR", "mine"]
    assert study.tuning is not None
    assert len(study.tuning.settings("mine")) == 2


def test_time_is_kept(tmp_path: Path) -> None:
    results = compare(written(tmp_path), out=tmp_path / "out", minutes=0, quiet=True)
    assert (results.done, results.cells) == (0, 6)
    assert "Not finished: 0 of 6" in (tmp_path / "out" / "table.md").read_text()


def test_a_cell_that_cannot_run_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, methods={"S2R2": {"batch_size": 4000}})
    with pytest.raises(S2R2Error, match="S2R2: batch_size 4000 is larger than digits") as error:
        compare(path, out=tmp_path / "out", quiet=True)
    assert "\n" not in str(error.value)


def test_the_untrained_encoder_needs_no_batch(tmp_path: Path) -> None:
    path = written(tmp_path, config={**STUDY["config"], "batch_size": 4000}, methods={"S2R2": {"batch_size": 32}})
    study = read_study(path)
    prepare_images(study, check_study(study), tmp_path, PlainConsole(quiet=True))


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for n in range(40):
        Image.fromarray(np.full((40, 40, 3), 5 * n, np.uint8)).save(tmp_path / f"{n}.png")
    data = {"grey": {"train": str(tmp_path), "tasks": {"none": {"train": str(tmp_path), "test": "digits:test"}}}}
    with pytest.raises(S2R2Error, match="labels"):
        compare(written(tmp_path, data=data), out=tmp_path / "out", quiet=True)
