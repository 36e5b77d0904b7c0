# pyright: standard
"""Profile of a model for its feature caches, a file beside it: what `rivulet profile` found out, and corrections.

One safetensors file: the corrections as a tensor, the rest as JSON in its header (cache/features/facts.py). It names
the model it is of by a sample of its weights, which a LoRA or another precision leaves nearly as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cache.features.facts import Facts
from models.wan import CausalWanTransformer3DModel
from weights.plain_files import CheckpointError, must_be_a_file
from weights.schema import validate

PROFILE_FILE = "profile.safetensors"
_FORMAT = 1
_SAME = 1e-2
"""Relative distance of two samples of the same weights in different precisions, at most."""


class _Header(BaseModel):
    """The fields of the header, strictly."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    layers: Annotated[int, Field(ge=1, le=1000)]
    levels: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=1, max_length=1000)]
    computed: Annotated[tuple[tuple[bool, ...], ...], Field(max_length=1000)]
    background: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1000)]
    coefficients: Annotated[tuple[float, ...], Field(max_length=8)]
    first: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """What is known of a model.

    Attributes:
        facts: in integers and a few numbers.
        corrections: factor and offset of every channel, [facts.corrections, 2, E], float32.
    """

    facts: Facts
    corrections: Tensor


def write_profile(profile: FeatureProfile, transformer: CausalWanTransformer3DModel, path: Path) -> None:
    """Write it for a model, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    header = {"format": str(_FORMAT), "facts": json.dumps(asdict(profile.facts))}
    tensors = {"corrections": profile.corrections.contiguous(), "sample": sample(transformer)}
    beside = path.with_name(path.name + ".new")
    try:
        save_file(tensors, beside, metadata=header)
        beside.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def read_profile(path: Path, transformer: CausalWanTransformer3DModel) -> FeatureProfile | None:
    """The profile of a model; None where there is no such file.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    if not (path.exists() or path.is_symlink()):
        return None
    must_be_a_file(path)
    anew = "run rivulet profile to make it anew"
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.keys())
            if header.get("format") != str(_FORMAT) or names != {"corrections", "sample"}:
                raise CheckpointError(f"{path} is no profile that this version reads; {anew}.")
            corrections: Tensor = file.get_tensor("corrections")
            theirs: Tensor = file.get_tensor("sample")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); {anew}.") from None
    try:
        told: Any = json.loads(header.get("facts", ""))
    except ValueError:
        raise CheckpointError(f"{path} is damaged: its facts are no JSON; {anew}.") from None
    facts = Facts(**validate(_Header, told, path).model_dump())
    fits = all(len(row) == len(facts.levels) and row[0] for row in facts.computed)
    if not fits or any(layer >= facts.layers for layer in facts.background) or facts.first >= facts.layers:
        raise CheckpointError(f"{path} contradicts itself; {anew}.")
    ours, width = sample(transformer), len(theirs)
    if facts.layers != transformer.config["num_layers"] or ours.shape != theirs.shape or not _alike(ours, theirs):
        raise CheckpointError(f"{path} is the profile of another model; {anew}, or take it away.")
    if corrections.shape != (facts.corrections, 2, width) or not bool(torch.isfinite(corrections).all()):
        raise CheckpointError(f"{path} is damaged: its corrections do not fit; {anew}.")
    return FeatureProfile(facts, corrections.float())


def sample(transformer: CausalWanTransformer3DModel) -> Tensor:
    """What tells one model's weights from another's: the mean modulation of its layers, [E], float32."""
    named = transformer.named_parameters()
    tables = [table for name, table in named if name.startswith("blocks.") and name.endswith("scale_shift_table")]
    return torch.stack([table.detach().float().cpu().mean((0, 1)) for table in tables]).mean(0).contiguous()


def _alike(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().mean()) <= _SAME * max(float(other.abs().mean()), 1e-12)
