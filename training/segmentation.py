"""Segmentation of a chunk's passes by dynamic programming: which are computed, and which use the one before again.

CacheQuant (Liu et al. 2025, arXiv 2503.01323) cuts a row of passes into segments of which the first is computed. Here
there are several rows, one for every chunk of a period, which share a number of computed passes: a second program over
the rows deals them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Costs = Sequence[Sequence[float]]
"""[passes][passes]: the error of pass t made of pass i, for i < t."""


class Cut(NamedTuple):
    """A row of passes, cut: the sum of its errors, and the passes with which segments begin."""

    cost: float
    starts: tuple[int, ...]


def segmentations(costs: Costs, *, shortest: int = 1, longest: int | None = None) -> dict[int, Cut]:
    """The best way to cut a row into k segments, for every k that the bounds allow.

    Args:
        costs: of one row.
        shortest: passes of a segment, the row's last one too.
        longest: likewise; None is no bound.
    """
    passes = len(costs)
    longest = passes if longest is None else longest
    best: list[dict[int, Cut]] = [{0: Cut(0.0, ())}]
    for stop in range(1, passes + 1):
        found: dict[int, Cut] = {}
        for start in range(max(0, stop - longest), stop - shortest + 1):
            own = sum(costs[start][t] for t in range(start + 1, stop))
            for count, before in best[start].items():
                cut = Cut(before.cost + own, (*before.starts, start))
                if count + 1 not in found or cut.cost < found[count + 1].cost:
                    found[count + 1] = cut
        best.append(found)
    return best[passes]


def deal(rows: Sequence[Costs], computed: int, *, shortest: int = 1, longest: int | None = None) -> list[Cut]:
    """Cut all rows so that together they compute so many passes, at the least sum of errors.

    Args:
        rows: costs of each.
        computed: passes that begin a segment, in all rows together.
        shortest: passes of a segment.
        longest: likewise; None is no bound.

    Raises:
        ValueError: the bounds do not allow that number; the nearest ones that they do are in the text.
    """
    best: dict[int, tuple[float, list[Cut]]] = {0: (0.0, [])}
    for row in rows:
        found: dict[int, tuple[float, list[Cut]]] = {}
        for count, cut in segmentations(row, shortest=shortest, longest=longest).items():
            for before, (cost, cuts) in best.items():
                total = cost + cut.cost
                if total < found.get(before + count, (math.inf, []))[0]:
                    found[before + count] = total, [*cuts, cut]
        best = found
    if computed not in best:
        near = sorted(best, key=lambda count: abs(count - computed))[:3]
        raise ValueError(
            f"segments of {shortest} to {longest or 'any number of'} passes cannot compute {computed} in all: ask for "
            f"{', '.join(map(str, sorted(near))) or 'other bounds'}"
        )
    return best[computed][1]
