"""Remedies that are named where encoders are made, read, written and exported, and where a device is chosen."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from cases_images import provides
from performing import SETTINGS, State, case, choices, command, named, noise
from safetensors import safe_open
from safetensors.torch import save_file

from s2r2.distributed.devices import choose_device
from s2r2.encoder import Encoder, create_encoder, export, exporting as exporting_module, load
from s2r2.system.files import write_text
from s2r2.system.locking import locked
from s2r2.training import TrainConfig, train


def loads(encoder: object) -> Encoder:
    """An encoder that is loaded, and embeds."""
    made = load(str(encoder), device="cpu")
    assert np.isfinite(made.embed([noise(0)])).all()
    return made


def encoder_file(state: State, change: Callable[[dict[str, Any], dict[str, str]], object]) -> Path:
    """A run's encoder, with some of its tensors and its description changed."""
    path = state.run / "encoder.safetensors"
    with safe_open(path, framework="pt") as content:
        about = content.metadata()
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
    change(tensors, about)
    save_file(tensors, path, about)
    return path


def damaged(change: Callable[[dict[str, Any], dict[str, str]], object]) -> Callable[[State], object]:
    return lambda state: load(encoder_file(state, change), device="cpu")


def copied_again(state: State, said: str) -> None:
    file = Path(named(r"(/\S+encoder\.safetensors)", said))
    shutil.copy(state.shared.run / "encoder.safetensors", file)
    loads(file)


def another(state: State, said: str) -> None:
    loads(state.shared.run)


def changed_text(old: str, new: str) -> Callable[[dict[str, Any], dict[str, str]], object]:
    def change(_: dict[str, Any], about: dict[str, str]) -> None:
        assert old in about["s2r2"]
        about["s2r2"] = about["s2r2"].replace(old, new)

    return change


def infinite(tensors: dict[str, Any], _: object) -> None:
    tensors["head.0.weight"][0, 0] = float("inf")


def negative(tensors: dict[str, Any], _: object) -> None:
    name = next(name for name in tensors if name.endswith("running_var"))
    tensors[name][0] = -1


case(
    "it is damaged or made by something else, copy it again", damaged(changed_text('"name": ', '"nom": ')), copied_again
)
case("the file is damaged or its training diverged; use another", damaged(infinite), another)
case("has a negative variance; the file is damaged, copy it again", damaged(negative), copied_again)
case(
    "its projection head is not of the stated size",
    damaged(changed_text('"head_hidden": 16', '"head_hidden": 17')),
    copied_again,
)


def cut_off(state: State) -> object:
    path = state.run / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return load(path)


def by_resuming(state: State, said: str) -> None:
    assert "resume the training" in said
    train(None, TrainConfig(threads=1), out=state.run, resume=True, quiet=True)
    loads(state.run)
    cut_off_again = state.said(cut_off)
    copied_again(state, cut_off_again)


case("it is damaged, copy it again or resume the training", cut_off, by_resuming)


def by_others(state: State) -> object:
    save_file({"a": torch.zeros(1)}, state.tmp / "x.safetensors")
    return load(state.tmp / "x.safetensors")


def run_or_timm(state: State, said: str) -> None:
    """What the message offers: a run folder, ``encoder.safetensors`` where it says so, ``timm:NAME``."""
    assert "run folder" in said
    loads(state.shared.run)
    if "an encoder.safetensors" in said:
        loads(state.shared.run / "encoder.safetensors")
    if "timm:NAME" in said:
        connected(state)
        loads("timm:resnet10t")
    if "timm:NAME@" in said:
        state.patch.undo()
        file = named(r"timm:NAME@(\S+)", said)
        save_file(timm.create_model("test_vit").state_dict(), file)
        loads(f"timm:test_vit@{file}")


def connected(state: State) -> None:
    """The machine has internet, and timm's weights are fetched."""
    state.patch.setattr("s2r2.encoder.weights.refuse_offline", lambda name: None)
    state.patch.setattr(timm, "create_model", without_download(timm.create_model))


def without_download(create: Callable[..., Any]) -> Callable[..., Any]:
    """timm's, as if the weights had been fetched."""
    return lambda *arguments, **options: create(*arguments, **{**options, "pretrained": False})


case("was not written by s2r2: give a run folder, or timm:NAME", by_others, run_or_timm)
case("no encoder at {}: give a run folder", lambda _: load("nowhere"), run_or_timm)


def unfinished(state: State) -> object:
    settings = {**SETTINGS, "epochs": 2}
    interrupted = state.tmp / "unfinished"
    train(state.photos, TrainConfig(**settings), out=interrupted, quiet=True)
    (interrupted / "encoder.safetensors").unlink()
    return load(interrupted)


def finished(state: State, said: str) -> None:
    loads(state.shared.run)
    folder = named(r"no encoder.safetensors in (\S+):", said)
    command("train", "--resume", "--out", folder)
    loads(folder)


case("give a run folder of s2r2 train, or finish that training", unfinished, finished)


def graph(state: State) -> object:
    state.write("x.onnx", "a graph")
    return load(state.tmp / "x.onnx")


def run_or_export(state: State, said: str) -> None:
    loads(state.shared.run)
    ending = named(r"export as (\.\w+)", said)
    command("export", state.shared.run, "--out", state.tmp / f"x{ending}")
    loads(state.tmp / f"x{ending}")


case("is a graph for other programs: give the run folder or an export", graph, run_or_export)
case(
    "`output={}` is not known: use feature or embedding",
    lambda state: load(state.shared.run).embed([noise(0)], output="x"),  # type: ignore[arg-type]
    lambda state, said: [load(state.shared.run).embed([noise(0)], output=choice) for choice in choices(said)],  # type: ignore[arg-type]
)
case(
    "an image array must be uint8 in 0..255",
    lambda state: state.shared.encoder.embed([noise(0) / 255]),
    lambda state, said: state.shared.encoder.embed([(noise(0) / 255 * 255).astype("uint8")]),
)


def diverged(state: State) -> object:
    encoder = load(state.shared.run, device="cpu")
    for parameter in encoder.parameters():
        parameter.data.fill_(1e30)
    return encoder.embed([noise(0)])


case("its weights are damaged or its training diverged; use another encoder", diverged, another)
case(
    "cannot make the folder {}: {}choose another one",
    lambda state: state.shared.encoder.save(state.write("file", "") / "folder"),
    lambda state, said: loads(state.shared.encoder.save(state.tmp / "other")),
)


def sizes(backbone: str, size: int) -> Encoder:
    return create_encoder(backbone, image_size=size, embedding_dimensions=8, head_hidden=16)


case(
    "cannot take images of {} px ({}): choose another `image_size`",
    lambda _: sizes("test_vit", 30),
    lambda _, said: sizes("test_vit", 32),
)


def of_one_size(state: State) -> object:
    """A backbone whose layers are made for the size, and whose maker refuses others."""

    def make(*arguments: object, **options: object) -> object:
        if options.get("img_size") == 30:
            raise ValueError("windows do not fit")
        return create(*arguments, **options)

    create = timm.create_model
    state.patch.setattr(timm, "create_model", make)
    return sizes("test_vit", 30)


case(
    "cannot be built ({}): choose another `image_size`",
    of_one_size,
    lambda _, said: sizes("test_vit", 32),
)


def offline(state: State) -> object:
    def refuse(*_: object, **options: object) -> object:
        if options.get("pretrained"):
            raise OSError("We couldn't connect to the Hub. Check your internet connection.")
        return create(*_, **options)

    create = timm.create_model
    state.patch.setattr("s2r2.encoder.weights.refuse_offline", lambda name: None)
    state.patch.setattr(timm, "create_model", refuse)
    return load("timm:resnet10t")


def random_weights(state: State, said: str) -> None:
    loads(named(r"(untrained:)NAME", said) + "resnet10t")
    assert "leave out `start`" in said
    sizes("resnet10t", 32)
    connected(state)
    loads("timm:resnet10t")


case("cannot be loaded ({}): connect to the internet, or start from random weights", offline, random_weights)
case("and cannot be fetched ({}): connect to the internet", lambda _: load("timm:resnet10t"), random_weights)


def with_weights(content: object, file: str = "x.pth") -> Callable[[State], object]:
    def fails(state: State) -> object:
        torch.save(content, state.tmp / file)
        return load(f"timm:test_vit@{state.tmp / file}")

    return fails


def saved_again(state: State, said: str) -> None:
    tensors = timm.create_model("test_vit").state_dict()
    if "safetensors" in said:
        save_file(tensors, state.tmp / "y.safetensors")
        loads(f"timm:test_vit@{state.tmp / 'y.safetensors'}")
    torch.save(tensors, state.tmp / "y.pth")
    loads(f"timm:test_vit@{state.tmp / 'y.pth'}")


def model_named(state: State, said: str) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), state.tmp / "x.pth")
    loads(f"timm:test_vit@{state.tmp / 'x.pth'}")


case("cannot be read as weights ({}): save them again", with_weights({"a": named}), saved_again)
case("holds no weights by name: save a state_dict", with_weights([1, 2]), saved_again)
case("({}): name the model that they belong to", with_weights({"a": torch.zeros(1)}), model_named)
case("no checkpoint at {}: check its path", lambda _: load("timm:test_vit@x.pth"), model_named)


def known_weights(state: State, said: str) -> None:
    """Names that the message lists are known to timm; no weights are fetched here."""
    connected(state)
    for name in choices(said.partition(": ")[-1]):
        load(f"timm:{name}", image_size=32)


case("use {}$", lambda _: load("timm:resnet18.nobodys"), known_weights)

# Exports


def exports(state: State, *words: object) -> str:
    return command("export", state.shared.run, *words)


case(
    "`format={}` is not known: use {}",
    lambda state: export(state.shared.encoder, state.tmp / "x.bin", format="x"),  # type: ignore[arg-type]
    lambda state, said: [
        exports(state, "--format", name, "--out", state.tmp / f"x{exporting_module.SUFFIXES[name]}")  # type: ignore[index]
        for name in choices(said)
        if name not in ("auto", "onnx")
    ],
    slow=True,
)
case(
    "cannot make the folder {}: {}choose another `out`",
    lambda state: exports(state, "--out", state.write("file", "") / "x.safetensors"),
    lambda state, said: exports(state, "--out", state.tmp / "other" / "x.safetensors"),
)
case(
    "writes a file, and its name must end in",
    lambda state: exports(state, "--format", "torch-export", "--out", "x.bin"),
    lambda state, said: exports(state, "--format", "torch-export", "--out", "x" + said.rsplit(" ", 1)[-1].strip()),
)
case(
    "ends in none of .safetensors, .onnx and .pt2: choose such a name",
    lambda state: exports(state, "--out", "x.bin"),
    lambda state, said: [
        exports(state, "--out", "x.safetensors"),
        exports(state, "--format", "huggingface", "--out", state.tmp / "folder"),
    ],
)
case(
    "writes a folder: choose another `out`",
    lambda state: exports(state, "--format", "huggingface", "--out", state.write("file", "")),
    lambda state, said: exports(state, "--format", "huggingface", "--out", state.tmp / "folder"),
)
case(
    "is a run folder: choose another `out`, such as",
    lambda state: exports(state, "--format", "huggingface", "--out", state.run),
    lambda state, said: exports(state, "--format", "huggingface", "--out", said.rsplit("such as ")[-1].strip()),
)
case(
    "has no projection head; leave out `output`",
    lambda _: command("export", "untrained:test_resnet", "--output", "embedding", "--out", "x.safetensors"),
    lambda _, said: command("export", "untrained:test_resnet", "--out", "x.safetensors"),
)
case(
    "timm has no place for a projection head; use `format='onnx'` or `format='safetensors'`",
    lambda state: exports(state, "--format", "huggingface", "--output", "embedding", "--out", "x"),
    lambda state, said: [
        exports(state, "--format", name, "--output", "embedding", "--out", f"x{exporting_module.SUFFIXES[name]}")  # type: ignore[index]
        for name in choices(said.replace("--format ", ""))
    ],
    slow=True,
)


def too_large(state: State) -> object:
    state.patch.setattr(exporting_module, "_ONNX_LIMIT", 1000)
    return exports(state, "--format", "onnx", "--out", "x.onnx")


def other_format(state: State, said: str) -> None:
    name = named(r"use --format ([\w-]+)", said)
    exports(state, "--format", name, "--out", f"x{exporting_module.SUFFIXES[name]}")  # type: ignore[index]


case("an ONNX file holds at most 2 GB; use `format='torch-export'`", too_large, other_format)


def inexact(state: State) -> object:
    with state.patch.context() as patch:
        patch.setattr(exporting_module, "TOLERANCE", -1.0)
        return exports(state, "--format", "torch-export", "--out", "x.pt2")


case(
    "gives other vectors than the original (by {}): use another `format`",
    inexact,
    lambda state, said: exports(state, "--format", "safetensors", "--out", "x.safetensors"),
)


def small_stem(state: State) -> object:
    encoder = create_encoder("resnet18", image_size=32, embedding_dimensions=0)
    state.kept["encoder"] = encoder
    return export(encoder, state.tmp / "folder", format="huggingface")


def stem_offered(state: State, said: str) -> None:
    for form in re.findall(r"(?:use|or) `format='([\w-]+)'`", said):
        export(state.kept["encoder"], state.tmp / f"x{exporting_module.SUFFIXES[form]}", format=form)  # type: ignore[index, arg-type]


case("timm cannot build the stem that s2r2 gives a ResNet", small_stem, stem_offered, slow=True)


def no_onnx(state: State) -> object:
    with state.patch.context() as patch:
        patch.setattr("s2r2.system.extras._is_installed", lambda name: not name.startswith("onnx"))
        return exports(state, "--format", "onnx", "--out", "x.onnx")


case(
    "{} needs {}: pip install 's2r2[{}]'$", no_onnx, lambda _, said: provides(said, "onnx", "onnxruntime", "onnxscript")
)


def card(state: State) -> str:
    command("export", state.run, "--out", "x.safetensors")
    return Path("x.safetensors.README.md").read_text()


def evaluated(state: State, said: str) -> None:
    assert "s2r2 evaluate" in said or "evaluate on your own first" in said
    command("evaluate", state.run, "--test", state.photos, "--device", "cpu")
    assert "has not been evaluated" not in card(state)


case("None: it has not been evaluated (`s2r2 evaluate`).", card, evaluated)
case("evaluate on your own first.", card, evaluated)


def damaged_config(state: State) -> object:
    (state.run / "config.yaml").write_text("config: [")
    return command("export", state.run, "--out", "x.safetensors")


def file_instead(state: State, said: str) -> None:
    name = named(r"export (\S+) of that folder", said)
    command("export", state.run / name, "--out", "x.safetensors")


case("it is damaged; export {} of that folder instead", damaged_config, file_instead)


def damaged_evaluation(state: State) -> object:
    (state.run / "evaluation.json").write_text("{")
    return command("export", state.run, "--out", "x.safetensors")


def evaluated_again(state: State, said: str) -> None:
    assert "s2r2 evaluate" in said
    command("evaluate", state.run, "--test", state.photos, "--device", "cpu")
    command("export", state.run, "--out", "x.safetensors")


case("cannot read {}: run s2r2 evaluate again", damaged_evaluation, evaluated_again)

# Devices, files and locks

case(
    "`device={}`: use auto, cpu, cuda or cuda:N",
    lambda _: choose_device("gpu"),
    lambda _, said: [choose_device(choice) for choice in choices(said) if "cuda" not in choice],
)
case(
    "s2r2 sums in float64, which Apple's GPUs do not support; use",
    lambda _: choose_device("mps"),
    lambda _, said: choose_device(choices(said)[-1]),
)
case(
    "this machine has {} CUDA devices: use auto or cpu",
    lambda _: choose_device("cuda:99"),
    lambda _, said: [choose_device(choice) for choice in choices(said)],
)


def unwritable(state: State) -> object:
    with state.patch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "replace", fail)
        return write_text(state.tmp / "x.txt", "x")


def freed(state: State, said: str) -> None:
    write_text(state.tmp / "x.txt", "x")
    (state.tmp / "other").mkdir()
    write_text(state.tmp / "other" / "x.txt", "x")


def made_or_another(state: State, said: str) -> None:
    Path(named(r"there is no folder (\S+); make it", said)).mkdir()
    write_text(state.tmp / "no" / "x.txt", "x")
    write_text(state.tmp / "x.txt", "x")


case(
    "cannot write {}: there is no folder {}; make it, or choose another",
    lambda state: write_text(state.tmp / "no" / "x.txt", "x"),
    made_or_another,
)
case("cannot write {}: {}choose another folder", unwritable, freed)


def no_lock(state: State) -> object:
    os.mkfifo(state.tmp / "pipe.lock")
    with locked(state.tmp / "pipe.lock", "at work", "wait"):
        pass


def removed(state: State, said: str) -> None:
    place = Path(named(r"cannot lock (\S+):", said))
    place.unlink()
    with locked(place, "at work", "wait"):
        pass


case("it is not a regular file; remove it", no_lock, removed)
