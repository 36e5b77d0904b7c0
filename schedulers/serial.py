"""One chunk after the other, each through all its noise levels, then perhaps once more clean for the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cache.types import Deps, Pass, Row, Step, View, clean_row


def check_levels(levels: tuple[float, ...]) -> None:
    """Raise ValueError unless the levels fall strictly and stay above 0."""
    if not levels or any(high <= low for high, low in pairwise(levels)) or levels[-1] <= 0:
        raise ValueError(f"levels must fall strictly and stay above 0, got {levels}: drop repeated steps and the 0")


def check_step(step: Step) -> None:
    """Raise ValueError for a solver that remembers earlier passes where a pass serves several chunks."""
    if step == "unipc":
        raise ValueError("unipc remembers a chunk's passes and needs one chunk at a time: choose renoise or euler")


@dataclass(frozen=True, slots=True)
class Serial:
    """Few-step denoising of one chunk at a time (Self-Forcing, Huang et al. 2025, arXiv 2506.08009; LongLive).

    `levels` are timesteps (0..1000), strictly falling. `step` is how a frame gets from one to the next: `renoise`
    puts fresh noise on the predicted clean frame (what the released few-step students were trained for), `euler` and
    `unipc` follow the flow. The last level's prediction is the picture. `first_chunk` is for models whose first chunk
    is shorter or longer.

    `memory` is what later chunks see of this one: `clean` = the keys of a pass of its own at `clean_level`; `last` =
    those of the last level's pass, which saves that pass; `level` = every level sees the keys of its own level.
    """

    levels: tuple[float, ...]
    chunk: int = 3
    step: Step = "renoise"
    first_chunk: int | None = None
    clean_level: float = 0.0
    memory: Deps = "clean"

    def __post_init__(self) -> None:
        check_levels(self.levels)
        if self.chunk < 1 or (self.first_chunk is not None and self.first_chunk < 1):
            raise ValueError(f"a chunk has at least one latent frame, got {self.chunk}, first {self.first_chunk}")

    @property
    def needs(self) -> frozenset[Deps]:
        return frozenset({"clean", "last", "level"})

    @property
    def lanes(self) -> int:
        return len(self.levels) if self.memory == "level" else 1

    @property
    def width(self) -> int:
        return max(self.chunk, self.first_chunk or 0)

    def entering(self, view: View) -> range:
        size = self.first_chunk if self.first_chunk and view.cur == 0 else self.chunk
        return range(view.cur, view.cur + size)

    def lane_of(self, level: float) -> int:
        """The lane in which frames that stand at one of the levels go on."""
        return self.levels.index(level) if self.memory == "level" else 0

    def passes(self, view: View) -> Sequence[Pass]:
        frames, none = self.entering(view), range(0)
        levels = self.levels if view.entry is None else view.entry.levels(self.levels)
        if not levels:
            return ()  # nothing enters, and nothing is ever left in flight
        size, out = len(frames), list[Pass]()
        for number, (level, to) in enumerate(zip(levels, (*levels[1:], None), strict=True)):
            last = to is None
            lane = self.levels.index(level) if number else 0  # a level that was left out leaves its memory alone
            row = Row(
                lane=lane if self.memory == "level" else 0,
                frames=frames,
                levels=(level,) * size,
                to=(to,) * size,
                step="none" if last else self.step,
                source="noisy",
                text=view.text,
                commit=frames if self.memory == "level" or (last and self.memory == "last") else none,
                emit=frames if last else none,
            )
            out.append(Pass("denoise", (row,)))
        if self.memory == "clean":
            out.append(Pass("clean", (clean_row(frames, self.clean_level, "x0", view.text),)))
        return out
