"""Python objects between the processes of a command, which take them from each other only.

Pickled objects run code where they are read, and gloo's connections know no passwords: another user of the machine
could answer in a process's place. So each message carries a seal that only those can make who know the launcher's
secret (HMAC-SHA256), and is read only if the seal is right; without a secret none is sent or read.
"""

import hmac
import pickle
from typing import Any

import torch
import torch.distributed as dist

from s2r2.distributed.launching import SECRET, secret
from s2r2.errors import S2R2Error

_SEAL = 32  # bytes


def broadcast(value: Any, group: dist.ProcessGroup | None) -> Any:
    """What the first process gives, in every process."""
    leads = dist.get_rank() == 0
    content = _sealed(value) if leads else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([content.numel()])
    dist.broadcast(size, 0, group)
    if not leads:
        content = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0, group)
    return value if leads else _opened(content)


def gather(value: Any, group: dist.ProcessGroup | None, *, to_all: bool = False) -> list[Any]:
    """Every process's value in the first process, in their order; no values in the others unless ``to_all``."""
    content = _sealed(value)
    size = torch.tensor([content.numel()])
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size, group)
    padded = torch.zeros(max(map(int, sizes)), dtype=torch.uint8)
    padded[: len(content)] = content
    receives = to_all or dist.get_rank() == 0
    parts = [torch.empty_like(padded) for _ in sizes] if receives else []
    if to_all:
        dist.all_gather(parts, padded, group)
    else:
        dist.gather(padded, parts if receives else None, 0, group)
    return [_opened(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)] if receives else []


def _sealed(value: Any) -> torch.Tensor:
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return torch.frombuffer(bytearray(_seal(content) + content), dtype=torch.uint8)


def _opened(message: torch.Tensor) -> Any:
    content = message.numpy().tobytes()
    if not hmac.compare_digest(_seal(content[_SEAL:]), content[:_SEAL]):
        raise S2R2Error(
            "a message came from outside this command's processes (or these have different "
            f"{SECRET}): start the command again, and make sure that nobody else can reach its ports"
        )
    return pickle.loads(content[_SEAL:])


def _seal(content: bytes) -> bytes:
    return hmac.digest(secret(), content, "sha256")
