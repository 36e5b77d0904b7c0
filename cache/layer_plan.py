"""Which layers of the model a pass runs, and where its way through them is left for other passes or taken from them.

One mechanism, in integers, for whatever runs less than all layers: a replay that begins deep in the model, features
that are used again while they change little, a model whose layers lie on several devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cache.types import Pass, Row, Slots

Use = Literal["keep", "keep_change", "take", "add"]


@dataclass(frozen=True, slots=True)
class Tap:
    """What happens to the residual stream as it enters `layer`; the number of all layers names its end.

    keep: it is left in `buffer`. take: it becomes what `buffer` holds. keep_change: `buffer` held it at an earlier
    layer of this pass and now holds what was added since. add: what `buffer` holds is added to it.
    """

    layer: int
    buffer: int
    use: Use


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The layers in `skip` are left out, and leave no keys behind; `taps` happen in order. The default runs all.

    The layers in `keys` leave their keys and values for the memory, and add nothing. Without `flow` the pass ends
    there: it is run for what it leaves, and nobody asks what it predicts.
    """

    skip: tuple[range, ...] = ()
    taps: tuple[Tap, ...] = ()
    keys: tuple[range, ...] = ()
    flow: bool = True

    def runs(self, layer: int) -> bool:
        """Whether the layer is computed."""
        return not any(layer in part for part in self.skip)

    def only_keys(self, layer: int) -> bool:
        """Whether of the layer only keys and values are computed."""
        return any(layer in part for part in self.keys)

    def without_flow(self, layers: int) -> LayerPlan:
        """The same without a prediction: of the last of so many layers only the keys are left to do."""
        if not self.runs(layers - 1) or self.only_keys(layers - 1) or any(tap.layer == layers for tap in self.taps):
            return replace(self, flow=False)
        return replace(self, keys=(*self.keys, range(layers - 1, layers)), flow=False)

    def run(self, layers: int) -> list[range]:
        """Runs of layers that leave keys, of so many."""
        skip = sorted(self.skip, key=lambda part: part.start)
        starts, stops = [0, *(part.stop for part in skip)], [*(part.start for part in skip), layers]
        return [range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]

    def reads(self) -> frozenset[int]:
        """Buffers whose content of before the pass matters."""
        first: dict[int, Use] = {}
        for tap in self.taps:
            first.setdefault(tap.buffer, tap.use)
        return frozenset(buffer for buffer, use in first.items() if use != "keep")

    def writes(self) -> frozenset[int]:
        """Buffers that hold something else after the pass."""
        return frozenset(tap.buffer for tap in self.taps if tap.use in ("keep", "keep_change"))

    def check(self, layers: int, buffers: int) -> None:
        """Raise ValueError unless a model of so many layers, beside so many buffers, can do it."""
        for part in (*self.skip, *self.keys):
            if part.step != 1 or not 0 <= part.start < part.stop <= layers:
                raise ValueError(f"a pass cannot skip {part}: this model has layers 0 to {layers - 1}")
        for tap in self.taps:
            if not (0 <= tap.layer <= layers and 0 <= tap.buffer < buffers):
                raise ValueError(
                    f"{tap} is beyond the model's {layers} layers or the policy's {buffers} buffers: name one there is"
                )
        if [tap.layer for tap in self.taps] != sorted(tap.layer for tap in self.taps):
            raise ValueError("taps stand in the order of their layers: sort them")
        held: set[int] = set()
        for tap in self.taps:
            if tap.use == "keep_change" and tap.buffer not in held:
                raise ValueError(f"{tap} has nothing to compare with: keep the buffer at an earlier layer of the pass")
            (held.add if tap.use == "keep" else held.discard)(tap.buffer)


EVERY = LayerPlan()


class LayerPolicy(Protocol):
    """Which layers each pass runs: asked once a row, before the pass. The pass without the prompt always runs all.

    `buffers` is how many residual streams it keeps, frame by frame, for frames that memory or flight may hold.
    """

    @property
    def buffers(self) -> int: ...

    def plan(self, work: Pass, row: Row, slots: Slots) -> LayerPlan: ...


@dataclass(frozen=True, slots=True)
class EveryLayer:
    """All layers in every pass, and nothing kept."""

    @property
    def buffers(self) -> int:
        return 0

    def plan(self, work: Pass, row: Row, slots: Slots) -> LayerPlan:
        return EVERY
