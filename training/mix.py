"""What the steps of a training run are made of, as plain numbers, so that an ablation is a run of another mix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares, 0..1, of chance each; with 0 an ingredient is left out.

    Attributes:
        early: share of a run that is mostly pictures and beginnings: new words are learned there or not at all.
        pictures: of all steps, early and later.
        turns: of all steps, early and later.
        windows: of all steps, early and later; the rest are beginnings.
        joint: of the windows, denoised together under rising noise.
        noisy: of the windows, behind history that is still noisy.
        single: of the other windows, in chunks of one latent frame instead of three.
        switches: which films: those that keep their prompt (False), those that change it (True).
        dropped: of prompts, left out, so that "no prompt" is known as well (Ho and Salimans 2022, arXiv 2207.12598).
        shaken: of windows, with a little noise on what is declared clean.
        own: of teacher-forced windows, whose history the model paints itself.
        other: of noisy pictures and turns, painted over another one of their scene than what is asked for.
        closest: of steps of pictures, that show a scene's closest pairs alone: words that are hardest to tell apart.
        focus: how much more the object and its edge count than the rest of the picture.
        outline: how much the reading of the object's outline counts in the loss.
        course: how much the reading of its course does.
        listening: how much it counts that pictures and turns are all the way to what they are asked for, from what else
            might be.
    """

    early: float = 0.6
    pictures: tuple[float, float] = (0.6, 0.2)
    turns: tuple[float, float] = (0.05, 0.15)
    windows: tuple[float, float] = (0.2, 0.45)
    joint: float = 0.3
    noisy: float = 0.1
    single: float = 0.2
    switches: tuple[bool, ...] = (False, True)
    dropped: float = 0.1
    shaken: float = 0.6
    own: float = 0.25
    other: float = 0.5
    closest: float = 0.5
    focus: float = 6.0
    outline: float = 0.6
    course: float = 0.2
    listening: float = 4.0


USUAL = Mix()
"""What the shipped weights are made with."""
