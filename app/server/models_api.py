"""Models over HTTP: what the catalogue has, which of it is here, the verdict on this machine, and downloads.

Everybody who reaches the server may look; only somebody at this machine may have something fetched.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.config.readers import choose
from app.server.addresses import FORWARDED
from app.server.downloads import Download, Downloads, Forbidden
from app.server.refusals import Refusal, TooLong, read_body
from app.server.verdicts import Verdicts
from weights.catalog import MODELS

if TYPE_CHECKING:
    from fastapi import APIRouter

LARGEST_BODY = 4096


class ModelPart(BaseModel):
    """A set of weights: `fetch` is the `hf download` line, `here` whether it lies on this disk."""

    kind: str
    name: str
    licence: str
    licence_tick: bool
    page: str
    here: bool
    fetch: str | None


class ModelRow(BaseModel):
    """A model: `state` is here, part or away, `bytes` are on the disk, `weights_bytes` its transformer in bfloat16."""

    name: str
    about: str
    size: list[int]
    fps: int
    state: str
    bytes: int
    weights_bytes: int | None
    licence: str
    licence_tick: bool
    presets: list[str]
    pull: str
    parts: list[ModelPart]


class ModelList(BaseModel):
    """All of them; `may_pull` is whether whoever asks may have one fetched."""

    object: str = "list"
    data: list[ModelRow]
    may_pull: bool
    download: Download


class ModelVerdict(BaseModel):
    """What this machine can do with a model: `verdict` is fits, fits with PLAN, does not fit, not counted, or small; a
    sentence."""

    model: str
    verdict: str
    told: str


class PullRequest(BaseModel):
    """Which model to fetch, and whether its licence is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(max_length=200)]
    licence_accepted: bool = False


class Models:
    """The models of one server.

    Args:
        models_dir: where weights lie; None = the Hugging Face cache.
        downloads: fetches them.
    """

    def __init__(self, models_dir: Path | None, downloads: Downloads) -> None:
        self.downloads = downloads
        self._models_dir = models_dir
        self._verdicts = Verdicts(models_dir)

    def rows(self) -> list[ModelRow]:
        """All models of the catalogue; it asks no network."""
        from app.loading.inventory import makes, parts_of, row_of

        rows: list[ModelRow] = []
        for name, model in MODELS.items():
            told: dict[str, Any] = row_of(model, self._models_dir)
            parts = [
                ModelPart(
                    here=part["path"] is not None,
                    page=part["page"] if part["fetch"] else "",  # of this disk it would be a path
                    **{key: part[key] for key in _OF_PART},
                )
                for part in parts_of(model, self._models_dir)
            ]
            size, fps = makes(model)
            tick = f" --accept_licence {name}" if told["licence_tick"] else ""
            rows.append(
                ModelRow(
                    about=model.about,
                    size=list(size),
                    fps=fps,
                    pull=f"rivulet models pull {name}{tick}",
                    parts=parts,
                    **told,
                )
            )
        return rows

    def verdict(self, name: str) -> ModelVerdict:
        """On one of them."""
        word, told = self._verdicts.of(choose(name, list(MODELS), "model"))
        told = told.removeprefix(f"{name} ")
        return ModelVerdict(model=name, verdict=word, told=f"{told[:1].upper()}{told[1:]}.")


_OF_PART = ("kind", "name", "licence", "licence_tick", "fetch")


def at_this_machine(request: Request) -> bool:
    """Whether whoever asks sits at this machine: both its address and the name it asks for are this machine's, and
    nobody passed the request on."""
    client, headers = request.client, request.headers
    if client is None or request.scope.get(FORWARDED) or "via" in headers:
        return False
    return _loopback(client.host) and _loopback(urlsplit(f"//{headers.get('host', '')}").hostname or "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def models_router(models: Models) -> "APIRouter":
    """The routes; access.py in front of them decides who may ask at all."""
    from fastapi import APIRouter, Body, Response

    from app.server.bodies import Told, bounded
    from app.server.desk import Turns

    router = APIRouter(
        prefix="/v1/models",
        tags=["models"],
        route_class=bounded(LARGEST_BODY, lambda: TooLong("The request is too long. Send less.")),
        responses={"4XX": {"model": Refusal, "description": "Refused, in a sentence"}},
    )
    judged = Turns(1, waiting=40)
    asked = PlainValidator(lambda body: read_body(PullRequest, body), json_schema_input_type=PullRequest)

    def check(request: Request) -> None:
        if not at_this_machine(request):
            raise Forbidden("Only somebody at this machine may have weights fetched. Run the command there.")

    @router.get(
        "", summary="All models: which are here, what they need, and how the others come", response_model=ModelList
    )
    async def listed(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        rows = await run_in_threadpool(models.rows)
        told = ModelList(data=rows, may_pull=at_this_machine(request), download=models.downloads.state)
        return Told(told.model_dump_json())

    @router.get("/{name}/verdict", summary="What this machine can do with it")
    async def verdict(name: str) -> ModelVerdict:  # pyright: ignore[reportUnusedFunction]
        async with judged.turn():
            return await run_in_threadpool(models.verdict, name)

    @router.get("/download", summary="How the newest download stands")
    async def download() -> Download:  # pyright: ignore[reportUnusedFunction]
        return models.downloads.state

    @router.post("/download", summary="Fetch a model", response_model=Download)
    async def begin(request: Request, body: Annotated[PullRequest, Body(), asked]) -> Response:  # pyright: ignore[reportUnusedFunction]
        check(request)
        name = choose(body.model, list(MODELS), "model")
        begun = await run_in_threadpool(models.downloads.begin, name, licence_accepted=body.licence_accepted)
        return Told(begun.model_dump_json())

    @router.delete("/download", summary="Cancel it; what came so far stays")
    async def cancel(request: Request) -> Download:  # pyright: ignore[reportUnusedFunction]
        check(request)
        return models.downloads.cancel()

    return router
