"""What a clip of the painted world shows, as plain data: one object, perhaps a second one, a scene and its air.

Everything that is painted, said, labelled or judged starts from these few fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RELATIONS: dict[str, tuple[float, float]] = {"above": (0, 1), "below": (0, -1), "left": (1, 0), "right": (-1, 0)}
"""Where an object is, seen from its companion -> which way its companion is."""
APART = 0.38
"""How far companions are from each other."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A second object of the same size that keeps its place beside the first: names out of `COLORS`, `SHAPES`.

    Attributes:
        relation: where the first object is, seen from this one, a key of `RELATIONS`.
    """

    color: str
    shape: str
    relation: str


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Everything a clip shows.

    Attributes:
        color, shape, size, motion, scene: names out of `COLORS`, `SHAPES`, `SIZES`, `MOTIONS` and `SCENES`.
        x, y: centre of the object at pixel frame `begin`, 0..1, y downwards; outside by up to `MARGIN`.
        phase: 0..1, where the scenery's slow animation starts.
        style: seed of the scenery's own variation (places of clouds, trees, windows).
        begin: pixel frame at which the object is at x, y.
        pattern, weather, hour, camera: names out of `PATTERNS`, `WEATHERS`, `HOURS` and `CAMERAS`.
        companion: a second object, or None.
    """

    color: str
    shape: str
    size: str
    motion: str
    scene: str
    x: float
    y: float
    phase: float
    style: int
    begin: int = 0
    pattern: str = "plain"
    weather: str = "clear"
    hour: str = "usual"
    camera: str = "fixed"
    companion: Companion | None = None

    @classmethod
    def of(cls, label: dict[str, Any]) -> ClipSpec:
        """The clip that `dataclasses.asdict` was given."""
        companion = label.get("companion")
        return cls(**{**label, "companion": Companion(**companion) if companion else None})

    @property
    def companion_offset(self) -> tuple[float, float]:
        """From the object's centre to its companion's, in picture sizes; zero without one."""
        x, y = RELATIONS[self.companion.relation] if self.companion else (0, 0)
        return APART * x, APART * y


@dataclass(frozen=True, slots=True)
class Switch:
    """A film of `first` that dissolves into `second` at pixel frame `frame`, over `fade` (0: a cut)."""

    first: ClipSpec
    second: ClipSpec
    frame: int
    fade: int = 8
