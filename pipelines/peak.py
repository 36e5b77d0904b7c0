"""The peak of a device: operations a second of one large matrix product, measured."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch


def matmul_peak(device: str, dtype: torch.dtype, size: int | None = None, repeats: int = 10) -> float:
    """Floating-point operations a second of one large square matrix product, the median of some."""
    size = size or (8192 if device == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times: list[float] = []
    for turn in range(repeats + 2):
        synchronise(a.device)
        begun = perf_counter()
        torch.mm(a, b)
        synchronise(a.device)
        if turn >= 2:
            times.append(perf_counter() - begun)
    return 2 * size**3 / median(times)


def synchronise(device: torch.device) -> None:
    """Wait until a card has done what it was given; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
