"""Precision of a device: the finest floating type it computes in.

Angles and the step to the clean picture are computed as finely as the device can, because the released systems are
reproduced to a few parts in a million. Apple's GPUs have no float64; there it is float32, and the last digits differ.
"""

from __future__ import annotations

import torch

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that refuse a tensor of float64."""


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has none."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64
