"""Cut the power at many moments of writing: what an fsync had not reached is gone. Does everything still open?

    python benchmarks/power_cuts.py                          50 cuts each of checkpoint, store and index
    python benchmarks/power_cuts.py --cuts 8 checkpoint      of one of them

A run is recorded once, call by call (see watched.py); then the disk is put up as it would be after a cut at this or
that moment, by two models of file systems in turn, and the next command goes to work on it.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from watched import Recording, begin_again_with_recorder, forked, load_libraries

MODELS = ("strict", "names")


@dataclass(frozen=True)
class Case:
    """What is written and what must hold afterwards.

    Attributes:
        name: For the table.
        before: Prepares the folder, before the recording.
        write: What is recorded; both get the folder that is watched.
        promised: What the next command must find, by event of the recording; see ``after``.
        after: The next command on a folder after a cut, with what was promised: its final state, to be compared with
            that of an undisturbed run; raises if something is damaged.
    """

    name: str
    before: Callable[[Path], object]
    write: Callable[[Path], object]
    promised: Callable[[Recording], list[Any]]
    after: Callable[[Path, Any], Any]


def photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Noise as JPEG files; those that are there are written again."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")


def nothing(folder: Path) -> None:
    """Begin with an empty folder."""


# --- checkpoints ------------------------------------------------------------------------------------------------------


def train(folder: Path) -> None:
    from s2r2.runs import RunFolder
    from s2r2.training import TrainConfig, train as run

    config = TrainConfig(
        backbone="test_resnet", image_size=32, views=2, batch_size=64, steps=5, recipe="documents", head_hidden=32,
        embedding_dimensions=16, check_every=100, threads=1, device="cpu", checkpoint_minutes=1e-9,
    )  # fmt: skip
    out = folder / "runs" / "mine"
    if RunFolder(out).has_checkpoint:
        run(None, out=out, resume=True, quiet=True)
    else:
        run("digits:test", config, out=out, quiet=True)


def saved_steps(recording: Recording) -> list[int]:
    """By event: the step of the newest checkpoint whose saving had ended."""
    from s2r2.training.run.checkpoint import _read

    name, safe, saved, step = "runs/mine/checkpoints/last.ckpt", {}, [], 0
    folder = name.rpartition("/")[0]
    for event in recording.events:
        if event.file is not None:
            safe[event.file[0]] = event.file[1]
        if event.folder is not None and name in event.names and event.folder == event.names[folder][1]:
            step = max(step, _read(recording.folder / safe[event.names[name][1]])["step"])
        saved.append(step)
    return saved


def trained(folder: Path, promised: int) -> Any:
    from s2r2.runs import RunFolder
    from s2r2.training.run.checkpoint import load_checkpoint

    run = folder / "runs" / "mine"
    found = load_checkpoint(run)[0]["step"] if RunFolder(run).has_checkpoint else 0
    if found < promised:
        raise AssertionError(f"checkpoint of step {promised} was saved, that of step {found} is found")
    train(folder)
    state = load_checkpoint(run)[0]
    losses = [entry["loss"] for entry in RunFolder(run).read_metrics() if "loss" in entry]
    weights = {name: value.numpy().tobytes() for name, value in state["encoder"].items()}
    return state["step"], weights, losses, names_in(run)


def names_in(folder: Path) -> list[str]:
    """Names of all files in a folder, less numbers and what a library names at random."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tfevents" not in p.name)


# --- pixel store ------------------------------------------------------------------------------------------------------


def build(folder: Path) -> Any:
    from s2r2.images import PixelStore, open_source
    from s2r2.images.store import building, writer

    writer.COMMIT_IMAGES, building.PACK_BYTES = 4, 0
    return PixelStore.build(open_source(folder.parent / "photos"), 32, folder / "stores", progress=False)


def older_store(folder: Path) -> None:
    photographs(folder.parent / "photos", 30, seed=1)
    forked(lambda: build(folder))
    photographs(folder.parent / "photos", 20, seed=2)  # all are changed: the store is packed
    for number in range(20, 30):
        (folder.parent / "photos" / f"{number:02d}.jpg").unlink()


def built(folder: Path, _: Any) -> Any:
    store = build(folder)
    pixels = {key: np.asarray(store[number]).tobytes() for number, key in enumerate(store.keys)}
    assert build(folder).decoded == 0
    names = [json.dumps(name)[:9].rstrip("-0123456789") for name in (p.name for p in store.path.iterdir())]
    return pixels, sorted(names), len(list((folder / "stores").iterdir()))


# --- index ------------------------------------------------------------------------------------------------------------


def index(folder: Path, rebuild: bool = False) -> None:
    from s2r2.search import update_index, updating

    updating.COMMIT_ROWS = 8
    update_index(
        "untrained:test_resnet", str(folder.parent / "photos"), folder / "index", rebuild=rebuild, drop_missing=True,
        batch_size=4, progress=False,
    )  # fmt: skip


def rebuild_index(folder: Path) -> None:
    index(folder, rebuild=True)


def new_photos(folder: Path) -> None:
    photographs(folder.parent / "photos", 24)


def older_index(folder: Path) -> None:
    photographs(folder.parent / "photos", 30)
    assert forked(lambda: index(folder)).code == 0
    (folder.parent / "old.json").write_text(json.dumps(forked(lambda: rows_of(folder)).value))
    photographs(folder.parent / "photos", 5, seed=3)
    for number in range(24, 30):
        (folder.parent / "photos" / f"{number:02d}.jpg").unlink()
    photographs(folder.parent / "photos" / "more", 6, seed=4)


def rows_of(folder: Path, cut: bool = False) -> dict[str, str]:
    """Key to vector of all that is published; after a cut, thumbnails may wait for an update, if that is said."""
    from s2r2.search import ImageIndex, IndexGone

    opened = ImageIndex.open(folder / "index")
    keys = opened.catalogue.table["key"].to_pylist()
    assert len(opened.search(keys[0], 5)) == 5
    try:
        assert all(opened.thumbnail(row) for row in range(len(keys)))
    except IndexGone as error:
        if not cut or "cut short: run s2r2 index once more" not in str(error):
            raise
    return {key: vector.tobytes().hex() for key, vector in zip(keys, opened.vectors, strict=True)}


def in_force(recording: Recording) -> list[bool]:
    """By event: whether an index had been in force before, or its publishing had ended."""
    there, found = "index/index.json" in recording.events[0].names, []
    for event in recording.events:
        names = event.names
        there |= event.folder is not None and "index/index.json" in names and event.folder == names["index"][1]
        found.append(there)
    return found


def indexed(folder: Path, promised: bool) -> Any:
    before = json.loads(path.read_text()) if (path := folder.parent / "old.json").exists() else None
    found = rows_of(folder, cut=True) if promised or (folder / "index" / "index.json").exists() else None
    index(folder)
    now = rows_of(folder)
    if found is not None and found not in (before, now):
        raise AssertionError("what was in force is neither the old index nor the new one")
    index(folder)
    assert rows_of(folder) == now
    top = sorted(p.name.rstrip("0123456789-.npyarow") for p in (folder / "index").glob("*/*"))
    return now, top, sorted(p.name for p in (folder / "index").iterdir() if p.is_file())


def nothing_promised(recording: Recording) -> list[None]:
    return [None] * len(recording)


CASES = [
    Case("checkpoint", nothing, train, saved_steps, trained),
    Case("store, fresh", new_photos, build, nothing_promised, built),
    Case("store, packed", older_store, build, nothing_promised, built),
    Case("index, fresh", new_photos, index, in_force, indexed),
    Case("index, update", older_index, index, in_force, indexed),
    Case("index, rebuild", older_index, rebuild_index, in_force, indexed),
]


def try_case(case: Case, cuts: int, seed: int, place: Path) -> list[str]:
    """Record, cut, compare; the faults found, each in a line."""
    root, log = place / "disk", place / "log"
    root.mkdir()
    log.mkdir()
    case.before(root)
    ended = forked(lambda: case.write(root) and None, root, log)
    if ended.code:
        return [f"undisturbed: {last_line(ended.said)}"]
    recording = Recording(log)
    promised = forked(lambda: case.promised(recording)).value
    expected = forked(lambda: case.after(root, promised[-1]))
    if expected.code:
        return [f"undisturbed: {last_line(expected.said)}"]
    faults: list[str] = []
    moments = chosen(recording, cuts, seed)
    for number, model in moments:
        shutil.rmtree(root)
        root.mkdir()
        recording.put(recording.disk(number, model), root)
        ended = forked(lambda number=number: case.after(root, promised[number]))  # type: ignore[misc]
        if ended.code or ended.value != expected.value:
            parts = (
                [i for i, (a, b) in enumerate(zip(ended.value, expected.value, strict=True)) if a != b]
                if not ended.code
                else []
            )
            said = last_line(ended.said) if ended.code else f"ended with another state (parts {parts})"
            faults.append(f"after call {number} ({recording.events[number].what}), {model} disk: {said}")
    print(f"{case.name}: {len(recording)} calls recorded, {len(moments)} cuts, {len(faults)} faults", flush=True)
    return faults


def chosen(recording: Recording, cuts: int, seed: int) -> list[tuple[int, str]]:
    """Moments and models, spread over all disks that differ."""
    different: dict[str, tuple[int, str]] = {}
    for number in range(len(recording)):
        for model in MODELS:
            different.setdefault(json.dumps(recording.disk(number, model), sort_keys=True), (number, model))
    moments = sorted(different.values())
    return sorted(random.Random(seed).sample(moments, min(cuts, len(moments))))


def last_line(said: str) -> str:
    lines = said.strip().splitlines() or ["(nothing said)"]
    return lines[-1][:300]


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="checkpoint, store, index; all if none is named")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    begin_again_with_recorder()
    os.environ["S2R2_PROTOCOLS"] = ""
    load_libraries()
    cases = [case for case in CASES if not a.cases or case.name.startswith(tuple(a.cases))]
    failed = False
    for case in cases:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            faults = try_case(case, a.cuts, a.seed, Path(place))
        for fault in faults:
            print(f"  {fault}")
        print(f"  {time.monotonic() - began:.0f} s")
        failed |= bool(faults)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
