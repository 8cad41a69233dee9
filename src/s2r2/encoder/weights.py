"""Where the pretrained weights of a timm name are: in a cache, a folder, a file, or still on the hub."""

import argparse
import json
import socket
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from safetensors.torch import load_file
from timm.models import clean_state_dict

from s2r2.encoder.backbones import check_backbone, check_weights
from s2r2.errors import S2R2Error

_OWN_ARGUMENTS = {"img_size", "dynamic_img_size", "dynamic_img_pad", "num_classes"}  # which s2r2 sets itself
_FILES = ("model.safetensors", "pytorch_model.bin")
_LONGEST_CONFIG = 1_000_000
_SECONDS = 2.0


@dataclass(frozen=True)
class Pretrained:
    """A timm model with weights.

    Attributes:
        backbone: Its name, with the tag where it has one.
        stated: What timm or ``config.json`` says of its preprocessing: input_size, mean, std.
        overlay: What ``timm.create_model`` must know besides the name: the weights, where they are here already.
    """

    backbone: str
    stated: dict[str, Any] = field(default_factory=dict)
    overlay: dict[str, Any] = field(default_factory=dict)


def find_pretrained(name: str) -> Pretrained:
    """The model and its weights, from what stands behind ``timm:``.

    Args:
        name: A model of timm's, with or without a tag; ``hf-hub:OWNER/NAME``; ``local-dir:PATH``, a folder in the form
            of that hub; or ``NAME@FILE``, a checkpoint of timm's model NAME.

    Raises:
        S2R2Error: There is no such model, no such file or nothing that fits, or the hub does not answer.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf-hub":
        return _of_folder(_from_hub(rest), f"timm:{name}")
    if kind == "local-dir":
        return _of_folder(Path(rest).expanduser(), f"timm:{name}")
    model, at, file = name.partition("@")
    check_backbone(model)
    stated = timm.get_pretrained_cfg(model)
    known = stated.to_dict() if stated else {}
    if at:
        return Pretrained(model, known, {**known, "state_dict": read_tensors(Path(file).expanduser()), "source": ""})
    check_weights(model)
    if cached := _cached(known):
        local = {"file": str(cached)} if cached.suffix == ".safetensors" else {"state_dict": read_tensors(cached)}
        return Pretrained(model, known, local)
    if not _downloaded_otherwise(known):
        refuse_offline(name)
    return Pretrained(model, known)


def is_timm_folder(folder: Path) -> bool:
    """Whether a folder has the form in which timm keeps a model on a hub: ``config.json`` and weights."""
    return (folder / "config.json").is_file() and any((folder / file).is_file() for file in _FILES)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of timm's, or of a plain ``state_dict``; no code in it is run.

    Raises:
        S2R2Error: The file is missing, damaged, or holds more than weights.
    """
    if not file.is_file():
        raise S2R2Error(f"no checkpoint at {file}: check its path")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of timm's training script
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's file does to the readers
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise S2R2Error(
            f"{file} cannot be read as weights ({first:.80}): save them again as safetensors, or as a state_dict"
        ) from error
    if isinstance(content, dict):
        inner = next((k for k in ("state_dict_ema", "model_ema", "state_dict", "model") if content.get(k)), None)
        tensors = clean_state_dict(content[inner] if inner else content)
        if tensors and all(isinstance(value, torch.Tensor) for value in tensors.values()):
            return dict(tensors)
    raise S2R2Error(f"{file} holds no weights by name: save a state_dict in it")


def _of_folder(folder: Path, title: str) -> Pretrained:
    """The model in a folder that has timm's form."""
    try:
        if (folder / "config.json").stat().st_size > _LONGEST_CONFIG:
            raise ValueError("it is too long")
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stated = content.get("pretrained_cfg", content)
        backbone, arguments = str(content["architecture"]), dict(content.get("model_args") or {})
        size = int(stated["input_size"][-1])
        mean, std = ([float(v) for v in stated[key]] for key in ("mean", "std"))
        if not 0 < size <= 4096 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("its input_size, mean or std cannot be")
    except FileNotFoundError as error:
        raise S2R2Error(f"{title}: there is no config.json in {folder}; it is not in the form of timm's") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError) as error:
        raise S2R2Error(f"{title}: config.json in {folder} is none of timm's ({error!r:.80})") from error
    check_backbone(backbone)
    if others := [
        f"{name}={arguments[name]!r:.40}" for name in sorted(arguments) if _changes(backbone, arguments, name)
    ]:
        raise S2R2Error(
            f"{title}: its config.json sets {', '.join(others)} of the model, which are lost in an encoder of s2r2"
        )
    weights = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if weights is None:
        raise S2R2Error(f"{title}: there are no weights in {folder}, neither {' nor '.join(_FILES)}")
    known = {"input_size": (3, size, size), "mean": tuple(mean), "std": tuple(std)}
    classes = content.get("num_classes", stated.get("num_classes", 0))
    overlay = {**known, "state_dict": read_tensors(weights), "source": "", "num_classes": classes}
    return Pretrained(backbone, known, overlay)


def _changes(backbone: str, arguments: dict[str, Any], name: str) -> bool:
    """Whether an argument makes another model of a backbone than timm does without it, apart from sizes and classes."""
    value = arguments[name]
    if name in _OWN_ARGUMENTS or (name == "in_chans" and value == 3):
        return False
    if name != "global_pool" or not isinstance(value, str):
        return True
    try:
        with torch.device("meta"):
            usual = timm.create_model(backbone, num_classes=0)
            other = timm.create_model(backbone, num_classes=0, global_pool=value)
    except Exception:
        return True
    pooling = [getattr(model, "global_pool", None) for model in (usual, other)]
    return str(usual) != str(other) or (isinstance(pooling[0], str) and pooling[0] != pooling[1])


def _from_hub(name: str) -> Path:
    """The folder of a model on the hub, of Hugging Face or at ``HF_ENDPOINT``: cached, or fetched now."""
    repository, _, revision = name.partition("@")
    config = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    if isinstance(config, str) and is_timm_folder(Path(config).parent):
        return Path(config).parent
    refuse_offline(f"hf-hub:{name}")
    try:
        folder = Path(hf_hub_download(repository, "config.json", revision=revision or None)).parent
        for file in _FILES:
            try:
                hf_hub_download(repository, file, revision=revision or None)
                break
            except Exception:
                if file == _FILES[-1]:
                    raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise S2R2Error(f"timm:hf-hub:{name} cannot be fetched ({first:.100}): there may be no such model") from error
    return folder


def _cached(stated: dict[str, Any]) -> Path | None:
    """The file in Hugging Face's cache from which timm would load a model, if it is there."""
    repository, _, revision = str(stated.get("hf_hub_id") or "").partition("@")
    if not repository or stated.get("custom_load"):
        return None
    for file in [stated["hf_hub_filename"]] if stated.get("hf_hub_filename") else _FILES:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _downloaded_otherwise(stated: dict[str, Any]) -> bool:
    """Whether torch's own cache has the weights of a model that is not on Hugging Face's hub."""
    file = Path(urlparse(str(stated.get("url") or "")).path).name
    return bool(file) and (Path(torch.hub.get_dir()) / "checkpoints" / file).exists()


def refuse_offline(name: str) -> None:
    """Refuse a model of the hub where the hub cannot be reached.

    Raises:
        S2R2Error: It cannot.
    """
    reason = why_unreachable()
    if reason:
        raise S2R2Error(
            f"the pretrained weights of {name!r} are not on this machine, and cannot be fetched ({reason}): connect to "
            "the internet, or start from random weights (untrained:NAME; in training, leave out `start`)"
        )


def why_unreachable() -> str:
    """Why the hub cannot be reached, which is asked for two seconds at most; empty if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if not urllib.request.getproxies().get("https") and not _answers(constants.ENDPOINT):
        return f"{constants.ENDPOINT} does not answer"
    return ""


def _answers(address: str) -> bool:
    """Whether a server takes a connection soon; looking up a name can take longer, and is not waited for."""
    place, found = urlparse(address), threading.Event()

    def connect() -> None:
        try:
            port = place.port or (80 if place.scheme == "http" else 443)
            socket.create_connection((place.hostname or "", port), timeout=_SECONDS).close()
            found.set()
        except OSError:
            pass

    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return found.is_set()
