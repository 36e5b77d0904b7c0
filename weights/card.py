"""card.json: what a model says of itself, its sizes, rate and the plans it was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from weights.plain_files import read_json
from weights.schema import validate

CARD_FILE = "card.json"

Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Side = Annotated[int, Field(ge=8, le=4096)]
Frames = Annotated[int, Field(ge=0, le=100_000)]
Spread = Annotated[float, Field(gt=1e-9, le=1e9)]
Mean = Annotated[float, Field(ge=-1e9, le=1e9)]
Statistics = Annotated[list[Spread], Field(min_length=1, max_length=4096)]


class Card(BaseModel):
    """The fields that are read, strictly; a card holds more, for people."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    name: Name
    sizes: Annotated[
        list[Annotated[list[Side], Field(min_length=2, max_length=2)]], Field(min_length=1, max_length=1000)
    ]
    """[height, width] in pixels, the usual one first."""
    plans: Annotated[list[Name], Field(max_length=1000)]
    fps: Annotated[int, Field(ge=1, le=240)] = 16
    transition: Literal["recache", "soft", "cut", "keep"] = "recache"
    """How a prompt takes over on the page where nobody says it: what is right most often two seconds later."""
    chunk: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(default=[], max_length=1000)
    window: Annotated[int, Field(ge=1, le=100_000)] = 12
    sink: Frames = 0
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 1.0
    shift: Annotated[float, Field(gt=0, le=1000)] = 5.0
    text_len: Annotated[int, Field(ge=1, le=65536)] = 512
    latents_mean: list[Mean] = Field(default=[], max_length=4096)
    latents_std: Statistics = Field(default=[1.0])
    drift_spreads: Statistics = Field(default=[1.0])
    """The usual spread of each statistic of pipelines/drift.py."""


def read_card(folder: Path) -> dict[str, Any]:
    """card.json of a model's folder as it stands there, checked.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is not readable, or a field is not what it must be.
    """
    path = folder / CARD_FILE
    card: Any = read_json(path, "a model folder holds card.json beside its three components")
    validate(Card, card, path)
    return card
