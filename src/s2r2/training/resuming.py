"""Going on with a run: what is taken from its folder, and what must be as it was."""

import dataclasses
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console

import s2r2
from s2r2.errors import S2R2Error
from s2r2.images import DirectImages, PixelStore
from s2r2.launching import restarts
from s2r2.machine import processor_name
from s2r2.processes import Processes
from s2r2.training.checkpoint import checkpoint_path, load_checkpoint, previous_path
from s2r2.training.config import TrainConfig, read_config
from s2r2.views import Recipe

# Settings that change where or how fast a run goes, not what it computes: a resume may change them.
OPERATIONAL = ("device", "threads", "store", "checkpoint_minutes", "retry_at", "timeout_minutes", "strategy")


def begun(out: Path | None) -> bool:
    """Whether torchrun has started the processes anew and there is something to go on with."""
    if not restarts():
        return False
    if out is None:
        raise S2R2Error("restarts need --out: without it nobody knows which run to go on with")
    return checkpoint_path(out).is_file() or previous_path(out).is_file()


def request(
    data: Any, config: TrainConfig, out: Path | None, resume: bool, console: Console
) -> tuple[Path | None, TrainConfig, dict[str, Any] | None, Any]:
    """Folder, settings, saved state and data of the request: at a resume, those of the run folder."""
    if not resume:
        if data is None:
            raise S2R2Error("no DATA: give a folder of photos, a manifest, a .tar, or digits")
        return out, config, None, data
    if out is None:
        raise S2R2Error("--resume needs --out: the run folder to go on with")
    saved, about = read_config(out)
    usual = TrainConfig()
    changed = [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(TrainConfig)
        if getattr(config, field.name) not in (getattr(saved, field.name), getattr(usual, field.name))
        and field.name not in OPERATIONAL
    ]
    if changed:
        raise S2R2Error(
            f"{out} was begun with other settings: leave out {', '.join(changed)} to resume, or start a new run"
        )
    given = {name: getattr(config, name) for name in OPERATIONAL if getattr(config, name) != getattr(usual, name)}
    given["strategy"] = config.strategy  # goes with --devices, which is not kept either
    state, warning = load_checkpoint(out)
    if warning:
        console.print(f"warning   {warning}", highlight=False, soft_wrap=True)
    return out, dataclasses.replace(saved, **given), state, data if data is not None else about["data"]


def saved_recipe(folder: Path | None) -> Recipe:
    """The recipe that the run began with, whatever has become of its file."""
    assert folder is not None
    return Recipe.from_dict(read_config(folder)[1]["recipe"])


def facts(store: PixelStore | DirectImages, processes: Processes) -> dict[str, Any]:
    """What should be the same at a resume, kept in the checkpoint."""
    return {
        "store": store.fingerprint,
        "images": len(store),
        "s2r2": s2r2.__version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "threads of torch": torch.get_num_threads(),
        "processes": processes.world_size,
        "processor": processor_name(),
    }


def compare_with_saved(then: dict[str, Any], now: dict[str, Any], name: str, folder: Path, console: Console) -> None:
    """Refuse other photos; say what else has changed since the checkpoint."""
    if then["store"] != now["store"]:
        raise S2R2Error(
            f"the photos of {name} are not those that {folder} was trained on "
            f"({then['images']} then, {now['images']} now, or others): restore them, or start a new run"
        )
    changed = [f"{what} {then[what]} (now {now[what]})" for what in now if then.get(what, now[what]) != now[what]]
    if changed:
        console.print(
            f"note      was begun with {', '.join(changed)}: it goes on, though not to the last bit as it would have",
            highlight=False,
            soft_wrap=True,
        )
