"""Films made again: a film that somebody dropped on the page, or a live take, as the body of POST /v1/videos.

Whoever sends a file may be anybody: it is looked at in memory, nothing of it is a path, and what comes of it has passed
everything that a render is refused by. The log of a take lies in its session's folder, so that works while the film
plays, when it is parked, and after a restart of the server. Nothing that is sent is kept.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.config.nodes import LARGEST_FILE
from app.config.readers import choose
from app.config.settings import given_by_flags, resolve
from app.errors import UsageMistake, shorten
from app.jobs.job import SETTINGS, VideoRequest, place
from app.loading.model import rhythm_of
from app.media.boxes import looks_like_mp4, read_tags
from app.record.provenance import Provenance, provenance_of, provenance_of_log
from app.record.session_log import LOG, parse_log
from app.record.sidecar import read_carried, read_sidecar
from app.script.shot_list import export_native
from app.server.access import Access
from app.server.refusals import Refusal, Refused, TooLong
from pipelines.types import Transition
from weights.catalog import MODELS

if TYPE_CHECKING:
    from fastapi import APIRouter

    from app.server.desk import Desk

LARGEST_UPLOAD = 16 * 2**20
"""Bytes: the index of hours of film, or the log of as many."""
_FIELDS = ("preset", "model", "size", "seed")

SessionName = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="As in hello.")]
SessionToken = Annotated[str, Field(max_length=128, description="token or view_token of hello.")]


class WrongToken(Refused):
    """The token does not open the session."""

    status = 403


class NoSuchTake(Refused):
    """The session has left no log."""

    status = 404


class TakeKey(BaseModel):
    """Which live take, and what opens it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: SessionName
    token: SessionToken


class VideoBody(VideoRequest):
    """The body of POST /v1/videos: a request, or a live take in place of its prompt."""

    take: TakeKey | None = Field(None, description="Render a live take again; what else is given here changes it.")


class Takes:
    """The takes in a folder of sessions.

    Args:
        folder: of the sessions, a folder each.
        access: whose tokens count.
        models: names that may be rendered with.
    """

    def __init__(self, folder: Path, access: Access, *, models: Sequence[str] = tuple(MODELS)) -> None:
        self.folder, self.access, self.models = folder, access, models

    def origin(self, session: str, token: str) -> Provenance:
        """What was on screen of a session.

        Raises:
            WrongToken, NoSuchTake: there is nothing to see.
            UsageMistake: nothing was shown yet, or its log is damaged.
        """
        if self.access.opens(session, token) is None:
            raise WrongToken("The token does not fit the session. Copy both from one page.")
        try:
            log = (self.folder / session / LOG).read_bytes()
        except FileNotFoundError:
            raise NoSuchTake("This film has left no log. Let it play first.") from None
        return provenance_of_log(parse_log(log, "this film"), "this film")

    def request(self, body: VideoBody) -> VideoRequest:
        """The body as a request, with the script of its take if it names one.

        Raises:
            UsageMistake: see origin, and what does not go together.
        """
        asked = VideoRequest.model_validate(body.model_dump(exclude={"take"}))
        if body.take is None:
            return asked
        return request_again(self.origin(body.take.session, body.take.token), asked, models=self.models)


def read_dropped(data: bytes) -> Provenance:
    """What a film, a film's .json or a session.jsonl was made with, told apart by their content.

    Raises:
        UsageMistake: it is none of them, or damaged.
    """
    if looks_like_mp4(data):
        told = read_tags(data).get("rivulet")
        if told is None:
            raise UsageMistake("This film carries no settings of Rivulet. Give one that Rivulet made.")
        return provenance_of(read_carried(told, "this film"), "this film")
    if not data.lstrip(b" \t\r\n").startswith(b"{"):
        raise UsageMistake("This is neither a film nor a log of Rivulet. Give an .mp4, its .json, or a session.jsonl.")
    if data.startswith(b'{"event":'):
        return provenance_of_log(parse_log(data, "this log"), "this log")
    return provenance_of(read_sidecar(data, "this file"), "this file")


def request_again(origin: Provenance, asked: VideoRequest, *, models: Sequence[str]) -> VideoRequest:
    """A render of the same script under what `asked` says; what it leaves open stays as it was.

    Raises:
        UsageMistake: settings that do not go together.
    """
    if asked.prompt is not None or asked.script is not None:
        raise UsageMistake("A take brings its own script. Leave out prompt and script.")
    given = {name: value for name in _FIELDS if (value := getattr(asked, name)) is not None}
    for name in asked.settings:
        choose(name, SETTINGS, "setting")
    kept = origin.kept({*given, *asked.settings})
    if kept.get("model") not in models:
        kept.pop("model", None)
    if untaken := sorted(kept.keys() - {*_FIELDS, *SETTINGS}):
        raise UsageMistake(f"This film was made with --{untaken[0]}, which no job takes. Use rivulet replay.")
    flags = kept | given | asked.settings
    if "model" in flags:
        choose(str(flags["model"]), models, "model")  # before anything looks for a folder of that name
    resolved = resolve([given_by_flags({name: value for name, value in flags.items() if name != "seed"})])
    fps = origin.fps if resolved.settings.fps is None else float(Fraction(resolved.settings.fps))
    usual = resolve([given_by_flags({name: flags[name] for name in ("preset", "model") if name in flags})])
    if flags.get("fps") == usual.settings.fps:
        del flags["fps"]
    return asked.model_copy(
        update={
            "script": export_native(origin.script_for(rhythm_of(resolved.preset), fps)),
            "script_kind": "yaml",
            "settings": {name: value for name, value in flags.items() if name not in _FIELDS},
            **{name: flags.get(name) for name in _FIELDS},
        }
    )


def restored(origin: Provenance, *, models: Sequence[str]) -> dict[str, Any]:
    """What a client is told of it: a request that can be sent as it is, and its shots.

    Raises:
        UsageMistake: it could not be rendered here.
    """
    request = request_again(origin, VideoRequest.model_validate({}), models=models)
    if len((request.script or "").encode()) > LARGEST_FILE:
        raise UsageMistake(f"Its script is longer than {LARGEST_FILE} bytes. Render it with rivulet replay.")
    _, _, timeline = place(request, models=models)
    notes = list(origin.notes)
    if origin.video is not None or origin.beginning is not None:
        notes.append("It was made of pictures; a job films its words alone. Render it as it was with rivulet replay.")
    if request.model is None:
        notes.append(f"This server has no model {shorten(str(origin.settings['model']), 40)!r}; choose another.")
    return {
        "object": "film.restored",
        "kind": origin.kind,
        "seconds": round(timeline.frames / timeline.fps, 6),
        "fps": timeline.fps,
        "frames": timeline.frames,
        "request": request.model_dump(mode="json", include={*_FIELDS, "script", "script_kind", "settings"}),
        "shots": [
            {"at": shot.actual.second, "prompt": shot.prompt, "transition": _told(shot.transition)}
            for shot in timeline.shots
        ],
        "notes": notes,
    }


def _told(transition: Transition) -> dict[str, Any]:
    return {"kind": transition.kind, "chunks": transition.chunks}


def restore_router(desk: "Desk") -> "APIRouter":
    """The routes, with a desk that reads; who may use them is decided in front of them, in app/server/access.py."""
    from fastapi import APIRouter, Body, Query

    from app.server.bodies import Told, bounded
    from app.server.schemas import Restored

    too_long = f"This is more than {LARGEST_UPLOAD // 2**20} MiB. Send the beginning of the film."
    router = APIRouter(
        tags=["films again"],
        route_class=bounded(LARGEST_UPLOAD, lambda: TooLong(too_long)),
        responses={"4XX": {"model": Refusal, "description": "Refused, in a sentence"}},
    )

    @router.post(
        "/v1/restore",
        summary="What a film, its .json or a session.jsonl was made with",
        response_model=Restored,
        openapi_extra={"requestBody": {"required": True}},
    )
    async def restore(  # pyright: ignore[reportUnusedFunction]
        data: Annotated[bytes, Body(media_type="application/octet-stream")] = b"",  # refused as any that is no film
    ) -> Told:
        return await desk.ask("restore", data=data)

    @router.get("/v1/sessions/{session}/take", summary="What was on screen of a live film", response_model=Restored)
    async def take(  # pyright: ignore[reportUnusedFunction]
        session: SessionName, token: Annotated[SessionToken, Query()]
    ) -> Told:
        return await desk.ask("take", session=session, token=token)

    return router
