"""What may stand in a model's JSON files: one strict pydantic model a file, and one sentence for what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from weights.plain_files import CheckpointError, shown

T = TypeVar("T")


def validate(schema: type[T] | TypeAdapter[T], data: Any, file: Path) -> T:
    """`data` as `schema` says, a pydantic model or an adapter of another type.

    Raises:
        CheckpointError: it does not fit; the sentence names the file, the first field that is wrong, and how many more.
    """
    try:
        adapter = schema if isinstance(schema, TypeAdapter) else TypeAdapter(schema)
        return adapter.validate_python(data)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {_first(error)}; restore the file, or fetch it again.") from None


def _first(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_context=False)
    mistake = mistakes[0]
    place = shown(".".join(str(part) for part in mistake["loc"]), 60)
    if place.isdigit():
        place = f"entry {place}"
    reason = re.sub(r"^(Value error, |(Input|String|List|Value|Dictionary) (?=should))", "", mistake["msg"])
    if not place and mistake["type"] == "value_error":  # a rule over several fields says it all
        text = reason
    elif mistake["type"] == "missing":
        text = f"{place} is missing"
    else:
        text = f"{place or 'what it holds'} {reason}, not {shown(repr(mistake['input']), 40)}"
    return text + (f" (and {len(mistakes) - 1} more mistakes)" if mistakes[1:] else "")
