"""``s2r2 embed``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from s2r2.cli.options import Data, DeviceOptions, EncoderName, File
from s2r2.distributed.launching import is_follower, launch_if_wanted
from s2r2.errors import ArgumentError
from s2r2.system.terminal import say
from s2r2.system.wording import amount

if TYPE_CHECKING:
    from s2r2.search.exporting import Written

SomeNumber = Annotated[int | None, arg(metavar="N")]


@dataclass(frozen=True)
class Embed:
    """Options of ``s2r2 embed``."""

    encoder: Positional[EncoderName]
    """Run folder, encoder.safetensors, a safetensors export, timm:NAME or untrained:NAME."""
    data: Positional[Data]
    """The photos."""
    out: File
    """FILE.parquet, FILE.npy or FILE.csv; FILE.skipped.csv lists unreadable photos. With --shards, a folder."""
    shards: SomeNumber = None
    """Divide the photos into N parts, written into the folder OUT; parts that are complete are kept."""
    shard: SomeNumber = None
    """Make only this part, 0 to N-1 (in a SLURM array: $SLURM_ARRAY_TASK_ID); by default all that are missing."""
    output: Literal["feature", "embedding"] = "feature"
    """feature (backbone) or embedding (after the projection head)."""
    batch_size: int = 64
    """Photos encoded at once."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """In which the encoder computes; the vectors are float32 in any case. auto tries bfloat16 on some of the photos,
    and takes it where that is faster and the ranking stays; docs/search.md has the figures."""
    device: DeviceOptions = field(default_factory=DeviceOptions)

    def execute(self, words: Sequence[str]) -> None:
        """Write the file or the parts."""
        self._check_shards()
        launch_if_wanted(words, self.device.devices, self.device.nodes)
        from s2r2.distributed.devices import choose_device
        from s2r2.distributed.processes import Processes
        from s2r2.encoder import load
        from s2r2.images import open_source
        from s2r2.search import Shards, write_embeddings

        place = os.path.abspath(self.encoder) if os.path.exists(self.encoder) else self.encoder
        with Processes.joined() as processes:
            encoder = load(self.encoder, device=choose_device(self.device.device, processes))
            source = processes.leader_first(lambda: open_source(self.data))
            if self.shards is not None:
                parts = Shards(
                    encoder, source, self.out, self.shards,
                    output=self.output, batch_size=self.batch_size, precision=self.precision, encoder_place=place,
                )  # fmt: skip
                _say_why(parts.note)
                for shard in range(self.shards) if self.shard is None else [self.shard]:
                    part = parts.write(shard)
                    say(_summary(part.written, part.path) if part.written else f"{part.path} is there already")
                return
            written = write_embeddings(
                encoder, source, self.out,
                output=self.output, batch_size=self.batch_size, precision=self.precision, encoder_place=place,
                processes=processes,
            )  # fmt: skip
        if not is_follower():
            _say_why(written.note)
            say(_summary(written, self.out))

    def _check_shards(self) -> None:
        if self.shards is None and self.shard is not None:
            raise ArgumentError(f"`shard={self.shard}`: give `shards` too, the number of all parts")
        several = (self.device.devices, self.device.nodes, os.environ.get("WORLD_SIZE", "1")) != (1, 1, "1")
        if self.shards is not None and several:
            raise ArgumentError(
                "`devices` and `nodes` share one file: with `shards`, start a command with its own `shard` for each "
                "GPU or machine"
            )


def _summary(written: "Written", place: Path) -> str:
    vectors = f"{amount(written.count, 'vector')} of {written.dimensions}"
    return f"{vectors} in {place}; {amount(len(written.skipped), 'photo')} skipped"


def _say_why(note: str) -> None:
    if note:
        say(note)
