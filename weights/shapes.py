"""Configs that the shapes of weights tell: a single file brings no config.json, and its layers are as wide as they are.

What no shape shows is the same in every release: 128 channels a head, patches of 1x2x2, statistics of the latents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from weights.plain_files import CheckpointError, shown

Shapes = Mapping[str, tuple[int, ...]]
Kind = Literal["transformer", "autoencoder", "tiny_autoencoder", "text_encoder", "lora"]

HEAD = 128
"""Channels of an attention head in all released Wan models."""

_KINDS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("lora", (r"lora_(A|B|down|up)\b", r"\.lora\.(up|down)\.", r"(lokr|hada)_", r"\.diff(_[bm])?$")),
    ("transformer", (r"(^|\.)patch_embedding\.(weight|bias)$",)),
    ("autoencoder", (r"(^|\.)decoder\.(middle|mid_block)\.", r"(^|\.)post_quant_conv\.")),
    ("text_encoder", (r"^token_embedding\.weight$", r"^shared\.weight$", r"^token_embd\.weight$", r"SelfAttention")),
    ("tiny_autoencoder", (r"^decoder\.\d+\.conv\.\d\.weight$",)),
)

WAN_22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
"""Of the latents of Wan 2.2's autoencoder, a channel (vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers)."""
WAN_22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
"""Likewise."""
WAN_22_VAE: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": WAN_22_MEAN,
    "latents_std": WAN_22_STD,
}
"""Constructor arguments of diffusers' AutoencoderKLWan for it."""


def kind_of(names: Mapping[str, Any]) -> Kind | None:
    """Which network a file holds, by the names of its tensors; None where they tell of none that is read here."""
    for kind, patterns in _KINDS:
        if any(re.search(pattern, name) for pattern in patterns for name in names):
            return kind
    return None


def wan_config(shapes: Shapes, source: Path) -> dict[str, Any]:
    """Constructor arguments of the Wan transformer (models/wan.py) with these weights.

    Args:
        shapes: of its tensors, by diffusers' names.
        source: their file, for sentences.

    Raises:
        CheckpointError: they are no Wan transformer that makes video of text alone.
    """
    if any("image_embedder" in name or "add_k_proj" in name for name in shapes):
        raise CheckpointError(
            f"{source} is a Wan model that starts from an image (it has layers for one), which is not filmed here; "
            "take a text-to-video one (T2V)."
        )
    try:
        width, channels, *patch = shapes["patch_embedding.weight"]
        blocks = [int(match.group(1)) for name in shapes if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
        config: dict[str, Any] = {
            "patch_size": tuple(patch),
            "num_attention_heads": width // HEAD,
            "attention_head_dim": HEAD,
            "in_channels": channels,
            "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": max(blocks) + 1,
            "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
            "qk_norm": "rms_norm_across_heads" if "blocks.0.attn1.norm_q.weight" in shapes else None,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source} is no whole Wan transformer (it lacks {shown(error, 60)}); fetch the file again, or give a "
            "folder with its config.json."
        ) from error
    if width % HEAD or not width or len(patch) != 3:
        raise CheckpointError(
            f"{source} has {width} channels, no multiple of the {HEAD} a head that every released Wan has; give a "
            "folder with its config.json."
        )
    if channels != config["out_channels"]:
        raise CheckpointError(
            f"{source} reads {channels} latent channels and makes {config['out_channels']}: it was made to continue an "
            "image or a video, which is not filmed here; take a text-to-video one (T2V)."
        )
    return config


def wan_parameters(config: Mapping[str, Any]) -> int:
    """Numbers in a text-to-video Wan transformer of that config, all layers with biases and affine norms counted."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, ffn = math.prod(config["patch_size"]), config["ffn_dim"]
    attention = 4 * (width * width + width) + 2 * width
    block = 2 * attention + 2 * width + (2 * width * ffn + ffn + width) + 6 * width
    time = config["freq_dim"] * width + width + width * width + width + 6 * (width * width + width)
    text = config["text_dim"] * width + width + width * width + width
    ends = config["in_channels"] * patch * width + width + config["out_channels"] * patch * (width + 1) + 2 * width
    return config["num_layers"] * block + time + text + ends


def wan_vae_config(shapes: Shapes, source: Path) -> dict[str, Any]:
    """Constructor arguments of diffusers' AutoencoderKLWan with these weights, by diffusers' names.

    Raises:
        CheckpointError: it is another autoencoder than those of Wan 2.1 and 2.2.
    """
    try:
        latents = shapes["post_quant_conv.weight"][0]
        base = shapes["encoder.conv_in.weight"][0]
        pixels = shapes["encoder.conv_in.weight"][1]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{source} is no whole Wan autoencoder (it lacks {error}); fetch it again.") from error
    if (latents, pixels) == (16, 3):
        return {"base_dim": base}  # whose other arguments are the class's own
    if (latents, pixels) == (48, 12):
        top = shapes.get("decoder.conv_in.weight", (0,))[0]
        return WAN_22_VAE | {"base_dim": base, "decoder_base_dim": top // 4}
    raise CheckpointError(
        f"{source} is an autoencoder of {latents} latent channels over {pixels} of pixels, neither Wan 2.1's (16 over "
        "3) nor Wan 2.2's (48 over 12); take one of these."
    )


def umt5_config(shapes: Shapes, source: Path) -> dict[str, Any]:
    """Arguments of transformers' UMT5Config with these weights, by transformers' names.

    Raises:
        CheckpointError: it is no UMT5 encoder.
    """
    attention = "encoder.block.0.layer.0.SelfAttention"
    try:
        words, width = shapes["shared.weight"]
        buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
        inner = shapes[f"{attention}.q.weight"][0]
        blocks = [int(match.group(1)) for name in shapes if (match := re.match(r"encoder\.block\.(\d{1,4})\.", name))]
        return {
            "vocab_size": words,
            "d_model": width,
            "d_kv": inner // heads,
            "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            "num_layers": max(blocks) + 1,
            "num_heads": heads,
            "relative_attention_num_buckets": buckets,
            "feed_forward_proj": "gated-gelu",
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source} is no whole UMT5 encoder (it lacks {shown(error, 80)}); take umt5-xxl's encoder."
        ) from error


def taehv_config(shapes: Shapes, source: Path) -> dict[str, Any]:
    """Constructor arguments of models/taehv.py with these weights, in the layout of taew2_1 and taew2_2.

    Raises:
        CheckpointError: it is another autoencoder.
    """
    try:
        stem, pixels = shapes["encoder.0.weight"][:2]
        width, latents = shapes["decoder.1.weight"][:2]
        last = max(int(match.group(1)) for name in shapes if (match := re.match(r"decoder\.(\d{1,4})\.weight", name)))
        head = shapes[f"decoder.{last}.weight"][1]
        seconds = [shapes[f"decoder.{place}.conv.0.weight"][0] for place in (3, 9, 15)]
        grown = [shapes[f"decoder.{place}.conv.weight"] for place in (7, 13, 19)]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source} is no tiny autoencoder in the layout of taew2_1 or taew2_2 (it lacks {shown(error, 60)}); fetch "
            "one of these."
        ) from error
    patch = math.isqrt(pixels // 3)
    if 3 * patch**2 != pixels or width != seconds[0]:
        raise CheckpointError(f"{source} reads {pixels} channels of pixels, no square of them; fetch the file again.")
    return {
        "latent_channels": latents,
        "patch_size": patch,
        "encoder_widths": (stem,) * 4,
        "decoder_widths": (*seconds, head),
        "time_upscale": tuple(rows // max(columns, 1) for rows, columns, *_ in grown),
    }
