"""What a run will do, said before it does it, with an estimate of its time."""

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.runs import RunFolder
from s2r2.system.console import PlainConsole
from s2r2.system.progress import format_seconds
from s2r2.system.wording import amount, worded
from s2r2.training.setup.cost import seconds_per_pixel, seconds_per_step_of_head
from s2r2.training.setup.plan import Preparation


def announce(prepared: Preparation, encoder: Encoder, console: PlainConsole, processes: Processes) -> None:
    """Print what the run will do, with an estimate of its time measured on this machine."""
    config, store = prepared.config, prepared.store
    labels = f", {amount(len(store.labels.names), 'label')} (not used in training)" if store.labels is not None else ""
    skipped = f", {len(store.skipped)} skipped (see {RunFolder(prepared.folder).skipped_file})" if store.skipped else ""
    weights = "pretrained" if config.pretrained else "random weights"
    if config.start:
        weights = f"from {config.start}, adapted: {config.adapt}"
    console.say(f"photos    {len(store):,} of {store.name}{labels}{skipped}")
    if prepared.grades is not None:
        console.say(f"grades    {prepared.grades.sentence}")
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad) / 1e6
    parameters = f"{size:.1f} M parameters" + (f", {trained:.1f} M of them trained" if trained < size else "")
    console.say(
        f"encoder   {config.backbone}, {weights}, {parameters}, {config.image_size} px, "
        f"{prepared.device if processes.world_size == 1 else f'{processes.world_size} processes'}"
        + (", each with a part of it" if config.strategy == "fsdp" else ""),
    )
    options = "".join(f", {name} {value}" for name, value in config.options.items())
    console.say(
        f"step      {config.method}: {amount(config.batch_size, 'image')} x {amount(config.views, 'view')} "
        f"({config.recipe}) = {amount(config.batch_size * config.views, 'view')}, temperature {config.temperature}"
        f"{options}" + (f", {config.micro_batch:,} at once" if config.micro_batch else ""),
    )
    done = prepared.resumed["step"] if prepared.resumed else 0
    left = f", resumed at step {done + 1:,}" if done else ""
    if config.minutes:
        _announce_minutes(prepared, console)
        return
    if done == prepared.steps:
        left = worded(", all taken: to train longer, give more `epochs` or `steps`")
    time_left = ""
    if config.strategy != "fsdp" and done < prepared.steps:  # measured on the whole encoder, which need not fit
        seconds = _seconds(prepared, encoder, prepared.steps - done) / processes.world_size
        time_left = f", about {format_seconds(seconds)} (estimated)"
    console.say(
        f"run       {_epochs(prepared)} x "
        f"{amount(prepared.steps_per_epoch, 'step')} = {amount(prepared.steps, 'step')}{left}{time_left}",
    )
    console.say(f"folder    {prepared.folder}")


def _announce_minutes(prepared: Preparation, console: PlainConsole) -> None:
    minutes, trained, done = prepared.config.minutes, prepared.seconds_done / 60, prepared.steps_done
    if trained >= minutes:
        left = worded(", all trained: to train longer, give more `minutes`")
    elif done:
        left = f", resumed at step {done + 1:,} after {trained:.1f} minutes"
    else:
        left = f", about {_epochs(prepared)} = {amount(prepared.steps, 'step')} (estimated)"
    console.say(f"run       {amount(minutes, 'minute')}{left}")
    console.say(f"folder    {prepared.folder}")


def _epochs(prepared: Preparation) -> str:
    return amount(float(f"{prepared.steps / prepared.steps_per_epoch:.4g}"), "epoch")


def _seconds(prepared: Preparation, encoder: Encoder, steps: int) -> float:
    """Of so many steps, estimated from passes over part of one."""
    config = prepared.config
    part = min(config.batch_size * config.views, 64)
    passes = 4 / 3 if config.micro_batch else 1  # the gradient cache goes forward twice
    each = seconds_per_pixel(encoder.to(prepared.device), config.image_size, part)
    if config.adapt == "head":  # each view passes through the backbone once
        embedding = each * prepared.pixels_per_step * prepared.steps_per_epoch
        return embedding + steps * seconds_per_step_of_head(encoder, config.batch_size * config.views)
    return each * prepared.pixels_per_step * passes * steps
