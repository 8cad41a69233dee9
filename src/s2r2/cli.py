"""The command line: parse, call, print. Nothing here decides anything."""

import dataclasses
import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg

from s2r2.distributed.launching import is_follower, is_launched, launch_if_wanted
from s2r2.errors import MistakesError, S2R2Error, SharedError
from s2r2.settings.renamed import with_current_options
from s2r2.system.child_processes import end_with_parent
from s2r2.system.terminal import make_streams_fitting, say
from s2r2.training.config import TrainConfig

DESCRIPTION = "Train an image encoder on unlabelled photos by ranking (S2R2), evaluate it, and search with it."
app = tyro.extras.SubcommandApp()
LAST_WORDS = 10.0
"""Seconds that a process waits for another to say why all of them end."""

_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FOR_EXAMPLE = "a folder of them, for example"
"""Stands for all kinds of data in the help of ``train``."""
_ARGUMENTS: list[str] = []
"""Of the command that runs: this process's, or those that a program gave to :func:`main`."""

Data = Annotated[str, arg(metavar="DATA")]
SomeData = Annotated[str | None, arg(metavar="DATA")]
EncoderName = Annotated[str, arg(metavar="ENCODER")]
Folder = Annotated[Path, arg(metavar="DIR")]
SomeFolder = Annotated[Path | None, arg(metavar="DIR")]
SomeFile = Annotated[Path | None, arg(metavar="FILE")]
File = Annotated[Path, arg(metavar="FILE")]
ProtocolName = Annotated[str, arg(metavar="PROTOCOL")]
Box = Annotated[str | None, arg(metavar="X,Y,W,H")]


@app.command
def train(
    data: Positional[SomeData] = None,
    config: OmitArgPrefixes[TrainConfig] = TrainConfig(),  # noqa: B008 (frozen)
    out: SomeFolder = None,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    restarts: int = 0,
) -> None:
    """Train an encoder on photos, without labels.

    Args:
        data: The photos: a folder of them, for example; not needed with --resume.
        config: Settings of the run.
        out: Run folder; by default the first free runs/DATA-BACKBONE.
        resume: Go on with the run in --out, at the step where it stopped; with --epochs or --steps to another length.
        devices: Processes on this machine that share each step; 0: one for each GPU.
        nodes: Machines, each running this same command; see docs/scaling.md.
        restarts: How often to start all processes again, from the last checkpoint, when one is lost (needs --out).
    """
    launch_if_wanted(_ARGUMENTS, devices, nodes, restarts)
    from s2r2.evaluation import write_report
    from s2r2.runs import RunFolder
    from s2r2.training import train as run_training

    result = run_training(data, config.only(_given(TrainConfig)), out=out, resume=resume)
    if is_follower():
        return
    say(f"encoder   {RunFolder(result.folder).encoder_file}")
    say(f"report    {write_report(result.folder)}")


@app.command
def methods() -> None:
    """List the training methods: what each does, its defaults, its options."""
    from s2r2.training.methods import describe_methods

    for line in describe_methods().splitlines():
        say(line)


@app.command
def protocols() -> None:
    """List the evaluation protocols, of s2r2 evaluate and of studies: what each does."""
    from s2r2.evaluation import describe_protocols

    for line in describe_protocols().splitlines():
        say(line)


@app.command
def evaluate(
    run: Positional[EncoderName],
    test: Data,
    train: SomeData = None,
    encoder: UseAppendAction[list[EncoderName]] = [],  # noqa: B006 (never changed)
    protocol: UseAppendAction[list[ProtocolName]] = [],  # noqa: B006 (never changed)
    out: SomeFolder = None,
    seed: int = 0,
    device: str = "auto",
    store: SomeFolder = None,
    devices: int = 1,
    nodes: int = 1,
) -> None:
    """Evaluate an encoder on images it has not seen, beside raw pixels and, for a run, itself untrained.

    Args:
        run: Run folder of s2r2 train; evaluation.json goes there, and report.html is extended. Or encoder.safetensors,
            timm:NAME, untrained:NAME.
        test: Images to evaluate on.
        train: Images whose labels kNN, the linear probe and the protocols may use.
        encoder: Evaluate these beside it: another run folder, timm:NAME or untrained:NAME; may be repeated.
        protocol: Also evaluate by this protocol, such as low-shot or svm, or FILE.py with one of your own; s2r2
            protocols lists them; may be repeated.
        out: Where evaluation.json goes instead of the run folder.
        seed: Of resamples, splits and views.
        device: auto, cpu, cuda or cuda:N.
        store: Where decoded photos are kept; by default a cache folder.
        devices: Processes on this machine that share the photos; 0: one for each GPU.
        nodes: Machines, each running this same command; see docs/training.md.
    """
    launch_if_wanted(_ARGUMENTS, devices, nodes)
    from s2r2.distributed.processes import Processes
    from s2r2.evaluation import evaluate_run, write_report
    from s2r2.runs import RunFolder
    from s2r2.system.terminal import PlainConsole

    with Processes.joined() as processes:
        evaluation = evaluate_run(
            run,
            test,
            train,
            others=encoder,
            protocols=protocol,
            out=out,
            device=device,
            store=store,
            seed=seed,
            processes=processes,
        )
    if is_follower():
        return
    evaluation.print(PlainConsole())
    if RunFolder(run).is_run and out is None:
        say(f"report    {write_report(run)}")


@app.command
def compare(
    study: Positional[Annotated[Path, arg(metavar="STUDY.yaml")]],
    out: SomeFolder = None,
    data: SomeFolder = None,
    minutes: float | None = None,
    processes: int = 0,
    trust_method: UseAppendAction[list[File]] = [],  # noqa: B006 (never changed)
) -> None:
    """Compare methods side by side at equal encoded pixels, with several seeds and intervals; call again to go on.

    Args:
        study: Which methods, data, budgets and seeds; see docs/study.md.
        out: Folder of the study; by default runs/NAME.
        data: Folder that paths in the study start from; by default S2R2_DATA, else the working folder.
        minutes: Stop after about so many minutes, saving; the same call goes on.
        processes: Runs at once; 0: one for each GPU, without GPUs one for each core.
        trust_method: A method or protocol of the study that is a file of code, and may run; needed once for each of
            its contents; may be repeated.
    """
    from s2r2.study import compare as run_study

    run_study(study, out=out, data=data, minutes=minutes, processes=processes, trust_methods=trust_method)


@app.command
def embed(
    encoder: Positional[EncoderName],
    data: Positional[Data],
    out: File,
    output: Literal["feature", "embedding"] = "feature",
    batch_size: int = 64,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
) -> None:
    """Write the vectors of photos into a table.

    Args:
        encoder: Run folder, encoder.safetensors, an export as safetensors, timm:NAME or untrained:NAME.
        data: The photos.
        out: FILE.parquet: path, label and vector of each photo; what is unreadable goes into FILE.skipped.csv.
        output: feature (backbone) or embedding (after the projection head).
        batch_size: Photos encoded at once.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine that share the photos; 0: one for each GPU.
        nodes: Machines, each running this same command; see docs/training.md.
    """
    _sleep_while_waiting()
    launch_if_wanted(_ARGUMENTS, devices, nodes)
    from s2r2.distributed.processes import Processes
    from s2r2.encoder import load
    from s2r2.images import open_source
    from s2r2.search import write_embeddings
    from s2r2.system.machine import choose_device

    with Processes.joined() as processes:
        written = write_embeddings(
            load(encoder, device=choose_device(device, processes)),
            processes.leader_first(lambda: open_source(data)),
            out,
            output=output,
            batch_size=batch_size,
            processes=processes,
        )
    if is_follower():
        return
    say(f"{written.count} vectors of {written.dimensions} in {out}; {len(written.skipped)} photos skipped")


@app.command
def index(
    encoder: Positional[EncoderName],
    data: Positional[Data],
    store: Folder,
    rebuild: bool = False,
    drop_missing: bool = False,
    approximate_from: int = 500_000,
    backend: str = "auto",
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
) -> None:
    """Make a searchable index of photos, or bring it up to date: only what is new or changed is embedded.

    Args:
        encoder: Run folder, encoder.safetensors, an export as safetensors, timm:NAME or untrained:NAME.
        data: The photos.
        store: Folder of the index.
        rebuild: Make it anew: another encoder made it, or it is damaged. The old one stays in force until then.
        drop_missing: Drop photos that are not found also where their disk may be away: see docs/search.md.
        approximate_from: From so many photos on, searches go through an approximate index whose recall is measured.
        backend: exact, lancedb (approximate), or one that is registered; auto chooses by --approximate-from.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine that share the photos; 0: one for each GPU.
        nodes: Machines, each running this same command; see docs/training.md.
    """
    _sleep_while_waiting()
    launch_if_wanted(_ARGUMENTS, devices, nodes)
    from s2r2.distributed.processes import Processes
    from s2r2.encoder import load
    from s2r2.images import open_source
    from s2r2.search import update_index
    from s2r2.system.machine import choose_device

    with Processes.joined() as processes:
        done = update_index(
            load(encoder, device=choose_device(device, processes)),
            processes.leader_first(lambda: open_source(data)),
            store,
            rebuild=rebuild,
            drop_missing=drop_missing,
            approximate_from=approximate_from,
            backend=backend,
            progress=processes.leader,
            processes=processes,
        )
    if not is_follower():
        for line in str(done).splitlines():
            say(line)


@app.command
def search(
    store: Positional[Folder],
    query: Positional[Annotated[str, arg(metavar="QUERY")]],
    k: Annotated[int, arg(aliases=["-k"])] = 10,
    box: Box = None,
    picture: SomeFile = None,
) -> None:
    """Find the photos most similar to one.

    Args:
        store: Folder of the index.
        query: An image file, or the key of a photo in the index.
        k: How many.
        box: Search for a part of the query only: left, top, width, height in pixels.
        picture: Also write the query and its ranking as a contact sheet (.png, .jpg).
    """
    from s2r2.search import search_and_show
    from s2r2.system.terminal import PlainConsole

    search_and_show(store, query, k, box, picture, PlainConsole())


@app.command
def duplicates(
    store: Positional[Folder],
    threshold: float | None = None,
    out: SomeFile = None,
) -> None:
    """Find photos that are as good as the same: saved twice, in another size, slightly cropped.

    Args:
        store: Folder of the index.
        threshold: Similarity from which on two photos belong together; by default chosen from the scores.
        out: Also write all groups into FILE.csv.
    """
    from s2r2.search import duplicates_and_show
    from s2r2.system.terminal import PlainConsole

    duplicates_and_show(store, threshold, out, PlainConsole())


@app.command
def serve(
    store: Positional[Folder],
    compare: SomeFolder = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_host: UseAppendAction[list[Annotated[str, arg(metavar="NAME")]]] = [],  # noqa: B006 (never changed)
    root_path: Annotated[str, arg(metavar="/PATH")] = "",
    open_browser: bool = False,
) -> None:
    """Search in the browser, until Ctrl-C.

    Args:
        store: Folder of the index.
        compare: A second index of the same photos, shown beside it.
        host: Address to listen on; anything but loopback lets others on the network see the photos.
        port: Port to listen on; 0 takes a free one.
        allow_host: Another name under which the page may be opened, such as a reverse proxy's; may be repeated.
        root_path: Path under which a reverse proxy shows the page, such as /photos.
        open_browser: Open the page.
    """
    from s2r2.search import serve as run_server

    run_server(
        store,
        compare=compare,
        host=host,
        port=port,
        allow_hosts=allow_host,
        root_path=root_path,
        open_browser=open_browser,
    )


@app.command
def export(
    encoder: Positional[EncoderName],
    out: Annotated[Path, arg(metavar="PATH")],
    format: Literal["safetensors", "onnx", "torch-export", "huggingface"] = "safetensors",
    output: Literal["feature", "embedding"] = "feature",
) -> None:
    """Write an encoder for programs that know nothing of s2r2, with a model card beside it.

    Args:
        encoder: Run folder, encoder.safetensors or timm:NAME.
        out: FILE.safetensors, FILE.onnx, FILE.pt2, or for huggingface a folder.
        format: safetensors and huggingface are for timm; onnx and torch-export hold the whole graph, with the
            normalisation inside.
        output: feature (backbone) or embedding (after the projection head).
    """
    from s2r2.encoder import export as run_export

    written = run_export(encoder, out, format=format, output=output)
    say(f"encoder   {written.path}")
    say(f"card      {written.card}")
    say(f"checked   differs from the original by {written.difference:.1g} at most")


@app.command
def views(
    data: Positional[Data],
    recipe: str = "swav-multicrop",
    image_size: int = 96,
    views: int = 8,
    images: int = 6,
    seed: int = 0,
    picture: File = Path("views.png"),
) -> None:
    """Show what the encoder will see: photos, and random views of them, as a picture.

    Args:
        data: The photos.
        recipe: Of s2r2 train by default swav-multicrop; photos, mild, documents, aerial, or a .yaml file.
        image_size: Side of a view in pixels.
        views: Views of each photo.
        images: Photos, taken evenly from the data.
        seed: Another seed, other views.
        picture: Where to write the picture.
    """
    from s2r2.encoder import store_side
    from s2r2.images import DirectImages, open_source
    from s2r2.system.thumbnails import save_picture
    from s2r2.views import get_recipe, views_sheet

    chosen = get_recipe(recipe)
    photos = DirectImages(open_source(data), store_side(image_size)).some(images)
    save_picture(views_sheet(photos, chosen, view_size=image_size, views=views, seed=seed), picture)
    say(picture)


@app.command
def cache(clear: bool = False, store: SomeFolder = None) -> None:
    """List the decoded photos that are kept on disk, or delete them.

    Args:
        clear: Delete them all.
        store: Where they are; by default the cache folder.
    """
    from s2r2.images import clear_stores, list_stores

    for kept in list_stores(store):
        say(f"{kept.size / 1e6:10,.1f} MB  {kept.images:>9,} images  {kept.name}  {kept.path}")
    if clear:
        say(f"{clear_stores(store) / 1e6:10,.1f} MB set free")


def _sleep_while_waiting() -> None:
    """Keep torch's threads, if they wait for each other, from holding cores that those who decode could use.

    OpenMP reads the variable when torch is imported, and later no more.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _name_kinds_of_data() -> None:
    """Put the registered kinds of data into the help of ``train``, if it is asked for: it takes a moment."""
    if "train" in _ARGUMENTS and not {"-h", "--help"}.isdisjoint(_ARGUMENTS):
        from s2r2.images.sources.register import what_data_may_be

        train.__doc__ = str(train.__doc__).replace(_FOR_EXAMPLE, what_data_may_be())


def _given(kind: type) -> list[str]:
    """Names of the settings that stand on the command line: only those does a resume ask for."""
    flags = {word.partition("=")[0].replace("_", "-") for word in _ARGUMENTS if word.startswith("--")}
    return [field.name for field in dataclasses.fields(kind) if f"--{field.name.replace('_', '-')}" in flags]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2.

    Args:
        arguments: Without the command's own name; by default those of this process.
    """
    _ARGUMENTS[:] = with_current_options(sys.argv[1:] if arguments is None else arguments)
    if is_launched():
        end_with_parent()
    make_streams_fitting()
    try:
        _name_kinds_of_data()
        try:
            app.cli(prog="s2r2", description=DESCRIPTION, args=[*_ARGUMENTS], config=(FlagCreatePairsOff,))
        finally:
            sys.stdout.flush()
    except SharedError:  # another process says it, and torchrun ends all as soon as one has left
        time.sleep(LAST_WORDS)
        raise SystemExit(2) from None
    except S2R2Error as error:
        first, *more = error.lines if isinstance(error, MistakesError) else [str(error)]
        say(f"s2r2: {first}", error=True)
        for line in more:
            say(f"  {line}", error=True)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so at its end
        raise SystemExit(128 + 13) from None
    except OSError as error:  # said where it can happen often; a terminal's or pipe's disk may be full, too
        if error.errno not in _NO_ROOM:
            raise
        say(f"s2r2: {error.filename or 'what is printed'}: {error.strerror}: free space and start again", error=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:  # training says how to go on
        if not is_follower():
            say(f"s2r2: {str(interrupt) or 'interrupted'}", error=True)
        raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
