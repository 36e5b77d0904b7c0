"""Several chunks at once, each at a noise level of its own and with that level's memory: the stream batch.

A finished chunk leaves every tick, as with one chunk at a time, but a chunk no longer waits for the one before it to be
clean: level i of a chunk needs only what level i of earlier chunks left behind. That is what lets levels overlap and
what changes the picture: clean memory and this are different models (StreamDiffusion, Kodaira et al. 2023, arXiv
2312.12491; StreamDiffusionV2, Feng et al. 2025, arXiv 2511.07399).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.types import Deps, Pass, Row, Step, View
from schedulers.serial import check_levels, check_step


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """One row a level: the row of level i works in lane i. `levels` and `step` as in `Serial`.

    At the film's beginning, and after a cut, the batch fills up a row a tick: no row runs on zeros.
    """

    levels: tuple[float, ...]
    chunk: int = 1
    step: Step = "renoise"
    first_chunk: int | None = None

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_step(self.step)
        if self.chunk < 1 or (self.first_chunk is not None and self.first_chunk < 1):
            raise ValueError(f"a chunk has at least one latent frame, got {self.chunk}, first {self.first_chunk}")

    @property
    def needs(self) -> frozenset[Deps]:
        return frozenset({"level"})

    @property
    def lanes(self) -> int:
        return len(self.levels)

    @property
    def width(self) -> int:
        return max(self.chunk, self.first_chunk or 0)

    def passes(self, view: View) -> Sequence[Pass]:
        chunks = self._in_flight(view)
        out: list[Pass] = []
        while True:
            start = chunks[-1].stop if chunks else view.cur
            chunks.append(range(start, start + self._size(start)))
            # The oldest chunk comes first in `chunks` and has been through the most levels.
            rows = [self._row(view, frames, level) for level, frames in enumerate(reversed(chunks))]
            out.append(Pass("denoise", tuple(rows)))
            if rows[-1].emit:
                return out

    def _size(self, start: int) -> int:
        return self.first_chunk if self.first_chunk and start == 0 else self.chunk

    def _in_flight(self, view: View) -> list[range]:
        chunks: list[range] = []
        start, stop = view.cur, view.cur + len(view.levels)
        while start < stop:
            chunks.append(range(start, start + self._size(start)))
            start = chunks[-1].stop
        return chunks

    def _row(self, view: View, frames: range, number: int) -> Row:
        size, last = len(frames), number == len(self.levels) - 1
        return Row(
            lane=number,
            frames=frames,
            levels=(self.levels[number],) * size,
            to=(None if last else self.levels[number + 1],) * size,
            step="none" if last else self.step,
            source="noisy",
            text=view.text,
            commit=frames,
            emit=frames if last else range(0),
        )
