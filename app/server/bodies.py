"""HTTP bodies: requests are read within bounds and handed on unparsed, JSON answers are sent in pieces.

FastAPI parses a body on the event loop, where four megabytes of JSON would hold up every film. So its routes get bytes,
annotated with the model that they are read as elsewhere: by the desk (app/server/desk.py), or by a validator that
bounds them first. /openapi.json shows that model.
"""

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.errors import UsageMistake
from app.server.access import Receive, Scope, Send
from app.server.refusals import mistake, refusal, sentence_of

RETRY_SECONDS = 2
PIECE = 64 * 1024
"""Bytes of an answer that are sent before others have their turn."""


class Told(Response):
    """JSON that was written elsewhere, sent in pieces."""

    media_type = "application/json"

    def __init__(self, content: bytes | str | object, status: int = 200) -> None:
        if not isinstance(content, bytes | str):
            content = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        super().__init__(content, status, {"retry-after": str(RETRY_SECONDS)} if status in (429, 503) else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for begin in range(0, max(1, len(body)), PIECE):
            piece = bytes(body[begin : begin + PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": begin + PIECE < len(body)})


class _Whole(Request):
    """A request whose body is here: no part of FastAPI makes anything of it but bytes."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._whole = body

    async def body(self) -> bytes:
        return self._whole

    async def json(self) -> bytes:
        return self._whole


def as_it_came(body: bytes) -> bytes:
    """The validator of a body that is read elsewhere."""
    return body


def bounded(most: int, too_long: Callable[[], UsageMistake]) -> type[APIRoute]:
    """A class of routes whose bodies have at most `most` bytes, and whose mistakes are one sentence each."""

    class Bounded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle, takes_body = super().get_route_handler(), self.body_field is not None

            async def told(request: Request) -> Response:
                try:
                    return await handle(_Whole(request, await read(request)) if takes_body else request)
                except RequestValidationError as error:
                    (place, *where), fault = error.errors()[0]["loc"], error.errors()[0]
                    status = 400 if place == "body" else 422
                    return Told(mistake(sentence_of({**fault, "loc": where}), status), status)
                except (UsageMistake, ValueError, OSError) as error:
                    return Told(*refusal(error))

            return told

    async def read(request: Request) -> bytes:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise too_long()
        return bytes(body)

    return Bounded
