"""The integers that every policy speaks: passes, rows, slots, ranges and actions.

They hold no tensor and import no torch, so that a policy is decided and tested in plain Python; the engine
loop (pipelines/streaming.py) is the only one that turns them into work on tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Deps = Literal["clean", "last", "level", "hybrid", "joint"]
"""What a pass needs of the memory before it may run (architecture.md F1)."""

PassKind = Literal["denoise", "clean", "replay", "prefill"]
Step = Literal["renoise", "euler", "none"]
Source = Literal["noisy", "x0", "stored", "given"]
Tag = Literal["sink", "recent", "anchor", "pin"]

NATIVE: Final = -1
"""A key position that means "each token's own frame" (tokens kept by content carry their own)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of latent frames that goes through the model together.

    `levels` are the timesteps (0..1000) the frames stand at, `to` the timesteps they go to; `to[i] is None`
    means that frame i ends here, at its x0. `commit` names the frames the memory may keep, `emit` those that
    are finished pictures.
    """

    lane: int
    frames: range
    levels: tuple[float, ...]
    to: tuple[float | None, ...]
    step: Step
    source: Source
    text: int
    commit: range = range(0)
    emit: range = range(0)

    def __post_init__(self) -> None:
        if not len(self.frames) == len(self.levels) == len(self.to):
            raise ValueError(
                f"a row of {len(self.frames)} frames needs as many levels and targets, "
                f"got {len(self.levels)} and {len(self.to)}"
            )


@dataclass(frozen=True, slots=True)
class Pass:
    """One call of the model: `rows` are independent sequences (a joint window is one row of many frames)."""

    kind: PassKind
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One latent frame in memory.

    `prompt` is the conditioning version its keys were computed under, `level` the timestep of the pass that
    wrote it (0 = clean), `base` a frame shift that some position policies keep with it.
    """

    frame: int
    tag: Tag = "recent"
    prompt: int = 0
    level: float = 0.0
    base: int = 0


@dataclass(frozen=True, slots=True)
class Slots:
    """What one lane remembers, in attention order. `switches` = frames at which prompts or shots changed."""

    lane: int
    cur: int
    entries: tuple[Slot, ...]
    switches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a noise plan may look at: rows in flight, the next frame, the prompt version and the switches."""

    rows: tuple[Row, ...]
    cur: int
    text: int
    switches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots [start, stop) of the lane; `bias` is added to their attention logits.

    Indices from `len(slots.entries)` on name the pass's own frames in order: what it attends to of itself.
    """

    start: int
    stop: int
    bias: float = 0.0

    def __len__(self) -> int:
        return self.stop - self.start


# Actions: what a policy asks the engine to do with the memory. Slot numbers are those of `Slots.entries`.


@dataclass(frozen=True, slots=True)
class Write:
    """Keep the staged keys and values of `frames` in `slots` (one past the end appends)."""

    frames: range
    slots: range
    tag: Tag = "recent"


@dataclass(frozen=True, slots=True)
class Evict:
    """Forget `slots`; later ones close ranks."""

    slots: range


@dataclass(frozen=True, slots=True)
class Replay:
    """Run the emitted clean latents of `frames` again at t=0 under the new prompt, in one pass."""

    frames: range
    from_layer: int = 0


@dataclass(frozen=True, slots=True)
class Blend:
    """Move the text linearly from the old to the new prompt over `chunks` chunks."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget everything: window, sink and rows in flight; the epoch rises."""


Action = Write | Evict | Replay | Blend | Drop


class WindowPolicy(Protocol):
    """Which remembered frames a pass may see."""

    def select(self, row: Row, slots: Slots) -> list[SlotRange]: ...


class CachePolicy(Protocol):
    """What the memory admits, evicts and pins.

    `capacity` is the largest number of committed slots plus a pass's own frames. `deps` names the memory
    this policy provides; noise plans list what they accept.
    """

    @property
    def capacity(self) -> int: ...

    @property
    def deps(self) -> Deps: ...

    def begin(self, row: Row, slots: Slots) -> list[Action]: ...

    def end(self, row: Row, slots: Slots) -> list[Action]: ...


class PositionPolicy(Protocol):
    """The temporal RoPE position of each query frame and of each selected key frame, in their order."""

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]: ...


class SwitchPolicy(Protocol):
    """What a new prompt does to the memory; `old` and `new` are conditioning versions."""

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]: ...


class NoisePlan(Protocol):
    """Which passes make the next chunk, at which levels, and what each commits and emits."""

    @property
    def needs(self) -> frozenset[Deps]: ...

    @property
    def chunk(self) -> int: ...

    def passes(self, view: View) -> Sequence[Pass]: ...
