"""Where training takes its pixels from: a store that is made first, or the photos themselves."""

from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images import DirectImages, ImageSource, PixelStore, why_direct, write_skipped
from s2r2.images.store.direct import DIRECT
from s2r2.images.store.pixel_store import NO_STORE
from s2r2.runs import RunFolder
from s2r2.system.terminal import PlainConsole


def open_images(
    source: ImageSource, short_side: int, wish: Path | None, folder: Path, saved: str | None, console: PlainConsole
) -> PixelStore | DirectImages:
    """Open the images of a run, and say so where there will be no store. ``skipped.csv`` is begun or gone on with.

    Args:
        source: The images.
        short_side: To which they are reduced.
        wish: ``--store``: a folder, ``none``, or None, which leaves the choice to :func:`s2r2.images.why_direct`.
        folder: The run folder.
        saved: Fingerprint of the images of the run that is gone on with: it goes on as it began. None at its beginning.
        console: Where to say it.

    Raises:
        S2R2Error: No image is readable, the store cannot be made, or a resume asks for a change.
    """
    listing = RunFolder(folder).skipped_file
    if saved is None:
        reason = why_direct(source, short_side, wish)
    else:
        reason = "as this run began" if saved.startswith(DIRECT) else ""
        if wish is not None and bool(reason) != (wish == NO_STORE):
            began = "without a pixel store" if reason else "with a pixel store"
            raise S2R2Error(f"{folder} was begun {began}: leave out --store {wish} to go on as it began")
    if not reason:
        store = PixelStore.build(source, short_side, wish, progress=not console.quiet)
        write_skipped(listing, store.skipped)
        return store
    console.say(
        f"store     none ({reason}): photos are decoded when a step needs them; --store DIR decodes all of them once, "
        "before the first step",
    )
    if saved is None:
        write_skipped(listing, [])
    return DirectImages(source, short_side, listing)


def follow_images(
    source: ImageSource, short_side: int, wish: Path | None, folder: Path, fingerprint: str
) -> PixelStore | DirectImages:
    """Open the images in another process than the first, as the first did.

    What cannot be read is added to ``skipped.csv`` by whoever finds it, where the run folder is within reach.

    Args:
        source: The images.
        short_side: To which they are reduced.
        wish: ``--store`` of this process.
        folder: The run folder.
        fingerprint: Of the images of the first process.

    Raises:
        S2R2Error: No image is readable, or the store cannot be made.
    """
    listing = RunFolder(folder).skipped_file
    if fingerprint.startswith(DIRECT):
        return DirectImages(source, short_side, listing if listing.exists() else None)
    return PixelStore.build(source, short_side, wish, progress=False)


def say_skipped(images: PixelStore | DirectImages, folder: Path, console: PlainConsole) -> None:
    """At the end of a run without a store: how many images it could not read."""
    if isinstance(images, DirectImages) and images.skipped:
        console.say(f"skipped   {len(images.skipped):,} photos (see {RunFolder(folder).skipped_file})")
