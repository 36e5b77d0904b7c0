"""What passes leave on their way through the layers, frame by frame, for passes to come; a LayerPlan says what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.host_copy import HostCopy
from cache.layer_plan import Done, LayerPlan, Left, Tap

_CHUNKS = 2
"""Chunks whose passes are remembered."""


class Residuals:
    """The residual streams of one lane, [buffers, B, size, T, E]: of each buffer the last `size` frames left there.

    Args:
        buffers: how many.
        shape: [B, T, E] of one frame.
        size: frames kept in each.
        device: where they lie.
        dtype: of the model's.
        layers: of the model.
    """

    def __init__(
        self,
        buffers: int,
        shape: tuple[int, int, int],
        size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        layers: int = 0,
    ) -> None:
        batch, tokens, width = shape
        self._size, self._tokens, self._layers = size, tokens, layers
        self._held = torch.zeros((buffers, batch, size if buffers else 0, tokens, width), device=device, dtype=dtype)
        self._change = HostCopy(1, self._held.device)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the allocation stays."""
        self._frames = [[-1] * self._held.shape[2] for _ in self._held]
        self._ages = [[0] * self._held.shape[2] for _ in self._held]
        self._done: tuple[Done, ...] = ()
        self._measuring = False

    @property
    def left(self) -> Left:
        """What a policy may look at; waits for the last measurement if it must."""
        if self._measuring:
            self._done = (*self._done[:-1], replace(self._done[-1], change=self._change.read()[0]))
            self._measuring = False
        held = tuple(map(tuple, self._frames)), tuple(map(tuple, self._ages))
        return Left(self._layers, *held, self._done)

    def get(self, buffer: int, frames: range) -> Tensor:
        """What was left of these frames, [B, F * T, E]; ValueError if it was not, or is gone."""
        for frame in frames:
            if self._frames[buffer][frame % self._size] != frame:
                raise ValueError(
                    f"buffer {buffer} holds nothing of frame {frame}: a pass takes only what another one left there"
                )
        return torch.stack([self._held[buffer, :, frame % self._size] for frame in frames], dim=1).flatten(1, 2)

    def put(self, buffer: int, frames: range, content: Tensor, age: int = 0) -> None:
        """Keep `content` [B, F * T, E] of these frames, computed `age` chunks ago."""
        for index, frame in enumerate(frames):
            part, at = slice(index * self._tokens, (index + 1) * self._tokens), frame % self._size
            self._held[buffer, :, at].copy_(content[:, part])
            self._frames[buffer][at], self._ages[buffer][at] = frame, age

    def scratch(self, frames: range) -> Tensor:
        """Room for what a pass of these frames will leave, [B, F * T, E]."""
        _, batch, _, tokens, width = self._held.shape
        return self._held.new_empty((batch, len(frames) * tokens, width))

    def over(self, done: Done, change: Tensor | None, chunk: int) -> None:
        """A denoising pass is over.

        Args:
            done: what it was.
            change: what it measured, one number a film, on its device; or nothing.
            chunk: latent frames of a chunk: of how many frames passes are remembered.
        """
        self._done = (*(each for each in self._done if each.frame > done.frame - _CHUNKS * chunk), done)
        self._measuring = change is not None
        if change is not None:
            self._change.send(change.max())  # of several films the one that changes most decides

    def tensors(self) -> dict[str, Tensor]:
        return {"held": self._held} if len(self._held) else {}

    def data(self) -> dict[str, Any]:
        if not len(self._held):
            return {}
        left = self.left
        return {"frames": left.frames, "ages": left.ages, "done": left.done}

    def restored(self, data: Mapping[str, Any]) -> None:
        self._frames = [list(each) for each in data.get("frames", ())]
        self._ages = [list(each) for each in data.get("ages", ())]
        self._done = tuple(each if isinstance(each, Done) else Done(**each) for each in data.get("done", ()))
        self._measuring = False


class Taken(NamedTuple):
    """What a pass takes along: a plan whose taps name the tensors `buffers`, and which of these it leaves behind."""

    plan: LayerPlan
    buffers: list[Tensor]
    leaves: dict[int, int]


def taken(plan: LayerPlan, rows: Sequence[tuple[Residuals, range]], corrections: Tensor | None = None) -> Taken:
    """Bring together what a pass of these rows takes and leaves.

    Args:
        plan: theirs, with buffers as the policy numbers them.
        rows: what was left of each one's lane, and its frames.
        corrections: [count, 2, E], factor and offset of every channel, by number.
    """
    where: dict[tuple[int, int], int] = {}
    buffers: list[Tensor] = []
    reads, measured = plan.reads(), -1

    def index(buffer: int, back: int) -> int:
        if (buffer, back) not in where:
            where[buffer, back] = len(buffers)
            parts = [
                held.get(buffer, range(frames.start - back, frames.stop - back))
                if back or buffer in reads
                else held.scratch(frames)
                for held, frames in rows
            ]
            buffers.append(parts[0] if len(parts) == 1 else torch.cat(parts))
        return where[buffer, back]

    taps: list[Tap] = []
    for tap in plan.taps:
        if tap.use != "compare":
            corrected = -1
            if tap.corrected >= 0:
                if corrections is None:
                    raise ValueError(f"{tap} names a correction, and the engine has none: load the model's profile")
                corrected = len(buffers)
                buffers.append(corrections[tap.corrected])
            taps.append(replace(tap, buffer=index(tap.buffer, tap.back), back=0, corrected=corrected))
            continue
        own, other = index(tap.buffer, 0), index(tap.other, tap.back)
        measured = len(buffers)
        buffers.append(buffers[own].new_empty(len(buffers[own]), dtype=torch.float32))
        taps.append(replace(tap, buffer=own, back=measured, other=other))
    leaves = {buffer: where[buffer, 0] for buffer in plan.writes()}
    return Taken(replace(plan, taps=tuple(taps)), buffers, leaves)


def leave(plan: LayerPlan, given: Taken, rows: Sequence[tuple[Residuals, range]]) -> list[Tensor | None]:
    """Keep what a pass left; what it took of earlier frames is kept as theirs too, a chunk older.

    Returns:
        What was measured of each row, one number a film.
    """
    for buffer, at in given.leaves.items():
        for (held, frames), part in zip(rows, given.buffers[at].chunk(len(rows)), strict=True):
            held.put(buffer, frames, part)
    for buffer, back in plan.reads_back():
        if buffer not in given.leaves:
            for held, frames in rows:
                earlier = range(frames.start - back, frames.stop - back)
                age = held.left.age(buffer, earlier) or 0
                held.put(buffer, frames, held.get(buffer, earlier), age + 1)
    at = next((tap.back for tap in given.plan.taps if tap.use == "compare"), None)
    return [None] * len(rows) if at is None else [*given.buffers[at].chunk(len(rows))]


def tapped(
    plan: LayerPlan,
    layer: int,
    hidden: Tensor,
    buffers: Sequence[Tensor],
    modulated: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The residual stream [B, S, E] as it enters a layer, after the plan's taps there.

    Args:
        plan: of the pass.
        layer: its number, or that of all layers for the end.
        hidden: the residual stream; it is not written to.
        buffers: [B, S, E] each, by number; what is compared goes to the number `back`, [B]; corrections are [2, E].
        modulated: the layer's first modulation of a residual stream; None behind the last layer.
    """
    for tap in plan.taps:
        if tap.layer != layer:
            continue
        buffer = buffers[tap.buffer]
        match tap.use:
            case "keep":
                buffer.copy_(hidden)
            case "keep_modulated":
                assert modulated is not None  # LayerPlan.check
                buffer.copy_(modulated(hidden))
            case "keep_change":
                buffer.copy_(hidden - buffer)
            case "take":
                hidden = buffer
            case "add" if tap.corrected >= 0:
                factor, offset = buffers[tap.corrected]
                hidden = torch.add(hidden, torch.addcmul(offset, buffer, factor), alpha=tap.weight)
            case "add":
                hidden = torch.add(hidden, buffer, alpha=tap.weight)
            case "compare":
                other = buffers[tap.other]
                size = other.abs().mean((1, 2), dtype=torch.float32)
                buffers[tap.back].copy_((buffer - other).abs().mean((1, 2), dtype=torch.float32) / size)
    return hidden
