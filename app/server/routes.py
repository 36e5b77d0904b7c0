"""The live server: one FastAPI application with sockets, health, pictures, files, render jobs and the page.

All of it works without the page, and nothing of it decides who may: that is app/server/access.py, in front of all.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool

from app.live.messages import Done, Problem
from app.record.kept_input import KEPT
from app.record.sidecar import library_versions
from app.server.access import Access, Gate, Receive, Scope, Send
from app.server.addresses import Proxies
from app.server.bodies import Told
from app.server.connection import Connection
from app.server.desk import Desk
from app.server.downloads import Downloads
from app.server.gallery import Shelf, gallery_router
from app.server.jobs_api import beginnings_router, jobs_router
from app.server.loop_pauses import LoopPauses
from app.server.metrics import CONTENT_TYPE, ServerMetrics
from app.server.models_api import Models, models_router
from app.server.restore import restore_router
from app.server.rooms import Lobby, Room
from app.server.schemas import Detail, Health, Readiness
from app.server.viewers import SEND_SECONDS, PictureViewer, SocketViewer

if TYPE_CHECKING:
    from app.cluster.gateway import ClusterEngine
    from app.jobs.queue import Jobs
    from app.live.engine import LiveEngine

MAX_SOCKETS = 256
MAX_PICTURE_READERS = 16
"""Of one session."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

SessionId = Annotated[str, Query(pattern="^[A-Za-z0-9_-]{1,64}$", description="As in hello.")]
Token = Annotated[str, Query(max_length=128, description="token or view_token of hello.")]
_DESCRIPTION = (
    "Films that play while they change: WS /v1/realtime/video, whose messages docs/live-api.md lists. "
    "Below is everything else."
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def make_app(
    engine: "LiveEngine | ClusterEngine",
    *,
    secret: bytes,
    root_path: str = "",
    jobs: "Jobs | None" = None,
    page: bool = True,
    login: str | None = None,
    hosts: Iterable[str] = (),
    proxies: Proxies | None = None,
    autostart: bool = True,
    perform: bool = False,
    models: Models | None = None,
) -> FastAPI:
    """Build the application around an engine that the caller starts and closes.

    Args:
        engine: makes the films.
        secret: key of the sessions' tokens.
        root_path: the sub-path at which a proxy shows it, such as "/rivulet".
        jobs: render jobs, for POST /v1/videos; None leaves them out.
        page: whether "/" is the Gradio page.
        login: "user:password" for everything, sockets included.
        hosts: names it answers to besides addresses, localhost and the machine's own name.
        proxies: whose X-Forwarded-For, -Proto and -Host count; None: nobody's.
        autostart: whether a new film plays at once.
        perform: whether the page changes the film now and then while nobody types.
        models: those of the catalogue; None: where downloads usually lie.
    """
    access = Access(secret, login, frozenset(hosts))
    desk = Desk(engine.folder, access)
    models = models or Models(None, Downloads(None))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        models.downloads.close()
        await run_in_threadpool(desk.close)

    app = FastAPI(
        lifespan=lifespan,
        title="Rivulet",
        version=library_versions()["rivulet"],
        description=_DESCRIPTION,
        docs_url=None,  # both pages load scripts from a CDN; /openapi.json stays
        redoc_url=None,
        openapi_url=None,  # it would be made on the event loop
    )
    app.include_router(LiveRoutes(engine, access, Lobby(engine, autostart=autostart)).router)
    app.include_router(restore_router(desk))
    app.include_router(gallery_router(Shelf(engine.folder, access, jobs)))
    if jobs is not None:
        app.include_router(jobs_router(jobs, desk))
        app.include_router(beginnings_router(jobs.uploads))
        app.include_router(models_router(models))

    def openapi(request: Request) -> Told:
        told: dict[str, Any] = dict(app.openapi())
        if login is not None:  # the gate asks for it, before FastAPI knows of a request
            told["components"] = {
                **told["components"],
                "securitySchemes": {"login": {"type": "http", "scheme": "basic"}},
            }
            told["security"] = [{"login": []}]
        if root := request.scope.get("root_path", ""):
            told["servers"] = [{"url": root}]
        return Told(told)

    app.add_api_route("/openapi.json", openapi, include_in_schema=False, response_model=None)
    if page:
        from app.server.gradio_shell import mount_page

        mount_page(app, engine, jobs, root_path=root_path, perform=perform)
    # Last, so that it stands before everything.
    app.add_middleware(Gate, access=access, root_path=root_path, proxies=proxies)
    return app


class LiveRoutes:
    """The routes of live films."""

    def __init__(self, engine: "LiveEngine | ClusterEngine", access: Access, lobby: Lobby) -> None:
        self.engine = engine
        self.access = access
        self.lobby = lobby
        self.connections: set[Connection] = set()
        self.figures = ServerMetrics()
        self.pauses = LoopPauses(self.figures.loop_pause.observe)
        self.figures.watch(self._gauges)
        engine.chunk_took = self.figures.chunk_time.observe
        self.router = APIRouter()
        self.router.add_api_websocket_route("/v1/realtime/video", self.talk)
        get = self.router.get
        get("/healthz")(self.healthz)
        get("/readyz", responses={503: {"model": Readiness, "description": "Not yet, or never"}})(self.readyz)
        get("/metrics", response_class=PlainTextResponse)(self.metrics)
        refusals = {status: {"model": Detail} for status in (403, 404, 503)}
        for path, handler, media, fails in (
            ("/frame.jpg", self.frame, "image/jpeg", (403, 404)),
            ("/live.mjpg", self.pictures, "multipart/x-mixed-replace", (403, 404, 503)),
            ("/v1/sessions/{session}/files/{name}", self.file, "application/octet-stream", (403, 404)),
        ):
            told: dict[int | str, dict[str, Any]] = {200: {"content": {media: _BINARY}, "description": "It"}}
            get(path, response_class=Response, responses=told | {status: refusals[status] for status in fails})(handler)

    async def talk(self, socket: WebSocket, session: str | None = None, token: str = "", client: str = "") -> None:
        """A viewer's socket: docs/live-api.md says what goes over it."""
        await socket.accept()
        self.pauses.watch()
        right = "drive" if session is None else self.access.opens(session, token)
        if right is None:
            await _turn_away(socket, Problem(message="The token is wrong.", action="Reload the page.", code="token"))
        elif len(self.connections) >= MAX_SOCKETS:
            await _turn_away(socket, Problem(message="Too many watch.", action="Try again later.", code="full"))
        else:
            viewer = SocketViewer(may_drive=right == "drive", client=client[:64], figures=self.figures)
            connection = Connection(self.lobby, self.access, viewer)
            self.connections.add(connection)
            try:
                await connection.run(socket, session)
            finally:
                self.connections.remove(connection)
                self.figures.connections_ended.inc()

    async def healthz(self) -> Health:
        """Whether the server answers."""
        return Health()

    async def readyz(self, response: Response) -> Readiness:
        """Whether films can be made: 503 while the model loads, or when loading failed."""
        response.status_code = 200 if self.engine.ready else 503
        return Readiness(ready=self.engine.ready)

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        self.pauses.watch()
        return PlainTextResponse(self.figures.exposition(), media_type=CONTENT_TYPE)

    def _gauges(self) -> dict[str, float]:
        return {
            "sockets": len(self.connections),
            "waiting": self.lobby.waiting,
            "rooms": len(self.lobby.rooms),
            **self.pauses.figures(),
            **self.engine.metrics(),
        }

    async def frame(self, session: SessionId, token: Token) -> Response:
        """The newest frame as a JPEG."""
        jpeg = self._room(session, token).session.latest_jpeg()
        if jpeg is None:
            raise HTTPException(404, "There is no frame yet. Try again in a second.")
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def pictures(self, session: SessionId, token: Token) -> Response:
        """The film as motion JPEG, for OBS or an `<img>`: watches only, and ends with its reader."""
        room = self._room(session, token)
        if len(room.pictures) >= MAX_PICTURE_READERS:
            raise HTTPException(503, f"{MAX_PICTURE_READERS} programs read these pictures already.")
        return MotionJpeg(self.lobby, room)

    async def file(self, session: str, name: str, token: Token) -> Response:
        """A file that a session saved."""
        self._check(session, token)
        folder = self.engine.folder / session  # its token was checked, so it is a name that we gave
        shown = FILE_NAME.fullmatch(name) and name != KEPT  # who may watch a film may not see what a camera saw
        if not shown or not _inside(folder / name, folder):
            raise HTTPException(404, "This session has no such file.")
        return FileResponse(folder / name, filename=name, content_disposition_type="inline")

    def _room(self, session: str, token: str) -> Room:
        self._check(session, token)
        room = self.lobby.rooms.get(session)
        if room is None:
            raise HTTPException(404, "Nobody has this film open. Open its page first.")
        return room

    def _check(self, session: str, token: str) -> None:
        if self.access.opens(session, token) is None:
            raise HTTPException(403, "The token does not fit the session. Copy the whole link from the page.")


class MotionJpeg(Response):
    """An endless multipart response that notices when its reader goes, also while no frame comes."""

    media_type = "multipart/x-mixed-replace; boundary=frame"

    def __init__(self, lobby: Lobby, room: Room) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self.lobby = lobby
        self.room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = PictureViewer()
        self.room.pictures.add(viewer)
        self.room.session.attach(viewer)
        tasks = {asyncio.create_task(self._write(viewer, send)), asyncio.create_task(_reader_gone(receive))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self.room.session.detach(viewer)
            self.room.pictures.discard(viewer)
            self.lobby.leave(self.room)
            await asyncio.wait(tasks)

    async def _write(self, viewer: PictureViewer, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        jpeg = self.room.session.latest_jpeg()
        while jpeg is None or jpeg:
            if jpeg is not None:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                part = {"type": "http.response.body", "body": head + jpeg + b"\r\n", "more_body": True}
                await asyncio.wait_for(send(part), SEND_SECONDS)
            jpeg = await viewer.next() or b""
        await send({"type": "http.response.body", "body": b"--frame--\r\n"})


async def _reader_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _turn_away(socket: WebSocket, problem: Problem) -> None:
    await socket.send_text(problem.model_dump_json())
    await socket.send_text(Done(reason=problem.code).model_dump_json())
    await socket.close(1008)


def _inside(path: Path, folder: Path) -> bool:
    return path.is_file() and path.resolve().parent == folder.resolve()
