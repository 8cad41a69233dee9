"""A run of so many minutes: its schedule ends when the time does, whatever happens to the clock in between."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2r2.cli import main
from s2r2.distributed.processes import Processes
from s2r2.runs import RunFolder
from s2r2.system.console import PlainConsole
from s2r2.training import TrainConfig, read_config, train
from s2r2.training.run.checkpoint import load_checkpoint
from s2r2.training.schedule import StepSchedule, Stopwatch, TimeSchedule
from s2r2.training.setup import time_limit
from s2r2.training.setup.time_limit import Choice, choose_for_time

ALONE = Processes()


class Clock:
    """Seconds that pass only when a test says so, or with every look."""

    def __init__(self, each_look: float = 0.0) -> None:
        self.seconds, self.each_look = 1000.0, each_look

    def __call__(self) -> float:
        self.seconds += self.each_look
        return self.seconds


def run(clock: Clock, schedule: TimeSchedule, seconds: Callable[[int], float], step: int = 0) -> list[float]:
    """Learning rates of the steps that a schedule allows, each of which takes so long."""
    rates = []
    while not schedule.ended(step):
        rates.append(schedule.learning_rate(step, 1.0))
        clock.seconds += seconds(step)
        step += 1
        schedule.look(step)
    return rates


def timed(clock: Clock, *, limit: float = 100.0, warmup: int = 10**6, trained: float = 0.0) -> TimeSchedule:
    return TimeSchedule(limit, warmup, Stopwatch(trained, clock), ALONE)


def test_the_cosine_ends_when_the_time_does() -> None:
    clock = Clock()
    rates = run(clock, timed(clock), lambda step: 1.0)
    assert len(rates) == 100
    assert rates[-1] < 1e-3
    assert max(rates) == pytest.approx(rates[10], rel=0.02)
    expected = [0.5 * min(1, max(s / 10, (s + 1) / 1e6)) * (1 + math.cos(math.pi * s / 100)) for s in range(100)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_it_ends_nearest_to_the_limit_with_any_length_of_a_step() -> None:
    for seconds in (0.3, 7.0, 30.0, 45.0):
        clock = Clock()
        run(clock, timed(clock), lambda step, each=seconds: each)  # type: ignore[misc]
        assert abs(clock.seconds - 1100) <= seconds / 2 + 1e-6


def test_a_slow_step_counts_and_the_rate_never_rises_again() -> None:
    clock = Clock()
    rates = run(clock, timed(clock), lambda step: 20.0 if step == 30 else 1.0)
    assert clock.seconds == pytest.approx(1100)
    after_warmup = rates[10:]
    assert after_warmup == sorted(after_warmup, reverse=True)


def test_a_pause_does_not_count() -> None:
    clock = Clock()
    rates = run(clock, timed(clock), lambda step: 3600.0 if step == 30 else 1.0)
    assert len(rates) == 100
    assert rates[31] == pytest.approx(rates[30], rel=0.1)


def test_what_has_to_be_done_at_the_end_is_part_of_the_time() -> None:
    clock = Clock()
    schedule = timed(clock)
    for what, seconds in (("check", 4.0), ("checkpoint", 2.0)):
        clock.seconds += seconds
        schedule.look_at_ending(what)
    schedule.look(0)
    rates = run(clock, schedule, lambda step: 1.0)
    assert clock.seconds == pytest.approx(1094)
    assert len(rates) == 88
    assert rates[-1] < 2e-3


def test_warmup_is_a_tenth_at_most() -> None:
    clock = Clock()
    assert run(clock, timed(clock, warmup=2), lambda step: 1.0)[1] > 0.99
    assert timed(Clock()).learning_rate(0, 1.0) > 0


def test_a_resume_goes_on_at_its_place_of_the_schedule() -> None:
    clock = Clock()
    whole = run(clock, timed(clock), lambda step: 1.0)
    resumed = TimeSchedule(100.0, 10**6, Stopwatch(60.0, clock), ALONE, done=60)
    np.testing.assert_allclose(run(clock, resumed, lambda step: 1.0, step=60), whole[60:], rtol=1e-9)


def test_steps_between_two_looks_are_counted_on() -> None:
    clock = Clock()
    schedule = timed(clock)
    clock.seconds += 10
    schedule.look(10)
    assert schedule.progress(15) == pytest.approx(0.15)
    assert schedule.steps(10) == 100
    assert schedule.describe(10) == "step 10, 0.2 of 1.66667 minutes"


def test_steps_are_as_they_were() -> None:
    schedule = StepSchedule(100, 10, Stopwatch(0.0, Clock()))
    assert [schedule.learning_rate(step, 2.0) for step in (0, 9, 10)] == [0.2, 2.0, 2.0]
    assert not schedule.ended(99)
    assert schedule.ended(100)


class _Told(Processes):
    """A process that hears what the first one said, look by look."""

    told: list[tuple[float, ...]]

    def numbers_of_leader(self, *values: float) -> tuple[float, ...]:
        return self.told.pop(0)


class _Telling(Processes):
    told: list[tuple[float, ...]]

    def numbers_of_leader(self, *values: float) -> tuple[float, ...]:
        self.told.append(values)
        return values


def test_processes_with_other_clocks_end_at_the_same_step() -> None:
    told: list[tuple[float, ...]] = []
    rates = []
    for kind, seconds in ((_Telling, 0.7), (_Told, 0.9)):
        clock, processes = Clock(), kind()
        object.__setattr__(processes, "told", told)
        schedule = TimeSchedule(20.0, 1, Stopwatch(0.0, clock), processes)
        rates.append(run(clock, schedule, lambda step, each=seconds: each))  # type: ignore[misc]
    assert rates[0] == rates[1]
    assert not told


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "TABLE", (Choice(10**9, "resnet18", 64), Choice(0, "test_resnet", 32)))
    monkeypatch.setattr(time_limit, "seconds_per_pixel", lambda *_: 1e-6)


SMALL: dict[str, Any] = {
    "batch_size": 16, "views": 2, "head_hidden": 32, "embedding_dimensions": 16, "threads": 1, "device": "cpu",
}  # fmt: skip


@pytest.mark.slow
def test_a_run_ends_with_its_time_and_says_how_far_it_came(photos_here: Path, cheap: None, tmp_path: Path) -> None:
    config = TrainConfig(minutes=1, head_hidden=32, embedding_dimensions=16, views=2, threads=1, device="cpu")
    result = train(photos_here, config, out=tmp_path / "run", quiet=True, clock=Clock(each_look=1.0))
    config, about = read_config(tmp_path / "run")
    state = load_checkpoint(tmp_path / "run")[0]
    assert 40 < result.steps < 60
    assert about["steps"] == state["step"] == result.steps
    assert config.epochs == math.ceil(result.steps / (32 // config.batch_size))
    assert (config.backbone, config.image_size, config.batch_size, config.minutes) == ("test_resnet", 32, 4, 1.0)
    lines = RunFolder(tmp_path / "run").read_metrics()
    checks = [line for line in lines if "check" in line]
    assert 5 < len(checks) < 14
    assert checks[-1]["step"] == result.steps
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates[-1] < 0.01 * max(rates)

    again = train(None, TrainConfig(threads=1), out=tmp_path / "run", resume=True, quiet=True)
    assert again.steps == result.steps  # nothing is left to do

    longer = TrainConfig(minutes=2, threads=1)
    grown = train(None, longer, out=tmp_path / "run", resume=True, quiet=True, clock=Clock(each_look=1.0))
    assert 1.6 * result.steps < grown.steps < 2.4 * result.steps
    assert read_config(tmp_path / "run")[0].minutes == 2


@pytest.mark.slow
def test_time_is_kept_in_steps_too_and_a_length_may_change_its_kind(photos_here: Path, tmp_path: Path) -> None:
    config = TrainConfig(backbone="test_resnet", image_size=32, steps=3, **SMALL)
    train(photos_here, config, out=tmp_path / "run", quiet=True, clock=Clock(each_look=2.0))
    seconds = load_checkpoint(tmp_path / "run")[0]["seconds"]
    assert seconds >= 2 * 3
    later = TrainConfig(minutes=1, threads=1)
    timed_run = train(None, later, out=tmp_path / "run", resume=True, quiet=True, clock=Clock(each_look=2.0))
    assert 3 < timed_run.steps < 30
    back = TrainConfig(steps=timed_run.steps + 1, threads=1)
    assert train(None, back, out=tmp_path / "run", resume=True, quiet=True).steps == timed_run.steps + 1
    assert read_config(tmp_path / "run")[0].minutes == 0


def test_two_lengths_are_refused(photos_here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--epochs", "4"), ("--steps", "4")):
        with pytest.raises(SystemExit) as ended:
            main(["train", str(photos_here), "--minutes", "3", *words, "--out", str(tmp_path / "run")])
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip()
        assert said == f"s2r2: --minutes 3 and {' '.join(words)} both say how long the run is: leave one of them out"
    assert not (tmp_path / "run").exists()
    config = TrainConfig(backbone="test_resnet", image_size=32, steps=1, **SMALL)
    assert train(photos_here, config, out=tmp_path / "run", quiet=True).steps == 1


def test_what_is_given_stays_and_the_rest_is_chosen(cheap: None, capsys: pytest.CaptureFixture[str]) -> None:
    def chosen(images: int, **given: object) -> TrainConfig:
        config = TrainConfig(minutes=3, threads=1, head_hidden=32, embedding_dimensions=16, **given)  # type: ignore[arg-type]
        return choose_for_time(config, config.given, images, torch.device("cpu"), ALONE, PlainConsole())

    few, many = chosen(40), chosen(5000)
    assert (few.backbone, few.image_size, few.batch_size) == ("test_resnet", 32, 5)
    assert many.batch_size == 64
    assert few.epochs > 10 * many.epochs
    said = capsys.readouterr().out
    assert "`backbone='test_resnet'`, `image_size=32`, `batch_size=64`, `views=8`, `recipe='swav-multicrop'`" in said
    assert "`lr=0.006`, `options=spread=1.0`" in said
    assert chosen(5000, method="simclr", lr=0.1).lr == 0.1
    assert chosen(5000, lr=0.001, options={"spread": 0.0}).options == {"spread": 0.0}
    assert not chosen(5000, method="simclr").options
    own = chosen(5000, backbone="lcnet_050", batch_size=16, image_size=40)
    assert (own.backbone, own.image_size, own.batch_size) == ("lcnet_050", 40, 16)


def test_a_fast_machine_or_much_time_chooses_the_better_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "TABLE", (Choice(50, "test_resnet", 48), Choice(0, "test_resnet", 32)))
    monkeypatch.setattr(time_limit, "seconds_per_pixel", lambda *_: 1e-7)
    views_in_epoch = 1000 * (2 * 48**2 + 6 * 21**2)
    enough = 50 * views_in_epoch * 1e-7 / 60
    for minutes, size in ((1.01 * enough, 48), (0.99 * enough, 32)):
        config = TrainConfig(minutes=minutes, head_hidden=32, embedding_dimensions=16)
        asked = dataclasses.replace(config)
        found = choose_for_time(asked, config.given, 1000, torch.device("cpu"), ALONE, PlainConsole(quiet=True))
        assert found.image_size == size


@pytest.mark.slow
def test_less_time_than_was_trained_is_refused(photos_here: Path, cheap: None, tmp_path: Path) -> None:
    config = TrainConfig(minutes=0.2, **SMALL)
    train(photos_here, config, out=tmp_path / "run", quiet=True, clock=Clock(each_look=1.0))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.raises(Exception, match=r"has trained 0\.2 minutes already, .* give `minutes=1` or more"):
        train(None, TrainConfig(minutes=0.1, threads=1), out=tmp_path / "run", resume=True, quiet=True)
    train(None, TrainConfig(minutes=1, threads=1), out=tmp_path / "copy", resume=True, quiet=True, clock=Clock(9.0))


def test_a_real_short_run(
    photos_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time_limit, "TABLE", (Choice(0, "test_resnet", 32),))
    main(["train", str(photos_here), "--minutes", "0.03", "--threads", "1", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "chosen    for 0.03 minutes and 32 photos: --backbone test_resnet" in said
    assert "run       0.03 minutes, about" in said
    seconds = load_checkpoint(tmp_path / "run")[0]["seconds"]
    assert seconds < 12  # 1.8 where nothing else runs
    assert f"{read_config(tmp_path / 'run')[1]['steps']:,} steps in" in said
