"""What becomes of a row's latents after a pass: the functions that `Row.step` names.

They take sigmas as Python floats, one a frame, because frames of one row may stand at different levels (joint
windows, moving buffers); the small tensors made of them are kept, so a steady stream makes none and waits for
no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from schedulers.flow_match import add_noise, check_row, euler_step, per_frame
from schedulers.unipc import Past, unipc


@lru_cache(maxsize=1024)
def sigma_row(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The sigmas of one row's frames as a float32 tensor [1, F]; kept, so do not write to it."""
    with torch.inference_mode(mode=False):  # kept for training too, whoever asks first
        return torch.tensor([values], dtype=torch.float32, device=device)


@lru_cache(maxsize=1024)
def _ends(mask: tuple[bool, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor([mask], dtype=torch.bool, device=device)


class Step(Protocol):
    """The one signature.

    Args:
        x: latents as they went into the pass, [B, F, C, H, W].
        flow: what the model said, same shape.
        x0: the clean frames that follow from it, same shape.
        sigma_from: sigma of each frame of `x`.
        sigma_to: sigma each frame goes to; None where a frame ends here, at its x0.
        noise: fresh noise, same shape, for steps that need it.
        past: the row's earlier passes, oldest first; a multistep solver reads and adds to it.

    Returns:
        The latents of the next pass, in the dtype of `x`.
    """

    def __call__(
        self,
        x: Tensor,
        flow: Tensor,
        x0: Tensor,
        sigma_from: Sequence[float],
        sigma_to: Sequence[float | None],
        noise: Tensor | None = None,
        past: list[Past] | None = None,
    ) -> Tensor: ...


def _finish(moved: Tensor, x0: Tensor, sigma_to: Sequence[float | None]) -> Tensor:
    """`moved`, but x0 for the frames that end here."""
    if all(sigma is not None for sigma in sigma_to):
        return moved
    ends = _ends(tuple(sigma is None for sigma in sigma_to), moved.device)
    return torch.where(per_frame(ends, moved), x0, moved)


def renoise(
    x: Tensor,
    flow: Tensor,
    x0: Tensor,
    sigma_from: Sequence[float],
    sigma_to: Sequence[float | None],
    noise: Tensor | None = None,
    past: list[Past] | None = None,
) -> Tensor:
    """Noise the clean estimate afresh to the next level (Song et al. 2023, arXiv 2303.01469, algorithm 1)."""
    check_row(x, sigma_from, sigma_to)
    if all(sigma is None for sigma in sigma_to):
        return x0
    if noise is None or noise.shape != x0.shape:
        got = "none" if noise is None else str(tuple(noise.shape))
        raise ValueError(f"renoise needs noise of shape {tuple(x0.shape)}, got {got}")
    target = sigma_row(tuple(0.0 if sigma is None else sigma for sigma in sigma_to), x.device)
    return _finish(add_noise(x0, noise, target).to(x.dtype), x0, sigma_to)


def euler(
    x: Tensor,
    flow: Tensor,
    x0: Tensor,
    sigma_from: Sequence[float],
    sigma_to: Sequence[float | None],
    noise: Tensor | None = None,
    past: list[Past] | None = None,
) -> Tensor:
    """Follow the flow in a straight line to the next level; deterministic, `noise` is not used."""
    check_row(x, sigma_from, sigma_to)
    if all(sigma is None for sigma in sigma_to):
        return x0
    source = sigma_row(tuple(sigma_from), x.device)
    target = sigma_row(tuple(0.0 if sigma is None else sigma for sigma in sigma_to), x.device)
    return _finish(euler_step(x, flow, source, target), x0, sigma_to)


def none(
    x: Tensor,
    flow: Tensor,
    x0: Tensor,
    sigma_from: Sequence[float],
    sigma_to: Sequence[float | None],
    noise: Tensor | None = None,
    past: list[Past] | None = None,
) -> Tensor:
    """Leave the latents as they are (a pass run for its memory); frames that end here become their x0."""
    check_row(x, sigma_from, sigma_to)
    return _finish(x, x0, sigma_to) if any(sigma is None for sigma in sigma_to) else x


STEPS: dict[str, Step] = {"renoise": renoise, "euler": euler, "unipc": unipc, "none": none}


def get_step(name: str) -> Step:
    """The step function of that name; ValueError with the choices and the nearest one."""
    if name in STEPS:
        return STEPS[name]
    near = get_close_matches(name, STEPS, n=1, cutoff=0.0)
    raise ValueError(f"unknown step {name!r}: choose one of {', '.join(STEPS)} (nearest: {near[0]})")
