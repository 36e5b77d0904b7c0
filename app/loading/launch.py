"""How this process was launched: alone, or as one of several ranks by torchrun, accelerate launch or a rank 0 of ours.

Torch-free, because every command looks here first.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import UsageMistake
from parallel import read_plan

OURS = "RIVULET_RANKS"
"""Set for ranks that a rank 0 of ours started."""
MEET, OVER = "rivulet/leader", "over"
"""Where ranks read how to reach rank 0, and what stands there if it needs none of them."""
CLOSING: list[Callable[[], None]] = []
"""What ends the ranks that were started, when a command ends."""
_SPREADS = ("render", "replay", "v2v", "bench")
"""Commands that can be spread over ranks."""


@dataclass(frozen=True, slots=True)
class Launched:
    """One of several ranks, as torchrun tells it in the environment.

    Attributes:
        rank: its number; 0 is the program, the others help it.
        size: how many there are.
        local: its number on this machine, and so its device.
        host: where they find each other.
        port: likewise.
        agent: whoever launched us listens there already.
        ours: a rank 0 of ours launched us.
    """

    rank: int
    size: int
    local: int
    host: str
    port: int
    agent: bool
    ours: bool


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """How this process was launched; None: by itself."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(environment.get(name, "") for name in names):
        return None
    try:
        rank, size, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        local = int(environment.get("LOCAL_RANK", rank))
    except ValueError:
        return None
    if size < 2 or not 0 <= rank < size:
        return None
    ours = OURS in environment
    agent = ours or environment.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True"
    return Launched(rank, size, local, environment["MASTER_ADDR"], port, agent, ours)


def spreads(arguments: list[str]) -> bool:
    """Whether a command line is one of those that other ranks can help with."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    return word in _SPREADS


@dataclass(frozen=True, slots=True)
class Asked:
    """A plan that was asked for: its name, and how many ranks."""

    name: str
    ranks: int

    @property
    def written(self) -> str:
        """As people write it."""
        return f"{self.name}={self.ranks}"


def asked_plan(parallel: str, gpus: int | None, started: Launched | None) -> Asked | None:
    """The plan that a command line and its launch ask for; None: one process, as ever.

    Args:
        parallel: of the settings, empty if nobody said.
        gpus: likewise.
        started: how the process was launched.

    Raises:
        UsageMistake: they contradict each other.
    """
    name, count = read_plan(parallel) if parallel else ("auto", None)
    known = {"--gpus": gpus, f"--parallel {parallel}": count}
    known["the launch with as many processes"] = None if started is None else started.size
    said = {what: number for what, number in known.items() if number is not None}
    if not said and not parallel:
        return None
    if not said:
        raise UsageMistake(
            f"--parallel {name} does not say how many ranks. Write --parallel {name}=2, or add --gpus 2."
        )
    if len(set(said.values())) > 1:
        (one, first), (other, second), *_ = said.items()
        raise UsageMistake(
            f"{one} asks for {first} rank{'s' * (first != 1)} and {other} for {second}. Give the same number, or one."
        )
    ranks = next(iter(said.values()))
    return None if name in ("single", "auto") and ranks == 1 else Asked(name, ranks)


def store_of(started: Launched) -> Any:
    """Where the ranks of a launch find each other.

    Raises:
        UsageMistake: another program has the port.
    """
    from pipelines.crew import open_store

    try:
        return open_store(started.host, started.port, listens=started.rank == 0 and not started.agent)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UsageMistake(
                f"Port {started.port} is in use. Give another with --master_port of torchrun, --main_process_port of "
                "accelerate, or MASTER_PORT."
            ) from error
        raise UsageMistake(
            f"Rank {started.rank} finds nobody at {started.host}:{started.port}. Start all ranks together, and check "
            "MASTER_ADDR and MASTER_PORT."
        ) from error
