"""A finished run evaluated on held-out images, beside itself untrained and any other encoders."""

from collections.abc import Sequence
from pathlib import Path

import torch

from s2r2.distributed.devices import choose_device
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, load, store_side
from s2r2.encoder.loading import untrained_like
from s2r2.errors import S2R2Error
from s2r2.evaluation.evaluating import RAW, evaluate
from s2r2.evaluation.protocols.register import find_protocols
from s2r2.evaluation.result import Evaluation
from s2r2.images import PixelStore, open_source
from s2r2.images.grades import Grade, read_grades, refuse_unknown_columns
from s2r2.runs import RunFolder
from s2r2.settings.values import fitted, whole_number
from s2r2.system.terminal import say
from s2r2.views import Recipe, get_recipe


def evaluate_run(
    run: str | Path,
    test: str | Path,
    train: str | Path | None = None,
    *,
    others: Sequence[str] = (),
    protocols: Sequence[str] = (),
    grades: str = "",
    out: Path | None = None,
    device: str = "auto",
    store: Path | None = None,
    seed: int = 0,
    progress: bool = True,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Evaluation:
    """Evaluate an encoder, for a run folder also its untrained twin, and raw pixels; write ``evaluation.json``.

    Args:
        run: Run folder of ``s2r2 train``, or any other encoder: a file, ``timm:NAME``, ``untrained:NAME``.
        test: Images to evaluate on.
        train: Images whose labels kNN and the linear probe may use.
        others: More encoders to evaluate beside it.
        protocols: More of them, see :func:`s2r2.evaluation.evaluate`.
        grades: The same.
        out: Where ``evaluation.json`` goes; by default the run folder, and nowhere for another encoder.
        device: Where to encode.
        store: Where decoded photos are kept.
        seed: Of resamples, splits and views.
        progress: Show progress bars.
        processes: They share the embedding; the first one does the rest. Each calls this with the same arguments.

    Raises:
        S2R2Error: There is no such encoder, nothing to evaluate by, or processes differ in images or encoders.
    """
    seed = whole_number(seed, 0, (1 << 63) - 1, "seed")
    find_protocols(protocols)  # an unknown one is refused before anything is decoded
    levels = read_grades(grades)
    chosen = choose_device(device, processes)
    encoders: dict[str, Encoder] = {}
    start: Encoder | None = None
    recipe, first = get_recipe("photos"), load(run, device=chosen)
    folder = RunFolder(run)
    if folder.is_run:
        first_seed, recipe = _settings_of(folder)
        encoders["untrained"] = _named(untrained_like(first, first_seed), "untrained")
        out = out or folder.path
        if start := _start_of(folder, first.image_size, chosen, progress and processes.leader):
            encoders[_row_name(start.name)] = start
    for name in others:
        size = first.image_size if name.startswith(("timm:", "untrained:")) else None
        if (row := _row_name(name)) not in encoders:
            encoders[row] = load(name, device=chosen, image_size=size)
    encoders["trained" if folder.is_run else _row_name(str(run))] = first
    side = store_side(max(encoder.image_size for encoder in encoders.values()))
    show = progress and processes.leader

    def opened(data: str | Path, levels: Sequence[Grade] = ()) -> PixelStore:
        def decoded() -> PixelStore:
            source = open_source(data)
            refuse_unknown_columns(levels, source)
            return PixelStore.build(source, side, store, progress=show)

        images = processes.leader_first(decoded)
        processes.check_alike(f"the images of {images.name}", images.fingerprint)
        return images

    labeled = opened(train) if train is not None else None
    judged = opened(test, levels)
    for name, encoder in encoders.items() if processes.world_size > 1 else ():
        processes.check_alike(f"the weights of {name}", encoder.fingerprint)
    return evaluate(
        encoders,
        labeled,
        judged,
        recipe=recipe,
        folder=out,
        protocols=protocols,
        grades=grades,
        seed=seed,
        progress=progress,
        processes=processes,
        compared=("trained", _row_name(start.name)) if start else None,
    )


def _row_name(encoder: str) -> str:
    """What an encoder's row is called: as it was named, unless a row of the run, or of raw pixels, has that name."""
    return f"./{encoder}" if encoder in ("trained", "untrained", RAW) else encoder


def _start_of(run: RunFolder, image_size: int, device: torch.device, show: bool) -> Encoder | None:
    """The encoder that a run started from; None where it began with random weights or the start is not to be had."""
    found = run.read_config()
    start: str = fitted(found.settings.get("start", ""), str, found.mistakes, ("config", "start"))
    found.mistakes.refuse()
    if not start:
        return None
    try:
        return _named(load(start, device=device, image_size=image_size), start)
    except S2R2Error as error:
        if show:
            say(f"note      not compared with the encoder that it started from: {error}")
        return None


def _settings_of(run: RunFolder) -> tuple[int, Recipe]:
    """The seed of a run and the recipe of its views."""
    found = run.read_config()
    seed: int = fitted(found.settings.get("seed", 0), int, found.mistakes, ("config", "seed"))
    found.mistakes.refuse()
    return whole_number(seed, 0, (1 << 63) - 1, "seed"), Recipe.from_dict(found.about["recipe"])


def _named(encoder: Encoder, name: str) -> Encoder:
    encoder.name = name
    return encoder
