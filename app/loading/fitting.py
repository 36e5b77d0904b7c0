"""Fitting a model into a card: what a film under a preset needs under each plan, and the first plan that fits.

Counted from shapes alone, before anything is fetched or loaded. Keys and values are counted where `rivulet bench cost`
counts them.
"""

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.config.readers import memory_bytes
from app.errors import UsageMistake
from pipelines.memory_plan import PLANS, MemoryPlan, preset_under, read_memory_plan
from pipelines.presets import Preset
from weights.catalog import ModelSpec
from weights.find import get_model

if TYPE_CHECKING:
    import torch

    from app.loading.engine_request import EngineRequest
    from pipelines.fit import Need

UMT5_NUMBERS = 5_680_910_336
"""Of umt5-xxl's encoder: a vocabulary of 256,384 x 4096, 24 layers of width 4096 and 10,240."""

_log = logging.getLogger(__name__)


def fitted(request: "EngineRequest", name: str, device: str, dtype: "torch.dtype") -> "EngineRequest":
    """The request with the first plan that fits into the memory that is asked for, and its preset under that plan.

    It stays as it is where nothing is asked for, where it has a plan already, and for a model that is small anyway.

    Raises:
        UsageMistake: none fits; the sentence says what it needs and what there is.
    """
    from pipelines.fit import choose_plan, verdict
    from weights.memory import free_memory

    model = get_model(name)
    if request.vram is None or request.plan is not None or model.tokenizer is None:
        return request
    if not request.vram[0].isdigit() and request.vram.lower() != "auto":
        return _under(request, read_memory_plan(request.vram), request.vram)
    room = free_memory(device) if request.vram.lower() == "auto" else memory_bytes(request.vram)
    needs = needs_of(model, request.preset, size_of(model, request), dtype, vae=request.vae, device=device)
    told = verdict(name, needs, room)
    found = choose_plan(needs, room)
    if found is None:
        raise UsageMistake(f"{told}. Choose a smaller model, size or window, or leave --vram out to try it.")
    _log.warning("%s", told)
    return _under(request, found[0], request.vram)


def smaller(request: "EngineRequest", *, begun: bool) -> "EngineRequest | None":
    """The request under the next plan that needs less memory than the one it was made under; None: there is none.

    Args:
        request: what ran out of memory.
        begun: some of its film stays, which goes on with the memory and the autoencoder that it has.
    """
    from pipelines.components import choose_device

    model = get_model(request.model or request.preset.model)
    if model.tokenizer is None or request.parallel or request.gpus is not None:
        return None
    device, dtype = choose_device(request.device)
    now = request.plan or MemoryPlan(decoder="tiny" if request.vae == "tiny" else "full")
    if now.window == "half":
        return None  # the last of all
    whole = request.preset if request.whole is None else request.whole
    needs = needs_of(model, whole, size_of(model, request), dtype, vae=request.vae, device=device)
    plans = [plan for plan, _ in needs]
    peaks = {plan: each.peak for plan, each in needs}
    if now not in peaks:  # one that was asked for by its words
        peaks |= {
            plan: each.peak
            for plan, each in needs_of(model, whole, size_of(model, request), dtype, plans=[now], device=device)
        }
    after = plans[plans.index(now) + 1 :] if now in plans else plans
    for plan in after:
        if peaks[plan] < peaks[now] and (not begun or plan.goes_on_from(now)):
            return _under(replace(request, preset=whole), plan, plan.written)
    return None


def under_plan(request: "EngineRequest", plan: MemoryPlan) -> "EngineRequest":
    """The request of a film that goes on under another plan: its preset, and with it its memory, stays as it is."""
    return replace(request, plan=plan)


def let_go() -> None:
    """Give memory back that nobody holds any more, to the device too: what failed has just been forgotten."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def needs_of(
    model: ModelSpec,
    preset: Preset,
    size: tuple[int, int],
    dtype: "torch.dtype | None" = None,
    *,
    vae: str = "auto",
    device: str = "cuda",
    plans: Sequence[MemoryPlan] = PLANS,
) -> "list[tuple[MemoryPlan, Need]]":
    """What plans need for films of `size` (height, width) under a preset, of those that the preset can have.

    Args:
        model: of the catalogue, or of this disk.
        preset: as it is before a plan takes something of it.
        size: of the pictures.
        dtype: that the networks compute in; None: bfloat16.
        vae: as the flag is written: full, or a file, leaves out the plans with the tiny one, tiny the others.
        device: on a CPU, what lies aside lies in the same memory.
        plans: which.
    """
    import torch

    from pipelines.fit import need
    from weights.memory import SHARED

    dtype, config = dtype or torch.bfloat16, config_of(model)
    if vae == "tiny":
        plans = list(dict.fromkeys(replace(plan, decoder="tiny") for plan in plans))
    elif vae != "auto":
        plans = [plan for plan in plans if plan.decoder == "full"]
    found: list[tuple[MemoryPlan, Need]] = []
    for plan in plans:
        under = preset_under(plan, preset)
        if under is None:
            continue
        film = _film_of(config, under, size, dtype.itemsize)
        each = need(config, _decoder(config, plan), film, plan, text_encoder=UMT5_NUMBERS, dtype=dtype)
        if device in SHARED:
            each = replace(each, transformer=each.transformer + each.host, host=0)
        found.append((plan, each))
    return found


def size_of(model: ModelSpec, request: "EngineRequest") -> tuple[int, int]:
    """Height and width of the pictures that are asked for."""
    return request.height or model.size[0], request.width or model.size[1]


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


def _under(request: "EngineRequest", plan: MemoryPlan, written: str) -> "EngineRequest":
    """The request under a plan, and its preset with it; `whole` keeps the preset as it was."""
    preset = preset_under(plan, request.preset)
    if preset is None:
        raise UsageMistake(f"preset {request.preset.name!r} cannot be held as {written}: leave out int8 or window.")
    return replace(request, plan=plan, preset=preset, whole=request.preset)


def _film_of(config: Mapping[str, Any], preset: Preset, size: tuple[int, int], width: int) -> Any:
    """What of a film takes memory, in numbers of `width` bytes."""
    from pipelines.cost import kv_bytes, latent_size, token_grid
    from pipelines.fit import Film

    cost, latent = _steady(preset), latent_size(config, *size)
    forwards = [forward for chunk in cost.cycle for forward in chunk]
    queries = max(forward.queries for forward in forwards)
    return Film(
        latent,
        kv_bytes(config, token_grid(config, latent), cost, width, preset.kv_cache_dtype),
        queries,
        max(forward.keys for forward in forwards),
        max(cost.slots // cost.lanes, queries) + queries * cost.lanes,
        preset.chunk,
    )


@lru_cache(maxsize=32)  # a walk of hundreds of chunks, and most plans leave the preset as it is
def _steady(preset: Preset) -> Any:
    from pipelines.cost import steady

    return steady(preset)


def _decoder(config: Mapping[str, Any], plan: MemoryPlan) -> Mapping[str, Any]:
    """The released autoencoder of latents of so many channels."""
    from weights.shapes import WAN_22_VAE

    wide = config["in_channels"] == 48
    if plan.decoder == "tiny":
        return {"latent_channels": 48, "patch_size": 2} if wide else {}
    return WAN_22_VAE if wide else {}
