"""What the model is told: embeddings by text, mixes, blends over chunks, and text keys per version.

The text that changes from chunk to chunk is state and lives in `TextState`; the encoder and the embeddings it already
made are shared by all streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pipelines.types import Prompt


class TextEncoder(Protocol):
    """Prompts to [len(prompts), L, text_dim], rows past the prompt zeroed."""

    def encode(self, prompts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class TextState:
    """The text in force.

    `version` counts every change of `embeds` [1 or B, L, D]. During a blend the text moves from `start` to `target`
    and has done `blended` of `blend` chunks; `blend` 0 means no blend.
    """

    prompt: Prompt = ""
    version: int = 0
    embeds: Tensor | None = None
    start: Tensor | None = None
    target: Tensor | None = None
    blended: int = 0
    blend: int = 0

    def change(self, prompt: Prompt, target: Tensor) -> TextState:
        """The new prompt at once."""
        return TextState(prompt, self.version + 1, target)

    def begin_blend(self, prompt: Prompt, target: Tensor, chunks: int) -> TextState:
        """Start to move to the new prompt, from wherever the text is (also from within another blend)."""
        return replace(self, prompt=prompt, start=self.embeds, target=target, blended=0, blend=chunks)

    def advance(self) -> tuple[TextState, bool]:
        """The text of the next chunk of a blend, and whether it has arrived.

        A blend of n chunks shows 1/(n+1) .. n/(n+1) of the new text, and the whole of it from then on.
        """
        assert self.start is not None
        assert self.target is not None
        done = self.blended + 1
        if done > self.blend:
            return TextState(self.prompt, self.version + 1, self.target), True
        mixed = torch.lerp(self.start, self.target, done / (self.blend + 1))
        return replace(self, version=self.version + 1, embeds=mixed, blended=done), False


class Conditioner:
    """Embeds prompts and remembers the last ones.

    Args:
        encoder: text encoder of the model.
        remember: how many texts to keep; a live session comes back to the same few.
        device: where embeddings go, for an encoder that lies elsewhere; None = where it makes them.
    """

    def __init__(self, encoder: TextEncoder, *, remember: int = 64, device: torch.device | str | None = None) -> None:
        self._encoder, self._device = encoder, device
        self._remember = remember
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def embed(self, prompt: Prompt) -> Tensor:
        """[1 or B, L, D] of a text, or the weighted mean of several texts' embeddings."""
        if isinstance(prompt, str):
            return self._text(prompt)
        total = sum(weight for _, weight in prompt)
        return torch.stack([self._text(text) * (weight / total) for text, weight in prompt]).sum(0)

    def _text(self, text: str) -> Tensor:
        if text in self._known:
            self._known.move_to_end(text)
            return self._known[text]
        embeds = self._encoder.encode([text])
        embeds = self._known[text] = embeds if self._device is None else embeds.to(self._device)
        if len(self._known) > self._remember:
            self._known.popitem(last=False)
        return embeds
