"""Marks: what a person says of something that was made, kept beside it: a name, a star, whether it lies in the bin."""

# No `from __future__ import annotations`: FastAPI reads the annotations of models.

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.atomic import write_text

MARKS = "marks.json"


class Mark(BaseModel):
    """What a person says of an item."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=200)] = ""
    favourite: bool = False
    binned: bool = False


def read_marks(folder: Path) -> dict[str, Mark]:
    """The marks of a folder's files, by name; none where they cannot be read."""
    with suppress(OSError, ValueError, ValidationError, AttributeError):
        told: dict[str, Any] = json.loads((folder / MARKS).read_bytes())
        return {name: Mark.model_validate(mark) for name, mark in told.items()}
    return {}


def write_marks(folder: Path, marks: Mapping[str, Mark]) -> None:
    """Keep the marks of a folder's files."""
    told = {name: mark.model_dump() for name, mark in marks.items()}
    write_text(folder / MARKS, json.dumps(told, ensure_ascii=False, indent=1) + "\n")


def is_binned(folder: Path, file: str) -> bool:
    """Whether a file lies in the bin."""
    return read_marks(folder).get(file, Mark()).binned
