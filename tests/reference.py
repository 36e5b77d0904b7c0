"""The causal Wan written a second time, as plainly as possible: no memory, no slots, no rotated views, explicit masks.

Only the parameters come from the model under test. The formulas follow Wan 2.1 (arXiv 2503.20314) and Self-Forcing
(arXiv 2506.08009): complex rotations, einsum attention over frames, float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KeysAndValues = list[tuple[Tensor, Tensor]]
"""Per layer: un-rotated keys and values, each [B, frames, T, N, D]."""


class Past(NamedTuple):
    """Keys and values of frames that are not run again, and the positions to read them at."""

    layers: KeysAndValues
    positions: Sequence[int]


def block_mask(frames: int, chunk: int) -> Tensor:
    """Boolean [frames, frames]: a frame sees its own chunk and everything before it."""
    chunk_of = torch.arange(frames) // chunk
    return chunk_of[:, None] >= chunk_of[None]


def rotations(positions: Sequence[int], rows: int, columns: int, head_dim: int) -> Tensor:
    """Unit complex numbers [frames, T, D / 2]: time channels first, then row, then column."""
    spatial = head_dim // 6
    counts = (head_dim // 2 - 2 * spatial, spatial, spatial)
    out = torch.zeros(len(positions), rows * columns, head_dim // 2, dtype=torch.complex128)
    for f, position in enumerate(positions):
        for token in range(rows * columns):
            places = (position, token // columns, token % columns)
            angles = [
                place * 10000.0 ** (-j / count)
                for place, count in zip(places, counts, strict=True)
                for j in range(count)
            ]
            unit = [complex(math.cos(a), math.sin(a)) for a in angles]
            out[f, token] = torch.tensor(unit, dtype=torch.complex128)
    return out


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """x [B, frames, T, N, D] turned by [frames, T, D / 2]."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn[None, :, :, None]
    return torch.view_as_real(turned).flatten(-2)


def _rms(x: Tensor, norm: Any) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)


def _linear(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.weight.T + layer.bias


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """q [B, Fq, Tq, N, D], k and v [B, Fk, Tk, N, D], allowed [Fq, Fk] -> [B, Fq, Tq, N * D]."""
    scores = torch.einsum("bftnd,bgsnd->bnftgs", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~allowed[None, None, :, None, :, None], -math.inf)
    weights = scores.flatten(-2).softmax(-1).view_as(scores)
    return torch.einsum("bnftgs,bgsnd->bftnd", weights, v).flatten(-2)


@torch.no_grad()
def reference_forward(
    model: Any,
    latents: Tensor,
    levels: Sequence[float],
    text: Tensor,
    *,
    allowed: Tensor | None = None,
    positions: Sequence[int] | None = None,
    past: Past | None = None,
) -> tuple[Tensor, KeysAndValues]:
    """The flow of all frames at once, and each layer's un-rotated keys and values.

    Args:
        model: whose parameters to use; float64.
        latents: [B, F, C, H, W], float64.
        levels: timestep of each frame.
        text: [1 or B, L, text_dim].
        allowed: boolean [F, F], which frames a frame sees; all if None. `past` is always seen.
        positions: temporal position of each frame; 0..F-1 if None.
        past: frames that are seen and not run.
    """
    assert latents.dtype == torch.float64
    config, frames = model.config, latents.shape[1]
    heads, head_dim, width = config.num_attention_heads, config.attention_head_dim, latents.shape[-1]
    ph, pw = config.patch_size[1:]
    rows, columns = latents.shape[-2] // ph, width // pw
    positions = range(frames) if positions is None else positions
    allowed = torch.ones(frames, frames, dtype=torch.bool) if allowed is None else allowed

    # patches [B, F, T, C * ph * pw] -> tokens
    patches = latents.unflatten(-1, (columns, pw)).unflatten(-3, (rows, ph)).permute(0, 1, 3, 5, 2, 4, 6)
    weight = model.patch_embedding.weight.flatten(1)
    x = patches.flatten(4).flatten(2, 3) @ weight.T + model.patch_embedding.bias

    embedder = model.condition_embedder
    half = config.freq_dim // 2
    angles = torch.tensor([[t * 10000.0 ** (-j / half) for j in range(half)] for t in levels], dtype=torch.float64)
    sinusoid = torch.cat([angles.cos(), angles.sin()], -1)
    time = _linear(_silu(_linear(sinusoid, embedder.time_embedder.linear_1)), embedder.time_embedder.linear_2)
    modulation = _linear(_silu(time), embedder.time_proj).unflatten(-1, (6, -1))  # [F, 6, E]

    padded = F.pad(text.double(), (0, 0, 0, config.text_len - text.shape[1]))
    words = _linear(_gelu(_linear(padded, embedder.text_embedder.linear_1)), embedder.text_embedder.linear_2)

    turn = rotations(positions, rows, columns, head_dim)
    kept: KeysAndValues = []
    for layer, block in enumerate(model.blocks):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (block.scale_shift_table + modulation).unbind(1)
        h = _layer_norm(x, config.eps) * (1 + scale_1[:, None]) + shift_1[:, None]
        q = _rms(_linear(h, block.attn1.to_q), block.attn1.norm_q).unflatten(-1, (heads, head_dim))
        k = _rms(_linear(h, block.attn1.to_k), block.attn1.norm_k).unflatten(-1, (heads, head_dim))
        v = _linear(h, block.attn1.to_v).unflatten(-1, (heads, head_dim))
        kept.append((k, v))
        keys, values, seen = rotated(k, turn), v, allowed
        if past is not None:
            past_k, past_v = past.layers[layer]
            keys = torch.cat([rotated(past_k, rotations(past.positions, rows, columns, head_dim)), keys], 1)
            values = torch.cat([past_v, values], 1)
            seen = torch.cat([torch.ones(frames, past_k.shape[1], dtype=torch.bool), allowed], 1)
        attended = _linear(_attend(rotated(q, turn), keys, values, seen), block.attn1.to_out[0])
        x = x + attended * gate_1[:, None]

        h = _layer_norm(x, config.eps) * block.norm2.weight + block.norm2.bias
        q = _rms(_linear(h, block.attn2.to_q), block.attn2.norm_q).unflatten(-1, (heads, head_dim))
        k = _rms(_linear(words, block.attn2.to_k), block.attn2.norm_k).unflatten(-1, (heads, head_dim))
        v = _linear(words, block.attn2.to_v).unflatten(-1, (heads, head_dim))
        text_k, text_v = (part.expand(len(x), -1, -1, -1)[:, None] for part in (k, v))
        everything = torch.ones(frames, 1, dtype=torch.bool)
        x = x + _linear(_attend(q, text_k, text_v, everything), block.attn2.to_out[0])

        h = _layer_norm(x, config.eps) * (1 + scale_2[:, None]) + shift_2[:, None]
        h = _linear(_gelu(_linear(h, block.ffn.net[0].proj)), block.ffn.net[2])
        x = x + h * gate_2[:, None]

    shift, scale = (model.scale_shift_table + time[:, None]).unbind(1)
    out = _linear(_layer_norm(x, config.eps) * (1 + scale[:, None]) + shift[:, None], model.proj_out)
    out = out.unflatten(-1, (ph, pw, -1)).unflatten(2, (rows, columns))  # [B, F, rows, columns, ph, pw, C]
    return out.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4), kept
