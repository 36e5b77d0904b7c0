"""Host copy: a few numbers of the device, brought to the host while it works, and waited for when they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The newest numbers that were sent.

    Args:
        count: how many.
        device: where they come from.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._held = torch.zeros(count, pin_memory=device.type == "cuda")
        events = {"cuda": torch.cuda.Event, "mps": torch.mps.event.Event}
        self._arrived = events[device.type]() if device.type in events else None

    def send(self, numbers: Tensor) -> None:
        """Let them come, [count] or a single one; nobody waits."""
        self._held.copy_(numbers, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> list[float]:
        """What was sent last; waits for it if it must."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(number) for number in self._held]
