"""What goes into the loop and comes out of it, torch-free so that the edge can name it cheaply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

TransitionKind = Literal["recache", "soft", "cut", "keep"]
TRANSITIONS: tuple[TransitionKind, ...] = ("recache", "soft", "cut", "keep")

Prompt = str | tuple[tuple[str, float], ...]
"""A text, or a weighted mix of texts."""

TIME_SCALE = 4
"""Pixel frames in every latent frame but the first (Wan 2.1 and TAEHV autoencoders)."""


def pixel_range(latent: int) -> range:
    """Pixel frames of one latent frame: latent 0 is one pixel frame, latent k >= 1 is 4k-3 .. 4k."""
    if latent < 0:
        raise ValueError(f"latent frames count from 0, got {latent}")
    return range(max(0, TIME_SCALE * (latent - 1) + 1), TIME_SCALE * latent + 1)


@dataclass(frozen=True, slots=True)
class Transition:
    """How a new prompt takes over.

    recache: at once, the memory replayed under the new prompt. soft: the text blends over `chunks` chunks, then one
    replay. cut: all memory and undelivered frames are dropped. keep: only the text changes.
    """

    kind: TransitionKind = "recache"
    chunks: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRANSITIONS:
            raise ValueError(f"unknown transition {self.kind!r}: choose one of {', '.join(TRANSITIONS)}")
        if self.kind == "soft" and self.chunks < 1:
            raise ValueError("a soft transition needs its length: give it 1 chunk or more")
        if self.kind != "soft" and self.chunks:
            raise ValueError(f"a {self.kind} transition takes no length: use soft to blend over {self.chunks} chunks")


@dataclass(frozen=True, slots=True)
class Controls:
    """What a viewer may change, read once per chunk; `guidance_scale` None leaves the preset's.

    `strength` (0..1, above 0) is how much of a video is given up to the prompt, the share of noise a still picture
    enters with; None leaves the preset's, and without a video it does nothing.
    """

    prompt: Prompt
    transition: Transition = Transition()
    guidance_scale: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        texts = [self.prompt] if isinstance(self.prompt, str) else [text for text, _ in self.prompt]
        if not texts or any(not text.strip() for text in texts):
            raise ValueError("the prompt is empty: say in a few words what the film should show")
        if not isinstance(self.prompt, str) and sum(weight for _, weight in self.prompt) <= 0:
            raise ValueError("the weights of a mixed prompt must add up to more than 0")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"a strength of {self.strength:g} cannot be: give more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Start:
    """What a chunk begins from where it does not begin from noise alone (video to video).

    Its first latents are (1 - scale) * latents + scale * noise, and the model is told that they stand at `level`
    (timestep, 0..1000), which need not be 1000 * scale. The chunk goes on with the plan's levels below its own.

    Attributes:
        latents: clean, [B, F, C, H, W].
        scale: 0..1.
        level: timestep of the first pass, above 0.
        steps: most passes to take; None takes all levels that are left.
    """

    latents: Tensor
    scale: float
    level: float
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1000 or (self.steps is not None and self.steps < 1):
            raise ValueError(
                f"a chunk cannot begin at level {self.level:g} with {self.steps} steps: begin above 0 and at most at "
                "1000, with 1 step or more"
            )
        if not 0 <= self.scale <= 1:
            raise ValueError(f"a share of noise is between 0 and 1, got {self.scale:g}")


@dataclass(frozen=True, slots=True)
class Reused:
    """What a feature cache did for a chunk: of so many layers, and in so many passes, how many used features again."""

    layers: int = 0
    of_layers: int = 0
    passes: int = 0
    of_passes: int = 0

    def __add__(self, other: Reused) -> Reused:
        return Reused(
            self.layers + other.layers,
            self.of_layers + other.of_layers,
            self.passes + other.passes,
            self.of_passes + other.of_passes,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One delivered piece of film.

    `pixels` is uint8 RGB [T, H, W, 3], or None where decoding was left out; `sha256` is of those bytes before any
    encoding (of the float32 latents without decoding). `latent` and `pixel` number frames of the whole film.
    `seconds` is wall time a hop: conditioning, plan, denoise, remember, decode, and "model", the part of denoise and
    remember spent inside the transformer. `drift` is None while there is nothing to compare with. `said` is what a
    controller decided with it, in a sentence. `reused` is what a feature cache did, None where there is none.
    """

    index: int
    epoch: int
    latent: range
    pixel: range
    prompt: str
    pixels: NDArray[np.uint8] | None
    sha256: str
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    drift: float | None = None
    said: str = ""
    reused: Reused | None = None


def prompt_text(prompt: Prompt) -> str:
    """One line for people: the text, or the mix as `0.70 a fox + 0.30 a wolf`."""
    if isinstance(prompt, str):
        return prompt
    return " + ".join(f"{weight:.2f} {text}" for text, weight in prompt)


def in_words(prompt: Prompt) -> str:
    """One line for people; a mix of one is its text."""
    return prompt[0][0] if isinstance(prompt, tuple) and len(prompt) == 1 else prompt_text(prompt)
