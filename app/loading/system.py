"""System of a preset, spelled out as plain data: what a film's record says of the system it was made with."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from pipelines.presets import Preset


def as_data(value: Any) -> Any:
    """Spell out a preset or a policy: its fields, and the class where that is what decides."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            field.name: as_data(getattr(value, field.name)) for field in fields(value)
        }
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


FOR_PEOPLE = ("title", "fixes", "traces")
"""What a preset says of itself that decides no picture."""
ADDED: dict[str, Any] = {"guidance": "full", "guidance_delta": 1.0}
"""Fields of a schedule that older records do not know, and what held before there were any."""


def system_of(preset: Preset, *, video: bool = False) -> dict[str, Any]:
    """What of a preset decides pictures; how a video enters only where a film is made of one."""
    left_out = FOR_PEOPLE if video else (*FOR_PEOPLE, "video")
    said = {name: value for name, value in as_data(preset).items() if name not in left_out}
    for name in (
        "feature_cache",
        "kv_cache_dtype",
        "dual_scope",
    ):  # films made before they were there say nothing of them
        if not said[name]:
            del said[name]
    return said


def plain_system(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a film's record tells of its preset, as this version would write it.

    Older ones name `settle`, which no preset ever used, and do not know what was added since.
    """
    told = {name: value for name, value in told.items() if name not in FOR_PEOPLE}
    cache, schedule = told.get("cache"), told.get("schedule")
    if isinstance(cache, dict):
        settings = cast("dict[str, Any]", cache)
        told["cache"] = {name: value for name, value in settings.items() if (name, value) != ("settle", None)}
    if isinstance(schedule, dict):
        told["schedule"] = ADDED | cast("dict[str, Any]", schedule)
    return told


def same_system(told: Mapping[str, Any], preset: Preset) -> bool:
    """Whether a film's record tells of this preset as it is now."""
    return plain_system(told) == system_of(preset, video="video" in told)
