"""What a config.json may say of each network: types and ranges, wide for any model there is and finite for all.

Ranges bound how long building takes and keep numbers that no shape shows (epsilons, spreads, lengths) from spoiling
every film. That widths and depths are those of the weights is told by comparing names and shapes, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, TypeAdapter, model_validator

Layers = Annotated[int, Field(ge=1, le=512)]
Width = Annotated[int, Field(ge=1, le=2**20)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Length = Annotated[int, Field(ge=1, le=16384)]
"""Rows of text, or positions of a table."""
Patch = Annotated[int, Field(ge=1, le=64)]
Epsilon = Annotated[float, Field(ge=1e-15, le=1e-2)]
"""Added to a variance; smaller ones are zero in float32, larger ones drown it."""
Chance = Annotated[float, Field(ge=0, lt=1)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Spread = Annotated[float, Field(ge=1e-6, le=1e6)]
Means = Annotated[Sequence[Mean], Field(min_length=1, max_length=4096)]
Spreads = Annotated[Sequence[Spread], Field(min_length=1, max_length=4096)]


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even, as rotary positions turn pairs of channels")
    return value


class _Config(BaseModel):
    """Strict: no text for a number, no fraction for a count, no NaN. Other entries are the constructor's to judge."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow", protected_namespaces=())


class WanConfig(_Config):
    """models/wan.py, and diffusers' WanTransformer3DModel."""

    patch_size: Annotated[Sequence[Patch], Field(min_length=3, max_length=3)] = (1, 2, 2)
    num_attention_heads: Heads = 12
    attention_head_dim: Annotated[int, Field(ge=2, le=4096), AfterValidator(_even)] = 128
    in_channels: Width = 16
    out_channels: Width = 16
    text_dim: Width = 4096
    freq_dim: Annotated[int, Field(ge=2, le=2**16), AfterValidator(_even)] = 256
    ffn_dim: Width = 8960
    num_layers: Layers = 30
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] | None = "rms_norm_across_heads"
    eps: Epsilon = 1e-6
    image_dim: Width | None = None
    added_kv_proj_dim: Width | None = None
    rope_max_seq_len: Length = 1024
    pos_embed_seq_len: Length | None = None
    text_len: Length = 512


class TAEHVConfig(_Config):
    """models/taehv.py."""

    latent_channels: Width = 16
    patch_size: Patch = 1
    encoder_patch_size: Patch | None = None
    encoder_widths: Annotated[Sequence[Width], Field(min_length=2, max_length=9)] = (64, 64, 64, 64)
    decoder_widths: Annotated[Sequence[Width], Field(min_length=2, max_length=9)] = (256, 128, 64, 64)
    encoder_blocks: Annotated[Sequence[Patch], Field(min_length=1, max_length=8)] = (3, 3, 3)
    decoder_blocks: Annotated[Sequence[Patch], Field(min_length=1, max_length=8)] = (3, 3, 3)
    time_downscale: Annotated[Sequence[Patch], Field(min_length=1, max_length=8)] = (2, 2, 1)
    time_upscale: Annotated[Sequence[Patch], Field(min_length=1, max_length=8)] = (1, 2, 2)
    upsample: Literal["nearest", "shuffle", "together"] = "nearest"
    latents_mean: Means | None = None
    latents_std: Spreads | None = None


class TextEncoderConfig(_Config):
    """models/text.py."""

    vocabulary_size: Width = 2
    text_len: Length = 32
    text_dim: Width = 128
    num_layers: Layers = 2
    num_heads: Heads = 4


VOCABULARY: TypeAdapter[list[str]] = TypeAdapter(
    Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=2**20), FailFast()],
    config=ConfigDict(strict=True),
)
"""vocabulary.json of models/text.py: the words, in the order of the embedding's rows."""


class WanVAEConfig(_Config):
    """diffusers' AutoencoderKLWan."""

    base_dim: Width = 96
    decoder_base_dim: Width | None = None
    z_dim: Width = 16
    dim_mult: Annotated[Sequence[Patch], Field(min_length=1, max_length=8)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Field(ge=1, le=64)] = 2
    attn_scales: Annotated[Sequence[float], Field(max_length=16)] = ()
    temperal_downsample: Annotated[Sequence[bool], Field(min_length=1, max_length=8)] = (False, True, True)
    dropout: Chance = 0.0
    latents_mean: Means = (0.0,) * 16
    latents_std: Spreads = (1.0,) * 16
    is_residual: bool = False
    in_channels: Width = 3
    out_channels: Width = 3
    patch_size: Patch | None = None
    scale_factor_temporal: Patch | None = 4
    scale_factor_spatial: Patch | None = 8

    @model_validator(mode="after")
    def _one_statistic_a_channel(self) -> Self:
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(
                f"latents_mean and latents_std have {len(self.latents_mean)} and {len(self.latents_std)} values for "
                f"{self.z_dim} latent channels (z_dim)"
            )
        return self


class UMT5Config(_Config):
    """transformers' UMT5EncoderModel."""

    model_type: Literal["umt5"] = "umt5"
    vocab_size: Annotated[int, Field(ge=1, le=2**22)] = 256384
    d_model: Width = 4096
    d_kv: Annotated[int, Field(ge=1, le=4096)] = 64
    d_ff: Width = 10240
    num_layers: Layers = 24
    num_heads: Heads = 64
    relative_attention_num_buckets: Annotated[int, Field(ge=2, le=4096)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=2**20)] = 128
    layer_norm_epsilon: Epsilon = 1e-6
    dropout_rate: Chance = 0.0
    feed_forward_proj: str = "gated-gelu"
