"""Several calls of one study, and cells that fail: nothing is lost, and nothing runs twice."""

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import preloaded
from s2r2.errors import NonFiniteError, S2R2Error
from s2r2.runs import RunFolder
from s2r2.study import cell as cell_module, compare, comparing, read_study
from s2r2.study.cell import _run
from s2r2.study.claims import ERROR_FILE, Claim, read_failure, write_failure
from s2r2.study.plan import CELL_FILE, RESULT_FILE, RUN_FOLDER, SCORES_FILE, Cell, final_cells
from s2r2.study.scheduling import Scheduler
from s2r2.study.spec import parse_study
from s2r2.system.console import PlainConsole
from s2r2.system.locking import LOCK, HeldError
from small_study import SMALL_STUDY

STUDY: dict[str, Any] = {
    **SMALL_STUDY,
    "methods": {"S2R2": {"views": 4}, "SimCLR": {"method": "simclr", "views": 4}},
}
COSTS = {"pixels": 1, "seconds": 1.0, "steps": 1, "peak_memory": 1}


def leave_result(folder: Path) -> None:
    """What a run leaves, with figures of no meaning."""
    content = json.loads((folder / CELL_FILE).read_text())
    hits = (np.arange(12) % 3 > 0).astype(float)
    np.savez(folder / SCORES_FILE, **{"classes/knn": hits, "classes/targets": np.arange(12) % 2})
    (folder / RESULT_FILE).write_text(json.dumps({"cell": content, "costs": COSTS}))


class Instant:
    """An executor whose cells have ended as soon as they are started.

    Args:
        run: Called with the folder; what it raises is the cell's error, and KeyboardInterrupt an end without a word.
    """

    def __init__(self, run: Callable[[Path], object] = leave_result, room: int = 1) -> None:
        self.run, self._room = run, room
        self.started: list[str] = []
        self._ended: list[tuple[Cell, str]] = []

    def room(self) -> int:
        return self._room

    def start(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self.started.append(claim.cell.title)
            try:
                self.run(claim.folder)
            except S2R2Error as error:
                write_failure(claim.folder, str(error))
            except KeyboardInterrupt:
                pass
            claim.release()
            self._ended.append((claim.cell, "its process was ended by SIGKILL"))

    def ended(self) -> list[tuple[Cell, str]]:
        ended, self._ended = self._ended, []
        return ended

    def running(self) -> int:
        return len(self._ended)

    def stop(self) -> None:
        pass


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def scheduler(out: Path, executor: Instant) -> Scheduler:
    return Scheduler(out, executor, time.monotonic() + 20, PlainConsole(quiet=True))


@pytest.fixture
def planned() -> list[Cell]:
    return final_cells(parse_study(STUDY, Path()), {})


@pytest.mark.slow
def test_a_cell_that_fails_is_listed_and_the_others_and_the_next_call_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = (
        written(tmp_path, methods={**STUDY["methods"], "Third <b>": {"method": "simclr", "views": 4}}),
        tmp_path / "out",
    )

    def run(folder: Path) -> None:
        if "S2R2" in str(folder) and "seed-1" in str(folder):
            raise S2R2Error("the disk is full")
        if "Third" in str(folder):
            raise KeyboardInterrupt
        leave_result(folder)

    executor = Instant(run)
    monkeypatch.setattr(comparing, "LocalExecutor", lambda _: executor)
    with pytest.raises(S2R2Error, match="3 of 8 runs failed, such as final, digits, Third <b>, 640 vi") as error:
        compare(path, out=out)
    assert "\n" not in str(error.value)
    assert len(executor.started) == 8
    said = capsys.readouterr().out
    assert "seed 1  failed: the disk is full" in said
    assert said.count("failed: its process was ended by SIGKILL") == 2
    table = (out / "table.md").read_text()
    assert "**Failed runs: 3. The next call tries again.**" in table
    assert "S2R2, 640 views, seed 1: the disk is full" in table
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    assert rows["S2R2"].endswith("| 1 of 2 |")
    assert rows["SimCLR"].endswith("| 2 |")
    assert rows["Third <b>"].split("|")[2].strip() == "missing"
    assert rows["Third <b>"].endswith("| 0 of 2 |")
    page = (out / "study.html").read_text()
    assert "Third &lt;b&gt;, 640 views, seed 0: its process was ended by SIGKILL" in page
    assert len(json.loads((out / "results.json").read_text())["failures"]) == 3
    again = Instant()
    monkeypatch.setattr(comparing, "LocalExecutor", lambda _: again)
    results = compare(path, out=out, quiet=True)
    assert (results.done, results.failures) == (8, [])
    assert len(again.started) == 3
    assert not list(out.rglob(ERROR_FILE))
    assert "missing" not in (out / "table.md").read_text()


@pytest.mark.slow
def test_a_trial_that_fails_keeps_only_its_own_methods_final_runs_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {"S2R2": {"lr": [0.002, 0.004]}, "SimCLR": {"lr": [0.002, 0.004]}}
    path, out = written(tmp_path, tuning={"trials": 2, "budget": 640, "search": search}), tmp_path / "out"

    def run(folder: Path) -> None:
        if folder.match("tuning/*/S2R2/trial-1-*"):
            raise S2R2Error("boom")
        leave_result(folder)

    monkeypatch.setattr(comparing, "LocalExecutor", lambda _: Instant(run))
    with pytest.raises(S2R2Error, match=r"1 of 10 runs failed: tuning, .*trial 2.*: boom .*try it again"):
        compare(path, out=out, quiet=True)
    assert sorted(p.name for p in (out / "final/digits").iterdir()) == ["SimCLR", "untrained"]
    table = (out / "table.md").read_text()
    assert "Not finished: 4 of 6 runs" in table
    assert "| S2R2 | missing |" in table
    monkeypatch.setattr(comparing, "LocalExecutor", lambda _: Instant())
    assert compare(path, out=out, quiet=True).done == 6


@pytest.mark.slow
def test_a_trial_that_diverges_is_the_worst_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"S2R2": {"lr": [0.002, 50.0]}, "SimCLR": {"lr": [40.0, 50.0]}}
    tuning = {"trials": 2, "budget": 640, "search": search, "widen": True}
    path, out = written(tmp_path, tuning=tuning), tmp_path / "out"

    def run(folder: Path) -> None:
        if json.loads((folder / CELL_FILE).read_text())["config"]["lr"] > 1:
            raise NonFiniteError("the loss of s2r2 is nan")
        leave_result(folder)

    monkeypatch.setattr(cell_module, "_train_and_evaluate", run)
    for started in (9, 0):  # five trials, one of them wider; final runs of S2R2 and of the untrained encoder
        executor = Instant(_run)
        monkeypatch.setattr(comparing, "LocalExecutor", lambda _, executor=executor: executor)
        with pytest.raises(S2R2Error, match="every trial of SimCLR on digits diverged: give it other settings"):
            compare(path, out=out, quiet=True)
        assert len(executor.started) == started, executor.started
    table = (out / "table.md").read_text()
    assert "| digits | S2R2 | lr 0.002 |" in table
    assert re.search(r"\| \d+\.\d, diverged, \d+\.\d \|", table)
    assert "| digits | SimCLR | none: all diverged |  | diverged, diverged |" in table
    assert "it counts as the worst" in table
    assert "Failed runs" not in table
    lower = {**tuning, "search": {**search, "SimCLR": {"lr": [0.002, 50.0]}}, "widen": False}
    assert compare(written(tmp_path, tuning=lower), out=out, quiet=True).done == 6


def test_cells_of_other_calls_are_waited_for_and_taken_up_when_their_holder_is_gone(
    planned: list[Cell], tmp_path: Path
) -> None:
    finishing, dying, failing = (Claim.take(cell, tmp_path) for cell in planned[:3])
    for claim in (finishing, dying, failing):
        claim.begin()
    with pytest.raises(HeldError, match=r"another process \(\d+ of .*\) is running final"):
        Claim.take(planned[0], tmp_path)

    def run(folder: Path) -> None:
        leave_result(folder)
        if len(executor.started) == len(planned) - 3:  # the last one that nobody holds
            leave_result(finishing.folder)
            write_failure(failing.folder, "no memory")
            for claim in (finishing, dying, failing):
                claim.release()

    executor = Instant(run)
    work = scheduler(tmp_path, executor)
    work.run(planned)
    assert sorted(executor.started) == sorted(cell.title for cell in (planned[1], *planned[3:]))
    assert read_failure(failing.folder) == "no memory"
    work.run(planned)  # this call does not try again what another one has tried meanwhile
    assert len(executor.started) == len(planned) - 2
    again = Instant()
    scheduler(tmp_path, again).run(planned)
    assert again.started == [planned[2].title]


def test_what_was_trained_with_other_settings_is_not_gone_on_with(planned: list[Cell], tmp_path: Path) -> None:
    cell = planned[2]
    for content, kept in ((cell.content, True), (cell.content, True), ({**cell.content, "copies": 0.5}, False)):
        claim = Claim.take(dataclasses.replace(cell, content=content), tmp_path)
        run = RunFolder(claim.folder / RUN_FOLDER)
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        run.checkpoint.touch()
        run.metrics_file.touch()
        claim.begin()
        claim.release()
        assert run.has_checkpoint is run.metrics_file.exists() is kept
    assert not (cell.folder(tmp_path) / LOCK).exists()


def figures_in(out: Path) -> Any:
    """What the study found, without seconds and memory."""
    results = json.loads((out / "results.json").read_text())
    return {name: results[name] for name in ("cells", "done", "failures", "comparisons")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_calls_one_of_them_killed_leave_the_table_of_one_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path / "cache"))
    path, out, one = written(tmp_path, methods={"S2R2": {"views": 4}}), tmp_path / "out", tmp_path / "one"
    words = ["-m", "s2r2", "compare", path, "--out", out, "--processes", os.cpu_count() or 1]  # one thread for each
    calls = [preloaded.start(*words), preloaded.start(*words)]
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (training := list(out.glob(f"final/*/*/*/{RUN_FOLDER}/metrics.jsonl"))):
        time.sleep(0.02)
    holder = int((training[0].parents[1] / LOCK).read_text().split()[0])
    [victim] = [call for call in calls if call.pid == holder]
    victim.kill()
    victim.wait()
    before = {result: result.stat().st_mtime_ns for result in out.rglob(RESULT_FILE)}
    [survivor] = [call for call in calls if call is not victim]
    said = [victim.communicate(600)[0], survivor.communicate(600)[0]]
    assert survivor.returncode == 0, said[1]
    done = re.findall(r"^ +\d/4  (.*?, seed \d)  (?!by another call)", "".join(said), re.M)
    assert len(done) == len(set(done))
    assert set(done) <= {cell.title for cell in final_cells(read_study(path), {})}
    assert {result: result.stat().st_mtime_ns for result in before} == before
    monkeypatch.setattr(comparing, "LocalExecutor", lambda _: Instant(in_this_process))
    compare(path, out=one, quiet=True)
    assert figures_in(out) == figures_in(one)
    assert not list(out.rglob(LOCK))


def in_this_process(folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _run(folder)
    finally:
        torch.set_num_threads(threads)
