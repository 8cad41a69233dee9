"""Remedies that are named where runs begin, go on and end, and where their settings are read."""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from performing import SETTINGS, State, case, choices, command, named, named_command, small

from s2r2.distributed.processes import Processes
from s2r2.runs import RunFolder
from s2r2.system.locking import LOCK, locked
from s2r2.training import TrainConfig, read_config, train
from s2r2.training.config import PRECISIONS
from s2r2.training.methods import build_method, resolve
from s2r2.training.parallel import sharding
from s2r2.training.run.checkpoint import _checksum, load_checkpoint
from s2r2.training.run.metrics import MetricsLog
from s2r2.training.setup.cost import out_of_memory_is_an_error
from s2r2.training.setup.encoder import with_recipe
from s2r2.training.setup.resuming import restarted

METHOD = """
import torch
from s2r2.training import Method

class Mine(Method):
    def forward(self, embeddings, groups):
        {body}
"""
GOOD = "return embeddings.square().sum(1).mean() - embeddings[0].sum()"


def trains(*words: object) -> Callable[[State], object]:
    """A training of one step in a folder of its own, of which some words are other ones."""

    def run(state: State) -> object:
        state.kept["out"] = state.tmp / f"trained-{len(list(state.tmp.iterdir()))}"
        return command(*small(state.shared.photos, "--out", state.kept["out"], *words))

    return run


def after(*words: object) -> Callable[[State, str], object]:
    return lambda state, _: trains(*words)(state)


def resumes(*words: object) -> Callable[[State], object]:
    return lambda state: command("train", "--resume", "--out", state.run, *words)


# Settings

case("must be at least 0 (0: stop) and below 1", trains("--retry-at", 2), after("--retry-at", 0.5))
for option, bad, good in (
    ("views", 1, 2),
    ("image-size", 4, 8),
    ("epochs", 0, 1),
    ("head-hidden", 0, 1),
    ("embedding-dimensions", 1, 2),
):
    piece = {
        "views": "a view needs another view of its image to find; use 2 or more",
        "image-size": "use at least 8 pixels",
        "epochs": "use at least 1$",
        "head-hidden": "use at least 1, {} at most",
        "embedding-dimensions": "use at least 2, {} at most",
    }[option]
    case(piece, trains(f"--{option}", bad), after(f"--{option}", good))


def precisions(_: State, said: str) -> None:
    offered = choices(said)
    assert set(offered) == set(PRECISIONS)
    for name in offered:
        TrainConfig(precision=name).checked()


case("use {}$", lambda _: TrainConfig(precision="x").checked(), precisions)


def edited(old: str, new: str) -> Callable[[State], object]:
    """A resume of a run whose config.yaml was edited."""

    def run(state: State) -> object:
        path = state.run / "config.yaml"
        content = path.read_text()
        changed = re.sub(old, new, content, flags=re.MULTILINE)
        assert changed != content
        path.write_text(changed)
        return resumes()(state)

    return run


def mended(old: str, new: str) -> Callable[[State, str], object]:
    return lambda state, _: edited(old, new)(state)


case(
    ": write {}$",
    edited("^  epochs: 1$", "  epochs: 1.0"),
    lambda state, said: edited("^  epochs: .*$", "  epochs: " + named(r"write (.+)$", said))(state),
)
case(
    ': write "{}" in quotes',
    edited("^  device: cpu$", "  device: 0"),
    lambda state, said: read_quoted(state, said),
)


def read_quoted(state: State, said: str) -> None:
    """In quotes the value is a text, and is taken as one."""
    quoted = named(r'write (".+") in quotes', said)
    path = state.run / "config.yaml"
    path.write_text(path.read_text().replace("  device: 0", f"  device: {quoted}"))
    assert read_config(state.run)[0].device == "0"


case(
    "{}: use {}$",
    edited("^  optimizer: adamw$", "  optimizer: adam"),
    lambda state, said: [
        edited("^  optimizer: .*$", f"  optimizer: {choice}")(state) for choice in [*choices(said)[1:], "adamw"]
    ],
)
case(
    "{}: must be settings, NAME: VALUE$",
    edited(r"^  options: \{\}$", "  options: 3"),
    mended("^  options: 3$", "  options: {bank: 0}"),
)


def latin(state: State) -> object:
    path = state.run / "config.yaml"
    path.write_bytes(path.read_bytes() + "# größer\n".encode("latin-1"))
    return resumes()(state)


def as_utf8(state: State, said: str) -> None:
    path = state.run / "config.yaml"
    path.write_text(path.read_bytes().decode("latin-1"), encoding="utf-8")
    resumes()(state)


case("not UTF-8: save the file as UTF-8", latin, as_utf8)
case(
    "is larger than the data ({} images in {}): use `batch_size={}`",
    trains("--batch-size", 17),
    lambda state, said: trains("--batch-size", named(r"use --batch-size (\d+)", said))(state),
)
case(
    "takes images of one size only: use `recipe='photos'`, or another `backbone`",
    lambda state: with_recipe(
        resolve(TrainConfig(backbone="inception_v4", recipe="swav-multicrop", image_size=75)), "swav-multicrop", None
    ),
    lambda state, said: (
        with_recipe(
            resolve(TrainConfig(backbone="inception_v4", recipe=(name := named(r"use `recipe='(\w+)'`", said)))),
            name,
            None,
        ),
        with_recipe(resolve(TrainConfig(backbone="resnet18", recipe="swav-multicrop")), "swav-multicrop", None),
    ),
)
case(
    "cannot be shared equally by {} processes: use a multiple of",
    lambda _: shared_by(3, 64),
    lambda _, said: shared_by(3, 21 * int(named(r"a multiple of (\d+)", said))),
)


def shared_by(processes: int, batch: int) -> None:
    from s2r2.training.setup.preparation import _refuse_processes

    _refuse_processes(TrainConfig(batch_size=batch), Processes(world_size=processes))


def out_of_memory(micro_batch: int = 0) -> str:
    with out_of_memory_is_an_error(views=512, image_size=96, micro_batch=micro_batch, device=torch.device("cpu")):
        if not micro_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
    return ""


def less_memory(state: State, said: str) -> None:
    """Both values that the message names: taken, and the ranking is the same in slices."""
    for value in re.findall(r"`micro_batch='?(\w+)'?`", said):
        out_of_memory(int(value) if value.isdigit() else 8)
        trains("--micro-batch", value)(state)


case("or `micro_batch='auto'`, which gives the same ranking in less memory", lambda _: out_of_memory(), less_memory)

# Methods


def method(state: State, body: str, name: str = "meth.py") -> Path:
    return state.write(name, body if "class" in body or "import" in body else METHOD.format(body=body))


def every_method(state: State, said: str) -> None:
    for name in choices(said.partition(", or give")[0]):
        build_method(resolve(TrainConfig(method=name)), 100)
    trains("--method", method(state, GOOD))(state)


def with_file(body: str) -> Callable[[State], object]:
    return lambda state: trains("--method", method(state, body))(state)


def corrected(state: State, said: str) -> None:
    with_file(GOOD)(state)


case("or give a FILE.py with your own Method", trains("--method", "x"), every_method)
case("there is no method file {} ({})", trains("--method", "no.py"), corrected)
case("return the loss of the step instead", with_file("return 3"), corrected)
case(
    "return a dict of numbers, or of tensors with one number each",
    with_file(f"{GOOD}\n\n    def statistics(self, embeddings, groups):\n        return 3"),
    corrected,
)
case(
    "correct its __init__, or the settings and options that it was given",
    with_file(f"{GOOD}\n\n    def __init__(self, config, images):\n        raise ValueError('no')"),
    corrected,
)
case(
    "`options`: there is no {}; method {} has {}{}",
    trains("--options", "bnk=0"),
    lambda state, said: trains("--options", named(r"did you mean (\w+)", said) + "=0")(state),
)
case(
    "`options`: {}={} must be like {}",
    trains("--options", "bank=x"),
    lambda state, said: trains("--options", "bank=" + named(r"must be like ([^;]+);", said))(state),
)
case(
    "belongs to surrogate=smooth-ap",
    trains("--options", "surrogate=sup-ap", "outer=log"),
    lambda state, said: trains("--options", named(r"belongs to (\S+),", said), "outer=log")(state),
)
case(
    "both set the temperature: give one of them",
    trains("--options", "temperature_end=0.1", "hold_slope=0.1"),
    lambda state, said: (
        trains("--options", "temperature_end=0.1")(state),
        trains("--options", "hold_slope=0.1")(state),
    ),
)
case(
    "`options`: hold_slope must be in [0, 0.25)",
    trains("--options", "hold_slope=0.3"),
    after("--options", "hold_slope=0.2"),
)
case(
    "`options`: neighbors are ranked in grades of their own: leave out grades, bank, surrogate and outer",
    trains("--options", "neighbors=0.3", "bank=64"),
    after("--options", "neighbors=0.3"),
)
case(
    "`options`: neighbors must not be negative, and recent, at least 1, needs neighbors",
    trains("--options", "recent=64"),
    after("--options", "recent=64", "neighbors=0.3"),
)
case(
    "`options`: temperature_end and spread must not be negative",
    trains("--method", "simclr", "--options", "temperature_end=-1"),
    after("--method", "simclr", "--options", "temperature_end=1"),
)
case(
    "queue_epoch and freeze_epochs must not be negative",
    trains("--method", "swav", "--options", "freeze_epochs=-1"),
    after("--method", "swav", "--options", "freeze_epochs=0"),
)


def trusted(state: State, said: str) -> None:
    command(*named_command(said.replace("name it: ", ": ")))


def strange_code(state: State) -> object:
    place = method(state, GOOD)
    with state.patch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(state.tmp / "once"))
        trains("--method", place)(state)
    method(state, f"{GOOD}  # changed {len(list(state.tmp.parent.iterdir()))} {state.tmp}")
    return command("train", "--resume", "--out", state.kept["out"])


case("name it: s2r2 train --resume --out {} --method {}", strange_code, trusted)
case(
    "and if you trust it, {}",
    strange_code,
    lambda state, said: trusted(state, said.split("trust it, ")[-1]),
)


def named_in_python(state: State) -> object:
    place = method(state, "# unseen\n" + METHOD.format(body=GOOD))
    config = TrainConfig(**SETTINGS, steps=1)
    object.__setattr__(config, "method", str(place))
    state.kept["method"] = place
    return train(state.shared.photos, config, out=state.tmp / "run", quiet=True)


case(
    "name it as `method`",
    named_in_python,
    lambda state, said: trains("--method", state.kept["method"])(state),
)


# Run folders


def used(state: State) -> object:
    return command(*small(state.shared.photos, "--out", state.run))


def resume_or_other(state: State, said: str) -> None:
    assert "--out" in said
    trains()(state)
    if "--resume" in said:
        resumes()(state)


case("exists: continue it with `resume=True`, or choose another `out`", used, resume_or_other)


def strange_folder(state: State) -> object:
    state.write("full/x.txt", "mine")
    return command(*small(state.shared.photos, "--out", state.tmp / "full"))


def other_out(state: State, said: str) -> None:
    assert "another --out" in said
    command(*small(state.shared.photos, "--out", state.tmp / "other"))


case("and holds no run to continue: choose another `out`", strange_folder, other_out)
case(
    "cannot write to run folder {}: {}choose another `out`",
    lambda state: command(*small(state.shared.photos, "--out", state.write("file", "") / "run")),
    other_out,
)


def no_place_for_checkpoints(state: State) -> object:
    file = state.write("file", "")
    with state.patch.context() as patch:
        patch.setattr("s2r2.training.run.checkpoint.make_folder", lambda _: (file / "checkpoints").mkdir())
        return command(*small(state.shared.photos, "--out", state.tmp / "new"))


case("cannot make {}: {}choose another `out`", no_place_for_checkpoints, other_out)


def busy(state: State) -> object:
    state.kept["lock"] = held = locked(state.run / LOCK, f"training in {state.run}", "wait")
    held.__enter__()
    return resumes("--epochs", 2)(state)


def waited_or_other(state: State, said: str) -> None:
    other_out(state, said)
    assert "wait until it has finished" in said
    state.kept["lock"].__exit__(None, None, None)
    resumes("--epochs", 2)(state)


case("wait until it has finished, or choose another `out`", busy, waited_or_other)


def all_taken(state: State) -> object:
    state.patch.setattr("s2r2.runs.range", lambda *_: (1,), raising=False)
    (state.tmp / "runs" / "photos-test_resnet").mkdir(parents=True)
    return command(*small(state.shared.photos))


case("no free folder runs/{}-N: name one with `out`", all_taken, lambda state, said: trains()(state))

# Resuming

case(
    "`restarts` needs `out`",
    lambda state: (state.patch.setenv("TORCHELASTIC_RESTART_COUNT", "1"), restarted(None)),
    lambda state, said: restarted(state.run),
)
case("`resume=True` needs `out`: the run folder", lambda _: command("train", "--resume"), lambda s, _: resumes()(s))


def no_checkpoint(state: State) -> object:
    shutil.rmtree(state.run / "checkpoints", ignore_errors=True)
    shutil.rmtree(RunFolder(state.run).checkpoint.parent, ignore_errors=True)
    return resumes()(state)


case(
    "no checkpoint in {}, so there is nothing to resume: leave out `resume`",
    no_checkpoint,
    lambda state, said: command(*small(state.shared.photos, "--out", state.tmp / "fresh")),
)
case(
    "no checkpoint at {}, so there is nothing to resume: leave out `resume`",
    lambda state: load_checkpoint(state.tmp),
    lambda state, said: (trains()(state), load_checkpoint(state.kept["out"])),
)
case(
    "was started with other settings: leave out {} to resume it, or start a new run",
    resumes("--batch-size", 4, "--head-hidden", 8),
    lambda state, said: (
        resumes(*without(["--batch-size", "4", "--head-hidden", "8"], re.findall(r"--[a-z-]+", said)))(state),
        trains("--batch-size", 4, "--head-hidden", 8)(state),
    ),
)


def without(words: list[str], options: list[str]) -> list[str]:
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in options for word in pair]


case(
    "has taken {} steps already, and this would make it a run of",
    resumes("--steps", 1),
    lambda state, said: [
        resumes(*words.split())(state) for words in re.findall(r"--(?:steps|epochs) \d+", said.rsplit("give")[-1])
    ],
)


def taken(state: State) -> object:
    return train(None, TrainConfig(threads=1), out=state.run, resume=True)


def longer(state: State, said: str) -> None:
    settings = re.findall(r"`(\w+)`", named(r"give more (.*)", said))
    for setting, length in zip(settings, (3, 7), strict=True):
        before = load_checkpoint(state.run)[0]["step"]
        train(None, TrainConfig(threads=1, **{setting: length}), out=state.run, resume=True)
        assert load_checkpoint(state.run)[0]["step"] > before


case(", all taken: to train longer, give more `epochs` or `steps`", taken, longer)


def lost_photos(state: State) -> object:
    moved = state.tmp / "moved"
    trained = state.tmp / "trained"
    shutil.copytree(state.shared.photos, moved)
    command(*small(moved, "--out", trained))
    shutil.move(moved, state.tmp / "elsewhere")
    return command("train", "--resume", "--out", trained)


def where_they_are(state: State, said: str) -> None:
    words = [str(state.tmp / "elsewhere") if word == "DATA" else word for word in named_command(said)]
    command(*words)


case("say where they are: s2r2 train DATA --resume --out", lost_photos, where_they_are)


def other_photos(state: State) -> object:
    trained = state.tmp / "trained"
    command(*small(state.photos, "--out", trained))
    shutil.move(state.photos / "a" / "00.png", state.tmp)
    return command("train", "--resume", "--out", trained)


def put_back(state: State, said: str) -> None:
    trains()(state)
    shutil.move(state.tmp / "00.png", state.photos / "a")
    command("train", "--resume", "--out", state.tmp / "trained")


case("or others): restore them, or start a new run", other_photos, put_back)


def spoil_checkpoints(run: Path, change: Callable[[dict[str, Any]], object] | None) -> None:
    state = load_checkpoint(run)[0]
    state["optimiser"] = state.pop("optimizer")  # as the file spells it
    content = io.BytesIO()
    if change is None:
        content.write(b"nothing")
    else:
        change(state)
        torch.save(state, content)
    for path in RunFolder(run).checkpoint.parent.iterdir():
        path.write_bytes(content.getvalue() + (_checksum(content.getbuffer()) if change else b""))


def unfit(state: State) -> object:
    spoil_checkpoints(state.run, lambda s: s.update(method={"x": torch.zeros(3)}))
    return resumes()(state)


def restored(state: State, said: str) -> None:
    trains()(state)
    shutil.rmtree(state.run)
    assert state.run
    resumes()(state)


case("one of them was changed; restore it, or start a new run", unfit, restored)
case(
    "{}: start again with another `out`",
    lambda state: (spoil_checkpoints(state.run, None), resumes()(state)),
    other_out,
)
case(
    "was started {}: leave out `store={}` to resume it",
    resumes("--store", "none"),
    lambda state, said: resumes(*without(["--store", "none"], re.findall(r"leave out (--store) none", said)))(state),
)
case(
    "`store=DIR` decodes all of them once, before the first step",
    trains("--store", "none"),
    lambda state, said: command(
        *small(state.shared.photos, named(r"(--store) DIR", said), state.tmp / "s", "--out", state.tmp / "r")
    ),
)
case(
    "cannot read {}: {} is not a run folder of s2r2 train",
    lambda state: command("train", "--resume", "--out", state.tmp),
    lambda state, said: resumes()(state),
)
case(
    "{} is missing: {} is not a run folder of s2r2 train, or it is damaged",
    lambda state: (state.write("bad/config.yaml", "config: {}\n"), command("train", "--resume", "--out", "bad")),
    lambda state, said: resumes()(state),
)


def full_metrics(state: State) -> object:
    state.kept["log"] = log = MetricsLog(state.run, 10, resume_at=2)
    log.add(3, 0, loss=0.5)
    log.path = Path("/dev/full")
    return log.flush()


case(
    "cannot write {}: {}continue with `resume=True`",
    full_metrics,
    lambda state, said: resumes("--epochs", 2)(state),
)

# Several processes' settings


def sharded(processes: int = 2, **settings: Any) -> object:
    config = TrainConfig(strategy="fsdp", **settings)
    return sharding.refuse_what_cannot_be_sharded(config.checked(), Processes(world_size=processes))


case(
    "needs several processes: start with s2r2 train --devices N",
    lambda _: sharded(1),
    lambda _, said: sharded(2),
)
case(
    "which needs whole weights: use sgd",
    lambda _: sharded(optimizer="lars"),
    lambda _, said: [sharded(optimizer=name) for name in choices(said)],
)
case(
    "does not work with `precision='16-mixed'`: use",
    lambda _: sharded(precision="16-mixed"),
    lambda _, said: [sharded(precision=name) for name in choices(said)],
)
case(
    "which needs the whole encoder: give N",
    lambda _: sharded(micro_batch="auto"),
    lambda _, said: sharded(micro_batch=16),
)
