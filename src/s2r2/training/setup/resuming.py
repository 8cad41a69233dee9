"""Resuming a run: what is taken from its folder, and what must be as it was."""

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

from s2r2._version import __version__
from s2r2.distributed.devices import processor_name
from s2r2.distributed.launching import restarts
from s2r2.distributed.processes import Processes
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import DirectImages, PixelStore
from s2r2.images.grades import PhotoGroups
from s2r2.images.sources.register import what_data_may_be
from s2r2.images.store.pixel_store import NO_STORE
from s2r2.runs import Claim, RunFolder, shown
from s2r2.system.code_files import is_code_file
from s2r2.system.console import PlainConsole
from s2r2.system.wording import amount
from s2r2.training.config import TrainConfig, read_config
from s2r2.training.methods.registry import find_method, method_options, resolve
from s2r2.training.optimizer import learning_rate_at, warmup_steps
from s2r2.training.run.checkpoint import load_checkpoint
from s2r2.training.run.trust import method_hash, name_method, refuse_unnamed
from s2r2.training.setup.plan import Preparation
from s2r2.views.orders import Shuffle

# Settings that change where or how fast a run goes, not what it computes: a resume may change them.
OPERATIONAL = ("device", "threads", "store", "checkpoint_minutes", "retry_at", "timeout_minutes", "strategy")
LENGTH = ("minutes", "steps", "epochs")
SHUFFLE = "order of an epoch"
"""The fact that says how it is made; checkpoints without it are of versions that knew only tables."""


class Request(NamedTuple):
    """What a run is asked to do.

    Attributes:
        folder: The run folder; None: the first free one.
        config: Settings, those of the run folder at a resume.
        resumed: The saved state at a resume, else None.
        data: What to train on.
        about: At a resume ``run`` of ``config.yaml``.
        given: Names of the settings that the user gave.
        before: At a resume the settings as they were, else None.
    """

    folder: Path | None
    config: TrainConfig
    resumed: dict[str, Any] | None
    data: Any
    about: dict[str, Any]
    given: frozenset[str]
    before: TrainConfig | None = None


def restarted(out: Path | None) -> bool:
    """Whether torchrun has started the processes anew, and there is a run to resume."""
    if not restarts():
        return False
    if out is None:
        raise ArgumentError("`restarts` needs `out`: the run folder to resume after a restart")
    return RunFolder(out).has_checkpoint


def read_request(
    data: Any, config: TrainConfig, out: Path | None, resume: bool, claim: Claim, console: PlainConsole
) -> Request:
    """Folder, settings, saved state and data of a run: at a resume, those of the run folder.

    Raises:
        S2R2Error: There is nothing to resume, or a setting was given that would change what the run computes.
    """
    asked = _with_places(config.checked())
    _refuse_two_lengths(asked, config.given)
    if "method" in config.given:
        name_method(asked.method)
    if not resume:
        if data is None:
            raise ArgumentError(f"no `data`: give {what_data_may_be()}")
        refuse_unnamed(asked.method, "the config", "name it as `method`")
        return Request(out, asked, None, data, {}, config.given)
    if out is None:
        raise ArgumentError("`resume=True` needs `out`: the run folder to resume")
    saved, about = read_config(out)
    if not RunFolder(out).has_checkpoint:
        raise ArgumentError(f"no checkpoint in {out}, so there is nothing to resume: leave out `resume`")
    claim(out, False)
    merged = _merged(saved, asked, config.given, out)
    state, warning = load_checkpoint(out)
    if warning:
        console.say(f"warning   {warning}")
    return Request(out, merged, state, data if data is not None else about["data"], about, config.given, saved)


def _refuse_two_lengths(asked: TrainConfig, given: frozenset[str]) -> None:
    lengths = [f"`{name}={getattr(asked, name):g}`" for name in LENGTH if name in given and getattr(asked, name)]
    if len(lengths) > 1 and asked.minutes:
        raise ArgumentError(f"{lengths[0]} and {lengths[1]} both say how long the run is: leave one of them out")


def _merged(saved: TrainConfig, asked: TrainConfig, given: frozenset[str], out: Path) -> TrainConfig:
    """The saved settings, with those that were given where they may change: length, place and speed.

    Raises:
        S2R2Error: A setting was given that would change what the run computes: all of them.
    """
    config = dataclasses.replace(saved, strategy=asked.strategy)  # like the number of processes
    if is_code_file(saved.method) and is_code_file(asked.method) and "method" in given:
        config = dataclasses.replace(config, method=asked.method)  # it may have been moved
    how = f"name it: s2r2 train --resume --out {shown(out)} --method {shlex.quote(config.method)}"
    refuse_unnamed(config.method, str(RunFolder(out).config_file), how)
    wanted = {name: getattr(asked, name) for name in given if name not in LENGTH}
    if wanted.get("micro_batch") == "auto" and saved.micro_batch != "auto":
        del wanted["micro_batch"]  # what it came to at the beginning
    if wanted.get("recipe") == "":
        del wanted["recipe"]
    would = resolve(dataclasses.replace(config, **{k: v for k, v in wanted.items() if k not in OPERATIONAL}))
    usual = method_options(find_method(config.method))
    changed = [
        f"`{name}`"
        for name in wanted
        if name not in OPERATIONAL
        and _comparable(getattr(would, name), usual) != _comparable(getattr(config, name), usual)
    ]
    if changed:
        raise ArgumentError(
            f"{out} was started with other settings: leave out {', '.join(sorted(changed))} to resume it, "
            "or start a new run"
        )
    config = dataclasses.replace(config, **{k: v for k, v in wanted.items() if k in OPERATIONAL})
    if "minutes" in given and asked.minutes:
        return dataclasses.replace(config, minutes=asked.minutes)
    if "steps" in given and asked.steps:
        return dataclasses.replace(config, minutes=0.0, steps=asked.steps)
    if "epochs" in given:
        return dataclasses.replace(config, minutes=0.0, steps=0, epochs=asked.epochs)
    return config


def _comparable(value: Any, usual: dict[str, Any]) -> Any:
    """A setting, options with those that were left out, places as they are from here."""
    if isinstance(value, dict):
        return {**usual, **value}
    return _place(value) if isinstance(value, str) else value


def _with_places(config: TrainConfig) -> TrainConfig:
    """The config with absolute places, so that a resume from another folder finds them."""
    store = config.store if config.store in (None, NO_STORE) else config.store.expanduser().resolve()
    start = config.start
    if start and not start.startswith(("timm:", "untrained:")):
        start = str(Path(start).expanduser().resolve())
    return dataclasses.replace(
        config, start=start, method=_place(config.method), recipe=_place(config.recipe), store=store
    )


def _place(name: str) -> str:
    """Of a file's name the absolute place; other names as they are."""
    return str(Path(name).expanduser().resolve()) if name.endswith((".py", ".yaml", ".yml")) else name


def check_length(prepared: Preparation) -> None:
    """Refuse a length that is less than what was trained already.

    Raises:
        S2R2Error: The run has taken more steps, or more time.
    """
    done, minutes = prepared.steps_done, prepared.config.minutes
    trained = prepared.seconds_done / 60
    if minutes and trained > minutes:
        raise ArgumentError(
            f"{prepared.folder} has trained {trained:.1f} minutes already, and this would make it a run of "
            f"{minutes:g}: give `minutes={math.ceil(trained)}` or more"
        )
    if not minutes and done > prepared.steps:
        raise ArgumentError(
            f"{prepared.folder} has taken {done:,} steps already, and this would make it a run of {prepared.steps:,}: "
            f"give `steps={done}` or more, or `epochs={-(-done // prepared.steps_per_epoch)}` or more"
        )


def announce_length(prepared: Preparation, before: TrainConfig, steps: int, console: PlainConsole) -> None:
    """Say that a run has another length than it had, and how its schedules continue.

    Args:
        prepared: The run as it will be.
        before: Its settings before.
        steps: Its steps before.
        console: Where to say it.
    """
    config, done = prepared.config, prepared.steps_done
    asked = next(f"{getattr(config, name):,.6g} {name}" for name in LENGTH if getattr(config, name))
    rates = ""
    if not config.minutes and not before.minutes:
        now, was = (_rate(prepared, length) for length in (prepared.steps, steps))
        rates = f" (learning rate {now:.2g}, was {was:.2g})"
    length = amount(config.minutes, "minute") if config.minutes else amount(prepared.steps, "step")
    length_before = amount(before.minutes, "minute") if before.minutes else f"{steps:,}"
    console.say(
        f"length    {length} instead of {length_before}: from step {done + 1:,} on, the learning rate and "
        f"all else with a schedule continue as in a run started with {asked}{rates}",
    )


def _rate(prepared: Preparation, steps: int) -> float:
    """Learning rate of the next step in a run of so many."""
    warmup = warmup_steps(prepared.config, prepared.steps_per_epoch, steps)
    return learning_rate_at(min(prepared.steps_done, steps - 1), peak=prepared.config.lr, steps=steps, warmup=warmup)


def facts(
    store: PixelStore | DirectImages,
    config: TrainConfig,
    processes: Processes,
    groups: PhotoGroups | None,
    shuffle: Shuffle,
) -> dict[str, Any]:
    """What should be the same at a resume, kept in the checkpoint."""
    return {
        "store": store.fingerprint,
        "images": len(store),
        "grades": groups.digest if groups else "none",
        SHUFFLE: shuffle,
        "method file": method_hash(config.method)[:12],
        "s2r2": __version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "threads of torch": torch.get_num_threads(),
        "processes": processes.world_size,
        "processor": processor_name(),
    }


def check_facts(
    then: dict[str, Any], store: PixelStore | DirectImages, now: dict[str, Any], folder: Path, console: PlainConsole
) -> None:
    """Refuse other photos; say what else has changed since the checkpoint.

    Args:
        then: :func:`facts` in the checkpoint.
        store: The photos now.
        now: :func:`facts` now.
        folder: The run folder.
        console: Where to say it.

    Raises:
        S2R2Error: The photos are others.
    """
    if then["store"] not in (store.fingerprint, store.former_fingerprint):
        raise S2R2Error(
            f"the photos of {store.name} are not those that {folder} was trained on "
            f"({then['images']} then, {now['images']} now, or others): restore them, or start a new run"
        )
    changed = [
        f"{what} {then[what]} (now {now[what]})"
        for what in now
        if what != "store" and then.get(what, now[what]) != now[what]
    ]
    if changed:
        console.say(f"note      was started with {', '.join(changed)}: it continues, but not to the last bit as before")
