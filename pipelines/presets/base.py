"""The shape of a preset: policies, schedule and the model it defaults to, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cache.dual_scope import DualScope
from cache.types import CachePolicy, PositionPolicy, Step, SwitchPolicy, WindowPolicy
from schedulers.motion import MotionNoise
from schedulers.similarity import SimilarityFilter

Guidance = Literal["full", "residual-self", "residual-once"]
"""What a guided pass is pushed away from."""
GUIDANCES: tuple[Guidance, ...] = get_args(Guidance)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels as people write them.

    `denoising_step_list` holds timesteps of the unshifted schedule (1000 = pure noise). With `warp` they are looked
    up in the table shifted by `shift` (Self-Forcing's `warp_denoising_step`), else taken as they stand.
    `guidance_scale` other than 1 runs every denoising pass twice, with and without the prompt, and extrapolates
    (classifier-free guidance, Ho and Salimans 2022, arXiv 2207.12598); distilled models have it baked in. Of a video,
    `guidance` residual-self extrapolates away from the video itself, which costs no pass, and residual-once from what
    the empty prompt made of a chunk in its first pass (StreamDiffusion); `guidance_delta` weighs that.
    `micro_steps` and `references` are of a moving buffer (schedulers/buffer.py).

    The step `unipc` brings a table of its own, in which only evenly spaced steps stand (schedulers/unipc.py).
    """

    denoising_step_list: tuple[float, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    warp: bool = True
    step: Step = "renoise"
    plan: str = "serial"
    clean_level: float = 0.0
    guidance_scale: float = 1.0
    guidance: Guidance = "full"
    guidance_delta: float = 1.0
    micro_steps: int = 1
    references: int = 0


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """How the pictures of a video enter a film.

    Attributes:
        noise: what share of noise they get, and what level the model is told.
        similarity: which chunks need no work; None works on all.
        raw: the model takes latents as the autoencoder made them, without its statistics.
        anchored: every chunk gets the noise of the first, so that a still video gives a still film, and the noise
            leaves its imprint (StreamDiffusion, Kodaira et al. 2023, arXiv 2312.12491).
    """

    noise: MotionNoise = MotionNoise()  # noqa: RUF009  # frozen
    similarity: SimilarityFilter | None = None
    raw: bool = False
    anchored: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """One published system, or our own: everything that tells it from another.

    `chunk` and `first_chunk` are in latent frames. `plans` names what a model must have been trained for, as its
    card.json lists it. `paper` is (authors year, arXiv id), `licence` that of the released code.

    `feature_cache` names one of cache.FEATURE_CACHES, or none; `kv_cache_dtype` one of cache.kv_shape.KV_BITS, or the
    model's precision. `dual_scope` narrows what the frames of a joint window see of it.

    `fixes` says what differs from the release, and why; without any it is reproduced as it stands. `traces` are the
    beginnings of the names of its recorded runs (tests/golden_replay.py). docs/presets.md is made from all of these.
    """

    name: str
    title: str
    model: str
    paper: str
    licence: str
    plan: str
    schedule: Schedule
    cache: CachePolicy
    window: WindowPolicy
    position: PositionPolicy
    switch: SwitchPolicy
    chunk: int = 3
    first_chunk: int | None = None
    video: VideoEntry = VideoEntry()  # frozen
    feature_cache: str = ""
    kv_cache_dtype: str = ""
    dual_scope: DualScope | None = None
    fixes: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
