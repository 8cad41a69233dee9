"""A finished run judged on held-out images, beside itself untrained and any other encoders."""

from collections.abc import Sequence
from pathlib import Path

from s2r2.encoder import Encoder, load, store_side
from s2r2.encoder.loading import untrained_like
from s2r2.errors import S2R2Error
from s2r2.evaluation import Evaluation, evaluate
from s2r2.images import PixelStore, open_source
from s2r2.training.config import read_config
from s2r2.views import Recipe


def evaluate_run(
    run: str | Path,
    test: str | Path,
    train: str | Path | None = None,
    *,
    others: Sequence[str] = (),
    device: str = "auto",
    store: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a run folder's encoder, its untrained twin and raw pixels; write ``evaluation.json`` into the folder.

    Args:
        run: Run folder of ``s2r2 train``.
        test: Images to judge on.
        train: Images whose labels kNN and the linear probe may use.
        others: More encoders: run folders, files, ``timm:NAME`` or ``untrained:NAME``.
        device: Where to encode.
        store: Where decoded photos are kept.
        progress: Show progress bars.

    Raises:
        S2R2Error: There is no run or encoder, or nothing to judge by.
    """
    run = Path(run)
    config, about = read_config(run)
    encoder = load(run, device=device)
    encoders: dict[str, Encoder] = {"untrained": _named(untrained_like(encoder, config.seed), "untrained")}
    for name in others:
        size = encoder.image_size if name.startswith(("timm:", "untrained:")) else None
        encoders[name] = load(name, device=device, image_size=size)
    encoders["trained"] = encoder
    side = store_side(encoder.image_size)
    stores = [
        PixelStore.build(open_source(data), side, store, progress=progress) if data is not None else None
        for data in (train, test)
    ]
    if stores[1] is None:
        raise S2R2Error("no --test: give images to judge on")
    recipe = Recipe.from_dict(about["recipe"])
    return evaluate(encoders, stores[0], stores[1], recipe=recipe, folder=run, progress=progress)


def _named(encoder: Encoder, name: str) -> Encoder:
    encoder.name = name
    return encoder
