"""Render jobs over HTTP: the shape of OpenAI's video API, with a queue that can be paused, reordered and resumed.

Mistakes are one sentence in the same envelope everywhere: {"error": {"message", "type", "code"}}.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from app.errors import EXIT_USAGE, UsageMistake, explain, printable, shorten
from app.jobs.job import Job, VideoRequest, new_name
from app.jobs.queue import Jobs, JobsFull, NoSuchJob, WrongState
from app.server.desk import Desk, Told, TooBusy, Turns
from app.server.desk_work import read_body
from app.server.takes import NoSuchTake, VideoBody, WrongToken

if TYPE_CHECKING:
    from fastapi import APIRouter

LARGEST_BODY = 4_000_000
"""Bytes of a request: a script of a million, every character of it escaped."""
_STATUS: Mapping[type[Exception], int] = {
    NoSuchJob: 404,
    WrongState: 409,
    JobsFull: 429,
    TooBusy: 503,
    WrongToken: 403,
    NoSuchTake: 404,
}
LARGEST_MOVE = 1000
LONG = 10_000
"""Characters of a script that are told in a list."""


class Move(BaseModel):
    """A new place in the queue, counted from 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: int = Field(ge=0, le=10**6)


def jobs_router(jobs: Jobs, desk: Desk) -> "APIRouter":
    """The routes of /v1/videos; `desk` reads what is asked, and access.py in front of them decides who may."""
    from fastapi import APIRouter, Request, Response
    from fastapi.responses import FileResponse
    from fastapi.routing import APIRoute
    from starlette.concurrency import run_in_threadpool

    class Sentences(APIRoute):
        """Turns what a person can put right into an answer."""

        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def told(request: Request) -> Response:
                try:
                    return await handle(request)
                except (UsageMistake, ValueError, OSError) as error:
                    return Told(*refusal(error))

            return told

    router = APIRouter(prefix="/v1/videos", tags=["render jobs"], route_class=Sentences)

    previews = Turns(2)

    async def body_of(request: Request, most: int = LARGEST_BODY) -> bytes:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise UsageMistake(f"The request has more than {most} bytes. Send less.")
        return bytes(body)

    @router.post("", status_code=201, summary="Queue a render", openapi_extra=_body(VideoBody))
    async def create(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        judged = await desk.ask("judge", body=await body_of(request), job=new_name())
        return judged if judged.status_code != 200 else await run_in_threadpool(lambda: add(judged.body))

    def add(judged: "bytes | memoryview[int]") -> Response:
        return Told(shown(jobs.add(Job.model_validate_json(bytes(judged)))), 201)

    @router.post("/plan", summary="Where the shots come to stand; measures nothing", openapi_extra=_body(VideoBody))
    async def plan(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await desk.ask("plan", body=await body_of(request))

    @router.post("/check", summary="What a render would become, and cost", openapi_extra=_body(VideoBody))
    async def check(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        asked = await desk.ask("request", body=await body_of(request))
        return asked if asked.status_code != 200 else await run_in_threadpool(lambda: measure(asked.body))

    def measure(asked: "bytes | memoryview[int]") -> Response:
        return Told(jobs.measure(VideoRequest.model_validate_json(bytes(asked))))

    @router.get("", summary="All jobs, the newest first")
    def every() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told({"object": "list", "data": [listed(job) for job in jobs.list()]})

    @router.get("/{video_id}", summary="One job: status, progress, time left")
    def one(video_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told(shown(jobs.get(video_id)))

    @router.delete("/{video_id}", summary="Remove a job and its film")
    def delete(video_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        jobs.delete(video_id)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    for name, act in (("pause", jobs.pause), ("resume", jobs.resume), ("cancel", jobs.cancel)):
        router.add_api_route(f"/{{video_id}}/{name}", _turn(act), methods=["POST"], summary=f"{name.title()} a job")

    @router.post("/{video_id}/move", summary="Another place in the queue", openapi_extra=_body(Move))
    async def move(video_id: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        asked = read_body(Move, await body_of(request, LARGEST_MOVE))
        return await run_in_threadpool(lambda: Told(shown(jobs.move(video_id, asked.to))))

    @router.get("/{video_id}/chunks", summary="What was made so far, chunk by chunk")
    async def chunks(video_id: str, since: int = 0) -> Response:  # pyright: ignore[reportUnusedFunction]
        job = await run_in_threadpool(jobs.get, video_id)
        return await desk.ask("chunks", folder=jobs.folder / job.id, since=since)

    @router.get("/{video_id}/content", summary="The film, also while it grows; or its newest frame")
    async def content(video_id: str, variant: str = "video") -> Response:  # pyright: ignore[reportUnusedFunction]
        if variant != "thumbnail":
            return await run_in_threadpool(lambda: content_of(video_id, variant))
        async with previews.turn():
            return await run_in_threadpool(lambda: content_of(video_id, variant))

    def content_of(video_id: str, variant: str) -> Response:
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


def listed(job: Job) -> dict[str, Any]:
    """A job in a list of many: the same without a long script or prompts, which GET /v1/videos/ID has."""
    data = shown(job)
    asked = data["request"]
    for name in ("prompt", "script"):
        if asked[name] is not None and len(json.dumps(asked[name])) > LONG:
            asked[name] = None
    return data


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


def _turn(act: Callable[[str], Job]) -> Callable[[str], Any]:
    from fastapi import Response

    def turn(video_id: str) -> Response:
        return Told(shown(act(video_id)))

    return turn


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI for a body that is read by hand, because its size is bounded before it is parsed."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
