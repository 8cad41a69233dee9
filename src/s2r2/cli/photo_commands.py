"""``s2r2 export``, ``views``, ``frames`` and ``cache``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from s2r2.cli.options import Data, EncoderName, File
from s2r2.system.terminal import say
from s2r2.system.wording import amount


@dataclass(frozen=True)
class Export:
    """Options of ``s2r2 export``."""

    encoder: Positional[EncoderName]
    """Run folder, encoder.safetensors or timm:NAME."""
    out: Annotated[Path, arg(metavar="PATH")]
    """FILE.safetensors, FILE.onnx or FILE.pt2; for huggingface a folder."""
    format: Literal["auto", "safetensors", "onnx", "torch-export", "huggingface"] = "auto"
    """By default as --out ends. safetensors and huggingface are for timm; onnx and torch-export hold the graph, with
    normalization."""
    output: Literal["feature", "embedding"] = "feature"
    """feature (backbone) or embedding (after the projection head)."""

    def execute(self, words: Sequence[str]) -> None:
        """Write the encoder and its card."""
        from s2r2.encoder import export

        written = export(self.encoder, self.out, format=self.format, output=self.output)
        say(f"encoder   {written.path}")
        say(f"card      {written.card}")
        say(f"checked   differs from the original by {written.difference:.1g} at most")


@dataclass(frozen=True)
class Views:
    """Options of ``s2r2 views``."""

    data: Positional[Data]
    """The photos."""
    recipe: str = "swav-multicrop"
    """photos, mild, documents, aerial, swav-multicrop, or a .yaml file."""
    image_size: int = 96
    """Side of a view in pixels."""
    views: int = 8
    """Views of each photo."""
    images: int = 6
    """Number of photos, taken evenly from the data."""
    seed: int = 0
    """Seed of the random views."""
    picture: File = Path("views.png")
    """Where to save the picture."""

    def execute(self, words: Sequence[str]) -> None:
        """Write the picture."""
        from s2r2.encoder import store_side
        from s2r2.images import DirectImages, open_source
        from s2r2.system.thumbnails import save_picture
        from s2r2.views import check_sheet, get_recipe, views_sheet

        check_sheet(image_size=self.image_size, views=self.views, images=self.images, seed=self.seed)
        recipe = get_recipe(self.recipe)
        source = open_source(self.data)
        source.refuse_overwriting(self.picture, "picture")
        photos = DirectImages(source, store_side(self.image_size)).some(self.images)
        sheet = views_sheet(photos, recipe, view_size=self.image_size, views=self.views, seed=self.seed)
        save_picture(sheet, self.picture)
        say(self.picture)


@dataclass(frozen=True)
class Frames:
    """Options of ``s2r2 frames``."""

    videos: Positional[tuple[Path, ...]]
    """Videos, and folders of videos."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the pictures and their table, frames.csv; a new or empty one."""
    every: float = 1.0
    """Seconds from one picture to the next; 0: every frame."""

    def execute(self, words: Sequence[str]) -> None:
        """Write pictures and table."""
        from s2r2.images.frames import write_frames

        def tell(name: str, frames: int) -> None:
            say(f"video     {name}  {amount(frames, 'picture')}")

        written = write_frames(self.videos, self.out, every=self.every, after_video=tell)
        say(f"frames    {written.frames:,} of {amount(written.videos, 'video')}")
        if written.skipped:
            say(f"skipped   {len(written.skipped):,} in whole or in part, listed in {written.listing}")
        say(f"table     {written.manifest}")


@dataclass(frozen=True)
class Cache:
    """Options of ``s2r2 cache``."""

    clear: bool = False
    """Delete them all."""
    store: Path | None = None
    """Where they are; by default the cache folder."""

    def execute(self, words: Sequence[str]) -> None:
        """List what is kept, or delete it."""
        from s2r2.images import clear_kept, clear_stores, list_kept, list_stores

        for kept in list_stores(self.store):
            say(f"{kept.size / 1e6:10,.1f} MB  {amount(kept.images, 'image'):>16}  {kept.name}  {kept.path}")
        for other in list_kept() if self.store is None else ():
            say(f"{other.size / 1e6:10,.1f} MB  {'':>16}  {other.name}  {other.path}")
        if self.clear:
            freed = clear_stores(self.store) + (clear_kept() if self.store is None else 0)
            say(f"{freed / 1e6:10,.1f} MB freed")
