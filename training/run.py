"""What every training stage shares: its clock, its curve, its averaged weights and its checkpoint.

Random numbers are addressed by (seed, step), so that a run resumed after a kill draws what it would have drawn.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Clock:
    """Progress of a run that is bounded by steps or by minutes of wall clock, whichever was asked for.

    A run bounded by steps repeats exactly; one bounded by minutes fits its learning rate to the time it has, so two
    machines end at different steps. Either may be trained in several sittings.
    """

    steps: int | None = None
    minutes: float | None = None
    sitting: float | None = None
    """Minutes from now on after which this sitting ends, wherever the run is then."""
    step: int = 0
    seconds_before: float = 0.0
    processor_before: float = 0.0
    _started: float = field(default_factory=lambda: time.monotonic())
    _used: float = field(default_factory=lambda: time.process_time())

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("Give either steps or minutes, and not both.")

    @property
    def seconds(self) -> float:
        """Wall-clock seconds trained so far, earlier sittings included."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def processor_seconds(self) -> float:
        """Processor seconds trained so far, earlier sittings included: what a run costs, whoever shares the machine."""
        return self.processor_before + time.process_time() - self._used

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.step / self.steps)
        assert self.minutes is not None
        return min(1.0, self.seconds / (60.0 * self.minutes))

    @property
    def done(self) -> bool:
        """Whether the run or this sitting is over."""
        over = self.sitting is not None and time.monotonic() - self._started >= 60.0 * self.sitting
        return over or self.progress >= 1.0


def learning_rate(peak: float, step: int, progress: float, warmup: int, floor: float = 0.02) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `floor * peak` over the run."""
    cosine = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * cosine * min(1.0, (step + 1) / max(1, warmup))


def steady_rate(peak: float, step: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then `peak` for as long as the run goes: its end need not be known."""
    return peak * min(1.0, (step + 1) / max(1, warmup))


def cooling_rate(peak: float, progress: float) -> float:
    """From `peak` to nothing along a straight line: what settles a run at a steady rate (arXiv 2405.18392)."""
    return peak * (1.0 - progress)


@cache
def multiplies_bf16(device: str) -> bool:
    """Whether bf16 is quicker there than float32: a processor without instructions for it takes twice as long.

    Args:
        device: "cpu" or "cuda".
    """
    if device != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not say: float32 is right there
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: str, *, cache_enabled: bool = True) -> AbstractContextManager[Any]:
    """Work in bf16 where that is quicker (`multiplies_bf16`), in float32 elsewhere."""
    return torch.autocast(device, torch.bfloat16, enabled=multiplies_bf16(device), cache_enabled=cache_enabled)


def step_seed(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random generator of one step of one run, for one purpose."""
    return np.random.default_rng([seed, step, *purpose.encode()])


class Ema:
    """Exponential moving average of a module's floating-point weights, with a warm-up of its own."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone().float() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))  # young averages must forget the initialisation
        state = module.state_dict()
        names = list(self.shadow)
        torch._foreach_lerp_([self.shadow[n] for n in names], [state[n].float() for n in names], 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.shadow = {name: value.to(self.shadow[name].device, copy=True) for name, value in state.items()}


class Curve:
    """The loss curve of a run, one JSON object a line, appended to across restarts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}) + "\n")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill in the middle leaves the one before it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    torch.save(state, part)
    part.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None when the run has none yet."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
