"""How much noise a film's next frames begin with in video to video: less where the input moves more.

Noise is what lets the model change the picture, and what makes fast motion fall apart (StreamDiffusionV2, Feng et al.
2025, arXiv 2511.07399). Python floats throughout: in float32 a level such as 0.71 * 1000 would be cut to 709.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MotionNoise:
    """From motion to a share of noise, smoothed, and to the level that the model is told.

    A still film tends to the share `still`, one that moves by `full` or more to `still - swing`. Each share keeps
    `inertia` of the one before, which is all the state there is (`StreamState.scale`).

    The model is told a level `lag` below 1000 * share, as it was tuned in the released system. A chunk whose level is
    not above the plan's next ones goes on without those (`Entry`); the released list of levels rises there.
    """

    still: float = 0.8
    swing: float = 0.1
    full: float = 0.2
    inertia: float = 0.1
    lag: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.still <= 1 or self.swing < 0 or self.full <= 0 or not 0 <= self.inertia < 1 or self.lag < 0:
            raise ValueError(
                f"noise cannot follow motion like this ({self}): give a share above 0 and at most 1, a full motion "
                "above 0, an inertia from 0 to below 1, and no number below 0"
            )

    def share(self, before: float | None, moved: float) -> float:
        """The share of noise (0..1) of the next frames, given the last and the `motion`; None begins at `still`."""
        before = self.still if before is None else before
        amount = min(max(moved / self.full, 0.0), 1.0)
        return max(0.0, self.still - self.swing * amount) * (1.0 - self.inertia) + before * self.inertia

    def level(self, share: float) -> int:
        """The timestep of the first pass as the released system cuts it, a whole number that may fall below 1."""
        return int(1000 * share) - self.lag
