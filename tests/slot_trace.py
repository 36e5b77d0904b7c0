"""What every pass saw and where, in integers: window and position policies that write down what they answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cache.kv import KVStore
from cache.types import Pass, PositionPolicy, Row, SlotRange, Slots, WindowPolicy
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import Preset
from pipelines.streaming import Stream
from pipelines.types import Controls
from tests.tiny import FakeText, tiny_stream, tiny_transformer


@dataclass(frozen=True, slots=True)
class Sight:
    """One pass: its kind and frames, the frames it saw with their tags ("own" for its own), and all positions."""

    kind: str
    own: range
    frames: list[int]
    tags: list[str]
    queries: list[int]
    keys: list[int]

    def tagged(self, tag: str) -> list[int]:
        return [frame for frame, each in zip(self.frames, self.tags, strict=True) if each == tag]


@dataclass(slots=True)
class Scribe:
    """Stands in for a window and a position policy, asks them, and is the stream's observer."""

    window: WindowPolicy
    position: PositionPolicy
    sights: list[Sight] = field(default_factory=list[Sight])
    _last: tuple[list[int], list[str], list[int], list[int]] = ([], [], [], [])

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        return self.window.select(row, slots)

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        queries, keys = self.position.place(row, ranges, slots)
        seen = [index for r in ranges for index in range(r.start, r.stop)]
        frames = [*(slot.frame for slot in slots.entries), *row.frames]
        tags = [*(slot.tag for slot in slots.entries), *("own" for _ in row.frames)]
        self._last = [frames[index] for index in seen], [tags[index] for index in seen], queries, keys
        return queries, keys

    def __call__(self, work: Pass, row: Row, _x: object, _flow: object, _x0: object, _store: KVStore) -> None:
        self.sights.append(Sight(work.kind, row.frames, *self._last))

    def of(self, kind: str) -> list[Sight]:
        return [sight for sight in self.sights if sight.kind == kind]

    def chunk(self, cur: int) -> Sight:
        """The first pass of the chunk that begins there; all its passes must have seen the same."""
        first, *others = [sight for sight in self.of("denoise") + self.of("clean") if sight.own.start == cur]
        assert all(replace(other, kind=first.kind) == first for other in others)
        return first


def traced(
    preset: Preset, script: Sequence[Controls], *, model: CausalWanTransformer3DModel | None = None, seed: int = 0
) -> tuple[Stream, Scribe]:
    """A film of one chunk for each of the controls, by a model of one layer unless another is given."""
    policies = make_policies(preset)
    scribe = Scribe(policies.window, policies.position)
    engine = Engine(
        model or tiny_transformer(num_layers=1),
        Conditioner(FakeText()),
        replace(policies, window=scribe, position=scribe),
    )
    stream = tiny_stream(engine, seed=seed, observer=scribe)
    for controls in script:
        stream.next_chunk(controls, decode=False)
    return stream, scribe


def shots(preset: Preset, starts: Sequence[int], frames: int) -> list[Controls]:
    """Controls for a film of so many latent frames whose prompt changes at `starts`."""
    return [Controls(f"scene {sum(start <= cur for start in starts)}") for cur in range(0, frames, preset.chunk)]
