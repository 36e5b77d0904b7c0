"""Cuts of a row of work into contiguous parts, one a rank, so that the slowest rank is as fast as it can be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def cut(costs: Sequence[float], beside: Sequence[float]) -> list[range]:
    """Contiguous parts of `costs`, one for each of `beside`, none of them empty, by a dynamic program.

    It makes the dearest rank, its part and what it does beside, as cheap as possible, and among those cuts the one
    whose earlier ranks have least: these may do more than was measured, such as writing a file.

    Args:
        costs: of the pieces, in order, above 0.
        beside: what each rank does besides, in the same unit.

    Raises:
        ValueError: more ranks than pieces.
    """
    pieces, ranks = len(costs), len(beside)
    if not 1 <= ranks <= pieces:
        raise ValueError(f"{pieces} pieces cannot be cut for {ranks} ranks: take as many ranks or fewer")
    before = [0.0, *accumulate(costs)]
    # best[r][i]: the dearest of ranks r.. over pieces i.., and where rank r ends.
    best: list[list[tuple[float, int]]] = [[(float("inf"), pieces)] * (pieces + 1) for _ in range(ranks)]
    for first in range(pieces):
        best[-1][first] = before[pieces] - before[first] + beside[-1], pieces
    for rank in range(ranks - 2, -1, -1):
        for first in range(pieces):
            for stop in range(first + 1, pieces - (ranks - 2 - rank)):
                dearest = max(before[stop] - before[first] + beside[rank], best[rank + 1][stop][0])
                if dearest < best[rank][first][0] * (1 - 1e-9):
                    best[rank][first] = dearest, stop
    parts: list[range] = []
    first = 0
    for rank in range(ranks):
        stop = best[rank][first][1]
        parts.append(range(first, stop))
        first = stop
    return parts
