"""A CLIP-like model of open_clip: pictures and words to vectors that can be compared.

Weights are read from safetensors files only, so that nothing of strangers is unpickled.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.sources.names import printable
from s2r2.system.extras import require_extra
from s2r2.system.files import checksum

PREFIX = "open_clip:"
EXAMPLE = f"{PREFIX}ViT-B-32/laion2b_s34b_b79k"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
"""What the file with the weights is called in a folder or on the hub."""
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class _Found:
    """Where a model is: what open_clip calls it, options for making it, and its weights."""

    name: str
    options: dict[str, Any]
    weights: Path


class WordModel:
    """A model that is loaded.

    Args:
        name: ``open_clip:MODEL/TAG`` of open_clip's list of pretrained models, ``open_clip:hf-hub:OWNER/NAME``, or
            ``open_clip:local-dir:PATH``: a folder with ``open_clip_config.json`` and a safetensors file, or that file.
        device: Where it works.

    Attributes:
        name: Under which it is found again from any folder.
        fingerprint: Of its weights.
        side: Short side in pixels of its input.
        dimensions: Length of a vector.

    Raises:
        S2R2Error: open_clip is not installed, there is no such model, or its weights are no safetensors file.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        require_extra("text", "searching by words")
        import open_clip

        logging.getLogger("root").addFilter(_is_no_chatter)
        found = _find(name)
        self.name, self.device = _anywhere(name), device
        self.fingerprint = checksum(found.weights)[:24]
        try:
            model, _, self._prepare = open_clip.create_model_and_transforms(
                found.name, load_weights=False, pretrained_text=False, **found.options
            )
            open_clip.load_checkpoint(model, str(found.weights))
            self._tokenizer = open_clip.get_tokenizer(found.name)
        except ImportError as error:
            raise S2R2Error(f"{printable(name)}: its tokenizer needs {error.name}: pip install {error.name}") from error
        except Exception as error:  # open_clip raises whatever torch and json raise
            first = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise S2R2Error(f"{printable(name)} cannot be loaded ({first}): choose another `text` model") from error
        self._model = model.to(device).eval()
        size = self._model.visual.image_size
        self.side = int(min(size) if isinstance(size, tuple | list) else size)
        self.dimensions = int(self.of_words("photo").shape[0])

    def prepared(self, picture: np.ndarray) -> Any:
        """A picture ``(H, W, 3)`` uint8 as the model takes it: a tensor ``(3, P, P)``."""
        return self._prepare(Image.fromarray(picture))

    def of_pictures(self, prepared: Sequence[Any]) -> np.ndarray:
        """Vectors ``(n, E)`` float32 of length 1 of pictures that :meth:`prepared` has prepared."""
        import torch

        return self._checked(
            lambda: self._model.encode_image(torch.stack(list(prepared)).to(self.device), normalize=True)
        )

    def of_words(self, words: str) -> np.ndarray:
        """Vector ``(E,)`` float32 of length 1."""
        tokens = self._tokenizer([words]).to(self.device)
        vector: np.ndarray = self._checked(lambda: self._model.encode_text(tokens, normalize=True))[0]
        return vector

    def _checked(self, work: Callable[[], Any]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            vectors: np.ndarray = work().float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise S2R2Error(f"{printable(self.name)} makes vectors that are not finite: choose another `text` model")
        return vectors


def check_words(words: str) -> str:
    """Words of a query, without spaces around them.

    Raises:
        ArgumentError: They are empty or too long.
    """
    words = " ".join(words.split())
    if not words or len(words) > MOST_CHARACTERS:
        raise ArgumentError(f"`words`: give 1 to {MOST_CHARACTERS} characters, such as a red car")
    return words


def check_name(name: str) -> None:
    """Refuse a name that cannot be one, before any work.

    Raises:
        ArgumentError: It is not one of open_clip.
    """
    if not name.startswith(PREFIX) or name == PREFIX:
        raise ArgumentError(
            f"`text={printable(name)}`: give a model of open_clip, such as {EXAMPLE}; docs/words.md names more"
        )


def _find(name: str) -> _Found:
    check_name(name)
    place = name.removeprefix(PREFIX)
    if place.startswith("local-dir:"):
        return _in_folder(Path(place.removeprefix("local-dir:")))
    if place.startswith("hf-hub:"):
        repository = place.removeprefix("hf-hub:")
        _from_hub(repository, (CONFIG,))
        return _in_folder(_from_hub(repository, WEIGHTS).parent)
    return _pretrained(*place.partition("/")[::2])


def _in_folder(path: Path) -> _Found:
    folder = path.parent if path.suffix == ".safetensors" else path
    if not (folder / CONFIG).is_file():
        raise ArgumentError(f"`text`: {printable(str(folder))} holds no {CONFIG}: give a folder in open_clip's form")
    files = [path] if path.suffix == ".safetensors" else [folder / name for name in WEIGHTS]
    files += [] if path.suffix == ".safetensors" else sorted(folder.glob("*.safetensors"))
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise ArgumentError(
            f"`text`: {printable(str(path))} holds no weights as .safetensors: other forms are not read, convert it"
        )
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]["embed_dim"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"`text`: {printable(str(folder / CONFIG))} describes no model of open_clip") from error
    return _Found(f"local-dir:{folder}", {}, weights)


def _pretrained(model: str, tag: str) -> _Found:
    """A model of open_clip's list of pretrained ones."""
    from open_clip import get_pretrained_cfg, list_models, list_pretrained_tags_by_model

    if model not in list_models():
        raise ArgumentError(f"`text`: open_clip knows no model {printable(model)}: give one such as {EXAMPLE}")
    tags = [one for one in list_pretrained_tags_by_model(model) if get_pretrained_cfg(model, one).get("hf_hub")]
    if tag not in tags:
        some = ", ".join(f"{PREFIX}{model}/{one}" for one in tags[:8]) or f"another model, such as {EXAMPLE}"
        raise ArgumentError(
            f"`text`: open_clip has no weights {printable(tag) or 'without a tag'} of {model}: give {some}"
        )
    about = get_pretrained_cfg(model, tag)
    repository, _, file = about["hf_hub"].rpartition("/")
    names = (re.sub(r"\.(bin|pt|pth)$", ".safetensors", file),) if file else WEIGHTS
    options = {f"image_{key}": about[key] for key in ("mean", "std") if key in about}
    options |= {f"image_{key}": about[key] for key in ("interpolation", "resize_mode") if about.get(key)}
    options["force_quick_gelu"] = bool(about.get("quick_gelu"))
    return _Found(model, options, _from_hub(repository, names))


def _from_hub(repository: str, names: Sequence[str]) -> Path:
    """The first of some files that a repository of the Hugging Face hub has: from the cache, or fetched now."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    from s2r2.encoder.weights import why_unreachable  # brings torch

    for name in names:
        if isinstance(cached := try_to_load_from_cache(repository, name), str):
            return Path(cached)
    reason = why_unreachable()
    for name in names if not reason else ():
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises whatever the network and the server make of it
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
            break
    raise S2R2Error(
        f"the weights of {printable(repository)} cannot be fetched ({reason or 'it has none as safetensors'}): choose "
        "another `text` model, or one on this machine, open_clip:local-dir:PATH"
    )


def _anywhere(name: str) -> str:
    """A name that leads to the same model from any folder."""
    start = f"{PREFIX}local-dir:"
    return start + str(Path(name.removeprefix(start)).resolve()) if name.startswith(start) else name


def _is_no_chatter(record: logging.LogRecord) -> bool:
    """open_clip logs each step of loading, and warns that weights come later."""
    return "open_clip" not in record.pathname
