"""``s2r2 train`` and ``s2r2 methods``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from s2r2.distributed.launching import is_follower, launch_if_wanted
from s2r2.images.sources.register import what_data_may_be
from s2r2.system.terminal import say
from s2r2.training.config import TrainConfig
from s2r2.training.settings import (
    DataSettings,
    DeviceSettings,
    MethodSettings,
    OptimizationSettings,
    OutputSettings,
    ViewSettings,
)

_DATA = f"The photos: {what_data_may_be()}; not needed with --resume."


@dataclass(frozen=True)
class _Data(DataSettings):
    """What to learn from."""

    data: Positional[Annotated[str | None, arg(metavar="DATA", help=_DATA)]] = None


@dataclass(frozen=True)
class _Device(DeviceSettings):
    """What the run is computed on."""

    devices: int = 1
    """Processes on this machine that share each step; 0: one per GPU."""
    nodes: int = 1
    """Machines, each running this same command; see docs/scaling.md."""
    restarts: int = 0
    """How often to restart all processes from the last checkpoint when one is lost (needs --out)."""


@dataclass(frozen=True)
class _Output(OutputSettings):
    """What the run writes, and where."""

    out: Path | None = None
    """Run folder; by default the first free runs/DATA-BACKBONE."""
    resume: bool = False
    """Continue the run in --out at the step where it stopped; with --epochs or --steps, up to another length."""


@dataclass(frozen=True)
class Train:
    """Options of ``s2r2 train``: the settings of a run in groups, and what concerns the command alone."""

    data: _Data = field(default_factory=_Data)
    views: ViewSettings = field(default_factory=ViewSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    device: _Device = field(default_factory=_Device)
    output: _Output = field(default_factory=_Output)

    def execute(self, words: Sequence[str]) -> None:
        """Train, and write the report."""
        launch_if_wanted(words, self.device.devices, self.device.nodes, self.device.restarts)
        from s2r2.evaluation import write_report
        from s2r2.runs import RunFolder
        from s2r2.training import train

        result = train(self.data.data, self.config(words), out=self.output.out, resume=self.output.resume)
        if is_follower():
            return
        say(f"encoder   {RunFolder(result.folder).encoder_file}")
        say(f"report    {write_report(result.folder)}")

    def config(self, words: Sequence[str]) -> TrainConfig:
        """The settings that stand on the command line; a resume asks for these, and no others."""
        flags = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
        groups = [getattr(self, group.name) for group in dataclasses.fields(self)]
        given = [setting.name for setting in dataclasses.fields(TrainConfig) if _flag(setting.name) in flags]
        return TrainConfig(**{name: getattr(next(g for g in groups if hasattr(g, name)), name) for name in given})


@dataclass(frozen=True)
class Methods:
    """Options of ``s2r2 methods``."""

    def execute(self, words: Sequence[str]) -> None:
        """List the methods."""
        from s2r2.training.methods import describe_methods

        for line in describe_methods().splitlines():
            say(line)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
