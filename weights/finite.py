"""Whether weights are numbers at all: one NaN among a billion makes every film of them grey, and no error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from weights.plain_files import CheckpointError, few

LARGEST = 1e18
"""Past it a square is infinite in float32, and every norm takes squares."""


def must_be_finite(tensors: Iterable[tuple[str, Tensor]], source: Path) -> None:
    """Refuse weights with a NaN, an infinity or a number like one, which would make every film of them black or grey.

    Args:
        tensors: names and values as they will be used: a number that a narrower type cannot hold is infinite there.
        source: their file.

    Raises:
        CheckpointError: as said; the sentence names the first tensors and how many there are.
    """
    bad: list[str] = []
    count = 0
    for name, value in tensors:
        count += 1
        if value.is_floating_point() and not _finite(value):
            bad.append(name)
    if bad:
        raise CheckpointError(
            f"{source} holds NaN or infinite numbers in {few(bad)} ({len(bad)} of {count} tensors); fetch it again."
        )


def _finite(value: Tensor) -> bool:
    """One pass without a copy: a NaN wins both ends, an infinity one of them."""
    if value.numel() == 0:
        return True
    if value.dtype.itemsize == 1:  # which no reduction reads
        value = value.to(torch.float32)
    low, high = torch.aminmax(value)
    return max(-float(low), float(high)) < LARGEST and float(low) == float(low)  # a NaN equals nothing
