"""Names of settings: other projects' for ours, and those in the groups of a config file; of app/config/table.py.

The aliases were gathered from Self-Forcing, LongLive, StreamDiffusionV2, FastVideo, LightX2V, Wan2GP and Daydream
Scope. An alias means exactly what its primary name means; where units differ (`num_output_frames` counts latent frames)
the name is a setting of its own.
"""

from collections.abc import Mapping

from app.config.table import TABLE

ALIASES: Mapping[str, str] = {alias: entry.name for entry in TABLE.values() for alias in entry.aliases}
"""Alias to primary name, both with `_`."""


def _groups() -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    entries = sorted(TABLE.values(), key=lambda entry: "." not in entry.section)  # output.path first: it is the example
    for entry in entries:
        group, _, own = entry.section.partition(".")
        if group:
            groups.setdefault(group, {})[own or entry.name] = entry.name
    return groups


GROUPS: Mapping[str, Mapping[str, str]] = _groups()
"""Names that config files may put under a heading: `cache: {sink_size: 3}` is `sink_size: 3`."""


def primary(name: str) -> str:
    """Our name for a flag or setting, from ours or theirs, with - or _."""
    spelled = name.replace("-", "_")
    return ALIASES.get(spelled, spelled)
