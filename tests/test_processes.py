"""What processes make out between them, without starting any."""

import pytest
import torch.distributed as dist

from s2r2.distributed.processes import Processes
from s2r2.errors import S2R2Error, SharedError


def test_who_is_told_of_an_error_does_not_take_the_word() -> None:
    """Even where it gets as far as leaving word before the one that told it: else nobody would say why."""
    store = dist.HashStore()
    store.set("first to fail", "")
    leader, follower = (Processes(rank=rank, world_size=2, store=store) for rank in range(2))
    with pytest.raises(SharedError), follower.errors_said_once(""):
        raise SharedError("no photos")
    with pytest.raises(S2R2Error) as said, leader.errors_said_once(""):
        raise S2R2Error("no photos")
    assert not isinstance(said.value, SharedError)
    with pytest.raises(SharedError), follower.errors_said_once(""):
        raise S2R2Error("another mistake, met later")
