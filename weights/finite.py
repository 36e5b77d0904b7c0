"""Whether weights are numbers at all: one NaN among a billion makes every film of them grey, and no error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from weights.plain_files import CheckpointError, few


def must_be_finite(tensors: Iterable[tuple[str, Tensor]], source: Path) -> None:
    """Refuse weights with a NaN or an infinity in them, which would make every film of them black or grey.

    Args:
        tensors: names and values as they will be used: a number that a narrower type cannot hold is infinite there.
        source: their file.

    Raises:
        CheckpointError: as said; the sentence names the first tensors and how many there are.
    """
    bad = [name for name, value in tensors if value.is_floating_point() and not _finite(value)]
    if bad:
        raise CheckpointError(f"{source} holds NaN or infinite numbers in {few(bad)}; fetch it again.")


def _finite(value: Tensor) -> bool:
    """One pass without a copy: a NaN wins both ends, an infinity one of them."""
    if value.numel() == 0:
        return True
    if value.dtype.itemsize == 1:  # which no reduction reads
        value = value.to(torch.float32)
    low, high = torch.aminmax(value)
    return bool(torch.isfinite(low) & torch.isfinite(high))
