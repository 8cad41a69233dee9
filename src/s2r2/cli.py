"""The command line: parse, call, print. Nothing here decides anything."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from s2r2.errors import S2R2Error
from s2r2.training.config import TrainConfig

DESCRIPTION = "Train an image encoder on unlabelled photos by ranking (S2R2), evaluate it, and search with it."
app = tyro.extras.SubcommandApp()

Data = Annotated[str, arg(metavar="DATA", help="folder, manifest (.csv, .parquet), .tar, or digits, stl10, cifar10")]
EncoderName = Annotated[str, arg(metavar="ENCODER", help="run folder, encoder.safetensors, or timm:NAME")]
Folder = Annotated[Path, arg(metavar="DIR")]
Picture = Annotated[Path | None, arg(metavar="FILE.png")]
Images = Annotated[int, arg(metavar="INT")]


@app.command
def train(
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None,
    config: OmitArgPrefixes[TrainConfig] = TrainConfig(),  # noqa: B008 (frozen)
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    resume: bool = False,
) -> None:
    """Train an encoder on photos, without labels.

    Args:
        data: Folder, manifest (.csv, .parquet), .tar, or digits, stl10, cifar10; not needed with --resume.
        config: Settings of the run.
        out: Run folder; by default the first free runs/DATA-BACKBONE.
        resume: Go on with the run in --out, at the step where it stopped.
    """
    from s2r2.evaluation import write_report
    from s2r2.training import train as run_training

    result = run_training(data, config, out=out, resume=resume)
    print(f"encoder   {result.folder / 'encoder.safetensors'}")
    print(f"report    {write_report(result.folder)}")


@app.command
def views(
    data: Positional[Data],
    recipe: str = "photos",
    image_size: int = 96,
    views: int = 8,
    images: int = 6,
    seed: int = 0,
    picture: Annotated[Path, arg(metavar="FILE.png")] = Path("views.png"),
) -> None:
    """Show what the encoder will see: photos and random views of them, as a picture.

    Args:
        data: The photos.
        recipe: photos, mild, documents, aerial or swav-multicrop.
        image_size: Side of a view in pixels.
        views: Views of each photo.
        images: Photos, taken evenly from the data.
        seed: Another seed, other views.
        picture: Where to write the picture.
    """
    from s2r2.encoder import store_side
    from s2r2.images import open_source
    from s2r2.views import get_recipe, sample_sheet

    sheet = sample_sheet(
        open_source(data), get_recipe(recipe), short_side=store_side(image_size), images=images, view_size=image_size,
        views=views, seed=seed,
    )  # fmt: skip
    sheet.save(picture)
    print(picture)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app.cli(prog="s2r2", description=DESCRIPTION, args=arguments, config=(FlagCreatePairsOff,))
    except S2R2Error as error:
        print(f"s2r2: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("s2r2: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
