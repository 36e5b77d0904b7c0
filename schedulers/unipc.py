"""UniPC: a multistep solver that corrects each step with what the next pass says (Zhao et al. 2023, arXiv 2302.04867).

Order 2, variant B(h) = exp(h) - 1, predicting clean frames, for flow matching where the signal's share is 1 - sigma:
the solver of Wan and of LongLive 2. All sigmas are known before the run, so the weights are computed on the host in
float64 and a step is a few multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import expm1, inf, log
from typing import NamedTuple

import torch
from torch import Tensor

from schedulers.flow_match import check_row, per_frame


class Past(NamedTuple):
    """What the solver remembers of an earlier pass of a row: sigma of each frame, clean estimate, latents."""

    sigma: tuple[float, ...]
    x0: Tensor
    x: Tensor


@dataclass(frozen=True, slots=True)
class UniPCSchedule:
    """The sigmas of so many steps, and the whole timesteps that the model is told for them.

    Attributes:
        steps: passes.
        shift: k in s' = k * s / (1 + (k - 1) * s).
        num_train_timesteps: what a sigma of 1 is called.
    """

    steps: int = 4
    shift: float = 5.0
    num_train_timesteps: int = 1000

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Descending, above 0."""
        first, last = 1.0 - 1.0 / self.num_train_timesteps, 0.0
        plain = [first + (last - first) * index / self.steps for index in range(self.steps)]
        return tuple(self.shift * s / (1 + (self.shift - 1) * s) for s in plain)

    @property
    def levels(self) -> tuple[float, ...]:
        """What the model is told: 1000 * sigma without its fraction."""
        return tuple(float(int(sigma * self.num_train_timesteps)) for sigma in self.sigmas)

    def sigma(self, timestep: float) -> float:
        """The sigma behind one of `levels`; 0 is clean. ValueError for a timestep that is no level of this run."""
        if timestep == 0.0:
            return 0.0
        levels = self.levels
        if timestep not in levels:
            raise ValueError(f"timestep {timestep:g} is none of this schedule's: {', '.join(f'{t:g}' for t in levels)}")
        return self.sigmas[levels.index(timestep)]


def unipc(
    x: Tensor,
    flow: Tensor,
    x0: Tensor,
    sigma_from: Sequence[float],
    sigma_to: Sequence[float | None],
    noise: Tensor | None = None,
    past: list[Past] | None = None,
) -> Tensor:
    """Correct where the last step arrived, then follow the flow from there; deterministic, `noise` is not used.

    Both are of order 2, and of order 1 while only one pass is known; a frame that ends here becomes its x0. Without
    `past` it is a single step of order 1. In at least float32.
    """
    check_row(x, sigma_from, sigma_to)
    past = [] if past is None else past
    here, target = tuple(sigma_from), tuple(0.0 if sigma is None else sigma for sigma in sigma_to)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if past:
        last, *older = past[:-3:-1]
        weights = zip(here, last.sigma, *(each.sigma for each in older), strict=True)
        latents = [last.x, x0, last.x0, *(each.x0 for each in older)]
        x = _mix(latents, [_corrector(*sigmas) for sigmas in weights], dtype)
    known = past[-1:]
    weights = zip(target, here, *(each.sigma for each in known), strict=True)
    after = _mix([x, x0, *(each.x0 for each in known)], [_predictor(*sigmas) for sigmas in weights], dtype)
    past.append(Past(here, x0, x))
    return after.to(x0.dtype)


def _mix(tensors: Sequence[Tensor], weights: Sequence[tuple[float, ...]], dtype: torch.dtype) -> Tensor:
    """The sum of the tensors, each frame with weights of its own."""
    columns = _columns(tuple(weights), dtype, tensors[0].device)
    first, *others = (per_frame(column, tensor) * tensor for column, tensor in zip(columns, tensors, strict=True))
    return sum(others, start=first)


@lru_cache(maxsize=256)
def _columns(weights: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """[1, F] for each tensor of a mix; kept, so that a steady stream copies none to the device."""
    with torch.inference_mode(mode=False):  # kept for training too, whoever asks first
        return tuple(torch.tensor(weights, dtype=dtype, device=device).T[:, None].unbind(0))


def _lambda(sigma: float) -> float:
    """The logarithm of signal over noise, where the signal's share is 1 - sigma."""
    return -inf if sigma == 1.0 else log(1.0 - sigma) - log(sigma)


def _predictor(to: float, here: float, before: float | None = None) -> tuple[float, ...]:
    """Weights of the latents here, of x0 here, and of x0 one pass before, for the latents at sigma `to`.

    The first two alone are the straight line; the third bends it by what x0 changed.
    """
    reach = 1.0 - to / here  # (1 - to) * (1 - exp(-h)), where h is the step in lambda
    if before is None:
        return to / here, reach
    if to == 0.0:
        return 0.0, 1.0, 0.0
    ratio = (_lambda(before) - _lambda(here)) / (_lambda(to) - _lambda(here))
    bend = 0.5 * reach / ratio
    return to / here, reach - bend, bend


def _corrector(here: float, before: float, first: float | None = None) -> tuple[float, ...]:
    """Weights of the corrected latents one pass before, of x0 here, before, and one pass before that.

    The paper's coefficients rho solve a system of as many equations as x0 are known before.
    """
    reach = 1.0 - here / before
    if first is None:
        return here / before, 0.5 * reach, 0.5 * reach
    step = _lambda(here) - _lambda(before)
    ratio = (_lambda(first) - _lambda(before)) / step
    phi_1 = expm1(-step)
    phi_2 = phi_1 / -step - 1.0
    phi_3 = phi_2 / -step - 0.5
    b_1, b_2 = phi_2 / phi_1, 2.0 * phi_3 / phi_1
    rho = (b_1 - b_2) / (1.0 - ratio)
    rho_here, bend = b_1 - rho, rho / ratio
    return here / before, reach * rho_here, reach * (1.0 - rho_here - bend), reach * bend
