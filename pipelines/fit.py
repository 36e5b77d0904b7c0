"""Fit: how much memory of a device a film needs at most, part by part, under the plans that need less and less.

A plan (pipelines/memory_plan.py) trades speed or precision for memory. What it needs is counted from shapes, before a
byte is loaded or fetched; `tests/pipelines/test_fit.py` holds the count against what tensors really took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn

from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines.memory_plan import MemoryPlan

_ATTENTION = (2.2, 7.4)
_FEED_FORWARD = (1.1, 4.4, 2.0)
"""Copies of a pass's tokens that a layer holds at once beside its input: in float32, and in the model's type; of the
feed-forward layer also of its inner width. Measured on a CPU, where attention keeps no scores, as on a card."""
_SLICED = (0.0, 8.3)
"""The same of attention where all else is done some frames at a time."""
TOKENS_AT_ONCE = 1024
"""In whole frames, of work that is sliced: fewer take longer, more take memory. Measured (docs/log.md, 2026-11-30)."""
_DECODING = (9.2, 2.3)
"""Pictures of full size that Wan's autoencoder holds at once, in channels of its first width, and a tiny one, in
channels of its last but one. Measured likewise."""
GUARD = 2**29
"""Bytes that a card's own context, its libraries and the gaps between blocks take."""


@dataclass(frozen=True, slots=True)
class Film:
    """What of a film and its preset takes memory.

    Attributes:
        latent: height and width of a latent frame.
        memory: bytes of keys and values, as pipelines/cost.py counts them.
        queries: latent frames of the longest pass.
        keys: latent frames that a pass sees at most.
        frames: latent frames that are kept beside the memory, as latents.
        chunk: latent frames that are decoded together.
    """

    latent: tuple[int, int]
    memory: int
    queries: int
    keys: int
    frames: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on the device at most, by what takes them, and `host`: what lies on the CPU because of a plan."""

    transformer: int
    memory: int
    text: int
    decoder: int
    work: int
    host: int = 0

    @property
    def peak(self) -> int:
        """All that is there at once on the device."""
        return self.transformer + self.memory + self.text + self.decoder + self.work


def need(
    config: Mapping[str, Any],
    vae: Mapping[str, Any],
    film: Film,
    plan: MemoryPlan,
    *,
    text_encoder: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Need:
    """Count what a film takes.

    Args:
        config: of the transformer.
        vae: of the autoencoder that the plan names.
        film: size and memory.
        plan: how it is held.
        text_encoder: numbers of the text encoder.
        dtype: that the networks compute in.
    """
    size = dtype.itemsize
    width = config["num_attention_heads"] * config["attention_head_dim"]
    grid = prod(film.latent) // prod(config["patch_size"])
    rows = config.get("text_len", 512)
    layer, ends, widest = _counted_layer(_frozen({**config, "text_len": rows, "num_layers": 1}), dtype, plan.weights)
    layers = config["num_layers"] * layer
    streamed = plan.layers == "streamed"
    resident = 2 * layers // config["num_layers"] if streamed else layers  # one that computes, one on its way
    kept = film.memory + film.frames * config["in_channels"] * prod(film.latent) * size
    kept += 2 * config["num_layers"] * rows * width * size  # keys and values of the words
    kept += (film.keys + film.queries) * grid * config["attention_head_dim"] * 4  # tables of turns
    tokens = film.queries * grid
    sliced = plan.work == "sliced" and film.queries > 1
    copies = _SLICED if sliced else _ATTENTION
    attention = tokens * width * (copies[0] * 4 + copies[1] * size)
    together = min(tokens, grid * max(1, TOKENS_AT_ONCE // grid)) if sliced else tokens
    inner = together * config["ffn_dim"] * _FEED_FORWARD[2] * size
    inner += together * width * (_FEED_FORWARD[0] * 4 + _FEED_FORWARD[1] * size)
    inner += 2 * (tokens - together) * width * size  # what attention added, and what has been made of it
    widened = widest * size if plan.weights == "fp8" else 0
    decoder, decoding = _decoder_need(vae, film, plan, dtype)
    return Need(
        transformer=resident + ends,
        memory=kept,
        text=text_encoder * size if plan.text == "resident" else 0,
        decoder=decoder,
        work=int(max(max(attention, inner) + widened, decoding)),
        host=(text_encoder * size if plan.text == "aside" else 0) + (layers if streamed else 0),
    )


def choose_plan(needs: Sequence[tuple[MemoryPlan, Need]], room: int) -> tuple[MemoryPlan, Need] | None:
    """The first plan whose peak fits into so many bytes, some kept for the card itself; None where none does."""
    return next(((plan, each) for plan, each in needs if each.peak + GUARD <= room), None)


def verdict(name: str, needs: Sequence[tuple[MemoryPlan, Need]], room: int) -> str:
    """fits / fits with ... / does not fit, as a sentence for a person."""
    found = choose_plan(needs, room)
    if found is None:
        least = min(each.peak for _, each in needs) + GUARD
        has = f"{room / 1e9:.1f} GB"
        return f"{name} does not fit: it needs {least / 1e9:.1f} GB with everything traded, and there are {has}"
    plan, each = found
    traded = f" with {', '.join(plan.traded)}" if plan.traded else ""
    return f"{name} fits{traded}: {(each.peak + GUARD) / 1e9:.1f} of {room / 1e9:.1f} GB at most"


def hold(transformer: CausalWanTransformer3DModel, plan: MemoryPlan, device: str, dtype: torch.dtype) -> None:
    """Hold a loaded transformer as a plan says, through diffusers' own hooks, and let it work so.

    Args:
        transformer: on the CPU where its layers are streamed, else on the device.
        plan: how.
        device: where it computes.
        dtype: in which type.
    """
    if plan.work == "sliced":
        transformer.slice_work(TOKENS_AT_ONCE)
    if plan.weights == "fp8":
        for block in transformer.blocks:
            from diffusers.hooks.layerwise_casting import apply_layerwise_casting

            apply_layerwise_casting(
                block, torch.float8_e4m3fn, dtype, skip_modules_pattern=("norm",), non_blocking=device != "cpu"
            )
    if plan.layers == "streamed":
        from diffusers.hooks.group_offloading import apply_group_offloading

        for name, child in transformer.named_children():
            if name != "blocks":
                child.to(device)
        transformer.scale_shift_table.data = transformer.scale_shift_table.data.to(device)
        for block in transformer.blocks:
            apply_group_offloading(
                block,
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=device == "cuda",
            )


@lru_cache(maxsize=64)
def _counted_layer(settings: tuple[tuple[str, Any], ...], dtype: torch.dtype, weights: str) -> tuple[int, int, int]:
    """Bytes of a transformer's layer and of all that is not in layers, and the numbers of its largest parameter."""
    with torch.device("meta"):
        transformer = CausalWanTransformer3DModel(**dict(settings))
    ends = _held(transformer, dtype, "full") - _held(transformer.blocks, dtype, "full")
    widest = max(value.numel() for value in transformer.blocks.parameters())
    return _held(transformer.blocks, dtype, weights), ends, widest


def _held(module: nn.Module, dtype: torch.dtype, weights: str) -> int:
    """Bytes of a module's parameters and buffers as they are loaded."""
    kept = set(CausalWanTransformer3DModel._keep_in_fp32_modules or ())  # pyright: ignore[reportPrivateUsage]
    total = 0
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if kept & set(name.split(".")) and dtype.itemsize < 4:
            size = 4
        elif weights == "fp8" and "norm" not in name and "scale_shift_table" not in name:
            size = 1
        else:
            size = dtype.itemsize
        total += value.numel() * size
    return total


def _decoder_need(config: Mapping[str, Any], film: Film, plan: MemoryPlan, dtype: torch.dtype) -> tuple[int, float]:
    """Bytes that a decoder keeps, its stream's memory with it, and those it holds for the moment."""
    together = 1 if plan.work == "sliced" else film.chunk
    return _counted_decoder(_frozen(config), film.latent, together, plan.decoder, dtype)


@lru_cache(maxsize=64)  # Wan's has to be walked through to know its memory, and plans ask for the same one
def _counted_decoder(
    settings: tuple[tuple[str, Any], ...],
    latent: tuple[int, int],
    together: int,
    kind: Literal["full", "tiny"],
    dtype: torch.dtype,
) -> tuple[int, float]:
    config = dict(settings)
    with torch.device("meta"):
        vae = AutoencoderTAEHV(**config) if kind == "tiny" else WanVAEStream(AutoencoderKLWan(**config))
    weights = sum(value.numel() for value in vae.parameters()) * dtype.itemsize
    state = sum(value.nbytes for value in vae.init_decode_state(1, *latent, "meta", dtype)[1:])
    if isinstance(vae, AutoencoderTAEHV):
        picture = 4 * together * prod(latent) * vae.spatial_scale**2 / vae.config["patch_size"] ** 2
        return weights + state, state + _DECODING[1] * picture * vae.config["decoder_widths"][-2] * dtype.itemsize
    width = config.get("decoder_base_dim") or config.get("base_dim", 96)
    picture = 4 * prod(latent) * (vae.spatial_scale / vae.patch_size) ** 2
    return weights + state, state + _DECODING[0] * picture * width * dtype.itemsize


def _frozen(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, tuple(cast("list[Any]", value)) if isinstance(value, list) else value) for name, value in config.items()
    )
