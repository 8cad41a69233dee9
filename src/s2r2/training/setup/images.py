"""Where training takes its pixels from: a store that is made first, or the photos themselves."""

from pathlib import Path
from typing import TypeAlias

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.errors import ArgumentError
from s2r2.images import DirectImages, ImageSource, PixelStore, why_direct, write_skipped
from s2r2.images.store.direct import DIRECT
from s2r2.images.store.pixel_store import NO_STORE
from s2r2.runs import RunFolder
from s2r2.system.console import PlainConsole
from s2r2.system.wording import amount, worded
from s2r2.training.setup.features import FeatureLoader
from s2r2.training.setup.plan import Preparation
from s2r2.views import ViewLoader

Loader: TypeAlias = ViewLoader | FeatureLoader


def open_images(
    source: ImageSource, short_side: int, asked: Path | None, folder: Path, saved: str | None, console: PlainConsole
) -> PixelStore | DirectImages:
    """Open the images of a run in its first process, start or continue ``skipped.csv``, and say if there is no store.

    Args:
        source: The images.
        short_side: To which they are reduced.
        asked: A folder, ``none``, or None, which leaves the choice to :func:`s2r2.images.why_direct`.
        folder: The run folder.
        saved: At a resume the fingerprint of the images as the run was started with them, else None.
        console: Where to say it.

    Raises:
        S2R2Error: No image is readable, the store cannot be made, or a resume asks for a change.
    """
    listing = RunFolder(folder).skipped_file
    reason = why_direct(source, short_side, asked) if saved is None else _as_started(saved, asked, folder)
    if not reason:
        store = PixelStore.build(source, short_side, asked, progress=not console.quiet)
        write_skipped(listing, store.skipped)
        return store
    console.say(
        worded(
            f"store     none ({reason}): photos are decoded when a step needs them; `store=DIR` decodes all of them "
            "once, before the first step"
        )
    )
    if saved is None:
        write_skipped(listing, [])
    return DirectImages(source, short_side, listing)


def _as_started(saved: str, asked: Path | None, folder: Path) -> str:
    """Why there is no store, at a resume; empty where there is one."""
    direct = saved.startswith(DIRECT)
    if asked is not None and direct != (asked == NO_STORE):
        started = "without a pixel store" if direct else "with a pixel store"
        raise ArgumentError(f"{folder} was started {started}: leave out `store={str(asked)!r}` to resume it")
    return "as this run was started" if direct else ""


def open_images_again(
    source: ImageSource, short_side: int, asked: Path | None, folder: Path, *, direct: bool
) -> PixelStore | DirectImages:
    """Open the images in another process as the first one did.

    Whatever process finds a photo that cannot be read adds it to ``skipped.csv``, if it can reach the run folder.
    """
    if not direct:
        return PixelStore.build(source, short_side, asked, progress=False)
    listing = RunFolder(folder).skipped_file
    return DirectImages(source, short_side, listing if listing.exists() else None)


def open_loader(prepared: Preparation, processes: Processes, encoder: Encoder, console: PlainConsole) -> Loader:
    """The views of a run, or this process's share of them; where only a head is trained, as features."""
    config = prepared.config
    features = config.adapt == "head"
    loader = ViewLoader(
        prepared.store,
        prepared.recipe,
        view_size=config.image_size,
        views=config.views,
        batch_size=config.batch_size,
        seed=config.seed,
        device=prepared.device,
        threads=config.threads or None,
        rank=processes.rank,
        world_size=processes.world_size,
        groups=None if prepared.grades is None else prepared.grades.columns,
        shuffle=prepared.shuffle,
        drop_last=not features,
    )
    return FeatureLoader(loader, encoder, config.batch_size, quiet=console.quiet) if features else loader


def say_skipped(images: PixelStore | DirectImages, folder: Path, console: PlainConsole) -> None:
    """At the end of a run without a store: how many images could not be read."""
    if isinstance(images, DirectImages) and images.skipped:
        console.say(f"skipped   {amount(len(images.skipped), 'photo')} (see {RunFolder(folder).skipped_file})")
