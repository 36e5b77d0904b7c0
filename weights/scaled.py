"""Scaled fp8 and int8 weights: numbers of one byte with their scales beside them, as full ones when they are read.

ComfyUI writes `X.scale_weight` and the marker `scaled_fp8`, later versions `X.weight_scale` and `X.comfy_quant`; other
tools a scale a row. Scales of activations (`scale_input`, `input_scale`) are for arithmetic in fp8, which is not done
here, and change no weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from weights.plain_files import CheckpointError, few, parse_json, shown
from weights.stored import Stored, Tensors

_SCALE = re.compile(r"(.+)\.(scale_weight|weight_scale)$")
_ASIDE = re.compile(r"(^|\.)scaled_fp8$|\.(scale_input|input_scale|comfy_quant)$")
_FORMS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
_MOST_TEXT = 4096


def unscaled(tensors: Tensors, source: Path) -> Tensors:
    """The same tensors with every scale taken into its weight; unchanged where there are none.

    Args:
        tensors: by name, prefixes dropped.
        source: their file, for sentences.

    Raises:
        CheckpointError: a scale without its weight, of another shape, or a form of quantisation that is not read.
    """
    scales = {match.group(1): name for name in tensors if (match := _SCALE.fullmatch(name))}
    alone = sorted(name for stem, name in scales.items() if f"{stem}.weight" not in tensors)
    if alone:
        raise CheckpointError(
            f"{source} has {few(alone)} without the weight it scales ({len(alone)} of {len(scales)}); fetch it again."
        )
    for name in tensors:
        if name.endswith(".comfy_quant"):
            _must_be_known(name, tensors[name], source)
    found: Tensors = {}
    for name, stored in tensors.items():
        if _SCALE.fullmatch(name) or _ASIDE.search(name):
            continue
        scale = scales.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        found[name] = stored if scale is None else _times(name, stored, tensors[scale], source)
    return found


def _times(name: str, stored: Stored, scale: Stored, source: Path) -> Stored:
    numbers = 1
    for side in scale.shape:
        numbers *= side
    if numbers != 1 and (not stored.shape or numbers != stored.shape[0] or scale.shape[0] != stored.shape[0]):
        raise CheckpointError(
            f"{source} scales {shown(name)} {list(stored.shape)} by {list(scale.shape)}, and one scale, or one a row, "
            "is read here; take the same model's bf16 or fp16 weights instead."
        )
    return Stored(torch.float32, stored.shape, _product(stored, scale), stored.place, stored.size)


def _product(stored: Stored, scale: Stored) -> Callable[[], Tensor]:
    def read() -> Tensor:
        weight, factor = stored.read().to(torch.float32), scale.read().to(torch.float32).reshape(-1)
        return weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)) if factor.numel() > 1 else factor)

    return read


def _must_be_known(name: str, stored: Stored, source: Path) -> None:
    try:
        if stored.size > _MOST_TEXT:
            raise ValueError("it is too long")
        told = parse_json(bytes(stored.read().reshape(-1).view(torch.uint8).tolist()))
        form = told.get("format") if isinstance(told, dict) else None
    except ValueError as error:
        raise CheckpointError(f"{source}: {shown(name)} cannot be read ({shown(error)}); fetch it again.") from error
    if form not in _FORMS:
        raise CheckpointError(
            f"{source} holds weights quantised as {shown(form, 40)} ({shown(name)}), which are not read here; take the "
            "same model's bf16, fp16 or fp8 weights instead."
        )
