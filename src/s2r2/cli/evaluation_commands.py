"""``s2r2 evaluate``, ``protocols`` and ``compare``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from s2r2.cli.options import Data, DeviceOptions, EncoderName, File, SomeData
from s2r2.distributed.launching import is_follower, launch_if_wanted
from s2r2.system.terminal import say

ProtocolName = Annotated[str, arg(metavar="PROTOCOL")]


@dataclass(frozen=True)
class Evaluate:
    """Options of ``s2r2 evaluate``."""

    run: Positional[EncoderName]
    """Run folder of s2r2 train; evaluation.json goes there, and report.html is extended. Or encoder.safetensors,
    timm:NAME, untrained:NAME."""
    test: Data
    """Images to evaluate on."""
    train: SomeData = None
    """Images whose labels kNN, the linear probe and the protocols may use."""
    encoder: UseAppendAction[list[EncoderName]] = field(default_factory=list)
    """Evaluate these beside it: another run folder, timm:NAME or untrained:NAME; may be repeated."""
    protocol: UseAppendAction[list[ProtocolName]] = field(default_factory=list)
    """Also evaluate by this protocol, such as low-shot or svm, or FILE.py with one of your own; s2r2 protocols lists
    them; may be repeated."""
    out: Path | None = None
    """Where evaluation.json goes instead of the run folder."""
    seed: int = 0
    """Of resamples, splits and views."""
    store: Path | None = None
    """Where decoded photos are kept; by default a cache folder."""
    device: DeviceOptions = field(default_factory=DeviceOptions)

    def execute(self, words: Sequence[str]) -> None:
        """Evaluate, print the table, and extend the report of a run."""
        launch_if_wanted(words, self.device.devices, self.device.nodes)
        from s2r2.distributed.processes import Processes
        from s2r2.evaluation import evaluate_run, write_report
        from s2r2.runs import RunFolder

        with Processes.joined() as processes:
            evaluation = evaluate_run(
                self.run,
                self.test,
                self.train,
                others=self.encoder,
                protocols=self.protocol,
                out=self.out,
                device=self.device.device,
                store=self.store,
                seed=self.seed,
                processes=processes,
            )
        if is_follower():
            return
        evaluation.print()
        if RunFolder(self.run).is_run and self.out is None:
            say(f"report    {write_report(self.run)}")


@dataclass(frozen=True)
class Protocols:
    """Options of ``s2r2 protocols``."""

    def execute(self, words: Sequence[str]) -> None:
        """List the protocols."""
        from s2r2.evaluation import describe_protocols

        for line in describe_protocols().splitlines():
            say(line)


@dataclass(frozen=True)
class Compare:
    """Options of ``s2r2 compare``."""

    study: Positional[Annotated[Path, arg(metavar="STUDY.yaml")]]
    """Which methods, data, budgets and seeds; see docs/study.md."""
    out: Path | None = None
    """Folder of the study; by default runs/NAME."""
    data: Path | None = None
    """Folder that paths in the study start from; by default S2R2_DATA, else the working folder."""
    minutes: float | None = None
    """Stop after about this many minutes and save; the same command continues."""
    processes: int = 0
    """Runs at once; 0: one for each GPU, without GPUs one for each core."""
    trust_method: UseAppendAction[list[File]] = field(default_factory=list)
    """A method or protocol of the study that is a file of code, and may run; needed once for each of its contents;
    may be repeated."""

    def execute(self, words: Sequence[str]) -> None:
        """Run the study, or go on with it."""
        from s2r2.study import compare

        compare(
            self.study,
            out=self.out,
            data=self.data,
            minutes=self.minutes,
            processes=self.processes,
            trust_methods=self.trust_method,
        )
