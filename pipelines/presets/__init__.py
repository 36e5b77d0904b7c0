"""Published systems as data. Add one: a file with a `Preset` literal and a line below."""

from difflib import get_close_matches

from pipelines.presets.anchor_forcing import ANCHOR_FORCING
from pipelines.presets.base import Preset, Schedule
from pipelines.presets.deep_forcing import DEEP_FORCING, DEEP_FORCING_SINK
from pipelines.presets.embedded import EMBEDDED
from pipelines.presets.longlive import LONGLIVE, LONGLIVE_INFINITY
from pipelines.presets.longlive_2 import LONGLIVE_2
from pipelines.presets.memory_kinds import MEM_ROPE, STREAMING_VLM
from pipelines.presets.rolling_forcing import ROLLING_FORCING
from pipelines.presets.self_forcing import SELF_FORCING
from pipelines.presets.streamdiffusion_v2 import STREAMDIFFUSION_V2
from pipelines.presets.streamdit import STREAMDIT

__all__ = ["PRESETS", "Preset", "Schedule", "get_preset"]

_ALL = (
    EMBEDDED,
    SELF_FORCING,
    LONGLIVE,
    LONGLIVE_INFINITY,
    LONGLIVE_2,
    ANCHOR_FORCING,
    ROLLING_FORCING,
    STREAMDIT,
    STREAMDIFFUSION_V2,
    DEEP_FORCING,
    DEEP_FORCING_SINK,
    STREAMING_VLM,
    MEM_ROPE,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def get_preset(name: str) -> Preset:
    """The preset of that name; ValueError lists the choices and the nearest one."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1, cutoff=0.3)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint}: choose one of {', '.join(PRESETS)}")
