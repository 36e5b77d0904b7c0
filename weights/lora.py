"""LoRA files of the causal systems: read, renamed for diffusers, merged.

Merged before streaming, because the released scripts run 300 live adapters every pass for a result that one
addition gives once, and because a quantised weight cannot be adapted any more. To keep an adapter switchable,
hand `lora_tensors` to diffusers' `load_lora_adapter` instead (needs the extra `lora`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weights.load import CheckpointError, read_pickle, read_tensors
from weights.remap import unwrap_key

_SIDES = (".lora_A.weight", ".lora_B.weight")


def lora_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a LoRA and give it diffusers' names: `transformer.blocks.0.attn1.to_q.lora_A.weight`.

    Understands PEFT's state dicts over original Wan names, nested under `generator_lora` (LongLive) or flat,
    and `diffusion_model.` files. Stored alphas are folded into the factors, so what comes back has scale 1
    unless the file says nothing, where alpha is the user's to know (see `merge_lora`).

    Raises:
        CheckpointError: the file is damaged, or is no LoRA of a Wan transformer.
    """
    path = Path(path)
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if isinstance(content, dict):
        content = content.get("generator_lora", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is not a state dict of tensors; use the file with the LoRA.")
    if not any(".lora_" in str(key) for key in content):
        raise CheckpointError(f"{path} has no lora_A or lora_B in its names; use the file with the LoRA.")
    names = {_bare(str(key)): value for key, value in content.items()}
    if not any("self_attn" in key or "cross_attn" in key or ".ffn.0." in key for key in names):
        return {f"transformer.{key}": value for key, value in names.items()}
    # diffusers' own table of names for LoRAs; private, so tests/test_weights.py pins it.
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers

    try:
        return _convert_non_diffusers_wan_lora_to_diffusers({f"diffusion_model.{k}": v for k, v in names.items()})
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is no LoRA of a Wan transformer ({error}); use another file.") from error


@torch.no_grad()
def merge_lora(model: nn.Module, path: str | Path, *, alpha: float | None = None, weight: float = 1.0) -> int:
    """Add a LoRA to the weights of `model` in place: W += weight * alpha / rank * (B @ A), summed in float32.

    Args:
        model: a transformer with diffusers' names; its dtype and device stay.
        path: the LoRA's file (see `lora_tensors`).
        alpha: what it was trained with, where the file does not say; None = the rank, that is scale 1.
        weight: how much of it to add, 1 = as trained.

    Returns:
        How many matrices changed.

    Raises:
        CheckpointError: a target is unknown, has another shape, or misses one of its factors. Nothing is
            changed in that case.
    """
    tensors = lora_tensors(path)
    targets = sorted({key.removesuffix(side) for key in tensors for side in _SIDES if key.endswith(side)})
    strangers = sorted(tensors.keys() - {target + side for target in targets for side in _SIDES})
    if strangers:
        raise CheckpointError(f"{path} has {strangers[0]}, more than plain LoRA factors; export it as plain LoRA.")
    parameters = dict(model.named_parameters())
    updates: list[tuple[Tensor, Tensor]] = []
    for target in targets:
        name = target.removeprefix("transformer.") + ".weight"
        missing = [side for side in _SIDES if target + side not in tensors]
        if missing:
            raise CheckpointError(f"{path} has no {target}{missing[0]}; fetch the file again.")
        if name not in parameters:
            raise CheckpointError(f"{path} adapts {name}, which {type(model).__name__} has not; use its own LoRA.")
        parameter = parameters[name]
        a, b = (tensors[target + side].to(parameter.device, torch.float32) for side in _SIDES)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != parameter.shape:
            raise CheckpointError(
                f"{path} adapts {name} {list(parameter.shape)} with {list(b.shape)} x {list(a.shape)}; "
                "use the LoRA of this model's size."
            )
        scale = weight if alpha is None else weight * alpha / a.shape[0]
        updates.append((parameter, (parameter.float() + scale * (b @ a)).to(parameter.dtype)))
    for parameter, merged in updates:
        parameter.copy_(merged)
    return len(updates)


def _bare(key: str) -> str:
    """`base_model.model.model.blocks.0.ffn.0.lora_A.default.weight` -> `blocks.0.ffn.0.lora_A.weight`."""
    for prefix in ("base_model.model.", "diffusion_model.", "transformer."):
        key = key.removeprefix(prefix)
    return unwrap_key(key).replace(".default.", ".")
