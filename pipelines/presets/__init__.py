"""Published systems as data. Add one: a file with a `Preset` literal and a line below."""

from difflib import get_close_matches

from pipelines.presets.base import Preset, Schedule
from pipelines.presets.embedded import EMBEDDED
from pipelines.presets.longlive import LONGLIVE, LONGLIVE_INFINITY
from pipelines.presets.self_forcing import SELF_FORCING

__all__ = ["PRESETS", "Preset", "Schedule", "get_preset"]

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (EMBEDDED, SELF_FORCING, LONGLIVE, LONGLIVE_INFINITY)}


def get_preset(name: str) -> Preset:
    """The preset of that name; ValueError lists the choices and the nearest one."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1, cutoff=0.3)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint}: choose one of {', '.join(PRESETS)}")
