"""Training, top to bottom: views in, embeddings out, one loss over all of them, by ranking unless told otherwise."""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn
from torch.nn.utils import get_total_norm

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.images import ImageSource
from s2r2.training.checkpoint import restore_random_state, save_checkpoint
from s2r2.training.checks import OnlineCheck
from s2r2.training.config import TrainConfig
from s2r2.training.gradient_cache import CachedStep, cached_backward
from s2r2.training.interrupt import Interrupted, StopOnInterrupt
from s2r2.training.methods import Method, Position, build_method
from s2r2.training.metrics import MetricsLog
from s2r2.training.optimiser import build_optimiser, learning_rate_at, set_learning_rate
from s2r2.training.preparation import Preparation, announce, build_encoder, facts, prepare
from s2r2.training.progress import TrainingProgress, format_seconds
from s2r2.training.stores import say_skipped
from s2r2.views import ViewBatch, ViewLoader


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: its folder, the trained encoder, steps taken and the last online check."""

    folder: Path
    encoder: Encoder
    steps: int
    check: dict[str, float]


def train(
    data: str | Path | ImageSource | None,
    config: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> TrainingResult:
    """Train an encoder on photos, without labels: by ranking random views (S2R2, arXiv 2010.07258), or another method.

    Args:
        data: A folder, a manifest, a ``.tar``, a built-in name or an opened source; at a resume it may be None.
        config: The settings; the defaults when None.
        out: The run folder; by default the first free ``runs/DATA-BACKBONE``.
        resume: Go on with the run in ``out``, at the step where it stopped.
        quiet: Print nothing.

    Raises:
        S2R2Error: The request cannot work, or the disk is full; one line says what to do.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; everything was saved and the message says how to go on.
    """
    console = Console(quiet=quiet)
    prepared = prepare(data, config or TrainConfig(), Path(out) if out else None, resume, console)
    encoder = build_encoder(prepared)
    if prepared.resumed:
        encoder.load_state_dict(prepared.resumed["encoder"])
    announce(prepared, encoder, console)
    return _run(prepared, encoder, console)


def _run(prepared: Preparation, encoder: Encoder, console: Console) -> TrainingResult:
    config, store, device = prepared.config, prepared.store, prepared.device
    fabric = _fabric(config, device)
    method = build_method(config, len(store)).to(device)
    trained = nn.ModuleDict({"encoder": encoder, "method": method})
    optimiser = build_optimiser(trained.to(device), config.lr, config.weight_decay or 0.0, config.optimiser)
    step = 0
    if prepared.resumed:
        method.load_state_dict(prepared.resumed["method"])
        optimiser.load_state_dict(prepared.resumed["optimiser"])
        step = prepared.resumed["step"]
    model, fabric_optimiser = fabric.setup(encoder, optimiser)
    check = OnlineCheck(prepared)
    log = MetricsLog(prepared.folder, prepared.steps, resume_at=step)
    loader = ViewLoader(
        store,
        prepared.recipe,
        view_size=config.image_size,
        views=config.views,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        threads=config.threads or None,
    )
    per_epoch, steps, warmup = prepared.steps_per_epoch, prepared.steps, prepared.warmup_steps
    progress = TrainingProgress(console, steps, step, config.epochs)
    figures: dict[str, float] = {}
    if prepared.resumed:
        restore_random_state(prepared.resumed)
    elif step == 0:
        figures = check(encoder)
        log.add_check(0, 0, figures)
    began = saved = time.monotonic()
    trained.train()
    with loader, progress, StopOnInterrupt() as interrupt:
        for epoch in range(step // per_epoch, config.epochs):
            batches = islice(loader.epoch(epoch, start_step=step % per_epoch), steps - step)
            moment, waited = time.perf_counter(), loader.wait_seconds
            for batch in batches:
                learning_rate = learning_rate_at(step, peak=config.lr, steps=steps, warmup=warmup)
                set_learning_rate(optimiser, learning_rate)
                method.begin_step(Position(step, steps, epoch))
                fabric_optimiser.zero_grad(set_to_none=True)
                loss, embeddings = _backward(fabric, model, method, batch, config.micro_batch)
                method.before_update()
                gradient_norm = get_total_norm([p.grad for p in trained.parameters() if p.grad is not None])
                fabric_optimiser.step()
                step += 1

                now = time.perf_counter()
                views_per_second = len(embeddings) / (now - moment)
                wait_share = (loader.wait_seconds - waited) / (now - moment)
                moment, waited = now, loader.wait_seconds
                if log.wants(step):
                    log.add(
                        step,
                        epoch,
                        loss=loss,
                        lr=learning_rate,
                        views_per_second=views_per_second,
                        wait_share=wait_share,
                        gradient_norm=gradient_norm,
                        **method.statistics(embeddings, torch.cat(batch.groups).to(device)),
                    )
                if device.type == "cpu" or step % 10 == 0:  # reading the loss waits for a GPU
                    _refuse_non_finite(float(loss), step, batch.images.tolist())
                    progress.update(step, epoch, float(loss), views_per_second, wait_share)
                if interrupt.requested or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    _save(prepared, encoder, method, optimiser, step, log)
                    saved = time.monotonic()
                    if interrupt.requested:
                        raise Interrupted(
                            f"stopped after step {step:,} of {steps:,} and saved; go on with: "
                            f"s2r2 train --resume --out {prepared.folder}",
                            interrupt.requested,
                        )
            if (epoch + 1) % config.epochs_between_checks == 0 or step == steps:
                figures = check(encoder)
                encoder.train()
                log.add_check(step, epoch, figures)
                console.print(
                    f"check     epoch {epoch + 1}: {check.describe(figures)}", highlight=False, soft_wrap=True
                )
                if check.warning:
                    console.print(f"warning   {check.warning}", highlight=False, soft_wrap=True)
    _save(prepared, encoder, method, optimiser, step, log)
    log.close()
    console.print(
        f"trained   {steps:,} steps in {format_seconds(time.monotonic() - began)}", highlight=False, soft_wrap=True
    )
    say_skipped(store, prepared.folder, console)
    return TrainingResult(prepared.folder, encoder.eval(), step, figures)


def _fabric(config: TrainConfig, device: torch.device) -> Fabric:
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    devices = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=precision)  # type: ignore[arg-type]


def _backward(fabric: Fabric, model: nn.Module, method: Method, batch: ViewBatch, micro_batch: int) -> CachedStep:
    """Loss and embeddings of a step, detached; gradients are left in the parameters."""
    groups = torch.cat(batch.groups)
    if micro_batch:
        return cached_backward(
            model,
            batch.pixels,
            lambda embeddings: method(embeddings, groups),
            micro_batch=micro_batch,
            backward=fabric.backward,
            loss_parameters=method.parameters(),
        )
    embeddings = torch.cat([model(pixels) for pixels in batch.pixels])
    loss = method(embeddings, groups)
    fabric.backward(loss)
    return CachedStep(loss.detach(), embeddings.detach())


def _save(
    prepared: Preparation,
    encoder: Encoder,
    method: Method,
    optimiser: torch.optim.Optimizer,
    step: int,
    log: MetricsLog,
) -> None:
    log.flush()
    epoch = step // prepared.steps_per_epoch
    save_checkpoint(
        prepared.folder,
        encoder=encoder,
        method=method,
        optimiser=optimiser,
        epoch=epoch,
        step=step,
        facts=facts(prepared),
    )
    encoder.save(prepared.folder)


def _refuse_non_finite(loss: float, step: int, images: list[int]) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise S2R2Error(f"the loss is {loss} at step {step} (images {images[:8]} ...): use a smaller --lr")
