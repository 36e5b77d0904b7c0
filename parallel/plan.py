"""What a parallel plan is asked: whether it can run a stream, what each rank holds, and to connect a rank's stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cache.types import CachePolicy, NoisePlan
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a stream decides whether a plan can run it, known before any weights are loaded.

    `guidance` and `features` (a feature cache is on) are the preset's, `layers` and `heads` the model's.
    """

    preset: str
    noise: NoisePlan
    cache: CachePolicy
    layers: int
    heads: int
    guidance: str = "full"
    features: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that a rank was measured to take for one row in all layers, and rank 0 for one chunk beside them.

    Beside them are decoding the chunk and writing it down. Only their ratio matters.
    """

    row: float = 1.0
    beside: float = 0.0


class ParallelPlan(Protocol):
    """A plan for so many ranks."""

    def __init__(self, ranks: int) -> None: ...

    @property
    def ranks(self) -> int: ...

    def check(self, facts: Facts) -> None:
        """Raise ValueError, with the reason and what to do, where it cannot run such a stream."""
        ...

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        """What each rank holds, by rank; `link` is for what one rank's share has to ask the others."""
        ...

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        """Put in place what the rank's stream needs to work with the others; it was made with its share.

        Args:
            stream: a pipelines.streaming.Stream: its `engine`, `runner` and `handover`.
            share: what it holds.
            shares: what all hold.
            link: to them.

        Raises:
            ValueError: a stream of this size cannot be shared so.
        """
        ...


def whole(facts: Facts, *, apart: bool = False) -> Share:
    """A share that is everything."""
    from parallel.share import Share

    return Share(range(facts.noise.lanes), range(facts.layers), range(facts.heads), apart)
