"""Training, top to bottom: views in, embeddings out, one loss over all of them, by ranking unless told otherwise."""

import dataclasses
import json
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.errors import NonFiniteError
from s2r2.images import ImageSource
from s2r2.losses import CachedStep, cached_backward
from s2r2.runs import RunFolder, claiming, shown
from s2r2.system.console import PlainConsole
from s2r2.system.files import write_text
from s2r2.system.progress import format_seconds
from s2r2.system.wording import amount, worded
from s2r2.training.adaptation import merged, optimizer_of, save_merged, trained_module
from s2r2.training.config import TrainConfig
from s2r2.training.methods import Position, build_method, loss_of, statistics_of
from s2r2.training.online_check import OnlineCheck
from s2r2.training.optimizer import set_learning_rate
from s2r2.training.parallel.batch_norm import synchronize_batch_norm
from s2r2.training.parallel.exchange import all_rows, average_gradients, mean
from s2r2.training.parallel.fabric import build_fabric, place
from s2r2.training.parallel.sharding import even_slices, load_optimizer, total_norm, whole
from s2r2.training.progress import StepClock, TrainingProgress
from s2r2.training.run.checkpoint import fits_its_config, random_state, restore_random_state, save_checkpoint
from s2r2.training.run.interrupt import Interrupted, StopOnInterrupt
from s2r2.training.run.metrics import MetricsLog
from s2r2.training.schedule import Clock, build_schedule
from s2r2.training.setup.announcement import announce
from s2r2.training.setup.cost import out_of_memory_is_an_error
from s2r2.training.setup.encoder import build_encoder
from s2r2.training.setup.images import Loader, open_loader, say_skipped
from s2r2.training.setup.plan import Preparation
from s2r2.training.setup.preparation import prepare, write_steps_taken
from s2r2.training.setup.resuming import facts
from s2r2.views import ViewBatch

STEPS_BETWEEN_LOOKS = 10
"""On a GPU, where looking at the loss waits for it, and where processes ask each other whether to stop."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: folder, encoder (with FSDP in parts), steps taken, last online check and hash of the photos."""

    folder: Path
    encoder: Encoder
    steps: int
    check: dict[str, float]
    photos: str


def train(
    data: str | Path | ImageSource | None,
    config: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    clock: Clock = time.monotonic,
) -> TrainingResult:
    """Train an encoder on photos, without labels: by ranking random views (S2R2, arXiv 2010.07258), or another method.

    In processes that torchrun has started, call it in each of them with the same arguments: they share the steps, and
    rank all views of a step together.

    Args:
        data: A folder, a manifest, a ``.tar``, a built-in name or an opened source; at a resume it may be None.
        config: The settings; the defaults when None.
        out: The run folder; by default the first free ``runs/DATA-BACKBONE``.
        resume: Continue the run in ``out`` at the step where it stopped.
        quiet: Print nothing.
        clock: Gives the seconds by which ``minutes`` are told, from any beginning.

    Raises:
        S2R2Error: The request cannot work, or the disk is full; one line says what to do.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; everything was saved and the message says how to resume.
    """
    config = config or TrainConfig()
    with ExitStack() as held, Processes.joined(config.timeout_minutes) as processes:
        console = PlainConsole(quiet=quiet or not processes.leader)
        prepared = prepare(data, config, Path(out) if out else None, resume, claiming(held), console, processes)
        how = f"resume from the last checkpoint with: s2r2 train --resume --out {shown(prepared.folder)}"
        with processes.errors_said_once(how):
            run = _Run(prepared, processes, console, clock)
            try:
                return run.train()
            except NonFiniteError as error:
                rate = prepared.config.retry_at
                if not rate or run.lr_scale < 1:
                    raise
                console.say(worded(f"warning   {error}"))
                console.say(f"retry     from the last checkpoint, at {rate:g} of the learning rate")
            again = prepare(data, config, prepared.folder, True, lambda *_: None, console, processes)
            retried = _Run(again, processes, console, clock)
            retried.lr_scale = rate
            return retried.train()


class _Run:
    """One run in one process, from its first or next step to its last."""

    def __init__(self, prepared: Preparation, processes: Processes, console: PlainConsole, clock: Clock) -> None:
        self.prepared, self.processes, self.console = prepared, processes, console
        config, device, resumed = prepared.config, prepared.device, prepared.resumed
        self.config = config
        self.encoder = build_encoder(prepared)
        if resumed:
            with fits_its_config(prepared.folder):
                self.encoder.load_state_dict(resumed["encoder"])
        if processes.leader:
            announce(prepared, self.encoder, console, processes)
        else:
            torch.manual_seed(config.seed + 1_000_003 * processes.rank)  # dropout is each process's own
        if processes.world_size > 1 and not config.micro_batch:  # slices have statistics of their own anyway
            synchronize_batch_norm(self.encoder, device)
        place(self.encoder, config, device)
        self.method = build_method(config, len(prepared.store)).to(device)
        self.trained = nn.ModuleDict({"encoder": self.encoder, "method": self.method})
        self.optimizer = optimizer_of(self.trained, self.encoder, config)
        self.step, self.lr_scale = 0, 1.0
        if resumed:
            self._restore(resumed)
        self.fabric = build_fabric(config, device, processes)
        # One compilation for each size of view and of slice: a dynamic one is slower. The weights stay the encoder's.
        model: Any = trained_module(self.encoder, config.adapt)
        model = torch.compile(model, dynamic=False) if config.compile else model
        self.model, self.fabric_optimizer = self.fabric.setup(model, self.optimizer)
        # A sharded encoder embeds only where all processes do.
        self.check = OnlineCheck(prepared) if processes.leader or config.strategy == "fsdp" else None
        self.log = MetricsLog(
            prepared.folder if processes.leader else None, prepared.steps, self.step if resumed else None
        )
        self.schedule = build_schedule(prepared, processes, clock)
        self.tenth = int(10 * self.schedule.progress(self.step))
        self.figures: dict[str, float] = {}
        self.saved = time.monotonic()
        self._unseen: list[tuple[int, Tensor, ViewBatch]] = []

    def _restore(self, state: dict[str, Any]) -> None:
        """Take back what a checkpoint holds besides the encoder's weights and the random state."""
        with fits_its_config(self.prepared.folder):
            self.method.load_state_dict(state["method"])
            load_optimizer(self.optimizer, state["optimizer"])
        self.step, self.lr_scale = state["step"], state["lr_scale"]

    def _start(self) -> None:
        """Before the first step of this process: random state as it was, or the first check and checkpoint."""
        prepared = self.prepared
        if prepared.resumed:
            with fits_its_config(prepared.folder):
                restore_random_state(prepared.resumed, self.processes.rank, self.processes.world_size)
            prepared.resumed = None  # all of it is in place: a second copy would only cost memory
        else:
            self._check_online(0)
            self._save()  # a run that is killed early can be resumed, and a full disk is found before hours of work
        self.trained.train()

    def train(self) -> TrainingResult:
        """Take the steps that are left."""
        loader = open_loader(self.prepared, self.processes, self.encoder, self.console)
        started = time.monotonic()
        self.schedule.watch.start(counting=self.config.adapt == "head" and not self.step)  # embedding counts, once
        self._start()
        epochs = 0 if self.config.minutes else self.config.epochs
        progress = TrainingProgress(self.console, self.schedule, self.step, epochs)
        with loader, progress, StopOnInterrupt() as interrupt:
            while not self.schedule.ended(self.step):
                self._epoch(loader, progress, interrupt)
        self.schedule.finish()
        self._save()
        self.log.flush()
        if self.config.minutes and self.processes.leader:
            write_steps_taken(self.prepared, self.step)
        self.console.say(f"trained   {amount(self.step, 'step')} in {format_seconds(time.monotonic() - started)}")
        say_skipped(self.prepared.store, self.prepared.folder, self.console)
        found = self.prepared.folder, merged(self.encoder, self.config.adapt), self.step, self.figures
        return TrainingResult(*found, self.prepared.store.fingerprint)

    def _epoch(self, loader: Loader, progress: TrainingProgress, interrupt: StopOnInterrupt) -> None:
        """The steps that are left of an epoch, or of the run, and a check if it is time for one."""
        epoch, begun = divmod(self.step, self.prepared.steps_per_epoch)
        clock = StepClock(loader)
        for batch in loader.epoch(epoch, start_step=begun):
            loss = self._step(batch, clock)
            if self.prepared.device.type == "cpu" or self.step % STEPS_BETWEEN_LOOKS == 0:
                self._refuse_non_finite()
                self.schedule.look(self.step)
                progress.show(self.step, epoch, float(loss), clock)
                self._save_if_wanted(interrupt)
            if self.schedule.ended(self.step):
                break
        if self._wants_check(epoch + 1):
            self._refuse_non_finite()
            self._check_online(epoch + 1)

    def _wants_check(self, epochs: int) -> bool:
        """Whether to check the encoder after so many epochs."""
        if self.config.minutes and not self.config.check_every:
            before, self.tenth = self.tenth, int(10 * self.schedule.progress(self.step))
            return self.tenth > before
        return epochs % self.config.epochs_between_checks == 0 or self.schedule.ended(self.step)

    def _step(self, batch: ViewBatch, clock: StepClock) -> Tensor:
        """One step; returns the loss over all processes, on the device."""
        learning_rate = self.lr_scale * self.schedule.learning_rate(self.step, self.config.lr)
        set_learning_rate(self.optimizer, learning_rate)
        self.method.begin_step(Position(self.step, self.schedule.steps(self.step), batch.epoch))
        self.fabric_optimizer.zero_grad(set_to_none=True)
        loss, embeddings = self._backward(batch)
        average_gradients(self.processes, self.method.parameters())
        self.method.before_update()
        gradient_norm = total_norm(p.grad for p in self.trained.parameters())
        self.fabric_optimizer.step()
        loss = mean(self.processes, loss)
        self.step += 1
        self._unseen.append((self.step, loss, dataclasses.replace(batch, pixels=())))  # pixels would fill the GPU
        clock.stop(len(embeddings) * self.processes.world_size)
        if self.log.wants(self.step):
            rows = all_rows(self.processes, embeddings)
            groups = all_rows(self.processes, torch.cat(batch.groups).to(embeddings.device, non_blocking=True))
            self.log.add(
                self.step,
                batch.epoch,
                loss=loss,
                lr=learning_rate,
                views_per_second=clock.views_per_second,
                wait_share=clock.wait_share,
                gradient_norm=gradient_norm,
                **statistics_of(self.method, rows, groups),
            )
        return loss

    def _backward(self, batch: ViewBatch) -> CachedStep:
        """Loss and embeddings of a step, detached; gradients are left in the parameters."""
        groups = torch.cat(batch.groups)
        micro_batch = int(self.config.micro_batch)
        pixels = batch.pixels
        if self.prepared.device.type == "cuda":
            pixels = tuple(p.contiguous(memory_format=torch.channels_last) for p in pixels)
        if micro_batch and self.config.strategy == "fsdp":
            pixels = even_slices(pixels, micro_batch, self.processes)
        with out_of_memory_is_an_error(
            views=sum(len(p) for p in pixels),
            image_size=self.config.image_size,
            micro_batch=micro_batch,
            device=self.prepared.device,
        ):
            try:
                if micro_batch:
                    return cached_backward(
                        self.model,
                        pixels,
                        lambda embeddings: loss_of(self.method, embeddings, groups),
                        micro_batch=micro_batch,
                        backward=self.fabric.backward,
                        loss_parameters=self.method.parameters(),
                    )
                embeddings = torch.cat([self.model(p) for p in pixels])
                loss = loss_of(self.method, embeddings, groups)
                self.fabric.backward(loss)
                return CachedStep(loss.detach(), embeddings.detach())
            except NonFiniteError as error:  # in this step, of which all processes say so
                raise self._non_finite(self.step + 1, str(error), batch) from error

    def _refuse_non_finite(self) -> None:
        """Look at the losses of the steps since the last look."""
        unseen, self._unseen = self._unseen, []
        for step, loss, batch in unseen:
            if not math.isfinite(float(loss)):
                raise self._non_finite(step, f"the loss of {self.config.method} is {float(loss)}", batch)

    def _non_finite(self, step: int, what: str, batch: ViewBatch) -> NonFiniteError:
        """The error, and for the replay a file that names the photos of the step."""
        folder = self.prepared.folder
        listing = RunFolder(folder).non_finite_file
        keys = [self.prepared.store.keys[int(i)] for i in batch.images]
        photos = [key for part in self.processes.collect(keys) for key in part]
        content = {"step": step, "epoch": batch.epoch, "what": what, "seed": self.config.seed, "photos": photos}
        if self.processes.leader:
            self.log.flush()
            write_text(listing, json.dumps(content, indent=1) + "\n")
        return NonFiniteError(
            f"{what}: step {step:,}, whose {len(photos)} photos are listed in {listing}. It happens again "
            f"with s2r2 train --resume --out {shown(folder)}; add `retry_at=0.5` to continue from the last "
            "checkpoint at half the learning rate"
        )

    def _check_online(self, epochs: int) -> None:
        """Check the encoder as it is after so many epochs: the first process does, the others wait."""
        if self.check is not None:
            self.figures = self.check(self.encoder)
            self.log.add_check(self.step, max(0, epochs - 1), self.figures)
            if epochs:
                self.console.say(f"check     epoch {epochs}: {self.check.describe(self.figures)}")
            if epochs and self.check.warning:
                self.console.say(worded(f"warning   {self.check.warning}"))
        self.processes.wait()
        self.encoder.train()
        self.schedule.look_at_ending("check")

    def _save_if_wanted(self, interrupt: StopOnInterrupt) -> None:
        """Save when it is time or a signal asks for it, in all processes at the same step."""
        due = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        signal, due_somewhere = self.processes.largest(interrupt.requested, int(due))
        if not (signal or due_somewhere):
            return
        self._save()
        if signal:
            self.processes.wait(without_timeout=True)  # one that leaves earlier makes torchrun end the one that writes
            raise Interrupted(
                f"stopped after {self.schedule.describe(self.step)} and saved; resume with: "
                f"s2r2 train --resume --out {shown(self.prepared.folder)}",
                signal,
            )

    def _save(self) -> None:
        """Write checkpoint and encoder."""
        self._refuse_non_finite()  # a checkpoint must be one from which a run can be resumed
        states = self.processes.collect(random_state())
        prepared, leader = self.prepared, self.processes.leader
        weights, optimizer = (whole(part.state_dict(), leader) for part in (self.encoder, self.optimizer))
        if leader:
            self.log.make_durable()
            save_checkpoint(
                prepared.folder,
                encoder=weights,
                method=self.method.state_dict(),
                optimizer=optimizer,
                epoch=self.step // prepared.steps_per_epoch,
                step=self.step,
                random=states,
                lr_scale=self.lr_scale,
                seconds=self.schedule.watch.seconds,
                facts=facts(prepared.store, self.config, self.processes, prepared.grades, prepared.shuffle),
            )
            RunFolder(prepared.folder).start_is_over()
            save_merged(self.encoder, self.config.adapt, prepared.folder, weights)
        self.saved = time.monotonic()
        self.schedule.look_at_ending("checkpoint")
