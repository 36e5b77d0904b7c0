"""A memory that remembers nothing: for plans whose window of frames in flight is all there is."""

from __future__ import annotations

from dataclasses import dataclass

from cache.types import Action, CachePolicy, Deps, Row, Slots


@dataclass(frozen=True, slots=True)
class NoMemory(CachePolicy):
    """Frames attend to the pass they are in and to no other (StreamDiT, Kodaira et al. 2025, arXiv 2507.03745)."""

    @property
    def capacity(self) -> int:
        return 0

    @property
    def deps(self) -> Deps:
        return "joint"

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        return []

    def end(self, row: Row, slots: Slots) -> list[Action]:
        return []
