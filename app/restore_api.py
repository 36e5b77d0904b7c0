"""What films were made with, over HTTP: of a file that was dropped on the page, and of a live take.

Both answer with a body for POST /v1/videos that makes the film again, and with its shots; nothing is kept.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from app.errors import UsageMistake
from app.jobs_api import mistake, refusal
from app.restore import LARGEST_UPLOAD, read_dropped, restored
from app.takes import SessionName, SessionToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.takes import Takes

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def restore_router(takes: "Takes") -> APIRouter:
    """The routes; who may use them is decided in front of them, in app/access.py."""
    router = APIRouter(tags=["films again"])
    one_at_a_time = asyncio.Semaphore(1)  # a large file takes seconds, which the film that plays has not

    @router.post("/v1/restore", summary="What a film, its .json or a session.jsonl was made with", openapi_extra=_BODY)
    async def restore(request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_UPLOAD:
                told = f"This is more than {LARGEST_UPLOAD // 2**20} MiB. Send the beginning of the film."
                return JSONResponse(mistake(told, 413), 413)
        async with one_at_a_time:
            return await _told(lambda: restored(read_dropped(bytes(body)), models=takes.models))

    @router.get("/v1/sessions/{session}/take", summary="What was on screen of a live film")
    async def take(  # pyright: ignore[reportUnusedFunction]
        session: Annotated[SessionName, Path()], token: Annotated[SessionToken, Query()]
    ) -> JSONResponse:
        return await _told(lambda: restored(takes.origin(session, token), models=takes.models))

    return router


async def _told(look: "Callable[[], dict[str, Any]]") -> JSONResponse:
    """The answer, or one sentence on why there is none."""
    try:
        return JSONResponse(await run_in_threadpool(look))
    except (UsageMistake, ValueError, OSError) as error:
        return JSONResponse(*refusal(error))
