"""Remedies that are named where studies are read and run, and where several processes share the work."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from performing import SETTINGS, State, case, choices, command, named

from s2r2.distributed import launching
from s2r2.distributed.devices import choose_device
from s2r2.distributed.processes import Processes
from s2r2.study import read_study, tuning
from s2r2.study.plan import RESULT_FILE, final_cells, is_done
from s2r2.study.results import refuse_other_images
from s2r2.study.spec import TuningSpec
from s2r2.study.tasks import check_tasks
from s2r2.system.locking import LOCK, locked

STUDY: dict[str, Any] = {
    "name": "small",
    "seeds": [0],
    "views": [160],
    "config": {name: value for name, value in SETTINGS.items() if name not in ("epochs", "device", "threads", "views")},
    "data": {
        "digits": {"train": "digits:test", "tasks": {"classes": {"train": "digits:train", "test": "digits:test"}}}
    },
    "methods": {"S2R2": {"views": 2}, "SimCLR": {"method": "simclr", "views": 2}},
}
TUNING: dict[str, Any] = {
    "trials": 2, "views": 160, "seeds": [7], "search": {"S2R2": {"lr": [0.1, 0.2]}, "SimCLR": {"lr": [0.1, 0.2]}},
}  # fmt: skip


def written(state: State, **changes: Any) -> Path:
    return state.write("study.yaml", yaml.safe_dump({**STUDY, **changes}))


def reads(**changes: Any) -> Callable[..., Any]:
    return lambda state, said="": read_study(written(state, **changes))


def compares(state: State, *words: object, **changes: Any) -> str:
    """A study that stops before its first run."""
    return command("compare", written(state, **changes), "--minutes", 0, *words)


case(
    "more than {} combinations: give fewer values",
    lambda _: TuningSpec(2, 160, {"m": {name: list(range(100)) for name in "abc"}}).settings("m"),
    lambda _, said: TuningSpec(100, 160, {"m": {"a": list(range(100))}}).settings("m"),
)
case(
    "would be tried twice: give other settings in its place",
    lambda _: TuningSpec(2, 160, {"m": [{"lr": 0.1}, {"lr": 0.1}]}).settings("m"),
    lambda _, said: TuningSpec(2, 160, {"m": [{"lr": 0.1}, {"lr": 0.2}]}).settings("m"),
)
case(
    "there is no folder {}: give the one that the study's images are in",
    lambda state: compares(state, "--data", state.tmp / "none"),
    lambda state, said: compares(state, "--data", state.tmp),
)
case("is set by the study itself: leave it out", reads(methods={"S2R2": {"seed": 3}}), reads(methods={"S2R2": {}}))


def either(state: State, said: str) -> None:
    reads(tuning=TUNING)(state)
    reads(held_out=0.5)(state)


case("would use the same images: leave one out", reads(tuning=TUNING, held_out=0.5), either)


def each_data_set(state: State, said: str) -> None:
    for name in choices(said):
        compares(state, "--only", name)


case("the study has no data set {}: use {}", lambda state: compares(state, "--only", "letters"), each_data_set)

CHOSEN = {"digits": {"S2R2": {"lr": 0.01}}}


def one_choice(state: State, said: str) -> None:
    reads(tuning=TUNING)(state)
    reads(settings=CHOSEN)(state)


case("would choose them anew: leave one out", reads(tuning=TUNING, settings=CHOSEN), one_choice)


def figures(state: State, said: str) -> None:
    for name in choices(said):
        reads(tuning={**TUNING, "figure": name})(state)


case("use {}$", reads(tuning={**TUNING, "figure": "loss"}), figures)
case("give at least one, each once", reads(seeds=[]), reads(seeds=[3]))
case("give at least one budget above 0, each once", reads(views=[]), reads(views=[160]))


def strange_method(state: State) -> object:
    place = state.write(
        "meth.py",
        f"# {state.tmp}\nfrom s2r2.training import Method\nclass Mine(Method):\n"
        "    def forward(self, embeddings, groups):\n        return embeddings.sum()\n",
    )
    state.kept["methods"] = {"mine": {"method": str(place), "views": 2}}
    return compares(state, methods=state.kept["methods"])


case(
    "add `trust_methods=[{}]`",
    strange_method,
    lambda state, said: compares(
        state, *named(r"add (--trust-method \S+)$", said).split(), methods=state.kept["methods"]
    ),
)


case(
    "cannot write to {}: {}choose another `out`",
    lambda state: compares(state, "--out", state.write("file", "") / "out"),
    lambda state, said: compares(state, "--out", state.tmp / "other"),
)


def without_slurm(state: State) -> str:
    with state.patch.context() as patch:
        patch.setenv("PATH", "")
        return compares(state, "--executor", "slurm")


case("start it on one where sbatch works, or run it locally", without_slurm, lambda state, said: compares(state))
case(
    "options --slurm-... are for --executor slurm: add it, or leave them out",
    lambda state: compares(state, "--slurm-cpus", 2),
    lambda state, said: compares(state),
)


def judged(state: State, content: str) -> object:
    """What a run of a study has left."""
    cell = final_cells(read_study(written(state)), {})[0]
    folder = cell.folder(state.tmp / "out")
    folder.mkdir(parents=True, exist_ok=True)
    costs = dict.fromkeys(("pixels", "seconds", "steps", "peak_memory"), 1)
    changed = {**cell.content, "seed": 99}
    (folder / RESULT_FILE).write_text(content or json.dumps({"cell": changed, "costs": costs}))
    return is_done(cell, state.tmp / "out")


def deleted(state: State, said: str) -> None:
    """The folder that the message names goes, and the run is to be run again; so it is in another folder."""
    cell = final_cells(read_study(written(state)), {})[0]
    assert not is_done(cell, state.tmp / "other")
    place = Path(named(r"delete (/\S+) to run", said) if "delete /" in said else named(r"^(/\S+) was run", said))
    assert place.is_relative_to(state.tmp / "out")
    shutil.rmtree(place)
    assert not is_done(cell, state.tmp / "out")
    compares(state, "--out", state.tmp / "out")


case("choose another `out`, or delete that folder to run it again", lambda state: judged(state, ""), deleted)
case("{} is damaged: delete {} to run it again", lambda state: judged(state, "{"), deleted)


def trained_on_others(state: State, said: str = "", out: str = "out") -> object:
    """Photos have come since a run of a study was trained."""
    photos = state.photos
    tasks = STUDY["data"]["digits"]["tasks"]
    path = written(state, data={"mine": {"train": str(photos), "tasks": tasks}})
    cell = final_cells(read_study(path), {})[1]
    folder = cell.folder(state.tmp / "out")
    folder.mkdir(parents=True, exist_ok=True)
    costs = dict.fromkeys(("pixels", "seconds", "steps", "peak_memory"), 1)
    if not said:
        (folder / RESULT_FILE).write_text(json.dumps({"cell": cell.content, "costs": costs, "photos": "others"}))
    return command("compare", path, "--minutes", 0, "--out", state.tmp / out)


def elsewhere_or_deleted(state: State, said: str) -> None:
    trained_on_others(state, said, "another")
    shutil.rmtree(named(r"(/\S+) was trained", said))
    trained_on_others(state, said)


case("choose another `out`, or delete what was trained on those", trained_on_others, elsewhere_or_deleted)

# Several processes


def launches(state: State, devices: int = 1, nodes: int = 1, restarts: int = 0) -> None:
    """As far as starting the processes."""
    with state.patch.context() as patch:
        patch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: lambda *_: None)
        with pytest.raises(SystemExit, match="0"):
            launching.launch(["methods"], devices, nodes, restarts)


case(
    "`devices` and `nodes` must be at least 1",
    lambda state: launching.launch(["methods"], 1, 0, 0),
    lambda state, said: launches(state),
)
case(
    "`devices=0` means all GPUs, but this machine has none",
    lambda state: (state.patch.setattr("torch.cuda.device_count", lambda: 0), launching.launch(["methods"], 0, 1, 0)),
    lambda state, said: launches(state, 2),
)


def no_place(state: State) -> object:
    state.patch.setattr("tempfile.tempdir", str(state.tmp / "nowhere"))
    return launching.launch(["methods"], 2, 1, 0)


def with_place(state: State, said: str) -> None:
    state.patch.setattr("tempfile.tempdir", None)
    state.patch.setenv(named(r"set (\w+) to one", said), str(state.tmp))
    launches(state, 2)


case("several processes need a folder for temporary files ({}): set TMPDIR", no_place, with_place)


def unknown_machines(state: State) -> object:
    for name in ("MASTER_ADDR", "NODE_RANK", "SLURM_NODEID", "SLURM_JOB_NODELIST"):
        state.patch.delenv(name, raising=False)
    return launching.launch(["methods"], 1, 2, 0)


def known_machines(state: State, said: str) -> None:
    state.patch.setenv(named(r"set (\w+) to the first", said), "127.0.0.1")
    state.patch.setenv(named(r"and (\w+) to this", said), named(r"number \((\d+) to", said))
    launches(state, 1, 2)


case("set MASTER_ADDR to the first machine and NODE_RANK", unknown_machines, known_machines)


def full_output(state: State) -> object:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with state.patch.context() as patch:
        patch.setattr("s2r2.training.methods.describe_methods", fail)
        return command("methods")


case("s2r2: {}: {}: free space and start again", full_output, lambda state, said: command("methods"))


def without_locks(state: State) -> object:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with state.patch.context() as patch, locked_by(patch, refuse, state):
        return None


@contextlib.contextmanager
def locked_by(patch: pytest.MonkeyPatch, refuse: Callable[..., None], state: State) -> Iterator[None]:
    patch.setattr("fcntl.flock", refuse)
    with locked(state.tmp / LOCK, "at work", "wait"):
        state.write("written", "by the only process")
        yield


case("knows no locks: let no other process write there", without_locks, lambda state, said: without_locks(state))
case(
    "each process needs its own; use `device='cuda'` and as many processes as there are devices, or cpu",
    lambda _: choose_device("cuda:0", Processes(world_size=2, local_world_size=2)),
    lambda _, said: choose_device(named(r"or (\w+)$", said), Processes(world_size=2, local_world_size=2)),
)


def failing_cell(state: State, said: str = "") -> str:
    """A run of a study whose folder is not free; called again when it is."""
    one = {**STUDY["methods"], "SimCLR": {"method": "simclr", "views": 2}}
    study = read_study(written(state, methods={"S2R2": one["S2R2"]}))
    folder = next(cell for cell in final_cells(study, {}) if cell.method == "S2R2").folder(state.tmp / "out")
    if said:
        assert str(folder) in said
        (folder / "run").unlink()
    else:
        state.write(str((folder / "run").relative_to(state.tmp)), "in the way")
    return command("compare", state.tmp / "study.yaml", "--out", state.tmp / "out", "--processes", 1)


case("{} {}: {} (folder {}); call again to try {} again", failing_cell, failing_cell, slow=True)


def alike(state: State, folder: Path) -> None:
    """Two processes, of which the second sees another folder, as two machines do."""
    from s2r2.distributed import messages

    fingerprints = ["the first's", "the first's" if folder == state.shared.photos else "another"]
    with state.patch.context() as patch:
        patch.setattr(messages, "gather", lambda *_, **__: fingerprints)
        patch.setattr(Processes, "wait", lambda *_, **__: None)
        Processes(world_size=2).check_alike("the photos", fingerprints[0])


case(
    "differ between process {} and the first: copy them to every machine",
    lambda state: alike(state, state.tmp),
    lambda state, said: alike(state, state.shared.photos),
)


def commands(state: State, said: str) -> None:
    """Each command that is listed has its help."""
    for name in choices(said):
        assert name in command(name, "--help")


case("choose {}$", lambda _: command("xyzzy"), commands)


def tuned_by(state: State, name: str, knn: float = 1.0) -> float:
    """The figure of a trial whose run left two others, one of them n/a."""
    scores = {"t/map": np.full(4, np.nan), "t/knn": np.full(4, knn), "t/targets": np.zeros(4, int)}
    state.patch.setattr(tuning, "has_diverged", lambda *_: False)
    state.patch.setattr(tuning, "read_scores", lambda *_: scores)
    return tuning._figure(None, name, SimpleNamespace(tasks=["t"]), state.tmp)  # type: ignore[arg-type]


case(
    "the protocols give no such figure on {}, or it is n/a there; use",
    lambda state: tuned_by(state, "map"),
    lambda state, said: [tuned_by(state, name) for name in choices(said)],
)
case(
    "so trials cannot be compared: give it more images",
    lambda state: tuned_by(state, "knn", np.nan),
    lambda state, said: tuned_by(state, "knn"),
)
case(
    "were evaluated on different images or labels: choose another `out`",
    lambda _: refuse_other_images([np.zeros(5), np.zeros(6)], []),
    lambda _, said: refuse_other_images([np.zeros(6), np.zeros(6)], []),
)


def looked_at(train: str, held_out: float = 0.0) -> None:
    check_tasks({"digits": {"train": train, "test": "digits:test"}}, 32, [], held_out)


case(
    "give held-out images as test, or a share of the training labels as held_out",
    lambda _: looked_at("digits:test"),
    lambda _, said: (looked_at("digits:train"), looked_at("digits:test", 0.5)),
)
