"""Latency of a film of a live source: passes are given up to hold it, and what was given up is said."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from app.errors import UsageMistake
from pipelines.deadline import Choice, DeadlineController, ladder
from pipelines.types import Chunk

if TYPE_CHECKING:
    from pipelines.video import VideoInput


class HeldLatency:
    """Of one film, whose controller measures what chunks take.

    A film's size and times are settled when it begins, so steps are what is traded.

    Args:
        seconds: that a picture may be old when it is made over.
        video: the film's way in.
        rate: pictures a second.
        strength: of the film.

    Attributes:
        choice: the newest decision; None before the first chunk.

    Raises:
        UsageMistake: the pictures of a chunk alone take that long to come.
    """

    def __init__(self, seconds: float, video: VideoInput, rate: Fraction, strength: float) -> None:
        plan, chunk = video.stream.engine.policies.plan, 4 * video.stream.engine.policies.plan.width
        waits = ((chunk - 1) + (plan.lanes - 1) * chunk) / float(rate)
        if waits >= seconds:
            raise UsageMistake(
                f"--latency {1000 * seconds:g}ms cannot be held: the pictures of a chunk ({chunk}) take "
                f"{waits:.2f} s to come at {float(rate):g} a second. "
                + ("Add num_frame_per_block=1, or give more." if chunk > 4 else "Give more.")
            )
        passes = 1 + sum(level < 1000 * strength for level in getattr(plan, "levels", ()))
        rungs = ladder(passes, [video.size], float(rate), slowest=float(rate))
        self._controller = DeadlineController(rungs, seconds, chunk=chunk, lanes=plan.lanes)
        self._said = ""
        self.choice: Choice | None = None

    @property
    def steps(self) -> int:
        """The most passes that the next chunk may take."""
        return self._controller.rung.steps

    def made(self, chunk: Chunk, seconds: float) -> Chunk:
        """A chunk took so long; it comes back with what was decided then, where that is news."""
        self.choice = self._controller.decide(seconds)
        trade = f"{self.choice.rung.steps} {self.choice.reached}"
        if trade == self._said:
            return chunk
        self._said = trade
        return replace(chunk, said=f"Latency: {self.choice.said}.")
