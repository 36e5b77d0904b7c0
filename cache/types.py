"""The integers that every policy speaks: passes, rows, slots, ranges and actions.

They hold no tensor and import no torch, so that a policy is decided and tested in plain Python; the engine
loop (pipelines/streaming.py) is the only one that turns them into work on tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Deps = Literal["clean", "last", "level", "hybrid", "joint"]
"""What a pass needs of the memory before it may run (architecture.md F1)."""

PassKind = Literal["denoise", "clean", "replay", "prefill"]
Step = Literal["renoise", "euler", "unipc", "none"]
Source = Literal["noisy", "x0", "stored", "given"]
Tag = Literal["sink", "recent", "anchor", "pin", "kept", "mean"]

NATIVE: Final = -1
"""A key position that means "each token's own frame" (tokens kept by content carry their own)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of latent frames that goes through the model together.

    `levels` are the timesteps (0..1000) the frames stand at, `to` the timesteps they go to; `to[i] is None`
    means that frame i ends here, at its x0. `commit` names the frames the memory may keep, `emit` those that
    are finished pictures. `source` says where the latents come from: `noisy` frames are in flight (fresh noise where
    they are not yet, the finished picture where they were emitted already), `x0` are the last row's clean estimates.
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


def clean_row(frames: range, level: float, source: Source, text: int, *, lane: int = 0) -> Row:
    """A row run for the keys it leaves: all its frames stand at `level`, memory may keep them, and none goes on."""
    count = len(frames)
    return Row(lane, frames, (level,) * count, (None,) * count, "none", source, text, commit=frames)


@dataclass(frozen=True, slots=True)
class Pass:
    """One call of the model: `rows` are independent sequences (a joint window is one row of many frames).

    `leave` names frames in flight that were finished by an earlier pass and are emitted with this one.
    """

    kind: PassKind
    rows: tuple[Row, ...]
    leave: range = range(0)


@dataclass(frozen=True, slots=True)
class Slot:
    """One latent frame in memory.

    `prompt` is the conditioning version its keys were computed under, `level` the timestep of the pass that
    wrote it (0 = clean), `base` a frame shift that some position policies keep with it. A slot tagged `kept` holds
    tokens of several frames, chosen by content; its `frame` is NATIVE.
    """

    frame: int
    tag: Tag = "recent"
    prompt: int = 0
    level: float = 0.0
    base: int = 0


@dataclass(frozen=True, slots=True)
class Slots:
    """What one lane remembers.

    `switches` = frames at which prompts or shots changed. `scores` = how alike each entry and the frame written last
    are, where the cache policy names a scorer of frames; measured when that frame was written, empty before.
    """

    lane: int
    cur: int
    entries: tuple[Slot, ...]
    switches: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What may enter of a video: one chunk that begins at timestep `level`, or none, so that what is in flight ends.

    That level stands in for the plan's first. The chunk goes on with those of the others that are below its own;
    `steps` bounds its passes, and the last levels are then the ones that stay.
    """

    level: float | None = None
    steps: int | None = None

    def levels(self, listed: Sequence[float]) -> tuple[float, ...]:
        """All levels of the chunk, strictly falling; `listed` are the plan's. Empty where nothing enters."""
        if self.level is None:
            return ()
        left = [level for level in listed[1:] if level < self.level]
        most = len(left) if self.steps is None else min(len(left), self.steps - 1)
        return (self.level, *left[len(left) - most :])


@dataclass(frozen=True, slots=True)
class View:
    """What a noise plan may look at: the next frame to emit, the prompt version, and what is in flight.

    `levels` are the timesteps at which the frames in flight stand, from frame `cur` on. `scene` is the frame with
    which the film began after the last cut. `entry` says what enters of a video; without one as many chunks of pure
    noise enter as it takes to finish the next.
    """

    cur: int
    text: int
    levels: tuple[float, ...] = ()
    switches: tuple[int, ...] = ()
    scene: int = 0
    entry: Entry | None = None


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
class Move:
    """Put the entry at `slot` where it comes to stand at `to`; no key moves."""

    slot: int
    to: int


@dataclass(frozen=True, slots=True)
class Pin:
    """Tag `slots` anew: what a tag protects is the cache policy's business."""

    slots: range
    tag: Tag


@dataclass(frozen=True, slots=True)
class Rebase:
    """Set the frame shift that position policies find with `slots`."""

    slots: range
    base: int


@dataclass(frozen=True, slots=True)
class Average:
    """Fold `slots`, in order, into the running mean at slot `into`: mean += share * (slot - mean).

    One past the end begins a mean with the first of them.
    """

    slots: range
    into: int
    share: float


@dataclass(frozen=True, slots=True)
class Prune:
    """Of the tokens in `slots` keep those that fill `keep` slots, chosen by the policy's scorer in the coming pass.

    It happens in each layer once the pass's queries are there, before its attention. What is kept stands first.
    """

    slots: range
    keep: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Run the emitted clean latents of `frames` again at t=0 under the new prompt, in one pass."""

    frames: range


@dataclass(frozen=True, slots=True)
class Blend:
    """Move the text linearly from the old to the new prompt over `chunks` chunks."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget everything: window, sink and rows in flight; the epoch rises."""


Action = Write | Evict | Move | Pin | Rebase | Average | Prune | Replay | Blend | Drop


@runtime_checkable
class TokenScorer(Protocol):
    """Which remembered tokens matter, judged in every layer by the queries of the last `keep_q` frames.

    It fixes the order only; how many are kept is the cache policy's Prune.
    """

    @property
    def keep_q(self) -> int: ...

    def score(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, uses: Tensor) -> Tensor:
        """Scores [B, S], higher is kept.

        Args:
            layer: number of the layer.
            queries: summed over the tokens of each of the last frames, rotated, [B, keep_q, N, D].
            keys: of the candidates, rotated at their native frames, [B, S, N, D].
            values: [B, S, N, D].
            uses: how often each candidate was chosen before, [B, S].
        """
        ...


class FrameScorer(Protocol):
    """How alike remembered frames and the newest one are."""

    def compare(self, frames: Tensor, newest: Tensor) -> Tensor:
        """One number a remembered frame, [S].

        Args:
            frames: un-rotated keys and values, averaged over each frame's tokens, of all layers,
                [2, layers, B, S, N, D]; S counts places, empty ones included.
            newest: of the newest frame, [2, layers, B, N, D].
        """
        ...


class WindowPolicy(Protocol):
    """Which remembered frames a pass may see."""

    def select(self, row: Row, slots: Slots) -> list[SlotRange]: ...


class CachePolicy(Protocol):
    """What the memory admits, evicts and pins; whoever inherits from it says only what differs.

    `capacity` is the largest number of slots, a pass's own frames included; `protected` how many of them may be taken
    by frames that never leave. `deps` names the memory this policy provides; noise plans list what they accept.
    `scorer` judges content where a choice depends on it.
    """

    @property
    def capacity(self) -> int: ...

    @property
    def protected(self) -> int:
        return 0

    @property
    def deps(self) -> Deps:
        return "clean"

    @property
    def scorer(self) -> TokenScorer | FrameScorer | None:
        return None

    def begin(self, row: Row, slots: Slots) -> list[Action]: ...

    def end(self, row: Row, slots: Slots) -> list[Action]: ...


class SinkMemory(Protocol):
    """A cache policy with a sink: other policies of a preset take their numbers from it, so that each stands once."""

    @property
    def window(self) -> int: ...

    @property
    def sink(self) -> int: ...


class PositionPolicy(Protocol):
    """The temporal RoPE position of each query frame and of each selected key frame, in their order."""

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]: ...


class SwitchPolicy(Protocol):
    """What a new prompt does to the memory; `old` and `new` are conditioning versions.

    `replays` is the largest number of frames it runs again, 0 for none.
    """

    @property
    def replays(self) -> int: ...

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]: ...


class NoisePlan(Protocol):
    """Which passes make the next chunk, at which levels, and what each commits and emits.

    `needs` lists the kinds of memory it can work with, `chunk` how many latent frames it emits at once, `lanes` how
    many memories its rows use, `width` how many frames its longest row has. `levels` are its timesteps, falling.
    """

    @property
    def levels(self) -> tuple[float, ...]: ...

    @property
    def needs(self) -> frozenset[Deps]: ...

    @property
    def chunk(self) -> int: ...

    @property
    def lanes(self) -> int: ...

    @property
    def width(self) -> int: ...

    def passes(self, view: View) -> Sequence[Pass]:
        """The passes of the next chunk; with an entry fewer may be due before one is finished."""
        ...

    def entering(self, view: View) -> range:
        """The frames of a video that enter next; none where the plan cannot begin with pictures."""
        ...
