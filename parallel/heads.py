"""Heads on several ranks: between attentions a rank has a part of every frame's tokens, in them a part of the heads.

The tokens of each frame are cut into runs, a run a rank, so that what a frame's noise level does to its tokens stays
as it is. Before attention all ranks swap: each gives away the heads that are others' and gets its own heads of all
tokens; behind it they swap back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor

from cache.rope import rotate
from models.attention import CausalAttnProcessor, SelfContext, attend, project_self
from models.transformer import Batch
from models.wan import CausalWanTransformer3DModel
from parallel.link import Link


class HeadRunner:
    """One rank's tokens and heads.

    Args:
        model: whole; its self-attention is replaced.
        heads: of each rank.
        link: to the others.
    """

    def __init__(self, model: CausalWanTransformer3DModel, heads: Sequence[range], link: Link) -> None:
        self._model, self._link = model, link
        self._processor = SwappingAttnProcessor(heads, link)
        for block in model.blocks:
            block.attn1.set_processor(self._processor)  # pyright: ignore  # diffusers types a closed union

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [self._one(batch) for batch in batches]

    def _one(self, batch: Batch) -> Tensor:
        model, link, latents = self._model, self._link, batch.latents
        frames = latents.shape[2]
        hidden = model.embed(latents)
        tokens = hidden.shape[1] // frames
        cuts = self._processor.begin(frames, tokens)
        own = cuts[link.rank]
        times = model.embed_time(batch.timestep, hidden)
        by_frame = hidden.unflatten(1, (frames, tokens))
        hidden = by_frame[:, :, own.start : own.stop].flatten(1, 2).contiguous()
        hidden = model.through(hidden, times[1], batch.text, batch.rotary, batch.memory, layers=batch.layers)
        if not batch.layers.flow:
            return latents[:, :, :0]
        out = model.head(hidden, times[0]).unflatten(1, (frames, len(own)))
        whole = link.gathered("flows", out, 2, [len(cut) for cut in cuts])
        return model.unpatched(whole.flatten(1, 2), latents.shape)


class SwappingAttnProcessor(CausalAttnProcessor):
    """Self-attention of a rank's heads over all tokens, for tokens that lie apart.

    Args:
        heads: of each rank.
        link: to the others.
    """

    def __init__(self, heads: Sequence[range], link: Link) -> None:
        super().__init__()
        self._heads, self._link = heads, link
        self._frames, self._cuts = 0, list[range]()

    def begin(self, frames: int, tokens: int) -> list[range]:
        """A pass of so many frames and tokens a frame begins; which of a frame's tokens each rank has."""
        ranks = len(self._heads)
        bounds = [tokens * rank // ranks for rank in range(ranks + 1)]
        self._frames, self._cuts = frames, [range(bounds[rank], bounds[rank + 1]) for rank in range(ranks)]
        return self._cuts

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # as of the class that it is one of
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: SelfContext | None = None,
    ) -> Tensor:
        assert rotary_emb is not None
        assert rotary_emb.memory is not None  # a stream always has one
        parts = torch.stack(project_self(attn, hidden_states))
        query, key, value = self._to_heads(parts).unbind()
        query, rotated = (rotate(each, rotary_emb.cos, rotary_emb.sin) for each in (query, key))
        out = attend(self, rotary_emb, query, key, rotated, value)
        if out is None:
            return hidden_states
        return self.project_out(attn, self._to_tokens(out))

    def _to_heads(self, parts: Tensor) -> Tensor:
        """Our tokens of all heads [3, B, F * t, N, D] as all tokens of our heads, [3, B, F * T, n, D]."""
        by_frame = parts.unflatten(2, (self._frames, -1))
        kinds, batch, frames, _, _, size = by_frame.shape
        sends = [by_frame[..., heads.start : heads.stop, :] for heads in self._heads]
        mine = len(self._heads[self._link.rank])
        shapes = [(kinds, batch, frames, len(cut), mine, size) for cut in self._cuts]
        return torch.cat(self._link.swapped("queries, keys, values", sends, shapes), dim=3).flatten(2, 3)

    def _to_tokens(self, out: Tensor) -> Tensor:
        """All tokens of our heads [B, F * T, n, D] as our tokens of all heads, [B, F * t, N, D]."""
        by_frame = out.unflatten(1, (self._frames, -1))
        batch, frames, _, _, size = by_frame.shape
        sends = [by_frame[:, :, cut.start : cut.stop] for cut in self._cuts]
        mine = len(self._cuts[self._link.rank])
        shapes = [(batch, frames, mine, len(heads), size) for heads in self._heads]
        return torch.cat(self._link.swapped("attended", sends, shapes), dim=3).flatten(1, 2)
