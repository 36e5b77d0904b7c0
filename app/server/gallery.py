"""Gallery: everything made on this machine, rendered films and what live films saved, with names, stars and a bin.

Render jobs are everybody's who reaches the server, as everywhere; of live films those are shown whose token is given.
What people say of an item lies beside it (app/server/marks.py). Only what lies in the bin can be deleted.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from starlette.concurrency import run_in_threadpool

from app.errors import UsageMistake
from app.media.excerpts import poster
from app.record.session_log import LOG
from app.server.access import Access
from app.server.marks import Mark, read_marks, write_marks
from app.server.refusals import Refusal, Refused, TooLong, read_body
from app.server.restore import SessionToken, TakeKey, WrongToken

if TYPE_CHECKING:
    from fastapi import APIRouter

    from app.jobs.queue import Jobs

MOST_FILMS = 100
"""Live films that are asked for at a time."""
LARGEST_BODY = 64 * 1024
_MADE = re.compile(r"(recording|last|still)-\d{8}-\d{6}(?:-\d{1,3})?(?:-([a-z0-9-]*))?\.(mp4|png)")
_KINDS = {"recording": "recording", "last": "last seconds", "still": "picture"}
_FILM = re.compile(r"film:(video_[0-9a-f]{24})")
_SAVED = re.compile(r"live:([A-Za-z0-9_-]{1,64})/([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


class NoSuchItem(Refused):
    """The gallery has no such thing."""

    status = 404


class GalleryItem(Mark):
    """Something that was made: `url` and `poster` are relative to the root, `at` is unix seconds.

    `kind` is film, recording, last seconds, picture, or take: a live film's log, which can be rendered again.
    `session` is the live film it is of, "" for a render.
    """

    item: str
    kind: str
    session: str = ""
    url: str
    poster: str = ""
    bytes: int
    at: float


class Gallery(BaseModel):
    """All of it, the newest first, and the takes behind the others."""

    object: str = "list"
    data: list[GalleryItem]


class DeletedItem(BaseModel):
    """An item that is no more."""

    item: str
    deleted: bool = True


class Asked(BaseModel):
    """Which live films are shown beside the rendered ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    films: list[TakeKey] = Field([], max_length=MOST_FILMS)


class Said(BaseModel):
    """A change of an item's mark; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item: str = Field(max_length=200)
    token: SessionToken = ""
    name: Annotated[str, Field(max_length=200)] | None = None
    favourite: bool | None = None
    binned: bool | None = None


class Shelf:
    """The gallery of one server.

    Args:
        folder: of the live films, a folder each.
        access: whose tokens open them.
        jobs: renders, None where there are none.
    """

    def __init__(self, folder: Path, access: Access, jobs: "Jobs | None") -> None:
        self._folder, self._access, self._jobs = folder, access, jobs
        self._lock = Lock()

    def list(self, asked: Asked) -> Gallery:
        """Every render that has a frame, and what the live films saved whose tokens fit; others are left out."""
        items = [item for job in (self._jobs.list() if self._jobs else []) for item in self._of_job(job.id)]
        for key in {key.session: key for key in asked.films}.values():
            if self._access.opens(key.session, key.token) is not None:
                items += self._of_session(key.session, key.token)
        return Gallery(data=sorted(items, key=lambda item: (item.kind == "take", -item.at)))

    def say(self, said: Said) -> GalleryItem:
        """Change what is said of an item; refused like `poster`, and for a link that only watches."""
        folder, file = self._place(said.item, said.token, changes=True)
        with self._lock:
            marks = read_marks(folder)
            change = said.model_dump(include={"name", "favourite", "binned"}, exclude_none=True)
            marks[file] = marks.get(file, Mark()).model_copy(update=change)
            write_marks(folder, marks)
        return self._item(said.item, said.token)

    def delete(self, name: str, token: str) -> DeletedItem:
        """Remove an item that lies in the bin for good.

        Raises:
            UsageMistake: it does not.
        """
        folder, file = self._place(name, token, changes=True)
        with self._lock:
            marks = read_marks(folder)
            if not marks.get(file, Mark()).binned:
                raise UsageMistake("Only what lies in the bin can be deleted. Put it there first.")
            found = _FILM.fullmatch(name)
            if found is None:
                (folder / file).unlink(missing_ok=True)
                marks.pop(file)
                write_marks(folder, marks)
        if found is not None and self._jobs is not None:
            self._jobs.delete(found[1])
        return DeletedItem(item=name)

    def poster(self, name: str, token: str) -> bytes:
        """A picture of an item, as a JPEG.

        Raises:
            WrongToken, NoSuchItem: there is nothing to see.
        """
        folder, file = self._place(name, token)
        path = folder / file
        if path.suffix != ".mp4":
            raise NoSuchItem("Only films have posters. Ask for the picture itself.")
        import av

        with av.open(str(path.absolute()), "r") as container:
            frames = container.streams.video[0].frames
        return poster(path, frames)

    def _place(self, name: str, token: str, *, changes: bool = False) -> tuple[Path, str]:
        """Folder and file of an item."""
        if (film := _FILM.fullmatch(name)) is not None and self._jobs is not None:
            job = self._jobs.get(film[1])
            return self._jobs.folder / job.id, "film.mp4"
        if (saved := _SAVED.fullmatch(name)) is not None:
            right = self._access.opens(saved[1], token)
            if right is None or (changes and right != "drive"):
                raise WrongToken("The token does not fit the film. Open the gallery in the page that made it.")
            folder = self._folder / saved[1]
            if (saved[2] == LOG or _MADE.fullmatch(saved[2])) and (folder / saved[2]).is_file():
                return folder, saved[2]
        raise NoSuchItem("There is nothing of that name. Reload the gallery.")

    def _item(self, name: str, token: str) -> GalleryItem:
        film, saved = _FILM.fullmatch(name), _SAVED.fullmatch(name)
        items = self._of_job(film[1]) if film else self._of_session(saved[1], token) if saved else iter(())
        return next(item for item in items if item.item == name)

    def _of_job(self, job_id: str) -> Iterator[GalleryItem]:
        assert self._jobs is not None
        job = self._jobs.get(job_id)
        if not job.frames_done:
            return
        mark = read_marks(self._jobs.folder / job.id).get("film.mp4", Mark())
        url = f"v1/videos/{job.id}/content"
        yield GalleryItem(
            item=f"film:{job.id}",
            kind="film",
            url=url,
            poster=f"{url}?variant=poster&frames={job.frames_done}",
            bytes=job.bytes,
            at=job.completed_at or job.created_at,
            **mark.model_copy(update={"name": mark.name or job.name}).model_dump(),
        )

    def _of_session(self, session: str, token: str) -> Iterator[GalleryItem]:
        folder = self._folder / session
        marks = read_marks(folder)
        with suppress(OSError):
            for path in sorted(folder.iterdir()):
                made = _MADE.fullmatch(path.name)
                if made is None and path.name != LOG:
                    continue
                mark, name = marks.get(path.name, Mark()), f"live:{session}/{path.name}"
                usual = "live film" if made is None else (made[2] or "").replace("-", " ") or _KINDS[made[1]]
                url = f"v1/sessions/{session}/files/{path.name}?token={token}"
                seen = {"mp4": f"v1/gallery/poster?item={name}&token={token}", "png": url}
                yield GalleryItem(
                    item=name,
                    kind="take" if made is None else _KINDS[made[1]],
                    session=session,
                    url=url,
                    poster="" if made is None else seen[made[3]],
                    bytes=path.stat().st_size,
                    at=path.stat().st_mtime,
                    **mark.model_copy(update={"name": mark.name or usual}).model_dump(),
                )


def gallery_router(shelf: Shelf) -> "APIRouter":
    """The routes; access.py in front of them decides who may ask at all."""
    from fastapi import APIRouter, Body, Query, Response

    from app.server.bodies import Told, bounded
    from app.server.desk import Turns

    router = APIRouter(
        prefix="/v1/gallery",
        tags=["gallery"],
        route_class=bounded(LARGEST_BODY, lambda: TooLong("The request is too long. Send less.")),
        responses={"4XX": {"model": Refusal, "description": "Refused, in a sentence"}},
    )
    posters = Turns(2, waiting=200)
    asked_for = PlainValidator(lambda body: read_body(Asked, body), json_schema_input_type=Asked)
    said_of = PlainValidator(lambda body: read_body(Said, body), json_schema_input_type=Said)

    @router.post("", summary="Everything made here, the newest first", response_model=Gallery)
    async def gallery(body: Annotated[Asked, Body(), asked_for]) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told((await run_in_threadpool(shelf.list, body)).model_dump_json())

    @router.post("/mark", summary="Name it, star it, put it into the bin", response_model=GalleryItem)
    async def mark(body: Annotated[Said, Body(), said_of]) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Told((await run_in_threadpool(shelf.say, body)).model_dump_json())

    @router.delete("", summary="Delete what lies in the bin")
    async def delete(  # pyright: ignore[reportUnusedFunction]
        item: Annotated[str, Query(max_length=200)], token: Annotated[SessionToken, Query()] = ""
    ) -> DeletedItem:
        return await run_in_threadpool(shelf.delete, item, token)

    @router.get(
        "/poster",
        summary="A picture of a film that was saved",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "The frame in its middle"}},
    )
    async def picture(  # pyright: ignore[reportUnusedFunction]
        item: Annotated[str, Query(max_length=200)], token: Annotated[SessionToken, Query()] = ""
    ) -> Response:
        async with posters.turn():
            content = await run_in_threadpool(shelf.poster, item, token)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return router
