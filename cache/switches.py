"""What a new prompt does to the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache.types import Action, Evict, Replay, Slots


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing: only the text changes, and the memory goes on saying what the old prompt said."""

    @property
    def replays(self) -> int:
        return 0

    @property
    def from_layer(self) -> int:
        return 0

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        return []


@dataclass(frozen=True, slots=True)
class Recache:
    """Run the remembered clean frames again under the new prompt, in one pass that sees itself whole.

    With `keep_sink` a full memory keeps the old sink, and only the `window - sink` frames behind it are replayed
    (replaying all of them and dropping the first gives the same memory). Without it, or while the window still
    reaches back to the first frame, everything is replayed and the first frames of the window become the sink
    (LongLive's KV re-cache, Yang et al. 2025, arXiv 2509.22622).
    """

    window: int = 12
    sink: int = 3
    keep_sink: bool = True

    @property
    def replays(self) -> int:
        return self.window

    @property
    def from_layer(self) -> int:
        return 0

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        if not slots.entries:
            return []
        first = min(slot.frame for slot in slots.entries)
        if self.keep_sink:  # what is replayed is written over, so anything else that the memory holds stays too
            full = slots.cur - first > self.window
            return [Replay(range(slots.cur - (self.window - self.sink) if full else first, slots.cur))]
        held = min(self.window, slots.cur - first)
        return [Evict(range(len(slots.entries))), Replay(range(slots.cur - held, slots.cur))]


@dataclass(frozen=True, slots=True)
class ElasticRecache(Recache):
    """First replay only the layers from `layer` on, and all of them a chunk later if the test says that it was needed.

    Shallow layers know little of the text: the keys of layer 0 nothing at all, so `layer` 1 equals a whole replay. The
    shortened replay begins with what entered layer `layer - 1` under the old prompt. Where it moves the keys of layer
    `layer` by more than `limit` of their size, the layers left out have to be run too. Elastic-Cache recomputes a
    language model's cache from the layer on where attention drifts (arXiv 2510.14973); here the layer is fixed, because
    what enters it is kept for the whole window. A sink that is replayed as well is replayed whole.
    """

    layer: int = 2
    limit: float = 0.1

    def __post_init__(self) -> None:
        if self.layer < 1 or not self.limit >= 0:
            raise ValueError(
                f"a shortened replay begins at layer 1 or later with a limit of 0 or more, got {self.layer} and "
                f"{self.limit}: use Recache to replay all layers"
            )

    @property
    def from_layer(self) -> int:
        return self.layer

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        whole = Recache.plan(self, slots, old, new)
        if slots.moved is not None and slots.moved > self.limit:
            return whole
        if old == new:
            return []
        held = {slot.frame for slot in slots.entries if slot.tag not in ("mean", "kept")}
        if any(not isinstance(action, Replay) or not held.issuperset(action.frames) for action in whole):
            return whole
        return [replace(action, from_layer=self.layer) for action in whole if isinstance(action, Replay)]
