"""What films were made with, over HTTP: of a file that was dropped on the page, and of a live take.

Both answer with a body for POST /v1/videos that makes the film again, and with its shots; nothing is kept.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from app.errors import UsageMistake
from app.server.desk import Desk, Task, Told
from app.server.jobs_api import mistake, refusal
from app.server.restore import LARGEST_UPLOAD
from app.server.takes import SessionName, SessionToken

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def restore_router(desk: Desk) -> APIRouter:
    """The routes, with a desk that reads; who may use them is decided in front of them, in app/server/access.py."""
    router = APIRouter(tags=["films again"])

    @router.post("/v1/restore", summary="What a film, its .json or a session.jsonl was made with", openapi_extra=_BODY)
    async def restore(request: Request) -> Told:  # pyright: ignore[reportUnusedFunction]
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_UPLOAD:
                told = f"This is more than {LARGEST_UPLOAD // 2**20} MiB. Send the beginning of the film."
                return Told(mistake(told, 413), 413)
        return await _asked(desk, "restore", data=bytes(body))

    @router.get("/v1/sessions/{session}/take", summary="What was on screen of a live film")
    async def take(  # pyright: ignore[reportUnusedFunction]
        session: Annotated[SessionName, Path()], token: Annotated[SessionToken, Query()]
    ) -> Told:
        return await _asked(desk, "take", session=session, token=token)

    return router


async def _asked(desk: Desk, task: Task, **given: Any) -> Told:
    try:
        return await desk.ask(task, **given)
    except UsageMistake as error:
        return Told(*refusal(error))
