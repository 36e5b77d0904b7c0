"""Distils the guided many-step transformer into one that needs few steps and no guidance.

Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512) along one ladder of noise levels: a step of the
student goes where two guided steps of its teacher go (guidance as of Meng et al. 2022, arXiv 2210.03142). Joint and
diffusion-forced windows, whose levels are other plans' own, learn the guided flow itself. A chunk then costs 4 passes
and the clean one instead of 16 and the clean one.

Where the first channels of the latents are those of an older model (training/deepen.py), that one, which is a student
itself, may say their flow: what it was taught is not to be learned again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.captions import vocabulary
from training.dit import Denoiser, load_denoiser, train_dit
from training.inherit import inherit, shipped
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
        kept: an older student of as many steps, whose latents the first channels are: it says their flow.
    """

    def __init__(
        self, model: Denoiser, steps: int = STEPS, guidance: float = GUIDANCE, kept: Denoiser | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.kept = None if kept is None else kept.eval().requires_grad_(False)
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
        flow = self._own(batch, noisy, history, tokens)
        if self.kept is not None:
            count = self.kept.transformer.config["in_channels"]
            flow[:, :, :count] = self.kept.flow(batch, noisy[:, :, :count], batch.sigma, history[:, :, :count], tokens)
        return flow

    def _own(self, batch: Batch, noisy: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
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
    out: Path,
    *,
    steps_of_student: int = STEPS,
    guidance: float = GUIDANCE,
    device: str = "cpu",
    keep: Path | None = None,
    **options: Any,
) -> Denoiser:
    """Distil the transformer of the run in `out`; gets `distil.pt` and `distil.jsonl`. Options as of `train_dit`.

    `keep` is the folder of an older student that says the flow of the first channels, as it ships.
    """
    kept = None if keep is None else student(keep).to(device)
    teacher = Teacher(load_denoiser(out).to(device), steps_of_student, guidance, kept)
    shared = {"rate": RATE, "levels": teacher.levels, "teacher": teacher, "device": device, **options}
    return train_dit(out, name="distil", start_from=load_denoiser(out), **shared)


def student(folder: Path) -> Denoiser:
    """The transformer and the text encoder of a model as it ships."""
    state, words = shipped(folder)
    _, channels, _, patch, _ = state["transformer.patch_embedding.weight"].shape
    model = Denoiser(vocabulary(), channels=channels, patch=patch)
    if inherit(model, model.text_encoder.words, state, words):
        raise ValueError(f"{folder} holds another kind of transformer than this recipe's.")
    return model
