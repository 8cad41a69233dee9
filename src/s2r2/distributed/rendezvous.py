"""How torchrun's agent meets the others: where there are none, nothing listens, nothing is read from a stranger."""

from torch.distributed import HashStore, PrefixStore, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from s2r2.distributed.roll_call import Caller, answer, meet


class _Rendezvous(RendezvousHandler):
    """One whose members are known beforehand: nobody joins later.

    Args:
        run_id: The run's name.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

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
        """Nothing is to be closed."""
        return True


class PrivateRendezvous(_Rendezvous):
    """A rendezvous of one agent, whose store is in its own memory."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self._store = HashStore()

    def get_backend(self) -> str:
        """Its name in torchrun's register."""
        return "s2r2-private"

    def next_rendezvous(self) -> RendezvousInfo:
        """This agent alone: processes meet by a file (:func:`~.launching.meeting_file`), not an address."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("localhost", 0))


class MachinesRendezvous(_Rendezvous):
    """A rendezvous of one agent on each machine, whose store is in the first one's.

    Args:
        run_id: The run's name.
        caller: Which machine this is.
        host: The first machine.
        port: The port on which it listens.
    """

    def __init__(self, run_id: str, caller: Caller, host: str, port: int) -> None:
        super().__init__(run_id)
        self._caller, self._host, self._port = caller, host, port
        self._store: Store | None = None

    def get_backend(self) -> str:
        """Its name in torchrun's register."""
        return "s2r2-machines"

    @property
    def use_agent_store(self) -> bool:
        """Whether the processes use the same store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """All machines, when they have come.

        Raises:
            S2R2Error: One has not in time.
        """
        if self._store is None:
            store = meet(self._caller, self._host, self._port, serve=self._caller.rank == 0)
            self._store = PrefixStore(self._run_id, store)
        answer(self._caller, self._store)
        where = RendezvousStoreInfo(self._host, self._port)
        return RendezvousInfo(self._store, self._caller.rank, self._caller.world_size, where)


def private_rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    """For torchrun's register."""
    return PrivateRendezvous(parameters.run_id)


def machines_rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    """For torchrun's register."""
    asked = parameters.config
    caller = Caller(asked["rank"], parameters.max_nodes, asked["minutes"], "machine")
    return MachinesRendezvous(parameters.run_id, caller, asked["host"], asked["port"])
