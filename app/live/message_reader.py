"""Reader of a client's messages: within its bounds, or one sentence that says what is wrong."""

import json
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter, ValidationError

from app.errors import printable
from app.live.messages import MAX_MESSAGE, QUEUE_LIMIT, ClientMessage, WireError
from app.live.source_messages import BeginningSet, SourceSet

_MOST_PARTS = 2 * QUEUE_LIMIT
_CLIENT: TypeAdapter[ClientMessage | SourceSet | BeginningSet] = TypeAdapter(
    Annotated[ClientMessage | SourceSet | BeginningSet, Field(discriminator="type")]
)


def read_message(text: str | bytes) -> ClientMessage | SourceSet | BeginningSet:
    """Read a client's message.

    Raises:
        WireError: it is too long, no JSON, of no known type, or a field is missing, unknown or out of bounds.
    """
    if len(text) > MAX_MESSAGE:
        raise WireError(f"A message is at most {MAX_MESSAGE} bytes long, this one has {len(text)}.")
    if _bulky(text):
        raise WireError(f"A message has at most {_MOST_PARTS} fields, and as many items in a list.")
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = " ".join(printable(f"{where or 'message'}: {first['msg']}").split())  # it quotes what was sent
        raise WireError(f"{told[:299]}.") from None


def _bulky(text: str | bytes) -> bool:
    """Whether an object or a list is larger than any that is allowed: pydantic tells every part that is wrong, and
    forty milliseconds of that are taken from all who watch."""
    try:
        parts: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return False  # which is told in one sentence
    while parts:
        part: Any = parts.pop()
        inner = list(cast("dict[str, Any]", part).values()) if isinstance(part, dict) else part
        if not isinstance(inner, list):
            continue
        if len(cast("list[Any]", inner)) > _MOST_PARTS:
            return True
        parts += cast("list[Any]", inner)
    return False
