"""Render jobs over HTTP: the shape of OpenAI's video API, with a queue that can be paused, reordered and resumed.

Mistakes are one sentence in the same envelope everywhere: {"error": {"message", "type", "code"}}.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import EXIT_USAGE, UsageMistake, explain, printable, shorten
from app.job_file import Job, VideoRequest
from app.jobs import Jobs, JobsFull, NoSuchJob, WrongState
from app.takes import NoSuchTake, Takes, VideoBody, WrongToken

if TYPE_CHECKING:
    from fastapi import APIRouter

LARGEST_BODY = 4_000_000
"""Bytes of a request: a script of a million, every character of it escaped."""
_STATUS: Mapping[type[Exception], int] = {
    NoSuchJob: 404,
    WrongState: 409,
    JobsFull: 429,
    WrongToken: 403,
    NoSuchTake: 404,
}
Body = TypeVar("Body", bound=BaseModel)
Answer = TypeVar("Answer")


class Move(BaseModel):
    """A new place in the queue, counted from 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: int = Field(ge=0, le=10**6)


def jobs_router(jobs: Jobs, takes: Takes) -> "APIRouter":
    """The routes of /v1/videos over some jobs; who may use them is decided in front of them, in app/access.py."""
    from fastapi import APIRouter, Request, Response
    from fastapi.responses import FileResponse, JSONResponse
    from fastapi.routing import APIRoute
    from starlette.concurrency import run_in_threadpool

    class Told(APIRoute):
        """Turns what a person can put right into an answer."""

        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def told(request: Request) -> Response:
                try:
                    return await handle(request)
                except (UsageMistake, ValueError, OSError) as error:
                    return JSONResponse(*refusal(error))

            return told

    router = APIRouter(prefix="/v1/videos", tags=["render jobs"], route_class=Told)

    async def read(request: Request, kind: type[Body]) -> Body:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY:
                raise UsageMistake(f"The request has more than {LARGEST_BODY} bytes. Send less.")
        try:
            return kind.model_validate_json(bytes(body))
        except ValidationError as error:
            raise UsageMistake(_first(error)) from None

    async def asked_for(request: Request) -> VideoRequest:
        return await run_in_threadpool(takes.request, await read(request, VideoBody))

    @router.post("", status_code=201, summary="Queue a render", openapi_extra=_body(VideoBody))
    async def create(request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return shown(await run_in_threadpool(jobs.create, await asked_for(request)))

    @router.post("/plan", summary="Where the shots come to stand; measures nothing", openapi_extra=_body(VideoBody))
    async def plan(request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return jobs.plan(await asked_for(request))

    @router.post("/check", summary="What a render would become, and cost", openapi_extra=_body(VideoBody))
    async def check(request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return await run_in_threadpool(jobs.check, await asked_for(request))

    @router.get("", summary="All jobs, the newest first")
    def every() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"object": "list", "data": [shown(job) for job in jobs.list()]}

    @router.get("/{video_id}", summary="One job: status, progress, time left")
    def one(video_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return shown(jobs.get(video_id))

    @router.delete("/{video_id}", summary="Remove a job and its film")
    def delete(video_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        jobs.delete(video_id)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    for name, act in (("pause", jobs.pause), ("resume", jobs.resume), ("cancel", jobs.cancel)):
        router.add_api_route(f"/{{video_id}}/{name}", _turn(act), methods=["POST"], summary=f"{name.title()} a job")

    @router.post("/{video_id}/move", summary="Another place in the queue", openapi_extra=_body(Move))
    async def move(video_id: str, request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        asked = await read(request, Move)
        return shown(await run_in_threadpool(jobs.move, video_id, asked.to))

    @router.get("/{video_id}/chunks", summary="What was made so far, chunk by chunk")
    def chunks(video_id: str, since: int = 0) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return jobs.chunks(video_id, since)

    @router.get("/{video_id}/content", summary="The film, also while it grows; or its newest frame")
    def content(video_id: str, variant: str = "video") -> Response:  # pyright: ignore[reportUnusedFunction]
        job = jobs.get(video_id)
        final = job.status == "completed"
        headers = {"Cache-Control": "private" if final else "no-store", "X-Content-Type-Options": "nosniff"}
        if variant == "thumbnail":
            picture = jobs.preview(video_id)
            if picture is None:
                raise WrongState("This job has no frame yet. Ask again when it has begun.")
            return Response(picture, media_type="image/jpeg", headers=headers)
        if variant != "video":
            raise UsageMistake(f"There is no variant {printable(shorten(variant, 40))}. Ask for video or thumbnail.")
        film = jobs.film(video_id)
        if film is None:
            raise WrongState("This job has no frame yet. Ask again when it has begun.")
        return FileResponse(
            film, media_type="video/mp4", headers=headers, filename=file_name(job), content_disposition_type="inline"
        )

    return router


def shown(job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    data = job.model_dump(mode="json", exclude={"rank", "process", "error"})
    code = "render_failed" if job.status == "failed" else job.status
    return data | {"error": None if job.error is None else {"code": code, "message": job.error}}


def refusal(error: Exception) -> tuple[dict[str, Any], int]:
    """What is answered to a request that ended in an error, and the status."""
    message, code = explain(error)
    usual = 400 if code == EXIT_USAGE else 500
    status = next((number for kind, number in _STATUS.items() if isinstance(error, kind)), usual)
    return mistake(message, status), status


def mistake(message: str, status: int) -> dict[str, Any]:
    """The envelope of a refusal."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": printable(message), "type": kind, "code": status}}


def file_name(job: Job) -> str:
    """What a browser calls the film: letters, digits and dashes of its name."""
    words = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")[:60]
    return f"{words or job.id}.mp4"


def _turn(act: Callable[[str], Job]) -> Callable[[str], dict[str, Any]]:
    def turn(video_id: str) -> dict[str, Any]:
        return shown(act(video_id))

    return turn


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI for a body that is read by hand, because its size is bounded before it is parsed."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _first(error: ValidationError) -> str:
    """The first thing wrong with a body, with its place."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = printable(shorten(".".join(str(part) for part in first["loc"]) or "the body", 60))
    return f"{where}: {first['msg'][:1].lower()}{shorten(first['msg'][1:], 120)}. Correct it and send it again."
