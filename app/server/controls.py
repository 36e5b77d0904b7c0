"""The controls of the page for settings, from app/config/table.py: labels, ranges, values; the scripts draw them."""

from typing import Any

from app.config.table import TABLE, Live
from pipelines.presets import Preset
from pipelines.presets.knobs import knob_values


def controls(preset: Preset) -> list[dict[str, Any]]:
    """Every setting that the page shows, with what the preset has it at (None: it has no such thing).

    `slider` is its range on the live tab and `limits` elsewhere; `setting` whether a request of a job has it under
    `settings`; `anew` whether a live film begins again under it.
    """
    values = knob_values(preset) | {"jpeg_quality": Live.jpeg_quality}
    return [
        {
            "name": entry.name,
            "wire": entry.wire and entry.wire.name,
            "anew": entry.wire is not None and entry.wire.anew,
            "setting": entry.job == "settings",
            "label": entry.control.label,
            "means": entry.control.means,
            "tabs": entry.control.tabs,
            "card": entry.control.card,
            "slider": entry.control.slider and dict(zip(("min", "max", "step"), entry.control.slider, strict=True)),
            "limits": entry.bounds
            and {"min": entry.bounds[0], "max": entry.bounds[1], "step": 1 if entry.one is int else "any"},
            "value": values.get(entry.name),
        }
        for entry in TABLE.values()
        if entry.control is not None
    ]
