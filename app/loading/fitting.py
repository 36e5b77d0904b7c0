"""Fitting a model into a card: what a film under a preset needs under each plan, and the first plan that fits.

Counted from shapes alone, before anything is fetched or loaded. Keys and values are counted where `rivulet bench cost`
counts them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.config.readers import memory_bytes
from app.errors import UsageMistake
from pipelines.presets import Preset
from weights.catalog import ModelSpec, get_model

if TYPE_CHECKING:
    import torch

    from app.loading.model import EngineRequest
    from pipelines.fit import MemoryPlan, Need

UMT5_NUMBERS = 5_680_910_336
"""Of umt5-xxl's encoder: a vocabulary of 256,384 x 4096, 24 layers of width 4096 and 10,240."""

_log = logging.getLogger(__name__)


def fitting_plan(request: "EngineRequest", name: str, device: str, dtype: "torch.dtype") -> "MemoryPlan | None":
    """The first plan that fits into the memory that is asked for; None for a model that is small anyway.

    Raises:
        UsageMistake: none fits; the sentence says what it needs and what there is.
    """
    from pipelines.fit import choose_plan, verdict
    from weights.memory import free_memory

    model = get_model(name)
    if model.tokenizer is None:
        return None
    asked = request.vram or "auto"
    room = free_memory(device) if asked.lower() == "auto" else memory_bytes(asked)
    size = (request.height or model.size[0], request.width or model.size[1])
    needs = needs_of(model, request.preset, size, dtype)
    if request.vae not in ("auto", "tiny"):
        needs = [(plan, each) for plan, each in needs if plan.decoder == "full"]
    told = verdict(name, needs, room)
    found = choose_plan(needs, room)
    if found is None:
        raise UsageMistake(f"{told}. Choose a smaller model, size or window, or leave --vram out to try it.")
    _log.warning("%s", told)
    return found[0]


def needs_of(
    model: ModelSpec, preset: Preset, size: tuple[int, int], dtype: "torch.dtype | None" = None
) -> "list[tuple[MemoryPlan, Need]]":
    """What every plan needs for films of `size` (height, width) under a preset."""
    import torch

    from benchmarks.speed.cost import kv_bytes, latent_size, steady, token_grid
    from pipelines.fit import PLANS, Film, need

    dtype = dtype or torch.bfloat16
    config = config_of(model)
    cost, latent = steady(preset), latent_size(config, *size)
    forwards = [forward for chunk in cost.cycle for forward in chunk]
    queries = max(forward.queries for forward in forwards)
    film = Film(
        latent,
        kv_bytes(config, token_grid(config, latent), cost, dtype.itemsize),
        queries,
        max(forward.keys for forward in forwards),
        max(cost.slots // cost.lanes, queries) + queries * cost.lanes,
        preset.chunk,
    )
    return [
        (plan, need(config, _decoder(config, plan), film, plan, text_encoder=UMT5_NUMBERS, dtype=dtype))
        for plan in PLANS
    ]


def config_of(model: ModelSpec) -> Mapping[str, Any]:
    """The transformer's config: the catalogue's, or what the shapes of a file of this disk tell."""
    if model.config:
        return model.config
    path = Path(model.transformer.file)
    from weights.load import read_config, tensors_of
    from weights.shapes import wan_config

    if path.is_dir() and not model.transformer.bare:
        return read_config(path)
    return wan_config({name: stored.shape for name, stored in tensors_of(path).items()}, path)


def _decoder(config: Mapping[str, Any], plan: "MemoryPlan") -> Mapping[str, Any]:
    """The released autoencoder of latents of so many channels."""
    from weights.shapes import WAN_22_VAE

    wide = config["in_channels"] == 48
    if plan.decoder == "tiny":
        return {"latent_channels": 48, "patch_size": 2} if wide else {}
    if not wide:
        return {}
    return WAN_22_VAE
