"""Render jobs over HTTP: the shape of OpenAI's video API, with a queue that can be paused, reordered and resumed.

Mistakes are one sentence in the same envelope everywhere (app/server/refusals.py).
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from starlette.concurrency import run_in_threadpool

from app.errors import UsageMistake, printable, shorten
from app.jobs.job import Job, VideoRequest, new_name
from app.jobs.queue import Jobs, WrongState
from app.jobs.uploads import LARGEST, Upload, Uploads
from app.media.excerpts import gif, poster
from app.server.bodies import Told, as_it_came, bounded
from app.server.desk import Desk, Turns
from app.server.marks import is_binned
from app.server.refusals import Refusal, TooLong, read_body
from app.server.restore import VideoBody
from app.server.schemas import Check, DeletedJob, JobList, MadeChunks, Plan, ShownJob

LARGEST_BODY = 4_000_000
"""Bytes of a request: a script of a million, every character of it escaped."""
LARGEST_MOVE = 1000
_LOOK = 0.1
"""Seconds between two looks whether somebody still waits for a check."""
LONG = 10_000
"""Characters of a script that are told in a list."""


class Move(BaseModel):
    """A new place in the queue, counted from 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: int = Field(ge=0, le=10**6)


def _too_long(most: int) -> UsageMistake:
    return UsageMistake(f"The request has more than {most} bytes. Send less.")


def _read_move(body: bytes) -> Move:
    if len(body) > LARGEST_MOVE:
        raise _too_long(LARGEST_MOVE)
    return read_body(Move, body)


AskedFor = Annotated[bytes, Body(), PlainValidator(as_it_came, json_schema_input_type=VideoBody)]
"""A request that the desk reads."""
MovedTo = Annotated[Move, Body(), PlainValidator(_read_move, json_schema_input_type=Move)]


def jobs_router(jobs: Jobs, desk: Desk) -> APIRouter:
    """The routes of /v1/videos; `desk` reads what is asked, and access.py in front of them decides who may."""
    router = APIRouter(
        prefix="/v1/videos",
        tags=["render jobs"],
        route_class=bounded(LARGEST_BODY, lambda: _too_long(LARGEST_BODY)),
        responses={"4XX": {"model": Refusal, "description": "Refused, in a sentence"}},
    )

    previews = Turns(2)
    checks = Turns(2)  # one that is just being left beside the next

    @router.post("", status_code=201, summary="Queue a render", response_model=ShownJob)
    async def create(body: AskedFor) -> Response:  # pyright: ignore[reportUnusedFunction]
        judged = await desk.ask("judge", body=body, job=new_name())
        return judged if judged.status_code != 200 else await run_in_threadpool(lambda: add(judged.body))

    def add(judged: "bytes | memoryview[int]") -> Response:
        return Told(shown(jobs.add(Job.model_validate_json(bytes(judged))), jobs.folder), 201)

    @router.post("/plan", summary="Where the shots come to stand; measures nothing", response_model=Plan)
    async def plan(body: AskedFor) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await desk.ask("plan", body=body)

    @router.post("/check", summary="What a render would become, and cost", response_model=Check)
    async def check(body: AskedFor, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        asked = await desk.ask("request", body=body)
        if asked.status_code != 200:
            return asked
        left = Event()
        async with checks.turn():
            measuring = asyncio.ensure_future(run_in_threadpool(lambda: measure(asked.body, left)))
            measuring.add_done_callback(_heard)
            try:
                while not (await asyncio.wait({measuring}, timeout=_LOOK))[0]:
                    if await request.is_disconnected():
                        left.set()
                return measuring.result()
            finally:
                left.set()

    def measure(asked: "bytes | memoryview[int]", left: Event) -> Response:
        return Told(jobs.measure(VideoRequest.model_validate_json(bytes(asked)), left))

    @router.get("", summary="All jobs, the newest first", response_model=JobList)
    def every() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told({"object": "list", "data": [listed(job, jobs.folder) for job in jobs.list()]})

    @router.get("/{video_id}", summary="One job: status, progress, time left", response_model=ShownJob)
    def one(video_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told(shown(jobs.get(video_id), jobs.folder))

    @router.delete("/{video_id}", summary="Remove a job and its film")
    def delete(video_id: str) -> DeletedJob:  # pyright: ignore[reportUnusedFunction]
        jobs.delete(video_id)
        return DeletedJob(id=video_id)

    for name, act in (("pause", jobs.pause), ("resume", jobs.resume), ("cancel", jobs.cancel)):
        router.add_api_route(
            f"/{{video_id}}/{name}",
            _turn(act, jobs.folder),
            methods=["POST"],
            summary=f"{name.title()} a job",
            response_model=ShownJob,
        )

    @router.post("/{video_id}/move", summary="Another place in the queue", response_model=ShownJob)
    async def move(video_id: str, body: MovedTo) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await run_in_threadpool(lambda: Told(shown(jobs.move(video_id, body.to), jobs.folder)))

    @router.get("/{video_id}/chunks", summary="What was made so far, chunk by chunk", response_model=MadeChunks)
    async def chunks(video_id: str, since: int = 0) -> Response:  # pyright: ignore[reportUnusedFunction]
        job = await run_in_threadpool(jobs.get, video_id)
        return await desk.ask("chunks", folder=jobs.folder / job.id, since=since)

    @router.get(
        "/{video_id}/content",
        summary="The film, also while it grows; or its newest frame, its middle one, or some seconds as a GIF",
        response_class=Response,
        responses={
            200: {
                "content": {"video/mp4": {}, "image/jpeg": {}, "image/gif": {}},
                "description": "The film, or the frame",
            }
        },
    )
    async def content(  # pyright: ignore[reportUnusedFunction]
        video_id: str, variant: str = "video", since: float = 0.0, seconds: float = 6.0
    ) -> Response:
        if variant == "video":
            return await run_in_threadpool(lambda: content_of(video_id, variant, since, seconds))
        async with previews.turn():
            return await run_in_threadpool(lambda: content_of(video_id, variant, since, seconds))

    def content_of(video_id: str, variant: str, since: float, seconds: float) -> Response:
        job = jobs.get(video_id)
        final = job.status == "completed"
        headers = {"Cache-Control": "private" if final else "no-store", "X-Content-Type-Options": "nosniff"}
        if variant == "thumbnail":
            picture = jobs.preview(video_id)
            if picture is None:
                raise WrongState("This job has no frame yet. Ask again when it has begun.")
            return Response(picture, media_type="image/jpeg", headers=headers)
        if variant not in ("video", "poster", "gif"):
            told = printable(shorten(variant, 40))
            raise UsageMistake(f"There is no variant {told}. Ask for video, thumbnail, poster or gif.")
        film = jobs.film(video_id)
        if film is None:
            raise WrongState("This job has no frame yet. Ask again when it has begun.")
        if variant == "poster":
            return Response(poster(film, job.frames_done), media_type="image/jpeg", headers=headers)
        if variant == "gif":
            name = file_name(job).removesuffix(".mp4")
            headers["Content-Disposition"] = f'attachment; filename="{name}.gif"'
            return Response(gif(film, since, seconds), media_type="image/gif", headers=headers)
        return FileResponse(
            film, media_type="video/mp4", headers=headers, filename=file_name(job), content_disposition_type="inline"
        )

    return router


def beginnings_router(uploads: Uploads) -> APIRouter:
    """The route of pictures and clips that films begin with."""
    too_long = f"This is more than {LARGEST // 2**20} MiB. Send a shorter clip: only its last seconds count."
    router = APIRouter(
        tags=["render jobs"],
        route_class=bounded(LARGEST, lambda: TooLong(too_long)),
        responses={"4XX": {"model": Refusal, "description": "Refused, in a sentence"}},
    )

    @router.post(
        "/v1/beginnings",
        status_code=201,
        summary="A picture or a clip for films to begin with",
        response_model=Upload,
        openapi_extra={"requestBody": {"required": True}},
    )
    async def keep(  # pyright: ignore[reportUnusedFunction]
        data: Annotated[bytes, Body(media_type="application/octet-stream")] = b"",
    ) -> Response:
        kept = await run_in_threadpool(uploads.keep, data)
        return Told(kept.model_dump(mode="json"), 201)

    return router


def shown(job: Job, folder: Path) -> dict[str, Any]:
    """A job of a folder as clients see it."""
    data = job.model_dump(mode="json", exclude={"rank", "process", "error"})
    code = "render_failed" if job.status == "failed" else job.status
    error = None if job.error is None else {"code": code, "message": job.error}
    return data | {"error": error, "binned": is_binned(folder / job.id, "film.mp4")}


def listed(job: Job, folder: Path) -> dict[str, Any]:
    """A job in a list of many: the same without a long script or prompts, which GET /v1/videos/ID has."""
    data = shown(job, folder)
    asked = data["request"]
    for name in ("prompt", "script"):
        if asked[name] is not None and len(json.dumps(asked[name])) > LONG:
            asked[name] = None
    return data


def _heard(done: "asyncio.Future[Any]") -> None:
    """A check that was left ends in a sentence that nobody waits for."""
    if not done.cancelled():
        done.exception()


def file_name(job: Job) -> str:
    """What a browser calls the film: letters, digits and dashes of its name."""
    words = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")[:60]
    return f"{words or job.id}.mp4"


def _turn(act: Callable[[str], Job], folder: Path) -> Callable[[str], Any]:
    def turn(video_id: str) -> Response:
        return Told(shown(act(video_id), folder))

    return turn
