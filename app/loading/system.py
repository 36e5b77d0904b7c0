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


def system_of(preset: Preset) -> dict[str, Any]:
    """What of a preset decides pictures; its title is for people, and says what held before any knob."""
    return {name: value for name, value in as_data(preset).items() if name != "title"}


def plain_system(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a film's record tells of its preset; without `settle`, which older ones name and no preset ever used."""
    cache: Any = told.get("cache")
    if isinstance(cache, dict):
        settings = cast("dict[str, Any]", cache)
        told = {**told, "cache": {name: value for name, value in settings.items() if (name, value) != ("settle", None)}}
    return dict(told)
