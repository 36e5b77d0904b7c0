"""A WebSocket connection from its handshake to its end: three tasks that wait for a session, send, and listen.

Whichever of the last two ends first ends the connection; a message that is refused costs its sender a sentence, and one
that floods costs it the socket.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import WebSocket, WebSocketDisconnect

from app.errors import explain
from app.live.checkpoint import NotKept
from app.live.message_reader import read_message
from app.live.messages import Ack, ClientMessage, Do, Done, Problem, VideoStart, WireError
from app.live.picture_header import Upload, read_picture
from app.live.source_messages import BeginningSet, SourceSet
from app.server.rooms import Full, Lobby, Room
from app.server.viewers import Gone, SocketViewer

if TYPE_CHECKING:
    from app.server.access import Access

MESSAGES_A_SECOND = 100.0
"""A page sends about 30: an acknowledgement a frame, and what a person types."""
BURST = 300.0
REFUSED_COSTS = 10.0
"""A refused message counts as so many."""
LONG_MESSAGE = 4096
"""Bytes for which a message counts as one more: what it says goes to every viewer."""
LONG_PICTURE = 64 * 1024
"""The same for a picture, of which nobody but its film sees anything."""
FAREWELL_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Connection:
    """A viewer at a socket; `dismissed` says that a Done was told."""

    def __init__(self, lobby: Lobby, access: "Access", viewer: SocketViewer) -> None:
        self.lobby = lobby
        self.access = access
        self.viewer = viewer
        self.room: Room | None = None
        self.dismissed = False

    async def run(self, socket: WebSocket, session_id: str | None) -> None:
        """Serve the socket until either side ends it."""
        entering = asyncio.create_task(self._enter(session_id))
        sending = asyncio.create_task(self.viewer.send_to(socket))
        listening = asyncio.create_task(self._listen(socket))
        tasks = {entering, sending, listening}
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
            if self.dismissed:
                await asyncio.wait({sending}, timeout=FAREWELL_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            if self.room is not None:
                self.room.session.detach(self.viewer)
                self.room.leave(self.viewer)
                self.lobby.leave(self.room)
            await asyncio.wait(tasks)  # not gather, which would hide who cancels
        with suppress(RuntimeError, WebSocketDisconnect):  # the other side was first
            await socket.close()
        for task in tasks:  # a link may break at any moment; everything else is a mistake of ours
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, Gone | WebSocketDisconnect | RuntimeError | OSError):
                session = None if self.room is None else self.room.session.id
                _log.error("this connection has failed", extra={"session": session})
                raise error

    async def _enter(self, session_id: str | None) -> None:
        try:
            self.room = await self.lobby.open(self.viewer, session_id)
            self._welcome(self.room)
        except Full as error:
            self._dismiss(Problem(message=str(error), action="Try again later.", code="full"))
        except NotKept as error:
            self._dismiss(Problem(message=str(error), action="Begin another film.", code="gone"))
        except Exception as error:  # whatever the engine could not do is told, in a sentence
            self._dismiss(Problem(message=explain(error)[0], code="engine"))

    def _welcome(self, room: Room) -> None:
        session, viewer = room.session, self.viewer
        view_token = self.access.token(session.id, view=True)
        viewer.files = (f"v1/sessions/{session.id}/files/", f"?token={view_token}")
        token = self.access.token(session.id) if viewer.may_drive else ""
        viewer.tell(session.hello(viewer).model_copy(update={"token": token, "view_token": view_token}))
        viewer.tell(VideoStart())
        session.attach(viewer)

    def _dismiss(self, problem: Problem) -> None:
        self.dismissed = True
        self.viewer.tell(problem)
        self.viewer.tell(Done(reason=problem.code))

    async def _listen(self, socket: WebSocket) -> None:
        allowance, before = BURST, time.monotonic()
        while True:
            received = await socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            now = time.monotonic()
            text, picture = received.get("text"), received.get("bytes")
            cost = len(text) / LONG_MESSAGE if text is not None else len(picture or b"") / LONG_PICTURE
            allowance = min(BURST, allowance + (now - before) * MESSAGES_A_SECOND) - 1 - cost
            before = now
            try:
                message = read_picture(picture or b"") if text is None else read_message(text)
            except WireError as error:
                self.viewer.figures.messages_refused.inc()
                allowance -= REFUSED_COSTS
                self.viewer.tell(Problem(message=str(error), action="See docs/live-api.md.", code="message"))
            else:
                self._take(message)
            if allowance < 0:
                self._dismiss(Problem(message="Too many messages.", action="Send fewer.", code="rate"))
                return

    def _take(self, message: ClientMessage | SourceSet | BeginningSet | Upload) -> None:
        viewer, room = self.viewer, self.room
        if isinstance(message, Ack):
            viewer.acknowledge(message.seq)
        elif room is None:
            viewer.tell(Problem(message="The film has not begun.", action="Wait for hello.", code="waiting"))
        elif isinstance(message, Do) and message.action == "take_over":
            room.ask(viewer)
        elif isinstance(message, Do) and message.action in ("hand_over", "keep"):
            room.answer(viewer, message.action)
        elif not viewer.driver:
            viewer.tell(Problem(message="Somebody else drives.", action="Ask for the controls.", code="viewer"))
        elif isinstance(message, Upload):
            room.session.film.video.offer(message, viewer)
        else:
            try:
                if isinstance(message, SourceSet):
                    room.session.film.video.choose(message, viewer)
                elif isinstance(message, BeginningSet):
                    room.session.film.video.gather(message, viewer)
                else:
                    room.session.submit(message, viewer)
            except ValueError as error:
                viewer.tell(Problem(message=explain(error)[0], code="refused"))
