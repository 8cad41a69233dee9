"""What processes tell each other is read only from each other."""

import hmac
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from s2r2.distributed import messages
from s2r2.distributed.launching import launch
from s2r2.distributed.processes import Processes
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
    ran.clear()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_message_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2R2_SECRET", "ours")
    assert messages.gather([1, "two"], None) == messages.gather([1, "two"], None, to_all=True) == [[1, "two"]]
    assert messages.broadcast({"a": 1}, None) == {"a": 1}


@pytest.mark.parametrize("unset", [True, False])
def test_without_a_secret_nothing_is_sent_or_unpickled(unset: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal that anybody can make is none; the line says what to set, and that is enough."""
    if unset:
        monkeypatch.delenv("S2R2_SECRET")
    else:
        monkeypatch.setenv("S2R2_SECRET", "")
    content = pickle.dumps(Strange())
    sealed = torch.frombuffer(bytearray(hmac.digest(b"", content, "sha256") + content), dtype=torch.uint8)
    with pytest.raises(S2R2Error, match="set S2R2_SECRET to the same random text") as refused:
        messages._opened(sealed)
    assert not ran
    with pytest.raises(S2R2Error, match="S2R2_SECRET"):
        messages.broadcast(1, None)
    with pytest.raises(S2R2Error, match="S2R2_SECRET"):
        launch(["embed"], 1, 2, 0)
    with monkeypatch.context() as patch:
        patch.setattr(dist, "get_world_size", lambda group=None: 2)
        with pytest.raises(S2R2Error, match="S2R2_SECRET"), Processes.joined():
            pass
    monkeypatch.setenv("S2R2_SECRET", str(refused.value).rsplit(" ", 1)[1])
    assert messages.broadcast(1, None) == 1


def test_a_strangers_message_is_not_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one without a seal, nor one sealed with another secret, nor one that was changed on its way."""
    monkeypatch.setenv("S2R2_SECRET", "theirs")
    sealed = messages._sealed(Strange())
    changed = sealed.clone()
    changed[-1] += 1
    monkeypatch.setenv("S2R2_SECRET", "ours")
    bare = torch.frombuffer(bytearray(pickle.dumps(Strange())), dtype=torch.uint8)
    for message in (bare, sealed, changed, bare[:0]):
        with pytest.raises(S2R2Error, match="outside this command's processes"):
            messages._opened(message)
    assert not ran
    messages._opened(messages._sealed(Strange()))
    assert ran == ["code"]
