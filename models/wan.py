"""The causal Wan DiT: stock diffusers blocks and weights, with time per frame and a memory of past frames.

One class serves the embedded model and the released 1.3B, 5B and 14B checkpoints; only the config differs. It is a
subclass so that loading, LoRA, quantisation, offload and attention backends of diffusers apply unchanged. The
arithmetic is stock's, computed in at least float32 (and in true float64 for a float64 model).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Tensor, nn

from cache.layer import LayerMemory
from cache.layer_plan import EVERY, LayerPlan
from cache.precision import finest
from cache.residuals import tapped
from cache.rope import rotary_tables
from models.attention import (
    CausalAttnProcessor,
    SelfContext,
    Span,
    block_causal_spans,
    project_text,
    teacher_forcing_spans,
)
from models.transformer import TextKV


def time_sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoid of the timestep (0..1000, fractions allowed), cosines first, [..., dim] as finely as the device can.

    float64 because float32 angles near 1000 are 1 to 2.4e-5 off the released systems on the first call.
    """
    half = dim // 2
    finely = finest(timestep.device)
    scale = torch.arange(half, dtype=finely, device=timestep.device) / half
    angle = timestep.to(finely)[..., None] * torch.pow(10000.0, -scale)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _rows(rows: Tensor, apart: bool) -> Sequence[Tensor]:
    """Rows one by one where that is asked for and matters: on a processor a convolution or a small product rounds by
    how many there are. The layers do not, so a film has the same bits however many of its rows go together."""
    return rows.split(1) if apart and rows.device.type != "cuda" else (rows,)


class PreciseLayerNorm(nn.LayerNorm):
    """LayerNorm in the precision of its input, where the stock FP32LayerNorm takes float64 down to float32.

    Called as a module, so that the hooks of group offloading bring its weights back first.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(input.dtype)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class CausalWanBlock(WanTransformerBlock):
    """A Wan block whose modulation differs from frame to frame: temb [B, F, 6, E] instead of [B, 6, E].

    `tokens_at_once`: so many, in whole frames, go together through what is no self-attention (the Feature Slicer and
    Operator Grouping of Streamlined Inference, 2024, arXiv 2411.01171); 0: all.
    """

    tokens_at_once = 0

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str = "rms_norm_across_heads",
        cross_attn_norm: bool = False,
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
    ) -> None:
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        self.norm1 = PreciseLayerNorm(dim, eps, elementwise_affine=False)
        self.norm3 = PreciseLayerNorm(dim, eps, elementwise_affine=False)
        if cross_attn_norm:
            self.norm2 = PreciseLayerNorm(dim, eps)

    def modulated(self, temb: Tensor, hidden_states: Tensor) -> Tensor:
        """What self-attention reads of a residual stream [B, S, E], under the modulation temb [B, F, 6, E]."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        shift, scale = (self.scale_shift_table.to(dtype)[:, None] + temb.to(dtype))[:, :, :2].unbind(2)
        x = self.norm1(hidden_states.to(dtype))
        return _modulated(x, shift[:, :, None], scale[:, :, None]).type_as(hidden_states)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the parent takes one text tensor
        self,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor],
        temb: Tensor,
        rotary_emb: SelfContext,
    ) -> Tensor:
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        frames = temb.shape[1]
        modulation = self.scale_shift_table.to(dtype)[:, None] + temb.to(dtype)
        shift, scale, *others = modulation.chunk(6, dim=2)
        tokens = hidden_states.shape[1] // frames
        at_once = max(1, self.tokens_at_once // tokens) if self.tokens_at_once else frames
        if at_once >= frames:
            # 1. Self-attention
            x = self.norm1(hidden_states.to(dtype))
            attended = self.attn1(_modulated(x, shift, scale).type_as(hidden_states), None, None, rotary_emb)
            if rotary_emb.only_keys:
                return hidden_states
            return self._rest(hidden_states, attended, encoder_hidden_states, others)
        # The same, some frames at a time where a token does not depend on others; attention reads them all.
        parts = [slice(first, first + at_once) for first in range(0, frames, at_once)]
        rows = [slice(part.start * tokens, part.stop * tokens) for part in parts]
        held = torch.empty_like(hidden_states)
        for part, row in zip(parts, rows, strict=True):
            x = self.norm1(hidden_states[:, row].to(dtype))
            held[:, row] = _modulated(x, shift[:, part], scale[:, part])
        attended = self.attn1(held, None, None, rotary_emb)
        if rotary_emb.only_keys:
            return hidden_states
        for part, row in zip(parts, rows, strict=True):
            own = [each[:, part] for each in others]
            held[:, row] = self._rest(hidden_states[:, row], attended[:, row], encoder_hidden_states, own)
        return held

    def _rest(
        self, hidden_states: Tensor, attended: Tensor, text: tuple[Tensor, Tensor], modulation: Sequence[Tensor]
    ) -> Tensor:
        """What comes behind self-attention, of some frames: none of their tokens depends on another."""
        gate_1, shift_2, scale_2, gate_2 = modulation
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        hidden_states = (hidden_states.to(dtype) + _gated(attended, gate_1)).type_as(hidden_states)

        # 2. Cross-attention
        x = self.norm2(hidden_states.to(dtype)).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(x, text, None, None)

        # 3. Feed-forward
        x = self.norm3(hidden_states.to(dtype))
        x = self.ffn(_modulated(x, shift_2, scale_2).type_as(hidden_states))
        return (hidden_states.to(dtype) + _gated(x.to(dtype), gate_2)).type_as(hidden_states)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Each frame of [B, S, E] times 1 + scale and moved by shift, [B, F, 1, E] both."""
    return (x.unflatten(1, (shift.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


class CausalWanTransformer3DModel(WanTransformer3DModel):
    """Wan's DiT as a causal model: timesteps per frame, integer positions, text keys kept per prompt.

    State-dict keys equal those of diffusers' WanTransformer3DModel. The parameters are the stock ones (Wan team
    2025, arXiv 2503.20314) and `text_len`, the number of text rows attended: padding rows are zeros and attended
    unmasked, as in the released systems (Self-Forcing, Huang et al. 2025, arXiv 2506.08009).
    """

    _repeated_blocks = ["CausalWanBlock"]  # noqa: RUF012 (diffusers reads a plain class attribute)
    _no_split_modules = ["CausalWanBlock"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        text_len: int = 512,
    ) -> None:
        # The parent builds no blocks, so that ours are allocated once; the config is put right after.
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        width = num_attention_heads * attention_head_dim
        blocks = [
            CausalWanBlock(width, ffn_dim, num_attention_heads, qk_norm or "", cross_attn_norm, eps, added_kv_proj_dim)
            for _ in range(num_layers)
        ]
        for block in blocks:
            block.attn1.set_processor(CausalAttnProcessor())  # pyright: ignore[reportArgumentType]  # closed union
            block.attn2.set_processor(CausalAttnProcessor())  # pyright: ignore[reportArgumentType]
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = PreciseLayerNorm(width, eps, elementwise_affine=False)

    def slice_work(self, tokens: int) -> None:
        """Compute what is no self-attention for so many tokens at a time, in whole frames; 0: for all. Bits stay."""
        for block in self.blocks:
            cast("CausalWanBlock", block).tokens_at_once = tokens

    def set_attention_backend(self, backend: str) -> None:
        """The attention backend of this model, by diffusers' name; its process-wide default stays as it is."""
        default, _ = _AttentionBackendRegistry.get_active_backend()
        try:
            super().set_attention_backend(backend)
        finally:
            _AttentionBackendRegistry.set_active_backend(default)

    @property
    def expects(self) -> tuple[torch.device, torch.dtype]:
        """Where latents and text have to be, and in which precision."""
        weight = self.patch_embedding.weight
        return weight.device, weight.dtype

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens for a latent of `height` x `width`; ValueError if the patch does not fit."""
        _, patch_h, patch_w = self.config["patch_size"]
        if height % patch_h or width % patch_w:
            raise ValueError(
                f"a latent of {height} x {width} cannot be cut into patches of {patch_h} x {patch_w}: "
                f"choose a picture size whose latent divides by {patch_h} and {patch_w}"
            )
        return height // patch_h, width // patch_w

    def text_keys(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a text for every layer.

        Args:
            prompt_embeds: [B, L, text_dim] with L <= text_len; missing rows are filled with zeros, and all
                text_len rows are attended.

        Returns:
            One (keys, values) a layer, each [B, text_len, N, D].
        """
        missing = self.config["text_len"] - prompt_embeds.shape[1]
        if missing < 0:
            raise ValueError(
                f"the text has {prompt_embeds.shape[1]} rows, this model reads {self.config['text_len']}: shorten it"
            )
        text_BLE = self.condition_embedder.text_embedder(F.pad(prompt_embeds, (0, 0, 0, missing)))
        blocks = cast("list[CausalWanBlock]", list(self.blocks))
        return [project_text(block.attn2, text_BLE) for block in blocks]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # a causal model takes its memory along
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text_kv: TextKV,
        rotary: tuple[Tensor, Tensor],
        memory: Sequence[LayerMemory] | None = None,
        spans: tuple[Span, ...] | None = None,
        layers: LayerPlan = EVERY,
        buffers: Sequence[Tensor] = (),
    ) -> Tensor:
        """Predict the flow (noise minus clean) of a sequence of latent frames.

        Args:
            hidden_states: noisy latents, [B, C, F, H, W].
            timestep: [B, F], 0..1000; fractions allowed.
            text_kv: what `text_keys` returned for the prompt in force.
            rotary: cos and sin of the queries and own keys, from cache.rope.rotary_tables.
            memory: per layer, the keys and values to attend to; the pass writes its own part into them.
            spans: which tokens see which in the training forward; with a memory there are none.
            layers: which of them run, and what is left in `buffers` or taken from them on the way.
            buffers: residual streams [B, S, E], by number.

        Returns:
            The flow, [B, C, F, H, W]; of no frame where `layers` asks for none.
        """
        by_row = memory is not None
        hidden_BSE = self.embed(hidden_states, by_row)
        temb_BFE, temb_BF6E = self.embed_time(timestep, hidden_BSE, by_row)
        hidden_BSE = self.through(hidden_BSE, temb_BF6E, text_kv, rotary, memory, spans, layers, buffers)
        if not layers.flow:
            return hidden_states[:, :, :0]
        return self.unpatched(self.head(hidden_BSE, temb_BFE), hidden_states.shape)

    def embed(self, latents: Tensor, by_row: bool = True) -> Tensor:
        """Latents [B, C, F, H, W] as the residual stream that enters the first layer, [B, S, E].

        Args:
            latents: of the frames.
            by_row: the same bits for a row however many there are, where a processor would round by that.
        """
        parts = [self.patch_embedding(part) for part in _rows(latents, by_row)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(2).transpose(1, 2).contiguous()

    def embed_time(self, timestep: Tensor, like: Tensor, by_row: bool = True) -> tuple[Tensor, Tensor]:
        """Timesteps [B, F], 0..1000, as the head takes them, [B, F, E], and the layers, [B, F, 6, E]; as `embed`."""
        embedder = self.condition_embedder
        sinusoid = time_sinusoid(timestep, self.config["freq_dim"]).to(embedder.time_embedder.linear_1.weight.dtype)
        parts = [embedder.time_embedder(part).type_as(like) for part in _rows(sinusoid, by_row)]
        layers = [embedder.time_proj(embedder.act_fn(part)) for part in parts]
        return torch.cat(parts), torch.cat(layers).unflatten(2, (6, -1))

    def through(
        self,
        hidden_BSE: Tensor,
        temb_BF6E: Tensor,
        text_kv: TextKV,
        rotary: tuple[Tensor, Tensor],
        memory: Sequence[LayerMemory] | None = None,
        spans: tuple[Span, ...] | None = None,
        layers: LayerPlan = EVERY,
        buffers: Sequence[Tensor] = (),
    ) -> Tensor:
        """The residual stream [B, S, E] behind the layers that are here; arguments as of `forward`."""
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        for layer, block in enumerate(self.blocks):
            if layers.taps:
                modulated = partial(cast("CausalWanBlock", block).modulated, temb_BF6E)
                hidden_BSE = tapped(layers, layer, hidden_BSE, buffers, modulated)
            if layers.skip and not layers.runs(layer):
                continue
            of_layer = None if memory is None else memory[layer]
            context = SelfContext(*rotary, of_layer, spans, layers.only_keys(layer))
            if checkpointing:
                hidden_BSE = self._gradient_checkpointing_func(  # pyright: ignore[reportOptionalCall]  # set by enable_
                    block, hidden_BSE, text_kv[layer], temb_BF6E, context
                )
            else:
                hidden_BSE = block(hidden_BSE, text_kv[layer], temb_BF6E, context)
        return tapped(layers, len(self.blocks), hidden_BSE, buffers)

    def head(self, hidden_BSE: Tensor, temb_BFE: Tensor) -> Tensor:
        """What the last layer leaves [B, S, E] as the flow of every token, [B, S, patch numbers]."""
        dtype = torch.promote_types(hidden_BSE.dtype, torch.float32)
        shift, scale = (self.scale_shift_table[:, None] + temb_BFE[:, :, None]).chunk(2, dim=2)
        normed = self.norm_out(hidden_BSE.to(dtype)).unflatten(1, (temb_BFE.shape[1], -1))
        return self.proj_out((normed * (1 + scale) + shift).flatten(1, 2).type_as(hidden_BSE))

    def unpatched(self, out: Tensor, shape: Sequence[int]) -> Tensor:
        """The flow of every token as that of latents of a shape [B, C, F, H, W]."""
        batch, _, frames, height, width = shape
        rows, columns = self.grid(height, width)
        patch_t, patch_h, patch_w = self.config["patch_size"]
        out = out.reshape(batch, frames // patch_t, rows, columns, patch_t, patch_h, patch_w, -1)
        return out.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def forward_train(
        self,
        latents: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor,
        *,
        chunk: int,
        local: int = -1,
        joint: int = 0,
        positions: Sequence[int] | None = None,
        clean: Tensor | None = None,
        clean_timestep: Tensor | None = None,
    ) -> Tensor:
        """The forward for training: all chunks at once, each seeing itself and what came before.

        Args:
            latents: noisy latents, [B, F, C, H, W].
            timestep: [B, F], 0..1000, one noise level a frame.
            prompt_embeds: [B, L, text_dim].
            chunk: latent frames that see each other.
            local: latent frames of history seen, counted back from the chunk's end; -1 = all.
            joint: so many last frames see each other and all history, as in a window that is denoised together.
            positions: temporal position of each frame; 0..F-1 if None.
            clean: teacher forcing: clean latents, same shape; noisy chunks then see earlier *clean* chunks only.
            clean_timestep: [B, F], the timestep the clean frames are declared at; zeros if None.

        Returns:
            The flow of `latents`, [B, F, C, H, W].
        """
        frames, (height, width) = latents.shape[1], latents.shape[-2:]
        rows, columns = self.grid(height, width)
        positions = list(range(frames)) if positions is None else list(positions)
        if clean is None:
            history, tokens = frames - joint, rows * columns
            spans = block_causal_spans(history, chunk, tokens, local)
            if joint:
                spans += (Span(slice(history * tokens, frames * tokens), (slice(0, frames * tokens),)),)
        else:
            if local != -1 or joint:
                raise ValueError("teacher forcing sees the whole clean history: leave local at -1 and joint at 0")
            spans = teacher_forcing_spans(frames, chunk, rows * columns)
            declared = torch.zeros_like(timestep) if clean_timestep is None else clean_timestep
            latents, timestep = torch.cat([clean, latents], dim=1), torch.cat([declared, timestep], dim=1)
            positions = positions * 2
        rotary = rotary_tables(
            positions,
            rows,
            columns,
            self.config["attention_head_dim"],
            device=latents.device,
            dtype=torch.promote_types(self.proj_out.weight.dtype, torch.float32),
        )
        flow = self(latents.transpose(1, 2), timestep, self.text_keys(prompt_embeds), rotary, spans=spans)
        return flow.transpose(1, 2)[:, -frames:]
