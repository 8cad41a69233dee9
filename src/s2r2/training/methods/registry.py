"""Methods by name, or from a file."""

import dataclasses
import difflib
import inspect
import re
from typing import Any

import torch

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.grades import read_grades
from s2r2.settings.values import Mistakes, fitted, show
from s2r2.system.code_files import is_code_file, load_class
from s2r2.training.adaptation import HEAD_DECAY, RATES
from s2r2.training.config import TrainConfig
from s2r2.training.methods.base import Method
from s2r2.training.methods.mmcr import MMCR
from s2r2.training.methods.mv_dhel import MVDHEL
from s2r2.training.methods.s2r2 import S2R2
from s2r2.training.methods.simclr import SimCLR
from s2r2.training.methods.swav import SwAV
from s2r2.training.optimizer import WEIGHT_DECAY
from s2r2.training.settings import Options

BASE_VIEWS = 512

METHODS: dict[str, type[Method]] = {
    "s2r2": S2R2,
    "simclr": SimCLR,
    "swav": SwAV,
    "mmcr": MMCR,
    "mv-dhel": MVDHEL,
}


def register_method(name: str, method: type[Method]) -> None:
    """Make a method known by a name, for ``TrainConfig(method=NAME)``."""
    METHODS[name] = method


def find_method(name: str) -> type[Method]:
    """The method of that name, or the one subclass of ``Method`` in the file ``NAME.py``.

    Raises:
        S2R2Error: There is none, or the file does not run.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_code_file(name):
        raise ArgumentError(f"`method={name!r}`: choose {', '.join(METHODS)}, or give a FILE.py with your own Method")
    return load_class(name, Method, f"method {name}")  # type: ignore[type-abstract]


def method_options(method: type[Method]) -> dict[str, Any]:
    """Names and defaults of a method's options."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with all that it leaves to the method filled in.

    Raises:
        S2R2Error: No such method or option, or a setting that cannot work.
    """
    config = config.checked()
    method = find_method(config.method)
    if read_grades(config.grades) and not method.takes_grades:
        known = " or ".join(f"`method={name!r}`" for name, other in METHODS.items() if other.takes_grades)
        raise ArgumentError(f"`method={config.method!r}` has no use for `grades`: leave them out, or use {known}")
    views = config.views or method.views
    rate = method.learning_rates[config.optimizer] * (config.batch_size * views / BASE_VIEWS) ** 0.5
    if config.start:
        rate *= RATES[config.adapt or "all"]
    decay = HEAD_DECAY if config.adapt == "head" else WEIGHT_DECAY[config.optimizer]
    return dataclasses.replace(
        config,
        options=check_options(config, method),
        views=views,
        recipe=config.recipe or method.recipe,
        temperature=config.temperature or method.temperature,
        lr=config.lr or rate,
        weight_decay=decay if config.weight_decay is None else config.weight_decay,
    )


def build_method(config: TrainConfig, images: int) -> Method:
    """The method that a resolved config asks for; its first weights follow from the seed, apart from the encoder's."""
    method = find_method(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        try:
            made = method(config, images, **config.options)
        except S2R2Error:
            raise
        except Exception as error:
            raise S2R2Error(
                f"method {config.method} cannot be built ({type(error).__name__}: {error}): correct its __init__, or "
                "the settings and options that it was given"
            ) from error
    return made


def check_options(config: TrainConfig, method: type[Method]) -> Options:
    """The options of a config, as the method takes them.

    Raises:
        S2R2Error: No such option, or a value of the wrong kind: all of them; the message lists what there is.
    """
    known = method_options(method)
    listed = ", ".join(f"{name}={default}" for name, default in known.items()) or "none"
    mistakes, options = Mistakes(arguments=True), dict(config.options)
    for name, value in config.options.items():
        near = difflib.get_close_matches(name, known, n=1)
        default = known.get(name)
        attempt = Mistakes()
        if name not in known:
            hint = f"; did you mean {near[0]}?" if near else ""
            mistakes.add_line(f"`options`: there is no {name}; method {config.method} has {listed}{hint}")
        elif isinstance(default, (bool, int, float, str)):
            options[name] = fitted(value, type(default), attempt)
        if attempt.found:
            mistakes.add_line(
                f"`options`: {name}={show(value)} must be like {default!r}; method {config.method} has {listed}"
            )
    mistakes.refuse()
    return options


def describe_methods() -> str:
    """Every method with its defaults and options, for people."""
    return "\n\n".join(_describe(name, method) for name, method in METHODS.items())


def _describe(name: str, method: type[Method]) -> str:
    """Title, defaults, and the options with the words of the class's docstring."""
    # `python -OO` knows no docstrings.
    title = ((inspect.getmodule(method).__doc__ or "").strip().splitlines() or [""])[0]
    lines = [
        f"{name}: {title}" if title else name,
        f"  views {method.views}, recipe {method.recipe}, temperature {method.temperature:g}",
    ]
    words = _argument_docs(inspect.getdoc(method) or "")
    lines += [f"  option {o}={d}" + f"  {words.get(o, '')}".rstrip() for o, d in method_options(method).items()]
    return "\n".join(lines)


def _argument_docs(docstring: str) -> dict[str, str]:
    """Descriptions under ``Args:`` by name."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Args:")[2].splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.startswith("        "):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found
