"""``s2r2 evaluate``, ``protocols`` and ``compare``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from s2r2.cli.options import Data, DeviceOptions, EncoderName, File, SomeData
from s2r2.distributed.launching import is_follower, launch_if_wanted
from s2r2.errors import S2R2Error
from s2r2.system.terminal import say

ProtocolName = Annotated[str, arg(metavar="PROTOCOL")]


@dataclass(frozen=True)
class Evaluate:
    """Options of ``s2r2 evaluate``."""

    run: Positional[EncoderName]
    """Run folder of s2r2 train, whose evaluation.json is written and whose report.html is extended.
    Or encoder.safetensors, timm:NAME or untrained:NAME."""
    test: Data
    """Images to evaluate on."""
    train: SomeData = None
    """Labeled images from which kNN, the linear probe and the protocols learn."""
    encoder: UseAppendAction[list[EncoderName]] = field(default_factory=list)
    """Evaluate this encoder beside it: another run folder, timm:NAME or untrained:NAME; may be repeated."""
    protocol: UseAppendAction[list[ProtocolName]] = field(default_factory=list)
    """Also evaluate by this protocol, such as low-shot or svm, or FILE.py with one of your own; may be repeated.
    s2r2 protocols lists them."""
    grades: Annotated[str, arg(metavar="GRADES")] = ""
    """Also judge whether photos of the same burst, place or folder are found first: time:30s,place:50m,folder, or
    columns of a manifest, the closest first (see docs/grades.md)."""
    out: Path | None = None
    """Where evaluation.json goes instead of the run folder."""
    seed: int = 0
    """Seed of resamples, splits and views."""
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
                grades=self.grades,
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
    """Folder that paths in the study are relative to; by default S2R2_DATA, else the working folder."""
    only: Annotated[UseAppendAction[list[str]], arg(metavar="NAME")] = field(default_factory=list)
    """A data set of the study, to leave out all others; may be repeated."""
    minutes: float | None = None
    """Stop after about this many minutes and save; the same command continues the study."""
    processes: int = 0
    """Runs at the same time; 0: one per GPU, without GPUs one per core; on SLURM as many as it lets."""
    executor: Literal["local", "slurm"] = "local"
    """Where runs are made: on this machine, or as jobs of the SLURM cluster it belongs to."""
    slurm_partition: str = ""
    """SLURM partition; by default the cluster's."""
    slurm_time: int = 0
    """Time limit of a job in minutes, at least 5; 0: 60. A run that needs longer saves, is requeued and continues."""
    slurm_cpus: int = 0
    """Cores per job; 0: the cluster's default."""
    slurm_gpus: int = 0
    """GPUs per job; a run uses one."""
    slurm_options: dict[str, Any] = field(default_factory=dict)
    """Any other options of sbatch, such as account=vision mem=32G."""
    trust_method: UseAppendAction[list[File]] = field(default_factory=list)
    """A file of code that the study names as a method or protocol, and that may run; may be repeated.
    Needed once, and again whenever the file has changed."""

    def execute(self, words: Sequence[str]) -> None:
        """Run the study, or go on with it."""
        from s2r2.study import Slurm, compare

        asked = {
            "partition": self.slurm_partition,
            "minutes": self.slurm_time,
            "cpus": self.slurm_cpus,
            "gpus": self.slurm_gpus,
            "options": self.slurm_options,
        }
        given: dict[str, Any] = {name: value for name, value in asked.items() if value}
        if given and self.executor != "slurm":
            raise S2R2Error("options --slurm-... are for --executor slurm: add it, or leave them out")
        compare(
            self.study,
            out=self.out,
            data=self.data,
            only=self.only,
            minutes=self.minutes,
            processes=self.processes,
            slurm=Slurm(**given) if self.executor == "slurm" else None,
            trust_methods=self.trust_method,
        )
