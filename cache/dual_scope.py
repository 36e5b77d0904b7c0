"""Dual scope: in a joint window each frame sees its neighbours and some frames of the whole, not all of them.

Neighbours carry motion, frames spread over the whole window what is the same everywhere (Video-Infinity, Tan et al.
2024, arXiv 2406.16260). What is remembered is always seen. The release differs at the ends, where frames that are not
there are seen as zeros, and sees a frame twice that is a neighbour and a spread one: here each is seen once, and only
what there is. So a film depends on the scope and never on how many ranks made it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

MOST = 4096
"""Frames of the largest window that there is (pipelines.presets.knobs.LARGEST_WINDOW)."""


@dataclass(frozen=True, slots=True)
class DualScope:
    """`halo` neighbours on each side, and `spread` frames at even distances over the window, the first one always."""

    halo: int
    spread: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.halo <= MOST and 0 <= self.spread <= MOST):
            raise ValueError(f"a scope of {self.halo} neighbours and {self.spread} others cannot be: give 0 to {MOST}")

    @classmethod
    def read(cls, written: str) -> Self:
        """Of what people write: 4, or 4+2.

        Raises:
            ValueError: it is no scope; the sentence says how one is written.
        """
        found = re.fullmatch(r"([0-9]{1,4})(?:\+([0-9]{1,4}))?", written.strip())
        if found is None:
            raise ValueError(f"{written[:20]!r} is no scope: give neighbours a side and spread frames, such as 4+2")
        return cls(int(found[1]), int(found[2] or 0))

    @property
    def written(self) -> str:
        """As people write it."""
        return f"{self.halo}+{self.spread}"

    def seen(self, frames: int) -> tuple[tuple[int, ...], ...]:
        """For each of so many frames of a window those that it sees, itself included, in order."""
        return _seen(self.halo, self.spread, frames)


@lru_cache(maxsize=64)
def _seen(halo: int, spread: int, frames: int) -> tuple[tuple[int, ...], ...]:
    count = min(spread, frames)
    others = {number * frames // count for number in range(count)}
    return tuple(
        tuple(sorted(others | {*range(max(0, frame - halo), min(frames, frame + halo + 1))})) for frame in range(frames)
    )
