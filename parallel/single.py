"""One process on one device: the plan that changes nothing, and what every other plan must equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Single:
    """Everything where it is."""

    def apply(self, stream: S) -> S:
        return stream
