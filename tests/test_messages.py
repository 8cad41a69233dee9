"""What processes tell each other is read only from each other."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from s2r2 import messages
from s2r2.errors import S2R2Error

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")
ran: list[str] = []


class Strange:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return run, ("code",)


def run(what: str) -> None:
    ran.append(what)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_message_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_SECRET", "ours")
    assert messages.gather([1, "two"], None) == messages.gather([1, "two"], None, to_all=True) == [[1, "two"]]
    assert messages.broadcast({"a": 1}, None) == {"a": 1}


def test_a_strangers_message_is_not_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one without a seal, nor one sealed with another secret, nor one that was changed on its way."""
    monkeypatch.setenv("S2R2_SECRET", "theirs")
    sealed = messages._sealed(Strange())
    changed = sealed.clone()
    changed[-1] += 1
    monkeypatch.setenv("S2R2_SECRET", "ours")
    bare = torch.frombuffer(bytearray(pickle.dumps(Strange())), dtype=torch.uint8)
    for message in (bare, sealed, changed, bare[:0]):
        with pytest.raises(S2R2Error, match="none of this command's processes"):
            messages._opened(message)
    assert not ran
    messages._opened(messages._sealed(Strange()))
    assert ran == ["code"]
