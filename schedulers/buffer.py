"""A window of chunks at rising noise that moves over the film: one pass serves them all.

The oldest chunk is the cleanest; every pass takes every chunk one level down, a clean one leaves in front and pure
noise enters behind. A plan of Rolling Forcing (Liu et al. 2025, arXiv 2509.25161) and of StreamDiT (Kodaira et al.
2025, arXiv 2507.03745), with FIFO-Diffusion (Kim et al. 2024, arXiv 2405.11473) and plain diffusion as its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.types import Deps, Pass, Row, Step, View, clean_row
from schedulers.serial import check_levels, check_step


@dataclass(frozen=True, slots=True)
class MovingBuffer:
    """`levels` in bands of `micro_steps`: a chunk spends one band at each of its places in the buffer.

    The buffer holds `len(levels) / micro_steps` chunks of `chunk` latent frames, and before them up to `references`
    frames of the same scene that are finished. At the film's beginning, and after a cut, it fills from the front, a
    chunk each band.

    With `micro_steps` = `len(levels)` it is plain diffusion of one chunk; with 1 and a chunk of 1 the diagonal of
    FIFO-Diffusion. `memory` is `joint` (the buffer is all there is), or `clean`: the chunk that leaves is passed once
    more at `clean_level`, and what comes sees its keys, as in Rolling Forcing.
    """

    levels: tuple[float, ...]
    chunk: int = 3
    step: Step = "renoise"
    micro_steps: int = 1
    references: int = 0
    clean_level: float = 0.0
    memory: Deps = "joint"

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_step(self.step)
        if self.chunk < 1 or self.references < 0:
            raise ValueError(f"a chunk has at least one latent frame, got {self.chunk}, references {self.references}")
        if self.micro_steps < 1 or len(self.levels) % self.micro_steps:
            raise ValueError(
                f"{len(self.levels)} levels cannot be cut into bands of {self.micro_steps}: "
                "make the number of steps a multiple of micro_steps"
            )

    @property
    def needs(self) -> frozenset[Deps]:
        return frozenset({"joint", "clean"})

    @property
    def lanes(self) -> int:
        return 1

    @property
    def width(self) -> int:
        return self.references + len(self.levels) // self.micro_steps * self.chunk

    def entering(self, view: View) -> range:
        return range(0)  # chunks of a joint window share their passes, and each has to begin as pure noise

    def passes(self, view: View) -> Sequence[Pass]:
        at = [self.levels.index(level) for level in view.levels[:: self.chunk]]
        out: list[Pass] = []
        while True:
            if not at or (at[-1] >= self.micro_steps and len(at) < len(self.levels) // self.micro_steps):
                at.append(0)
            row = self._row(view, at)
            out.append(Pass("denoise", (row,)))
            at = [index + 1 for index in at]
            if row.emit:
                if self.memory == "clean":
                    oldest = range(view.cur, view.cur + self.chunk)
                    out.append(Pass("clean", (clean_row(oldest, self.clean_level, "x0", view.text),)))
                return out

    def _row(self, view: View, at: Sequence[int]) -> Row:
        """The buffer, each chunk at its level on the way to the next; finished frames stay where they are."""
        shown = min(self.references, view.cur - view.scene)
        targets: list[float | None] = [*self.levels[1:], None]
        leaves = at[0] == len(self.levels) - 1
        return Row(
            lane=0,
            frames=range(view.cur - shown, view.cur + len(at) * self.chunk),
            levels=(*(0.0,) * shown, *(self.levels[index] for index in at for _ in range(self.chunk))),
            to=(*(0.0,) * shown, *(targets[index] for index in at for _ in range(self.chunk))),
            step=self.step,
            source="noisy",
            text=view.text,
            emit=range(view.cur, view.cur + self.chunk) if leaves else range(0),
        )
