"""What a study says of differences, and of settings at the edge of those tried."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, t as student

from s2r2.study import Estimate
from s2r2.study.plan import RESULT_FILE, SCORES_FILE, Cell, tuning_cells
from s2r2.study.results import Comparison, Costs, Results
from s2r2.study.spec import parse_study
from s2r2.study.statistics import holm
from s2r2.study.tuning import beyond_edges, choose_settings, wider_cells
from s2r2.study.verdicts import unequal_seconds, verdict
from small_study import SMALL_STUDY

STUDY: dict[str, Any] = {
    **SMALL_STUDY,
    "budgets": [1280],
    "methods": {"S2R2": {"method": "s2r2", "temperature": 0.3}, "SimCLR": {"method": "simclr", "views": 4}},
}
TUNING: dict[str, Any] = {
    "trials": 2,
    "budget": 640,
    "widen": True,
    "search": {"S2R2": {"temperature": [0.3, 0.6]}, "SimCLR": [{"lr": 0.002}, {"options": {"form": "geometric"}}]},
}


def test_holms_correction_counts_all_comparisons() -> None:
    """Holm 1979: against 0.05 / 4, 0.05 / 3, ... until one is larger."""
    assert holm([0.01, 0.04, 0.03, math.nan, 0.012]) == [True, False, False, False, True]
    assert holm([0.01, 0.04, 0.015, 0.012]) == [True, True, True, True]
    assert holm([0.04, 0.03]) == [False, False]
    assert holm([]) == []


def test_a_p_value_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    seeds_alone = Estimate(1.0, 1.0, 4, 0.0)
    assert seeds_alone.p_value == pytest.approx(0.05)
    assert Estimate(2.0, 1.0, 4, 0.0).p_value == pytest.approx(2 * student.sf(2 * student.ppf(0.975, 3), 3))
    assert Estimate(-2.0, 1.0, 4, 1.0).p_value == pytest.approx(2 * norm.sf(2 * norm.ppf(0.975)))
    assert Estimate(0.0, 0.0, 4, 0.0).p_value == pytest.approx(1)
    assert math.isnan(Estimate(1.0, math.inf, 1, 0.1).p_value)


def test_what_is_not_told_apart_says_what_is_excluded() -> None:
    ahead, alone, unknown = (
        Estimate(0.03, 0.01, 5, 0.005),
        Estimate(0.02, 0.01, 5, 0.005),
        Estimate(0.003, 0.01, 5, 0.005),
    )
    assert verdict(ahead, {ahead}) == "+3.0 ±1.0, ahead"
    assert verdict(alone, {ahead}) == "+2.0 ±1.0, ahead by its own interval, not after correction"
    assert verdict(unknown, {ahead}) == "+0.3 ±1.0, not told apart; differences above 1.3 are excluded"
    assert verdict(Estimate(-0.03, 0.01, 5, 0.0), {Estimate(-0.03, 0.01, 5, 0.0)}) == "-3.0 ±1.0, behind"
    assert "one seed" in verdict(Estimate(0.02, math.inf, 1, 0.01), set())
    assert verdict(Estimate(math.nan, math.nan, 2, math.nan), set()) == "n/a"


def test_methods_that_took_longer_are_named_with_the_steps_they_would_lose() -> None:
    results = Results(parse_study(STUDY, Path()), 4, 4)
    own, other = (("digits", method, 1280) for method in STUDY["methods"])
    results.costs = {own: Costs(1280, 66, 1, 2), other: Costs(1280, 61, 1, 2)}
    comparison = Comparison("digits", "classes", 1280, False, 4, {})
    assert unequal_seconds(results, comparison) == []
    results.costs[other] = Costs(1280, 55, 1, 2)
    [note] = unequal_seconds(results, comparison)
    assert note.endswith(
        "in the 66 seconds of S2R2 other methods would make more or fewer steps: SimCLR +20% (55 seconds)."
    )


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ({"lr": 0.003, "temperature": 0.1}, {"lr": {"lr": 0.0015, "temperature": 0.1}}),
        ({"lr": 0.012, "temperature": 0.1}, {"lr": {"lr": 0.024, "temperature": 0.1}}),
        ({"lr": 0.006, "temperature": 0.1}, {}),
    ],
)
def test_a_step_beyond_an_edge_is_as_long_as_the_one_before(best: dict[str, Any], expected: dict[str, Any]) -> None:
    tried = [{"lr": lr, "temperature": 0.1} for lr in (0.003, 0.006, 0.012)]
    assert beyond_edges(tried, best) == expected


def test_edges_of_options_and_whole_numbers() -> None:
    tried = [{"options": {"queue": 0}}, {"options": {"queue": 256}}, {"options": {"queue": 512, "form": "geometric"}}]
    assert beyond_edges(tried, tried[2]) == {"options.queue": {"options": {"queue": 1024, "form": "geometric"}}}
    assert beyond_edges(tried, tried[0]) == {"options.queue": {"options": {"queue": -256}}}


def leave_result(cell: Cell, out: Path, right: int) -> None:
    """What the run of a cell leaves: so many of ten images right."""
    folder = cell.folder(out)
    folder.mkdir(parents=True)
    costs = {"pixels": 1, "seconds": 1.0, "steps": 1, "peak_memory": 1}
    (folder / RESULT_FILE).write_text(json.dumps({"cell": cell.content, "costs": costs}))
    hits = (np.arange(10) < right).astype(float)
    np.savez(folder / SCORES_FILE, **{"classes/knn": hits, "classes/targets": np.arange(10) % 2})


def test_a_best_trial_at_an_edge_gets_a_trial_beyond_it(tmp_path: Path) -> None:
    study = parse_study({**STUDY, "tuning": TUNING}, Path())
    cells = tuning_cells(study)
    for cell in cells:
        leave_result(cell, tmp_path, 7 if cell.trial == 0 else 5)
    chosen, record = choose_settings(study, cells, tmp_path)
    assert record["digits"]["S2R2"]["edges"] == ["temperature"]
    [wider] = wider_cells(study, cells, tmp_path)  # the other method's trials have no number in common
    assert (wider.method, wider.trial, wider.content["settings"]) == ("S2R2", 2, {"temperature": 0.15})
    sizes = {**TUNING, "search": {**TUNING["search"], "S2R2": {"batch_size": [320, 32]}}}  # 360 images
    larger = parse_study({**STUDY, "tuning": sizes}, Path())
    for cell in tuning_cells(larger):
        leave_result(cell, tmp_path / "larger", 7 if cell.trial == 0 else 5)
    assert wider_cells(larger, tuning_cells(larger), tmp_path / "larger") == []
    unfinished, _ = choose_settings(study, [*cells, wider], tmp_path)
    assert "S2R2" not in unfinished["digits"]
    leave_result(wider, tmp_path, 10)
    chosen, record = choose_settings(study, [*cells, wider], tmp_path)
    assert chosen["digits"]["S2R2"] == {"temperature": 0.15}
    assert len(record["digits"]["S2R2"]["trials"]) == 3
