"""Frames on several ranks: each runs some of a pass's frames through all layers, and gets the keys that these see.

Both ends of a message know the integers of the pass, so nothing but keys and values is sent, once a layer. What a pass
leaves to the memory goes to all ranks, which remember the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor

from cache.layer import LayerMemory
from cache.rope import rotate
from models.attention import CausalAttnProcessor, SelfContext, attend, project_self
from models.transformer import Batch
from models.wan import CausalWanTransformer3DModel
from parallel.link import Link


class FrameRunner:
    """One rank's frames.

    Args:
        model: whole; its self-attention is replaced.
        link: to the other ranks.
    """

    def __init__(self, model: CausalWanTransformer3DModel, link: Link) -> None:
        self._model, self._link = model, link
        self._processor = GatheringAttnProcessor(link)
        for block in model.blocks:
            block.attn1.set_processor(self._processor)  # pyright: ignore  # diffusers types a closed union

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [self._one(batch) for batch in batches]

    def _one(self, batch: Batch) -> Tensor:
        model, link, latents = self._model, self._link, batch.latents
        clips = self._processor.begin(latents.shape[2], batch.memory[0])
        if clips is None:
            return model(*batch[:5], layers=batch.layers, buffers=batch.buffers)
        own = slice(clips[link.rank].start, clips[link.rank].stop)
        mine = latents[:, :, own]
        hidden = model.embed(mine)
        times = model.embed_time(batch.timestep[:, own], hidden)
        hidden = model.through(hidden, times[1], batch.text, batch.rotary, batch.memory, layers=batch.layers)
        if not batch.layers.flow:
            return latents[:, :, :0]
        flow = model.unpatched(model.head(hidden, times[0]), mine.shape)
        return link.gathered("flows", flow, 2, [len(clip) for clip in clips])


class GatheringAttnProcessor(CausalAttnProcessor):
    """Self-attention of a rank's frames over what they see of the others.

    Args:
        link: to the other ranks.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._clips: list[range] | None = None
        self._frames, self._needs = 0, list[tuple[int, ...]]()

    def begin(self, frames: int, memory: LayerMemory) -> list[range] | None:
        """A pass of so many frames begins; which of them each rank has, None where every rank runs all.

        Args:
            frames: of the pass.
            memory: of its first layer; those of the others ask for the same.
        """
        ranks = self._link.size
        self._frames, self._clips = frames, None
        if frames < ranks:
            return None
        bounds = [frames * rank // ranks for rank in range(ranks + 1)]
        self._clips = [range(bounds[rank], bounds[rank + 1]) for rank in range(ranks)]
        everything = memory.scope is None or memory.leave is not None or memory.staged_keys is not None
        self._needs = [
            tuple(range(frames))
            if everything or memory.scope is None
            else tuple(sorted({seen for frame in clip for seen in memory.scope[frame]}))
            for clip in self._clips
        ]
        return self._clips

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # as of the class that it is one of
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: SelfContext | None = None,
    ) -> Tensor:
        if self._clips is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        assert rotary_emb is not None
        assert rotary_emb.memory is not None  # a stream always has one
        memory, clip = rotary_emb.memory, self._clips[self._link.rank]
        query, *parts = project_self(attn, hidden_states)
        tokens = query.shape[1] // len(clip)
        own = slice(clip.start * tokens, clip.stop * tokens)
        key, value = self._gathered(torch.stack(parts), clip).unbind()
        query = rotate(query, rotary_emb.cos[..., own, :], rotary_emb.sin[..., own, :])
        rotated = rotate(key, rotary_emb.cos, rotary_emb.sin)
        scope = None if memory.scope is None else memory.scope[clip.start : clip.stop]
        context = rotary_emb._replace(memory=memory._replace(scope=scope))
        out = attend(self, context, query, key, rotated, value)
        return hidden_states if out is None else self.project_out(attn, out)

    def _gathered(self, parts: Tensor, clip: range) -> Tensor:
        """Keys and values of our frames [2, B, f * T, N, D] as those of all frames; zeros where nobody here looks."""
        assert self._clips is not None
        by_frame = parts.unflatten(2, (len(clip), -1))
        kinds, batch, _, *rest = by_frame.shape
        rank = self._link.rank
        sends, shapes, coming = list[Tensor](), list[tuple[int, ...]](), list[list[int]]()
        for other, theirs in enumerate(self._clips):
            asked = [frame for frame in clip if other != rank and frame in self._needs[other]]
            sends.append(
                torch.stack([by_frame[:, :, frame - clip.start] for frame in asked], 2) if asked else by_frame[:, :, :0]
            )
            coming.append([frame for frame in theirs if other != rank and frame in self._needs[rank]])
            shapes.append((kinds, batch, len(coming[-1]), *rest))
        whole = by_frame.new_zeros((kinds, batch, self._frames, *rest))
        whole[:, :, clip.start : clip.stop] = by_frame
        for frames, came in zip(coming, self._link.swapped("keys, values", sends, shapes), strict=True):
            for number, frame in enumerate(frames):
                whole[:, :, frame] = came[:, :, number]
        return whole.flatten(2, 3)
