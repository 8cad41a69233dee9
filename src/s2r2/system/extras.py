"""What is installed beside the core: each command, and each format, names in one line what it misses."""

import importlib.util

from s2r2.errors import S2R2Error

_ENCODER = ("torchvision", "timm", "PIL", "safetensors", "tyro", "yaml", "rich")
_SEARCH = (*_ENCODER, "lancedb", "pyarrow", "send2trash", "sklearn")
_TRAIN = (*_ENCODER, "lightning_fabric", "tensorboard", "jinja2", "matplotlib", "pyarrow", "sklearn", "scipy")
EXTRAS = {
    "encoder": _ENCODER,
    "train": _TRAIN,
    "search": _SEARCH,
    "serve": (*_SEARCH, "fastapi", "starlette", "uvicorn", "anyio", "h11", "idna"),
    "study": _TRAIN,
    "slurm": ("submitit",),
    "export": (*_ENCODER, "onnx", "onnxruntime", "onnxscript"),
    "remote": ("fsspec",),
    "s3": ("fsspec", "s3fs"),
    "lora": ("peft",),
    "heic": ("pillow_heif",),
    "raw": ("rawpy",),
    "video": (*_ENCODER, "av"),
    "text": ("open_clip",),
    "faiss": ("faiss",),
}
"""The modules that ``pip install 's2r2[EXTRA]'`` adds to the core (torch, NumPy and numba)."""

EXTRA_OF_ROOM = {
    "images": "encoder",
    "views": "encoder",
    "encoder": "encoder",
    "training": "train",
    "evaluation": "train",
    "search": "search",
    "ray": "search",
    "study": "study",
}


class MissingExtraError(S2R2Error, ImportError):
    """A package that is not part of the core is not installed."""


def require_extra(extra: str, what: str) -> None:
    """Make sure that an extra is installed; nothing is imported.

    Args:
        extra: Its name.
        what: What needs it, for the message.

    Raises:
        MissingExtraError: It is not, and how to install it.
    """
    missing = [module for module in EXTRAS[extra] if not _is_installed(module)]
    if missing:
        shown = missing if len(missing) <= 3 else [*missing[:2], f"{len(missing) - 2} more packages"]
        names = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
        raise MissingExtraError(f"{what} needs {names}: pip install 's2r2[{extra}]'")


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
