"""Which layers of the model a pass runs, and where its way through them is left for other passes or taken from them.

One mechanism, in integers, for whatever runs less than all layers: a replay that begins deep in the model, features
that are used again while they change little (cache/features/), a model whose layers lie on several devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cache.types import Pass, Row, Slots

_WRITES = ("keep", "keep_modulated")
Use = Literal["keep", "keep_modulated", "keep_change", "take", "add", "compare"]


@dataclass(frozen=True, slots=True)
class Tap:
    """What happens to the residual stream as it enters `layer`; the number of all layers names its end.

    keep: it is left in `buffer`. keep_modulated: it is left there as the layer's first modulation makes it. take: it
    becomes what `buffer` holds. keep_change: `buffer` held it at an earlier layer of this pass and now holds what was
    added since. add: what `buffer` holds, times `weight`, is added to it; where `corrected` names a correction, with a
    factor and an offset of each channel. compare: how far `buffer` is from the buffer `other`, as a share of that
    (means of sizes), is measured for passes to come.

    Attributes:
        layer: which.
        buffer: what is left or taken.
        use: as above.
        back: so many frames earlier, for what is taken or added, and for `other`.
        weight: of what is added.
        other: the buffer to compare with.
        corrected: number of a correction of the engine's; -1 for none.
    """

    layer: int
    buffer: int
    use: Use
    back: int = 0
    weight: float = 1.0
    other: int = -1
    corrected: int = -1


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

    def spared(self, layers: int) -> int:
        """Of so many layers those left out or run for their keys alone, because others did the work before.

        The end of a pass that nobody asks for a prediction does not count: no other pass did that.
        """
        return sum(not self.runs(layer) or self.only_keys(layer) for layer in range(layers - (not self.flow)))

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

    def part(self, layers: range) -> LayerPlan:
        """The same for a model of which only these layers are here, counted from 0; there are no taps."""
        if self.taps:
            raise ValueError("what is left on the way through the layers cannot be left by a part of them: run all")
        skip, keys = (
            tuple(
                range(max(run.start, layers.start) - layers.start, min(run.stop, layers.stop) - layers.start)
                for run in runs
                if max(run.start, layers.start) < min(run.stop, layers.stop)
            )
            for runs in (self.skip, self.keys)
        )
        return LayerPlan(skip, (), keys, self.flow)

    def reads(self) -> frozenset[int]:
        """Buffers whose content of before the pass matters, of the pass's own frames."""
        first: dict[int, Use] = {}
        for tap in self.taps:
            if not tap.back or tap.use == "compare":
                first.setdefault(tap.buffer, tap.use)
            if tap.use == "compare" and not tap.back:
                first.setdefault(tap.other, "take")
        return frozenset(buffer for buffer, use in first.items() if use not in _WRITES)

    def reads_back(self) -> frozenset[tuple[int, int]]:
        """Buffers whose content of earlier frames matters, each with how many frames earlier."""
        return frozenset((t.other if t.use == "compare" else t.buffer, t.back) for t in self.taps if t.back)

    def writes(self) -> frozenset[int]:
        """Buffers that hold something else after the pass."""
        return frozenset(tap.buffer for tap in self.taps if tap.use in (*_WRITES, "keep_change"))

    @property
    def measures(self) -> bool:
        """Whether something is compared."""
        return any(tap.use == "compare" for tap in self.taps)

    def check(self, layers: int, buffers: int) -> None:
        """Raise ValueError unless a model of so many layers, beside so many buffers, can do it."""
        for part in (*self.skip, *self.keys):
            if part.step != 1 or not 0 <= part.start < part.stop <= layers:
                raise ValueError(f"a pass cannot skip {part}: this model has layers 0 to {layers - 1}")
        for tap in self.taps:
            known = 0 <= tap.buffer < buffers and (tap.use != "compare" or 0 <= tap.other < buffers)
            if not (0 <= tap.layer <= layers and known and tap.back >= 0):
                raise ValueError(
                    f"{tap} is beyond the model's {layers} layers or the policy's {buffers} buffers: name one there is"
                )
        if [tap.layer for tap in self.taps] != sorted(tap.layer for tap in self.taps):
            raise ValueError("taps stand in the order of their layers: sort them")
        held: set[int] = set()
        for tap in self.taps:
            if tap.use == "keep_modulated" and tap.layer == layers:
                raise ValueError(f"{tap} is behind the last layer, where nothing is modulated: name a layer")
            if tap.use == "keep_change" and tap.buffer not in held:
                raise ValueError(f"{tap} has nothing to compare with: keep the buffer at an earlier layer of the pass")
            (held.add if tap.use == "keep" else held.discard)(tap.buffer)


EVERY = LayerPlan()


@dataclass(frozen=True, slots=True)
class Done:
    """A denoising pass of the past: its first frame, its level, how much of the model it ran, and what it measured.

    `change` is None until something was compared. `whole` says that no layer was left out.
    """

    frame: int
    level: float
    whole: bool
    change: float | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What earlier passes left of one lane, and what they measured: decided from that, nothing waits for a device.

    Attributes:
        layers: of the model.
        frames: which frames each buffer holds.
        ages: for each of them, how many chunks ago it was computed.
        done: the denoising passes of this chunk and the one before, in order.
    """

    layers: int
    frames: tuple[tuple[int, ...], ...] = ()
    ages: tuple[tuple[int, ...], ...] = ()
    done: tuple[Done, ...] = ()

    def age(self, buffer: int, frames: range) -> int | None:
        """Of the oldest part of what the buffer holds of these frames; None if it lacks one."""
        known = dict(zip(self.frames[buffer], self.ages[buffer], strict=True))
        return max(known[frame] for frame in frames) if all(frame in known for frame in frames) else None

    def of(self, frames: range) -> tuple[Done, ...]:
        """The passes that these frames have behind them."""
        return tuple(done for done in self.done if done.frame == frames.start)


class LayerPolicy(Protocol):
    """Which layers each pass runs: asked once a row, before the pass. Whoever inherits from it says only what differs.

    `buffers` is how many residual streams a model of so many layers leaves, frame by frame; of the last `chunks`
    chunks, or of all frames that memory or flight may hold if that is 0. `of_prompt`: what was left under other words
    is gone. `halves`: under guidance the pass without the prompt does what its twin does, with buffers of its own;
    otherwise it runs all layers.
    """

    def buffers(self, layers: int) -> int:
        return 0

    @property
    def chunks(self) -> int:
        return 0

    @property
    def of_prompt(self) -> bool:
        return True

    @property
    def halves(self) -> bool:
        return False

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan: ...


@dataclass(frozen=True, slots=True)
class EveryLayer(LayerPolicy):
    """All layers in every pass, and nothing kept."""

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        return EVERY
