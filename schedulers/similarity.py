"""Which chunks of a video need no work: those that show what the last one showed.

The stochastic similarity filter of StreamDiffusion (Kodaira et al. 2023, arXiv 2312.12491) in a form for chunks. What
counts is the block that changed most (schedulers/changes.py), since a hand that moves in a still room leaves a whole
picture's cosine at .999; what a sensor adds to every block is taken off first.
"""

from __future__ import annotations

from dataclasses import dataclass

QUIET = 0.2
"""The share of quiet blocks, and of quiet chunks, that tells what the sensor adds."""


@dataclass(frozen=True, slots=True)
class Change:
    """What changed since the picture that was last worked on, in pixels of 0 to 1.

    `most` is of the block that changed most, `quiet` the change that a fifth of the blocks stay below, `cosine` how
    alike the pictures are as a whole (-1 to 1).
    """

    most: float
    quiet: float
    cosine: float


@dataclass(frozen=True, slots=True)
class SimilarityFilter:
    """Skip a chunk with a probability that falls from 1, where nothing changed, to 0 at a change of `limit`.

    Skipped chunks cost nothing; the picture before is shown on. No more than `most` in a row are skipped, and after
    `flush` of them what is still on its way to the screen is finished. `noise` is the most that is taken for the
    sensor's own, `cut` the cosine below which a new scene begins.
    """

    limit: float = 0.04
    most: int = 10
    flush: int = 2
    noise: float = 0.03
    cut: float = 0.0

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.noise < 0 or min(self.most, self.flush) < 1:
            raise ValueError(f"a filter cannot be like this ({self}): give a limit above 0 and counts of 1 or more")

    def floor(self, quiet: tuple[float, ...]) -> float:
        """What the sensor adds, from the `quiet` of the last chunks."""
        return min(self.noise, sorted(quiet)[int(QUIET * (len(quiet) - 1))]) if quiet else 0.0

    def probability(self, changed: Change, floor: float) -> float:
        """Of skipping a chunk that changed so much."""
        return max(0.0, 1.0 - max(0.0, changed.most - floor) / self.limit)

    def skips(self, probability: float, skipped: int, drawn: float) -> bool:
        """Whether to skip, after so many in a row, with a number drawn evenly from 0 to below 1."""
        return skipped < self.most and drawn < probability
