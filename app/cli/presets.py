"""What `rivulet presets` lists: the streaming systems and whether their models are on this disk."""

from typing import Any

from rich.table import Column, Table

from app.loading.model import at_hand
from pipelines.presets import PRESETS


def preset_rows() -> list[dict[str, Any]]:
    """Return one row a preset, as data."""
    here = {model: at_hand(model) for model in {preset.model for preset in PRESETS.values()}}
    return [
        {
            "name": preset.name,
            "model": preset.model,
            "at_hand": here[preset.model],
            "chunk": preset.chunk,
            "window": preset.cache.capacity,
            "sink": getattr(preset.cache, "sink", 0),
            "steps": len(preset.schedule.denoising_step_list),
            "switch": type(preset.switch).__name__.lower(),
            "title": preset.title,
            "paper": preset.paper,
            "licence": preset.licence,
        }
        for preset in PRESETS.values()
    ]


def preset_table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table; lengths are in latent frames."""
    names = Column("preset", no_wrap=True, min_width=max(len(row["name"]) for row in rows))  # people type them
    table = Table(names, "here", "chunk", "window", "sink", "steps", "switch")
    for row in rows:
        numbers = (str(row[name]) for name in ("chunk", "window", "sink", "steps"))
        table.add_row(row["name"], "yes" if row["at_hand"] else "-", *numbers, row["switch"])
    return table


def preset_notes(rows: list[dict[str, Any]]) -> str:
    """Return what the table cannot hold: a line a preset, and what its columns count."""
    notes = [f"{row['name']}: {row['title']} ({row['paper']}); model {row['model']}" for row in rows]
    return "\n".join([*notes, "chunk, window and sink count latent frames; here: its model is on this disk."])
