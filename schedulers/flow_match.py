"""Shifted flow-matching tables: which sigma a timestep means, and how noisy, clean and flow convert.

Every released causal Wan model was distilled against one table of 1000 shifted sigmas and looks a timestep up
by nearest entry, so parity asks for that very table, in float32, and not for the formula behind it. Flow
matching: Lipman et al. 2022 (arXiv 2210.02747); the shift: Esser et al. 2024 (SD3, arXiv 2403.03206); table,
nearest lookup and warped step lists: Self-Forcing, Huang et al. 2025 (arXiv 2506.08009).

Words: x_s = (1 - s) * x0 + s * noise; the flow is noise - x0; a timestep is 1000 * s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cache.precision import finest


def per_frame(sigma: Tensor, like: Tensor) -> Tensor:
    """`sigma`, whose axes are the leading ones of `like`, with trailing axes of size 1 added."""
    if sigma.ndim > like.ndim:
        raise ValueError(f"sigma has {sigma.ndim} axes, the latents only {like.ndim}: give one value a frame")
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim))


def check_row(x: Tensor, sigma_from: Sequence[float], sigma_to: Sequence[float | None]) -> None:
    """Raise ValueError unless each frame of `x` has a sigma before and after a step."""
    if not x.shape[1] == len(sigma_from) == len(sigma_to):
        raise ValueError(
            f"a row of {x.shape[1]} frames needs a sigma before and after for each, "
            f"got {len(sigma_from)} and {len(sigma_to)}"
        )


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mix clean frames with noise: (1 - sigma) * x0 + sigma * noise.

    Args:
        x0: clean latents, [B, F, C, H, W] or any shape that begins with sigma's.
        noise: same shape.
        sigma: 0..1, the leading axes of `x0` ([B, F], [1, F] or [B * F]); computed in at least float32.

    Returns:
        The mixture in the dtype of `noise`.
    """
    s = per_frame(sigma.to(torch.promote_types(x0.dtype, torch.float32)), x0)
    return ((1 - s) * x0 + s * noise).to(noise.dtype)


def to_x0(x: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """The clean frames that a flow points at: x - sigma * flow, as finely as the device can, in the dtype of `x`."""
    finely = finest(x.device)
    return (x.to(finely) - per_frame(sigma.to(finely), x) * flow.to(finely)).to(x.dtype)


def euler_step(x: Tensor, flow: Tensor, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
    """Follow the flow from one sigma to the next: x + flow * (sigma_to - sigma_from), in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    change = per_frame((sigma_to.to(dtype) - sigma_from.to(dtype)), x)
    return (x + flow * change).to(x.dtype)


@dataclass(frozen=True, slots=True)
class FlowMatchSchedule:
    """A descending table of sigmas and the lookups into it. It has no state: every call names its timestep.

    Attributes:
        shift: k in s' = k * s / (1 + (k - 1) * s); larger means more steps at high noise. 5 in the released
            few-step Wan models, 8 in StreamDiffusionV2, 3 is the scheduler's own default.
        num_train_timesteps: length of the table; a timestep is this times sigma.
        sigma_min: the unshifted end of the table.
        sigma_max: the unshifted start of the table.
        extra_one_step: leave the end point itself out (one more point is spaced, and dropped).
    """

    shift: float = 5.0
    num_train_timesteps: int = 1000
    sigma_min: float = 0.0
    sigma_max: float = 1.0
    extra_one_step: bool = True

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if not 0 <= self.sigma_min < self.sigma_max <= 1:
            raise ValueError(f"sigmas must satisfy 0 <= min < max <= 1, got {self.sigma_min} and {self.sigma_max}")
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps must be at least 2, got {self.num_train_timesteps}")

    def table(self, num_inference_steps: int) -> tuple[Tensor, Tensor]:
        """Sigmas and timesteps of a sampler with so many steps, descending, float32 [num_inference_steps].

        The tensors are on the CPU, made once and shared: do not write to them.
        """
        if num_inference_steps < 1:
            raise ValueError(f"a table needs at least one step, got {num_inference_steps}")
        return _table(self, num_inference_steps)

    @property
    def sigmas(self) -> Tensor:
        """The table that lookups use, float32 [num_train_timesteps], descending; the last one is not 0."""
        return self.table(self.num_train_timesteps)[0]

    @property
    def timesteps(self) -> Tensor:
        """1000 * sigmas, float32."""
        return self.table(self.num_train_timesteps)[1]

    def warp(self, listed: Sequence[float]) -> list[float]:
        """Timesteps of a list of unshifted steps: [1000, 750, 500, 250] -> 1000, 937.5, 833.33, 625.

        Args:
            listed: numbers from num_train_timesteps down to 0, as released configs write them; a final 0 names the end
                and is no step of its own.

        Raises:
            ValueError: a number is outside the table.
        """
        listed = self.without_zero(listed)
        for number in listed:
            if not 0 <= number <= self.num_train_timesteps or number != int(number):
                raise ValueError(
                    f"step {number} is not a whole number in 0..{self.num_train_timesteps}: "
                    "write the unwarped list, such as [1000, 750, 500, 250]"
                )
        table, steps = self.timesteps, self.num_train_timesteps
        return [float(table[steps - int(number)]) if number else 0.0 for number in listed]

    @staticmethod
    def without_zero(listed: Sequence[float]) -> list[float]:
        """The list without a final 0."""
        return list(listed[:-1] if listed and listed[-1] == 0 else listed)

    def sigma(self, timestep: float) -> float:
        """The table's sigma nearest to a timestep in 0..1000; 0 gives the last entry, which is above 0.

        A host lookup on a Python float, so that the loop never waits for a device.
        """
        return _nearest(self, float(timestep))


@lru_cache(maxsize=32)
def _table(schedule: FlowMatchSchedule, steps: int) -> tuple[Tensor, Tensor]:
    points = steps + 1 if schedule.extra_one_step else steps
    with torch.inference_mode(mode=False):  # kept for training too, whoever asks first
        base = torch.linspace(schedule.sigma_max, schedule.sigma_min, points, dtype=torch.float32, device="cpu")
        base = base[:steps]
        sigmas = schedule.shift * base / (1 + (schedule.shift - 1) * base)
        sigmas = sigmas.clamp(max=1.0)  # shifts such as 2.18 round to above 1, which is no noise level
        return sigmas, sigmas * schedule.num_train_timesteps


@lru_cache(maxsize=4096)
def _nearest(schedule: FlowMatchSchedule, timestep: float) -> float:
    if not 0 <= timestep <= schedule.num_train_timesteps:
        raise ValueError(f"timestep {timestep} is outside 0..{schedule.num_train_timesteps}")
    return float(schedule.sigmas[int((schedule.timesteps - timestep).abs().argmin())])
