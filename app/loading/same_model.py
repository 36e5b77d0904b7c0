"""Same model on all ranks of a film: a hash of the weights in memory, and the versions that decide bits."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from app.errors import UsageMistake

if TYPE_CHECKING:
    from torch import nn


def compare(fingerprints: Sequence[tuple[str, str]]) -> None:
    """Raise UsageMistake unless all ranks have the same weights and versions, told by rank."""
    (weights, versions), *others = fingerprints
    for rank, (their_weights, their_versions) in enumerate(others, 1):
        if their_versions != versions:
            raise UsageMistake(
                f"Rank {rank} runs {their_versions}, and rank 0 {versions}. Install the same versions on every machine."
            )
        if their_weights != weights:
            raise UsageMistake(
                f"Rank {rank} has other weights ({their_weights[:12]}) than rank 0 ({weights[:12]}). Put the same "
                "files on every machine."
            )


def fingerprint(model: nn.Module) -> tuple[str, str]:
    """Of all weights as they are in memory, and the versions that decide bits, in words."""
    import torch

    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest(), ", ".join(f"{name} {_version(name)}" for name in ("rivulet", "python", "torch"))


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "not installed"
