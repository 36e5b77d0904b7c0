"""One chunk after the other, each through all its noise levels, then once more clean for the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cache.types import Deps, Pass, Row, Step, View


@dataclass(frozen=True, slots=True)
class Serial:
    """Few-step denoising with clean memory (Self-Forcing, Huang et al. 2025, arXiv 2506.08009; LongLive).

    `levels` are timesteps (0..1000), strictly falling. `step` is how a frame gets from one to the next: `renoise`
    puts fresh noise on the predicted clean frame (what the released few-step students were trained for), `euler`
    follows the flow. The last level's prediction is the picture. A clean pass at `clean_level` then writes the
    memory. `first_chunk` is for models whose first chunk is shorter.
    """

    levels: tuple[float, ...]
    chunk: int = 3
    step: Step = "renoise"
    first_chunk: int | None = None
    clean_level: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels or any(high <= low for high, low in pairwise(self.levels)) or self.levels[-1] <= 0:
            raise ValueError(
                f"levels must fall strictly and stay above 0, got {self.levels}: drop repeated steps and the 0"
            )
        if self.chunk < 1 or (self.first_chunk is not None and self.first_chunk < 1):
            raise ValueError(f"a chunk has at least one latent frame, got {self.chunk}, first {self.first_chunk}")

    @property
    def needs(self) -> frozenset[Deps]:
        return frozenset({"clean"})

    def passes(self, view: View) -> Sequence[Pass]:
        size = self.first_chunk if self.first_chunk and view.cur == 0 else self.chunk
        frames = range(view.cur, view.cur + size)
        out: list[Pass] = []
        for level, to in pairwise((*self.levels, None)):
            last = to is None
            row = Row(
                lane=0,
                frames=frames,
                levels=(level or 0.0,) * size,
                to=(to,) * size,
                step="none" if last else self.step,
                source="noisy",
                text=view.text,
                emit=frames if last else range(0),
            )
            out.append(Pass("denoise", (row,)))
        clean = Row(0, frames, (self.clean_level,) * size, (None,) * size, "none", "x0", view.text, commit=frames)
        return [*out, Pass("clean", (clean,))]
