"""Memory plans: how a model is held in less memory, each a list of what is traded for it; torch-free.

How much a plan needs is counted in pipelines/fit.py, and what it does to a loaded model is done there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.presets.base import Preset
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is held.

    Attributes:
        weights: of the transformer's layers, in the type that computes, or in fp8 and widened layer by layer.
        layers: all on the device, or brought there one after the other.
        text: the text encoder on the device, or on the CPU.
        decoder: Wan's autoencoder or a tiny one.
        keys: what is remembered, in the type that computes or in 8 bits.
        window: how much of the preset's window is remembered, all or half.
        work: of all frames of a pass at once, or of some at a time where they do not depend on each other, which is
            exact but for the order of sums.
    """

    weights: Literal["full", "fp8"] = "full"
    layers: Literal["resident", "streamed"] = "resident"
    text: Literal["resident", "aside"] = "resident"
    decoder: Literal["full", "tiny"] = "full"
    keys: Literal["full", "int8"] = "full"
    window: Literal["full", "half"] = "full"
    work: Literal["whole", "sliced"] = "whole"

    @property
    def traded(self) -> tuple[str, ...]:
        """What it gives up, a phrase each; empty where nothing."""
        return tuple(phrase for word, phrase in _PHRASES.items() if word in self._words)

    @property
    def written(self) -> str:
        """As `--vram` takes it and records keep it: the words of what it trades, `full` where nothing."""
        return "+".join(word for word in _PHRASES if word in self._words) or "full"

    @property
    def _words(self) -> set[str]:
        return {
            word
            for word, there in (
                ("text", self.text == "aside"),
                ("int8", self.keys == "int8"),
                ("tiny", self.decoder == "tiny"),
                ("fp8", self.weights == "fp8"),
                ("streamed", self.layers == "streamed"),
                ("window", self.window == "half"),
                ("slices", self.work == "sliced"),
            )
            if there
        }

    def goes_on_from(self, other: MemoryPlan) -> bool:
        """Whether a film that began under another plan can go on under this one: with the memory and the autoencoder
        that it has."""
        return (self.decoder, self.keys, self.window) == (other.decoder, other.keys, other.window)


_PHRASES = {
    "text": "the text encoder on the CPU (a new prompt takes seconds)",
    "int8": "what is remembered in 8 bits (a little precision)",
    "tiny": "the tiny autoencoder (a softer picture, decoded faster)",
    "fp8": "layers held in fp8 and widened one by one (a little precision)",
    "streamed": "layers brought to the card one by one (much slower)",
    "window": "half the window (the film forgets sooner)",
    "slices": "some frames computed at a time (the same picture)",
}
"""What a plan can trade, by the word for it, in the order in which it is told."""

PLANS = (
    MemoryPlan(),
    MemoryPlan(work="sliced"),
    MemoryPlan(text="aside", work="sliced"),
    MemoryPlan(text="aside", keys="int8", work="sliced"),
    MemoryPlan(text="aside", decoder="tiny", work="sliced"),
    MemoryPlan("fp8", text="aside", work="sliced"),
    MemoryPlan("fp8", text="aside", keys="int8", work="sliced"),
    MemoryPlan(text="aside", keys="int8", decoder="tiny", work="sliced"),
    MemoryPlan("fp8", text="aside", decoder="tiny", work="sliced"),
    MemoryPlan("fp8", text="aside", keys="int8", decoder="tiny", work="sliced"),
    MemoryPlan(layers="streamed", text="aside", work="sliced"),
    MemoryPlan(layers="streamed", text="aside", keys="int8", work="sliced"),
    MemoryPlan(layers="streamed", text="aside", decoder="tiny", work="sliced"),
    MemoryPlan(layers="streamed", text="aside", keys="int8", decoder="tiny", work="sliced"),
    MemoryPlan(layers="streamed", text="aside", keys="int8", decoder="tiny", window="half", work="sliced"),
)
"""From the fastest and most exact to the smallest."""


def read_memory_plan(written: str) -> MemoryPlan:
    """The plan of words joined by +, or of `full`.

    Raises:
        ValueError: a word that no plan has.
    """
    words = set[str]() if written == "full" else set(written.split("+"))
    if unknown := sorted(words - _PHRASES.keys()):
        raise ValueError(f"no plan trades {unknown[0]!r}: join some of {', '.join(_PHRASES)} with +, or say full")
    return MemoryPlan(
        weights="fp8" if "fp8" in words else "full",
        layers="streamed" if "streamed" in words else "resident",
        text="aside" if "text" in words else "resident",
        decoder="tiny" if "tiny" in words else "full",
        keys="int8" if "int8" in words else "full",
        window="half" if "window" in words else "full",
        work="sliced" if "slices" in words else "whole",
    )


def preset_under(plan: MemoryPlan, preset: Preset) -> Preset | None:
    """The preset with the memory that a plan leaves it; None where it has no such memory."""
    knobs: dict[str, object] = {}
    values = knob_values(preset)
    if plan.keys == "int8":
        if values.get("kv_cache_dtype") not in (None, "int8"):
            return None  # it has fewer bits already
        knobs["kv_cache_dtype"] = "int8"
    if plan.window == "half":
        window = values.get("local_attn_size")
        if window is None or window < 2:
            return None
        knobs["local_attn_size"] = window // 2
    try:
        return apply_knobs(preset, knobs)
    except KnobError:
        return None
