"""Attention of the causal Wan DiT: a processor for the diffusers blocks, and what sees what in its training forward.

Dimension key, used as suffixes: B streams, F latent frames of a pass, S its tokens, K keys attended, N heads,
D head size, E width, L text tokens. With a memory there is no mask: a query sees exactly the keys it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from cache.layer import LayerMemory
from cache.rope import rotate


class Span(NamedTuple):
    """A run of queries of a training sequence, and the runs of keys they see, as slices of its tokens."""

    queries: slice
    keys: tuple[slice, ...]


class SelfContext(NamedTuple):
    """What `attn1` receives through the blocks' `rotary_emb`: tables of the queries, and a memory or spans.

    Without either, everything in the sequence sees everything. With `only_keys` the layer leaves its keys and values
    to the memory, and adds nothing.
    """

    cos: Tensor
    sin: Tensor
    memory: LayerMemory | None = None
    spans: tuple[Span, ...] | None = None
    only_keys: bool = False


def project_self(attn: WanAttention, hidden_BSE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Un-rotated queries and keys, and values, of one self-attention, each [B, S, N, D]."""
    if getattr(attn, "fused_projections", False):
        query, key, value = attn.to_qkv(hidden_BSE).chunk(3, dim=-1)
    else:
        query, key, value = attn.to_q(hidden_BSE), attn.to_k(hidden_BSE), attn.to_v(hidden_BSE)
    heads = (attn.heads, -1)
    return (
        attn.norm_q(query).unflatten(2, heads),
        attn.norm_k(key).unflatten(2, heads),
        value.unflatten(2, heads),
    )


def project_text(attn: WanAttention, text_BLE: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the text for one cross-attention, each [B, L, N, D]; kept per prompt."""
    if getattr(attn, "fused_projections", False):
        return _heads(attn, *attn.to_kv(text_BLE).chunk(2, dim=-1))
    return _heads(attn, attn.to_k(text_BLE), attn.to_v(text_BLE))


def _project_keys(attn: WanAttention, hidden_BSE: Tensor) -> tuple[Tensor, Tensor]:
    """Un-rotated keys, and values, of one self-attention, each [B, S, N, D]."""
    if getattr(attn, "fused_projections", False):
        return _heads(attn, *attn.to_qkv(hidden_BSE).chunk(3, dim=-1)[1:])
    return _heads(attn, attn.to_k(hidden_BSE), attn.to_v(hidden_BSE))


def _heads(attn: WanAttention, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    heads = (attn.heads, -1)
    return attn.norm_k(key).unflatten(2, heads), value.unflatten(2, heads)


class CausalAttnProcessor(WanAttnProcessor):
    """Self-attention over memory and the pass's own tokens; cross-attention over text keys kept per prompt.

    The backend is always named (SDPA unless `set_attention_backend` chose another for this module): diffusers'
    process-wide default would let one model change another's.
    """

    _attention_backend = AttentionBackendName.NATIVE

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # the blocks pass our context through
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: SelfContext | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None:
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
            return self.project_out(attn, self.weigh(query, *encoder_hidden_states))
        assert rotary_emb is not None
        if rotary_emb.only_keys and (rotary_emb.memory is None or rotary_emb.memory.observe is None):
            if rotary_emb.memory is not None:
                key, value = _project_keys(attn, hidden_states)
                _stage(rotary_emb.memory, key, value)
                _leave(rotary_emb.memory, key, value)
            return hidden_states
        query, key, value = project_self(attn, hidden_states)
        query = rotate(query, rotary_emb.cos, rotary_emb.sin)
        rotated = rotate(key, rotary_emb.cos, rotary_emb.sin)
        out = attend(self, rotary_emb, query, key, rotated, value)
        return hidden_states if out is None else self.project_out(attn, out)

    def weigh(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the values by attention, [B, S, N, D]; the one place that names a kernel."""
        backend = self._attention_backend or AttentionBackendName.NATIVE
        return dispatch_attention_fn(query, keys, values, attn_mask=mask, backend=backend).type_as(query)

    def project_out(self, attn: WanAttention, mixed_BSND: Tensor) -> Tensor:
        """What attention mixed [B, S, N, D], as it is added to the residual stream, [B, S, E]."""
        return attn.to_out[1](attn.to_out[0](mixed_BSND.flatten(2, 3)))


def attend(
    processor: CausalAttnProcessor, context: SelfContext, query: Tensor, key: Tensor, rotated: Tensor, value: Tensor
) -> Tensor | None:
    """Self-attention over memory and a pass's own tokens, which the memory may keep, or within spans of a sequence.

    Args:
        processor: names the kernel.
        context: what is seen.
        query: rotated, [B, S, N, D].
        key: un-rotated, as the memory keeps it.
        rotated: the same key, rotated.
        value: [B, S, N, D].

    Returns:
        The mixed values [B, S, N, D]; None where nothing but keys was asked for.
    """
    memory, spans = context.memory, context.spans
    if memory is not None:
        if memory.fill is not None:
            memory.fill(memory.observe is None)
        _stage(memory, key, value)
        if memory.observe is not None:
            memory.observe(query)
        if context.only_keys:
            _leave(memory, key, value)
            return None
        memory.keys[:, memory.own :].copy_(rotated[:, memory.first :])
        memory.values[:, memory.own :].copy_(value[:, memory.first :])
        if memory.scope is not None:
            out = _scoped(processor, memory, memory.scope, query)
        else:
            mask_111K = None if memory.bias is None else memory.bias[None, None, None]  # the same for all queries
            out = processor.weigh(query, memory.keys, memory.values, mask_111K)
        _leave(memory, key, value)
        return out
    if spans is None:
        return processor.weigh(query, rotated, value)
    parts = [
        processor.weigh(query[:, span.queries], _gather(rotated, span.keys), _gather(value, span.keys))
        for span in spans
    ]
    return torch.cat(parts, dim=1)


def _scoped(
    processor: CausalAttnProcessor, memory: LayerMemory, scope: tuple[tuple[int, ...], ...], query: Tensor
) -> Tensor:
    """Attention frame by frame, each over what is remembered and the frames in its scope.

    Frame by frame on every number of ranks, so that it rounds alike on all of them.
    """
    tokens, parts = query.shape[1] // len(scope), list[Tensor]()
    for number, seen in enumerate(scope):
        at = [memory.own + frame * tokens for frame in seen]
        runs = (slice(0, memory.own), *(slice(start, start + tokens) for start in at))
        mask = None if memory.bias is None else torch.cat([memory.bias[run] for run in runs])[None, None, None]
        own = query[:, number * tokens : (number + 1) * tokens]
        parts.append(processor.weigh(own, _gather(memory.keys, runs), _gather(memory.values, runs), mask))
    return torch.cat(parts, dim=1)


def _leave(memory: LayerMemory, key: Tensor, value: Tensor) -> None:
    """Keys, un-rotated, and values for the memory to keep, once nothing that they replace is needed any more."""
    if memory.leave is not None:
        memory.leave(key, value)


def _stage(memory: LayerMemory, key: Tensor, value: Tensor) -> None:
    """Keys, un-rotated, and values that wait until the pass is over."""
    if memory.staged_keys is not None and memory.staged_values is not None:
        memory.staged_keys.copy_(key)
        memory.staged_values.copy_(value)


def _gather(x_BSND: Tensor, runs: tuple[slice, ...]) -> Tensor:
    return x_BSND[:, runs[0]] if len(runs) == 1 else torch.cat([x_BSND[:, run] for run in runs], dim=1)


def block_causal_spans(frames: int, chunk: int, tokens: int, local: int = -1) -> tuple[Span, ...]:
    """What each chunk sees in training: itself and all before, or the last `local` frames up to its own end."""
    spans: list[Span] = []
    for start in range(0, frames, chunk):
        stop = min(start + chunk, frames)
        first = 0 if local == -1 else max(0, start + chunk - local)
        spans.append(Span(slice(start * tokens, stop * tokens), (slice(first * tokens, stop * tokens),)))
    return tuple(spans)


def teacher_forcing_spans(frames: int, chunk: int, tokens: int) -> tuple[Span, ...]:
    """Spans of the sequence [clean frames | noisy frames]: a noisy chunk sees earlier clean chunks and itself."""
    clean = block_causal_spans(frames, chunk, tokens)
    half = frames * tokens
    noisy = tuple(
        Span(
            slice(half + span.queries.start, half + span.queries.stop),
            (slice(0, span.queries.start), slice(half + span.queries.start, half + span.queries.stop)),
        )
        for span in clean
    )
    return clean + noisy
