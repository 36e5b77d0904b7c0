"""Inventory of models: what the catalogue has, which of it is here, what it needs, and how the rest comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.presets import PRESETS
from weights.card import read_card
from weights.catalog import ModelSpec
from weights.hub import pull_line
from weights.shapes import wan_parameters
from weights.store import place_of, size_of, state_of


def row_of(model: ModelSpec, models_dir: Path | None) -> dict[str, Any]:
    """One model as data: state (here, part, away), bytes on the disk, what its transformer takes, licence, presets."""
    places = {place for spec in model.weights if (place := place_of(spec, models_dir)) is not None}
    licences = dict.fromkeys(spec.licence for spec in model.weights)
    return {
        "name": model.name,
        "state": state_of(model, models_dir),
        "bytes": sum(size_of(place) for place in places),
        "weights_bytes": 2 * wan_parameters(model.config) if model.config else None,
        "licence": "; ".join(licences),
        "licence_tick": any(spec.licence_tick for spec in model.weights),
        "presets": [preset.name for preset in PRESETS.values() if preset.model == model.name],
    }


def makes(model: ModelSpec) -> tuple[tuple[int, int], int]:
    """Height and width of its pictures, and how many a second: as its card says, where it brings one."""
    if model.transformer.where == "hub":
        return model.size, model.fps
    try:
        card = read_card(Path(model.transformer.file).parent)
        height, width = card["sizes"][0]
        return (int(height), int(width)), int(card.get("fps", model.fps))
    except (KeyError, IndexError, ValueError, OSError):  # whoever loads the model says what is wrong with it
        return model.size, model.fps


def parts_of(model: ModelSpec, models_dir: Path | None, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Its sets of weights as data: kind, licence, page, where they are, and the `hf download` line of the others."""
    parts: list[dict[str, Any]] = []
    for spec in model.weights:
        place = place_of(spec, models_dir)
        parts.append(
            {
                "kind": spec.kind,
                "name": spec.name,
                "licence": spec.licence,
                "licence_tick": spec.licence_tick,
                "page": spec.page,
                "path": None if place is None else str(place),
                "bytes": None if place is None else size_of(place),
                "fetch": pull_line(spec, models_dir, endpoint) if spec.where == "hub" else None,
            }
        )
    return parts
