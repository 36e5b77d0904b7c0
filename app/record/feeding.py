"""Feeding a stream as a session log tells: the pictures that entered each chunk, and what came out for them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from app.errors import UsageMistake, printable, shorten
from app.loading.live import Knobs, LiveModel, LiveStream
from app.record.kept_input import KeptInput
from app.record.session_log import Entered, LoggedChunk
from pipelines.memory_plan import read_memory_plan
from pipelines.types import Chunk, Controls, prompt_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.video import Shown


def chunk_of(piece: Shown, controls: Controls) -> Chunk:
    """A piece of a film as a chunk of it; where nothing new was seen, the last picture stands for one."""
    if piece.chunk is not None:
        return replace(piece.chunk, pixels=piece.pixels)
    return Chunk(
        index=0,
        epoch=0,
        latent=range(0),
        pixel=piece.frames,
        prompt=prompt_text(controls.prompt),
        pixels=piece.pixels,
        sha256=hashlib.sha256(piece.pixels.tobytes()).hexdigest(),
    )


class FedStream:
    """A stream that makes the film of a log again, of its words and of the pictures that were kept.

    Args:
        model: what makes it.
        stream: that has not begun.
        kept: its pictures; None where it had none.
    """

    def __init__(self, model: LiveModel, stream: LiveStream, kept: KeptInput | None) -> None:
        self._model, self._stream, self._kept = model, stream, kept
        self._ready: deque[Chunk] = deque()
        self._plan = "" if model.held is None else model.held.plan
        self._knobs: Knobs = ()

    def make(self, wanted: LoggedChunk) -> Chunk:
        """Make this chunk, which follows those that were made before.

        Raises:
            UsageMistake: what entered it cannot have.
        """
        controls = wanted.controls.for_stream
        if wanted.plan != self._plan:
            self._hold_as(wanted)
        self._knobs = wanted.controls.knobs
        self._stream.set_knobs(self._knobs)
        try:
            for entered in wanted.entered:
                self._feed(entered, controls)
            if self._ready:
                return self._ready.popleft()
            if self._stream.wants is not None:
                raise ValueError("nothing entered")
        except ValueError as error:
            told = shorten(printable(str(error)), 200)
            raise UsageMistake(
                f"What entered chunk {wanted.index} is damaged ({told}). Give another copy of the log and its pictures."
            ) from error
        return self._stream.next_chunk(controls)

    def _hold_as(self, wanted: LoggedChunk) -> None:
        """The model ran out of memory before this chunk, and went on under another plan."""
        held, self._plan = self._model.held, wanted.plan
        if held is None:
            return
        copy, knobs = self._stream.copy(), self._knobs
        del self._stream
        held.hold_as(read_memory_plan(wanted.plan or "full"))
        self._stream = self._model.new_stream(wanted.controls.seed, knobs)
        self._stream.go_back(copy)
        self._ready.clear()

    def _feed(self, entered: Entered, controls: Controls) -> None:
        stream, action = self._stream, entered.action
        if action == "forget":
            self._ready.clear()
            return
        if (action == "begin" and stream.begun) or (action != "begin" and (stream.wants is None) != (action == "open")):
            raise ValueError(f"{action} out of turn")
        if action == "leave":
            self._ready += [chunk_of(piece, controls) for piece in stream.leave_video(controls)]
            return
        frames = self._frames(entered.pictures)
        if action == "begin":
            self._ready += stream.begin_with(frames, controls, entered.parts)
        elif action == "open":
            self._ready += stream.open_video(frames[0], controls)
        else:
            shown = stream.enter(frames, replace(controls, strength=entered.strength), entered.steps)
            self._ready += [chunk_of(piece, controls) for piece in shown]

    def _frames(self, names: Sequence[str]) -> NDArray[np.uint8]:
        if self._kept is None or not names:
            raise ValueError("no pictures are named")
        pixels: dict[str, NDArray[np.uint8]] = {}
        for name in names:
            if name not in pixels:
                pixels[name] = self._kept.picture(name).pixels(self._model.height, self._model.width)
        return np.stack([pixels[name] for name in names])
