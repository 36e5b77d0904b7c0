"""Refusals over HTTP: a status and one sentence, in the envelope {"error": {"message", "type", "code"}}."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import EXIT_USAGE, UsageMistake, explain, printable, shorten
from app.jobs.queue import JobsFull, NoSuchJob, WrongState

Body = TypeVar("Body", bound=BaseModel)


class Refused(UsageMistake):
    """A mistake with a status of its own."""

    status: ClassVar[int] = 400


class TooLong(Refused):
    """The body is longer than it may be."""

    status = 413


class Mistake(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    code: int


class Refusal(BaseModel):
    """What every route of render jobs and films answers when it refuses."""

    error: Mistake


_STATUS: Mapping[type[Exception], int] = {NoSuchJob: 404, WrongState: 409, JobsFull: 429}
"""Of mistakes that know nothing of HTTP."""


def refusal(error: Exception) -> tuple[dict[str, Any], int]:
    """What is answered to a request that ended in an error, and the status."""
    message, code = explain(error)
    usual = 400 if code == EXIT_USAGE else 500
    status = error.status if isinstance(error, Refused) else _STATUS.get(type(error), usual)
    return mistake(message, status), status


def mistake(message: str, status: int) -> dict[str, Any]:
    """The envelope of a refusal."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": printable(message), "type": kind, "code": status}}


def sentence_of(fault: Mapping[str, Any], whole: str = "the body") -> str:
    """Pydantic's first fault as one sentence, with its place in what was sent; `whole` if it is all of it."""
    where = printable(shorten(".".join(str(part) for part in fault["loc"]) or whole, 60))
    told = f"{fault['msg'][:1].lower()}{shorten(fault['msg'][1:], 120)}"
    return f"{where}: {told}. Correct it and send it again."


def read_body(kind: type[Body], body: bytes) -> Body:
    """A body of a request.

    Raises:
        UsageMistake: the first thing that is wrong with it, with its place.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise UsageMistake(sentence_of(fault)) from None
