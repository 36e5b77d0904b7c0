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

_Flight = list[tuple[range, float]]


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """One row a level: the row of level i works in lane i. `levels` and `step` as in `Serial`.

    At the film's beginning, and after a cut, the batch fills up a row a tick: no row runs on zeros. At a video's end it
    empties the same way.
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

    def entering(self, view: View) -> range:
        start = view.cur + len(view.levels)
        return range(start, start + self._size(start))

    def passes(self, view: View) -> Sequence[Pass]:
        own = self.levels if view.entry is None else view.entry.levels(self.levels)
        flight, out = self._in_flight(view), list[Pass]()
        while flight or own:
            if own:
                start = flight[-1][0].stop if flight else view.cur
                flight.append((range(start, start + self._size(start)), own[0]))
            # With a chunk in every lane the oldest leaves; before that only when nothing follows it.
            work, flight, ended = self._pass(view, flight, own, leaves=len(flight) == self.lanes or not own)
            out.append(work)
            if ended or (own and view.entry is not None):
                break
        return out

    def _pass(self, view: View, flight: _Flight, own: tuple[float, ...], *, leaves: bool) -> tuple[Pass, _Flight, bool]:
        """One pass over the chunks in flight, oldest first; where they stand then, and whether the first one ended.

        A chunk goes through the lane of the level it stands at, and waits while an older one has still to pass there:
        a chunk that began at a low level has fewer passes, and leaves no earlier for it.
        """
        rows, after, ahead = list[Row](), _Flight(), self.lanes
        for number, (frames, level) in enumerate(flight):
            entering = bool(own) and number == len(flight) - 1
            lane = 0 if entering else self.lane_of(level)
            if lane < ahead:
                following = own[1:2] if entering else self.levels[lane + 1 : lane + 2]
                emit = frames if leaves and not number and not following else range(0)
                rows.append(self._row(view, frames, lane, level, following[0] if following else None, emit))
                after.append((frames, following[0] if following else 0.0))
            else:
                after.append((frames, level))
            ahead = min(ahead, lane)
        first, stands = flight[0]
        rests = first if leaves and stands == 0.0 else range(0)
        return Pass("denoise", tuple(reversed(rows)), rests), after, leaves and after[0][1] == 0.0

    def _size(self, start: int) -> int:
        return self.first_chunk if self.first_chunk and start == 0 else self.chunk

    def _in_flight(self, view: View) -> _Flight:
        """Chunks and the levels they stand at, oldest first."""
        chunks, start = _Flight(), view.cur
        while start < view.cur + len(view.levels):
            chunks.append((range(start, start + self._size(start)), view.levels[start - view.cur]))
            start = chunks[-1][0].stop
        return chunks

    def lane_of(self, level: float) -> int:
        """The lane of a chunk at a level, whoever's list that is from; one that is finished is past them all."""
        if not level:
            return self.lanes
        return next((lane for lane, own in enumerate(self.levels) if own <= level), self.lanes - 1)

    def _row(self, view: View, frames: range, lane: int, level: float, to: float | None, emit: range) -> Row:
        return Row(
            lane=lane,
            frames=frames,
            levels=(level,) * len(frames),
            to=(to,) * len(frames),
            step="none" if to is None else self.step,
            source="noisy",
            text=view.text,
            commit=frames,
            emit=emit,
        )
