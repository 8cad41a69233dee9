"""How torchrun's agent meets the others where there are none: nothing listens, nothing is read from a stranger."""

from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)


class PrivateRendezvous(RendezvousHandler):
    """A rendezvous of one agent, whose store is in its own memory.

    Args:
        run_id: The run's name.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._store = HashStore()

    def get_backend(self) -> str:
        """Its name in torchrun's register."""
        return "s2r2-private"

    def next_rendezvous(self) -> RendezvousInfo:
        """This agent alone: processes meet by a file (:func:`~.launching.meeting_file`), not an address."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("localhost", 0))

    def is_closed(self) -> bool:
        """Never."""
        return False

    def set_closed(self) -> None:
        """Nobody else is to be told."""

    def num_nodes_waiting(self) -> int:
        """Nobody else comes."""
        return 0

    def get_run_id(self) -> str:
        """The run's name."""
        return self._run_id

    def shutdown(self) -> bool:
        """Nothing is open."""
        return True


def private_rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    """For torchrun's register."""
    return PrivateRendezvous(parameters.run_id)
