"""Distils the guided many-step transformer into one that needs few steps and no guidance.

Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512) along one ladder of noise levels: a step of the
student goes where two guided steps of its teacher go (guidance as of Meng et al. 2022, arXiv 2210.03142). Joint and
diffusion-forced windows, whose levels are other plans' own, learn the guided flow itself. A chunk then costs 4 passes
and the clean one instead of 16 and the clean one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.dit import Denoiser, load_denoiser, train_dit
from training.sample import sigmas
from training.windows import Batch

STEPS, GUIDANCE = 4, 3.0
"""Of the student, and of its teacher."""
RATE = 0.3
"""Times the learning rates of the first training: the student begins as its teacher."""


class Teacher:
    """Says where the guided teacher goes from each noisy frame.

    Args:
        model: the teacher.
        steps: of the student.
        guidance: of the teacher; 1 = none.
    """

    def __init__(self, model: Denoiser, steps: int = STEPS, guidance: float = GUIDANCE) -> None:
        self.model = model.eval().requires_grad_(False)
        self.guidance = guidance
        ladder = sigmas(2 * steps)
        self.levels: Sequence[float] = ladder[:-1:2].tolist()
        """The student's noise levels, from 1 downwards, without 0."""
        self._from, self._middle, self._to = ladder[:-1:2], ladder[1::2], ladder[2::2]

    @torch.no_grad()
    def __call__(self, batch: Batch, noisy: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
        """The flow to learn, as the latents; what is clean (sigma 0) stays so, and is nobody's to learn.

        A dropped prompt stays unguided, so that the student still knows what "no prompt" means.
        """
        first = self._guided(batch, noisy, batch.sigma, history, tokens)
        if not batch.ladder:
            return first
        rung = (batch.sigma[..., None] - self._from.to(noisy.device)).abs().argmin(dim=-1)
        noised = batch.sigma > 0
        middle, end = (torch.where(noised, rungs.to(noisy.device)[rung], 0.0) for rungs in (self._middle, self._to))
        half = noisy + _wide(middle - batch.sigma) * first
        second = self._guided(batch, half, middle, history, tokens)
        arrived = half + _wide(end - middle) * second
        return (arrived - noisy) / _wide(torch.where(noised, end - batch.sigma, 1.0))

    def _guided(self, batch: Batch, noisy: Tensor, sigma: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
        asked = self.model.flow(batch, noisy, sigma, history, tokens)
        if self.guidance == 1.0:
            return asked
        free = self.model.flow(batch, noisy, sigma, history, torch.zeros_like(tokens))
        return torch.lerp(free, asked, self.guidance)


def _wide(levels: Tensor) -> Tensor:
    return levels[..., None, None, None]


def train_distil(
    out: Path, *, steps_of_student: int = STEPS, guidance: float = GUIDANCE, device: str = "cpu", **options: Any
) -> Denoiser:
    """Distil the transformer of the run in `out`; gets `distil.pt` and `distil.jsonl`. Options as of `train_dit`."""
    teacher = Teacher(load_denoiser(out).to(device), steps_of_student, guidance)
    shared = {"rate": RATE, "levels": teacher.levels, "teacher": teacher, "device": device, **options}
    return train_dit(out, name="distil", start_from=load_denoiser(out), **shared)
