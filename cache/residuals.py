"""What passes leave on their way through the layers, frame by frame, for passes to come; a LayerPlan says what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cache.layer_plan import LayerPlan


class Residuals:
    """The residual streams of one lane, [buffers, B, size, T, E]: of each buffer the last `size` frames left there.

    Args:
        buffers: how many.
        shape: [B, T, E] of one frame.
        size: frames kept in each.
        device: where they lie.
        dtype: of the model's.
    """

    def __init__(
        self, buffers: int, shape: tuple[int, int, int], size: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        batch, tokens, width = shape
        self._size, self._tokens = size, tokens
        self._held = torch.zeros((buffers, batch, size if buffers else 0, tokens, width), device=device, dtype=dtype)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the allocation stays."""
        self._frames = [[-1] * self._held.shape[2] for _ in self._held]

    def get(self, buffer: int, frames: range) -> Tensor:
        """What was left of these frames, [B, F * T, E]; ValueError if it was not, or is gone."""
        for frame in frames:
            if self._frames[buffer][frame % self._size] != frame:
                raise ValueError(
                    f"buffer {buffer} holds nothing of frame {frame}: a pass takes only what another one left there"
                )
        return torch.stack([self._held[buffer, :, frame % self._size] for frame in frames], dim=1).flatten(1, 2)

    def put(self, buffer: int, frames: range, content: Tensor) -> None:
        """Keep `content` [B, F * T, E] of these frames."""
        for index, frame in enumerate(frames):
            part = slice(index * self._tokens, (index + 1) * self._tokens)
            self._held[buffer, :, frame % self._size].copy_(content[:, part])
            self._frames[buffer][frame % self._size] = frame

    def scratch(self, frames: range) -> Tensor:
        """Room for what a pass of these frames will leave, [B, F * T, E]."""
        _, batch, _, tokens, width = self._held.shape
        return self._held.new_empty((batch, len(frames) * tokens, width))

    def tensors(self) -> dict[str, Tensor]:
        return {"held": self._held} if len(self._held) else {}

    def data(self) -> dict[str, Any]:
        return {"frames": tuple(map(tuple, self._frames))} if len(self._held) else {}

    def restored(self, data: Mapping[str, Any]) -> None:
        self._frames = [list(each) for each in data.get("frames", ())]


def tapped(plan: LayerPlan, layer: int, hidden: Tensor, buffers: Sequence[Tensor]) -> Tensor:
    """The residual stream [B, S, E] as it enters a layer, after the plan's taps there.

    Args:
        plan: of the pass.
        layer: its number, or that of all layers for the end.
        hidden: the residual stream; it is not written to.
        buffers: [B, S, E] each, by number.
    """
    for tap in plan.taps:
        if tap.layer != layer:
            continue
        buffer = buffers[tap.buffer]
        match tap.use:
            case "keep":
                buffer.copy_(hidden)
            case "keep_change":
                buffer.copy_(hidden - buffer)
            case "take":
                hidden = buffer
            case "add":
                hidden = hidden + buffer
    return hidden
