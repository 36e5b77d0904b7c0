"""Fields of the messages about settings, from app/config/table.py: what a client may change, and what is in force."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, create_model

from app.config.table import WIRED

Base = TypeVar("Base", bound=BaseModel)


def changes(base: type[Base]) -> type[Base]:
    """A message in which every setting may stand, within the bounds of a film that plays; None leaves it as it is."""
    fields: dict[str, Any] = {
        wire.name: (entry.one | None, Field(None, ge=wire.least, le=wire.most)) for entry, wire in WIRED
    }
    return create_model("Changes", __base__=base, **fields)


def in_force(base: type[Base]) -> type[Base]:
    """A message that tells every setting; None: there is no such thing, or it is off."""
    fields: dict[str, Any] = {
        wire.name: (entry.type, ... if entry.type is entry.one else None) for entry, wire in WIRED
    }
    return create_model("InForce", __base__=base, **fields)


def by_name(message: BaseModel) -> dict[str, Any]:
    """What a message gives, by the names of the table."""
    values = {entry.name: getattr(message, wire.name) for entry, wire in WIRED}
    return {name: value for name, value in values.items() if value is not None}


def by_wire(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of the table, by those of the messages."""
    return {wire.name: values.get(entry.name) for entry, wire in WIRED}
