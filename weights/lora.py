"""LoRA files over a model: merged into its weights, or beside them as a live adapter; either way the same film.

Merged before streaming, because the released scripts run 300 live adapters every pass for a result that one
addition gives once, and because a quantised weight cannot be adapted any more. A live adapter can be switched.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weights.finite import must_be_finite
from weights.lora_file import Factors, read_lora
from weights.plain_files import CheckpointError, few


def lora_tensors(
    path: str | Path, model: nn.Module, *, alpha: float | None = None, weight: float = 1.0
) -> dict[str, Tensor]:
    """A LoRA as PEFT's state dict over the module names of `model`: `blocks.0.attn1.to_q.lora_A.weight`.

    The scale is folded into the second factors, so that what comes back has alpha = rank, float32.

    Args:
        path: the LoRA's file, in any layout of weights/lora_file.py.
        model: with diffusers' names.
        alpha: as in `merge_lora`.
        weight: as in `merge_lora`.

    Raises:
        FileNotFoundError, CheckpointError: as `merge_lora`, or the file has differences that are no factors.
    """
    path = Path(path)
    lora = read_lora(path, model, alpha=alpha)
    if lora.whole:
        raise CheckpointError(
            f"{path} has whole differences for {len(lora.whole)} parameters ({few(sorted(lora.whole))}), which a live "
            "adapter cannot carry; merge it instead."
        )
    tensors: dict[str, Tensor] = {}
    for module, factors in lora.factors.items():
        tensors[f"{module}.lora_A.weight"] = factors.a.float().contiguous()
        tensors[f"{module}.lora_B.weight"] = (weight * factors.scale * factors.b.float()).contiguous()
    return tensors


def attach_lora(model: Any, path: str | Path, name: str, *, alpha: float | None = None, weight: float = 1.0) -> int:
    """Load a LoRA as a live adapter of `model`, which diffusers' `disable_adapters`, `set_adapters` ... then switch.

    Args:
        model: a diffusers model.
        path: as in `merge_lora`.
        name: of the adapter.
        alpha: as in `merge_lora`.
        weight: as in `merge_lora`.

    Returns:
        How many modules it adapts.

    Raises:
        ValueError: PEFT is not installed.
        FileNotFoundError, CheckpointError: as `lora_tensors`. Nothing is changed in that case.
    """
    if find_spec("peft") is None:
        raise ValueError("A live LoRA needs peft, which is not installed here; run: pip install -e '.[lora]'")
    tensors = lora_tensors(path, model, alpha=alpha, weight=weight)
    model.load_lora_adapter(tensors, prefix=None, adapter_name=name)
    return len(tensors) // 2


@torch.no_grad()
def merge_lora(model: nn.Module, path: str | Path, *, alpha: float | None = None, weight: float = 1.0) -> int:
    """Add a LoRA to the weights of `model` in place: W += weight * alpha / rank * (B @ A), in float64, rounded once.

    Whole differences (`.diff`, `.diff_b`, `.diff_m`) are added as weight * difference.

    Args:
        model: a transformer with diffusers' names; its dtype and device stay.
        path: the LoRA's file, in any layout of weights/lora_file.py.
        alpha: what it was trained with, where the file does not say; None = the rank, that is scale 1.
        weight: how much of it to add, 1 = as trained.

    Returns:
        How many parameters changed.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, no plain LoRA, or made for another model. Nothing is changed in that case.
    """
    path = Path(path)
    lora = read_lora(path, model, alpha=alpha)
    parameters = {name.replace(".base_layer.", "."): value for name, value in model.named_parameters()}
    merged: dict[str, Tensor] = {}
    for name in dict.fromkeys([*(f"{module}.weight" for module in lora.factors), *lora.whole]):
        parameter, factors = parameters[name], lora.factors.get(name.removesuffix(".weight"))
        value = parameter.double()
        if factors is not None and name.endswith(".weight"):
            value = value + _delta(factors, parameter, weight)
        if name in lora.whole:
            value = value + weight * lora.whole[name].to(parameter.device, torch.float64)
        merged[name] = value.to(parameter.dtype)
    must_be_finite(((f"its sum with {name}", value) for name, value in merged.items()), path)
    for name, value in merged.items():
        parameters[name].copy_(value)
    return len(merged)


def _delta(factors: Factors, like: Tensor, weight: float) -> Tensor:
    a, b = (factor.to(like.device, torch.float64).flatten(1) for factor in (factors.a, factors.b))
    return (weight * factors.scale) * (b @ a).view(like.shape)
