"""How far a figure from a few films can be trusted: nine right of ten say less than 180 of 200."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959964
"""Of a standard normal, 95 % lie within so many deviations."""

_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09)
"""Student's t at 95 %, for 1, 2, 3 ... degrees of freedom; `Z` is near enough beyond."""


def share(right: int, of: int) -> dict[str, Any]:
    """So many of so many, with Wilson's 95 % interval (Wilson 1927), which holds near 0 and 1 too.

    Returns:
        "right", "of", and "share", "low" and "high" (NaN of none).
    """
    if of == 0:
        return {"right": 0, "of": 0, "share": math.nan, "low": math.nan, "high": math.nan}
    part = right / of
    middle = (part + Z**2 / (2 * of)) / (1 + Z**2 / of)
    reach = Z / (1 + Z**2 / of) * math.sqrt(part * (1 - part) / of + Z**2 / (4 * of**2))
    return {"right": right, "of": of, "share": part, "low": max(0.0, middle - reach), "high": min(1.0, middle + reach)}


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean of second - first over pairs, with the ends of Student's 95 % interval; None of fewer than two pairs."""
    if len(first) < 2:
        return None
    gap = np.subtract(second, first)
    factor = _T[len(gap) - 2] if len(gap) - 2 < len(_T) else Z
    reach = factor * float(gap.std(ddof=1)) / math.sqrt(len(gap))
    middle = float(gap.mean())
    return middle, middle - reach, middle + reach
