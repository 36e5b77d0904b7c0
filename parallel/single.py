"""One process on one device: the plan that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallel.plan import Costs, Facts, whole

if TYPE_CHECKING:
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Single:
    """Everything where it is."""

    ranks: int = 1

    def check(self, facts: Facts) -> None:
        if self.ranks != 1:
            raise ValueError("single is one process: choose levels, layers or ulysses for several")

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        return [whole(facts)]

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        pass
