"""How long a chunk takes under a plan, from what a row, a picture and a link take: the arithmetic of docs/parallel.md.

A steady stream is meant: every level has a chunk in it. A message takes its latency and its bytes over the bandwidth;
it is counted where a rank waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel.cuts import cut


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on one device, and what is stated of the link between two.

    Attributes:
        row: seconds of one row in all layers.
        beside: seconds a chunk of decoding and writing, on rank 0.
        bandwidth: bytes a second, one way.
        latency: seconds of a message.
    """

    row: float
    beside: float
    bandwidth: float
    latency: float

    def message(self, count: float) -> float:
        """Seconds of one of so many bytes."""
        return self.latency + count / self.bandwidth


@dataclass(frozen=True, slots=True)
class Work:
    """What a chunk takes.

    Attributes:
        rows: passes of a chunk through the model.
        together: of them those that need nothing of each other: all of a stream batch, one under clean memory.
        layers: of the model.
        heads: of its attention.
        latents: bytes of one chunk's latents.
        hidden: bytes of one row's residual stream.
        frames: of one row.
        whole: of a joint window the pass that writes the memory, as a part of a row.
    """

    rows: int
    together: int
    layers: int
    heads: int
    latents: int
    hidden: int
    frames: int = 1
    whole: float = 0.0


def alone(work: Work, machine: Machine) -> float:
    """Seconds a chunk in one process."""
    return (work.rows + work.whole) * machine.row + machine.beside


def levels(work: Work, machine: Machine, ranks: int) -> float:
    """Seconds a chunk where ranks own levels: the slowest rank, and the latents that it waits for."""
    beside = [machine.beside, *(0.0,) * (ranks - 1)]
    parts = cut([machine.row] * work.rows, beside)
    slowest = max(len(part) * machine.row + more for part, more in zip(parts, beside, strict=True))
    return slowest + (ranks > 1) * machine.message(work.latents)


def layers(work: Work, machine: Machine, ranks: int) -> float:
    """Seconds a chunk where ranks own layers.

    Rows that need nothing of each other follow each other through the ranks; rank 0 has its picture to make meanwhile.
    Of rows that wait for one another each passes all ranks before the next begins.
    """
    beside = [machine.beside, *(0.0,) * (ranks - 1)]
    if work.together < 2:
        hops = (ranks - 1) * machine.message(work.hidden) + (ranks > 1) * machine.message(work.latents)
        return (work.rows + work.whole) * (machine.row + hops) + machine.beside
    stage = [
        len(part) * machine.row / work.layers
        for part in cut([machine.row * work.rows / work.layers] * work.layers, beside)
    ]
    hop = (ranks > 1) * machine.message(work.hidden)
    ends = 0.0
    for rank, seconds in enumerate(stage):  # rank r begins when the first row has passed those before it
        before = sum(stage[:rank]) + rank * hop
        ends = max(ends, before + work.rows * seconds + beside[rank])
    return ends + (ranks > 1) * machine.message(work.latents)


def ulysses(work: Work, machine: Machine, ranks: int) -> float:
    """Seconds a chunk where ranks own heads: the rank with most of them, and two swaps a layer."""
    if ranks == 1:
        return alone(work, machine)
    share = -(-work.heads // ranks) / work.heads
    away = (ranks - 1) / ranks**2
    swaps = work.layers * (machine.message(3 * work.hidden * away) + machine.message(work.hidden * away))
    flows = machine.message(work.latents)
    return work.rows * (machine.row * share + swaps + flows) + machine.beside


def clips(work: Work, machine: Machine, ranks: int) -> float:
    """Seconds a chunk where ranks own frames of a joint window: the rank with most of them, and a swap a layer."""
    if ranks == 1:
        return alone(work, machine)
    most = -(-work.frames // ranks)
    swaps = work.layers * machine.message(2 * work.hidden * most / work.frames * (ranks - 1))
    row = machine.row * most / work.frames + swaps + machine.message(work.latents)
    few = round(work.whole * work.frames)  # of a pass that writes the memory; fewer than ranks are run by all of them
    share = -(-few // ranks) / few if ranks <= few else 1.0
    return work.rows * row + work.whole * share * machine.row + machine.beside


PREDICTED = {"levels": levels, "layers": layers, "ulysses": ulysses, "clips": clips}
"""By the name of the plan."""


def speedups(work: Work, machine: Machine, plan: str, ranks: Sequence[int]) -> list[float | None]:
    """How many times as fast as one process; None where there are too few levels, layers or heads."""
    most = {"levels": work.together, "layers": work.layers, "ulysses": work.heads, "clips": work.frames}[plan]
    return [alone(work, machine) / PREDICTED[plan](work, machine, count) if count <= most else None for count in ranks]
