"""Spellings of the networks beside the transformer: the original names of Wan's autoencoder and of UMT5, as ours.

The original repository keeps both in .pth files, ComfyUI's single files hold the autoencoder under the original names
and UMT5 under transformers', llama.cpp's GGUF under names of its own. Only keys change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_RESIDUAL = {"0.gamma": "norm1.gamma", "2": "conv1", "3.gamma": "norm2.gamma", "6": "conv2"}
_VAE_ENDS = (
    (re.compile(r"^conv1\."), "quant_conv."),
    (re.compile(r"^conv2\."), "post_quant_conv."),
    (re.compile(r"^(encoder|decoder)\.conv1\."), r"\1.conv_in."),
    (re.compile(r"^(encoder|decoder)\.head\.0\."), r"\1.norm_out."),
    (re.compile(r"^(encoder|decoder)\.head\.2\."), r"\1.conv_out."),
    (re.compile(r"^(encoder|decoder)\.middle\.0\."), r"\1.mid_block.resnets.0."),
    (re.compile(r"^(encoder|decoder)\.middle\.1\."), r"\1.mid_block.attentions.0."),
    (re.compile(r"^(encoder|decoder)\.middle\.2\."), r"\1.mid_block.resnets.1."),
    # Wan 2.2: a list of lists, the layer that changes the size last.
    (
        re.compile(r"^encoder\.downsamples\.(\d+)\.downsamples\.2\.(resample|time_conv)"),
        r"encoder.down_blocks.\1.downsampler.\2",
    ),
    (re.compile(r"^encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\."), r"encoder.down_blocks.\1.resnets.\2."),
    (
        re.compile(r"^decoder\.upsamples\.(\d+)\.upsamples\.3\.(resample|time_conv)"),
        r"decoder.up_blocks.\1.upsampler.\2",
    ),
    (re.compile(r"^decoder\.upsamples\.(\d+)\.upsamples\.(\d+)\."), r"decoder.up_blocks.\1.resnets.\2."),
    (re.compile(r"^encoder\.downsamples\.(\d+)\."), r"encoder.down_blocks.\1."),  # Wan 2.1: one flat list
)
_FLAT_UP = re.compile(r"^decoder\.upsamples\.(\d+)\.")
_A_STAGE = 4
"""Entries of Wan 2.1's flat list in a stage of its decoder: three residual blocks and what doubles the size."""

_T5_ORIGINAL = (
    (re.compile(r"^token_embedding\."), "shared."),
    (re.compile(r"^norm\."), "encoder.final_layer_norm."),
    (re.compile(r"^blocks\.(\d+)\.norm1\."), r"encoder.block.\1.layer.0.layer_norm."),
    (re.compile(r"^blocks\.(\d+)\.attn\.([qkvo])\."), r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (
        re.compile(r"^blocks\.(\d+)\.pos_embedding\.embedding\."),
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (re.compile(r"^blocks\.(\d+)\.norm2\."), r"encoder.block.\1.layer.1.layer_norm."),
    (re.compile(r"^blocks\.(\d+)\.ffn\.gate\.0\."), r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (re.compile(r"^blocks\.(\d+)\.ffn\.fc1\."), r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (re.compile(r"^blocks\.(\d+)\.ffn\.fc2\."), r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
_T5_LLAMA = (
    (re.compile(r"^token_embd\."), "shared."),
    (re.compile(r"^enc\.output_norm\."), "encoder.final_layer_norm."),
    (re.compile(r"^enc\.blk\.(\d+)\.attn_norm\."), r"encoder.block.\1.layer.0.layer_norm."),
    (re.compile(r"^enc\.blk\.(\d+)\.attn_([qkvo])\."), r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (re.compile(r"^enc\.blk\.(\d+)\.attn_rel_b\."), r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (re.compile(r"^enc\.blk\.(\d+)\.ffn_norm\."), r"encoder.block.\1.layer.1.layer_norm."),
    (re.compile(r"^enc\.blk\.(\d+)\.ffn_gate\."), r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (re.compile(r"^enc\.blk\.(\d+)\.ffn_up\."), r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (re.compile(r"^enc\.blk\.(\d+)\.ffn_down\."), r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
_NO_WEIGHTS = ("spiece_model", "scaled_fp8")
"""What ComfyUI's file of UMT5 carries beside weights: the tokenizer, and a mark."""


def vae_to_diffusers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Original names of Wan's autoencoder, 2.1 or 2.2, as diffusers has them; those of diffusers stay."""
    if any(name.startswith(("decoder.mid_block.", "encoder.mid_block.")) for name in tensors):
        return dict(tensors)
    return {_vae_name(name): value for name, value in tensors.items()}


def umt5_to_transformers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Names of UMT5's encoder of the original Wan repository, or of llama.cpp, as transformers has them."""
    rules = _T5_ORIGINAL if "token_embedding.weight" in tensors else _T5_LLAMA
    return {_renamed(name, rules): value for name, value in tensors.items() if name not in _NO_WEIGHTS}


def _vae_name(name: str) -> str:
    name = _renamed(name, _VAE_ENDS)
    if match := _FLAT_UP.match(name):
        stage, index = divmod(int(match.group(1)), _A_STAGE)
        layer = "upsamplers.0" if index == _A_STAGE - 1 else f"resnets.{index}"
        name = f"decoder.up_blocks.{stage}.{layer}.{name[match.end() :]}"
    stem, residual, rest = name.partition(".residual.")
    if residual:
        number, dot, ending = rest.partition(".")
        full = rest if rest in _RESIDUAL else number
        name = f"{stem}.{_RESIDUAL.get(full, f'residual.{full}')}{'' if full == rest else dot + ending}"
    return name.replace(".shortcut.", ".conv_shortcut.")


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, ours in rules:
        changed = pattern.sub(ours, name)
        if changed != name:
            return changed
    return name
