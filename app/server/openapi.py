"""/openapi.json as it is true: what FastAPI cannot read off functions that answer with files, pictures and plain dicts.

Bodies are read by hand, because their size is bounded before they are parsed; their schemas come from the same models.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from app.jobs.job import Job, VideoRequest
from app.server.takes import VideoBody

if TYPE_CHECKING:
    from fastapi import FastAPI

_REF = "#/components/schemas/{model}"
_TEXT, _BINARY = {"type": "string"}, {"type": "string", "format": "binary"}
_SOCKET = (
    "Films that play while they change: WS /v1/realtime/video, whose messages docs/live-api.md lists. "
    "Below is everything else."
)


class Mistake(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    code: int


class Refusal(BaseModel):
    """What every route of render jobs and films answers when it refuses."""

    error: Mistake


class JobError(BaseModel):
    """Why a job has failed."""

    code: str
    message: str


class ShownJob(Job):
    """A render job as clients see it."""

    error: JobError | None = None  # type: ignore[assignment]  # told with a code
    rank: float = Field(0.0, exclude=True)
    process: tuple[int, float] | None = Field(None, exclude=True)


class JobList(BaseModel):
    """All jobs, the newest first."""

    object: str = "list"
    data: list[ShownJob]


class Shot(BaseModel):
    """A prompt and the second at which it begins."""

    at: float
    prompt: str | list[tuple[str, float]]
    transition: dict[str, str | int]


class Restored(BaseModel):
    """What a film was made with; `request` can be sent to POST /v1/videos as it is."""

    object: str = "film.restored"
    kind: str
    seconds: float
    fps: float
    frames: int
    request: VideoRequest
    shots: list[Shot]
    notes: list[str]


_MODELS: tuple[type[BaseModel], ...] = (VideoBody, ShownJob, JobList, Restored, Refusal)
_JOB = {"application/json": {"schema": {"$ref": _REF.format(model="ShownJob")}}}
_ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "get /metrics": {"text/plain": {"schema": _TEXT}},
    "get /frame.jpg": {"image/jpeg": {"schema": _BINARY}},
    "get /live.mjpg": {"multipart/x-mixed-replace": {"schema": _BINARY}},
    "get /v1/sessions/{session}/files/{name}": {"application/octet-stream": {"schema": _BINARY}},
    "get /v1/sessions/{session}/take": {"application/json": {"schema": {"$ref": _REF.format(model="Restored")}}},
    "post /v1/restore": {"application/json": {"schema": {"$ref": _REF.format(model="Restored")}}},
    "get /v1/videos": {"application/json": {"schema": {"$ref": _REF.format(model="JobList")}}},
    "get /v1/videos/{video_id}/content": {
        "video/mp4": {"schema": _BINARY},
        "image/jpeg": {"schema": _BINARY},
    },
    **dict.fromkeys(
        (
            "post /v1/videos",
            "get /v1/videos/{video_id}",
            *(f"post /v1/videos/{{video_id}}/{act}" for act in ("pause", "resume", "cancel", "move")),
        ),
        _JOB,
    ),
}
_ENVELOPED = ("/v1/videos", "/v1/restore", "/v1/sessions/{session}/take")


def describe(app: "FastAPI", *, login: bool) -> None:
    """Make `app` describe itself so."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain(), login=login)
        return app.openapi_schema

    app.openapi = described


def _completed(schema: dict[str, Any], *, login: bool) -> dict[str, Any]:
    schema["info"]["description"] = _SOCKET
    components = schema.setdefault("components", {})
    _, models = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REF)
    components["schemas"] = components.get("schemas", {}) | models["$defs"]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if answers := _ANSWERS.get(f"{method} {path}"):
                good = next(code for code in operation["responses"] if code.startswith("2"))
                operation["responses"][good]["content"] = answers
            if path.startswith(_ENVELOPED):
                refusal = {"application/json": {"schema": {"$ref": _REF.format(model="Refusal")}}}
                operation["responses"]["4XX"] = {"description": "Refused, in a sentence", "content": refusal}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                components["schemas"] |= content["schema"].pop("$defs", {})
                content["schema"] = _moved(content["schema"])
    components["schemas"] = _moved(components["schemas"])
    if login:
        components["securitySchemes"] = {"login": {"type": "http", "scheme": "basic"}}
        schema["security"] = [{"login": []}]
    return schema


def _moved(tree: Any) -> Any:
    """The tree with its references into a schema's own definitions turned to those of the whole document."""
    if isinstance(tree, list):
        return [_moved(item) for item in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    moved = {key: _moved(value) for key, value in cast("dict[str, Any]", tree).items()}
    if isinstance(ref := moved.get("$ref"), str):
        moved["$ref"] = ref.replace("#/$defs/", "#/components/schemas/")
    return moved
