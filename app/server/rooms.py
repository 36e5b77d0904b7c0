"""Rooms, sessions with their viewers and who of them drives; and the lobby, where they wait for a free session.

Everything here runs on the server's event loop; only opening a session, which may load a model, goes to a thread.
"""

import asyncio
from typing import TYPE_CHECKING

from app.live.engine import Busy
from app.live.messages import Do, Done, Problem, RoleState
from app.server.viewers import PictureViewer, SocketViewer

if TYPE_CHECKING:
    from app.cluster.gateway import ClusterEngine
    from app.live.engine import LiveEngine
    from app.live.session import Session

ANSWER_SECONDS = 10.0
"""How long a driver has to answer before the controls change hands."""
RETRY_SECONDS = 0.25
MAX_VIEWERS = 64
"""Of one session."""
MAX_WAITING = 32


class Full(Exception):
    """There is no room; the text is for people."""


class Room:
    """One session, those who watch it, and which of them drives."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.viewers: list[SocketViewer] = []
        self.pictures: set[PictureViewer] = set()
        self._asking: SocketViewer | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def driver(self) -> SocketViewer | None:
        """Whose commands count."""
        return next((viewer for viewer in self.viewers if viewer.driver), None)

    @property
    def empty(self) -> bool:
        """Whether nobody is left."""
        return not self.viewers and not self.pictures

    def enter(self, viewer: SocketViewer) -> None:
        """Give a viewer its place: it drives if it may and nobody does.

        A page that comes back before its old socket was found dead takes its own place again.

        Raises:
            Full: too many watch already.
        """
        if len(self.viewers) >= MAX_VIEWERS:
            raise Full(f"{MAX_VIEWERS} others watch this film already.")
        before = self.driver
        if before is not None and viewer.may_drive and viewer.client and before.client == viewer.client:
            before.driver = False
            before.tell(Done(reason="replaced"))
        viewer.driver = viewer.may_drive and self.driver is None
        self.viewers.append(viewer)

    def leave(self, viewer: SocketViewer) -> None:
        """Let a viewer go; whoever asked for the controls, or has waited longest, has them then."""
        self.viewers.remove(viewer)
        if viewer is self._asking:
            self._settle()
        if viewer.driver:
            viewer.driver = False
            able = [other for other in self.viewers if other.may_drive]
            heir = self._asking or (able[0] if able else None)
            self._settle()
            if heir is not None:
                heir.driver = True
                heir.tell(RoleState(role="driver"))

    def ask(self, viewer: SocketViewer) -> None:
        """A viewer wants the controls: the driver is asked, and loses them by not answering."""
        driver = self.driver
        if viewer.driver:
            return
        if not viewer.may_drive:
            viewer.tell(
                Problem(message="This link is for watching.", action="Ask for the link that drives.", code="viewer")
            )
        elif driver is None:
            self._hand_to(viewer)
        elif self._asking is not None and self._asking is not viewer:
            viewer.tell(Problem(message="Somebody else asks already.", action="Try again in 10 s.", code="asked"))
        elif self._asking is None:
            self._asking = viewer
            self._deadline = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._hand_to, viewer)
            driver.tell(RoleState(role="driver", asked=True, seconds=ANSWER_SECONDS))
            viewer.tell(RoleState(role="viewer", asked=True, seconds=ANSWER_SECONDS))

    def answer(self, viewer: SocketViewer, action: str) -> None:
        """The driver lets go of the controls or keeps them."""
        asking = self._asking
        if not viewer.driver or asking is None:
            return
        if action == "hand_over":
            self._hand_to(asking)
        else:
            self._settle()
            viewer.tell(RoleState(role="driver"))
            asking.tell(RoleState(role="viewer"))

    def _hand_to(self, viewer: SocketViewer) -> None:
        before = self.driver
        self._settle()
        viewer.driver = True
        viewer.tell(RoleState(role="driver"))
        if before is not None:
            before.driver = False
            before.tell(RoleState(role="viewer"))

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._asking, self._deadline = None, None


class Lobby:
    """All rooms, and the queue before the door."""

    def __init__(self, engine: "LiveEngine | ClusterEngine", *, autostart: bool = True) -> None:
        self.engine = engine
        self.autostart = autostart
        self.rooms: dict[str, Room] = {}
        self._waiting: list[SocketViewer] = []
        self._full = False

    @property
    def waiting(self) -> int:
        """How many wait for a free session."""
        return len(self._waiting)

    async def open(self, viewer: SocketViewer, session_id: str | None) -> Room:
        """Return the room of a session, or of a new one; a viewer that must wait is told its place.

        Raises:
            Full: too many wait already, or watch this session.
        """
        room = self.rooms.get(session_id) if session_id is not None else None
        if room is None or room.session.over:
            room = self._room(await self._queue(viewer, session_id))
            if session_id is None and not self.autostart:
                room.session.submit(Do(action="pause"), viewer)
        room.enter(viewer)
        return room

    def leave(self, room: Room) -> None:
        """Forget a room that nobody is in; the engine parks its session."""
        if room.empty and self.rooms.get(room.session.id) is room:
            del self.rooms[room.session.id]

    def _room(self, session: "Session") -> Room:
        room = self.rooms.get(session.id)
        if room is None or room.session is not session:
            room = self.rooms[session.id] = Room(session)
        return room

    async def _queue(self, viewer: SocketViewer, session_id: str | None) -> "Session":
        if len(self._waiting) >= MAX_WAITING:
            raise Full(f"{MAX_WAITING} others wait for a film already.")
        self._waiting.append(viewer)
        told = 0
        try:
            while True:
                place = self._waiting.index(viewer) + 1
                if place == 1:
                    try:
                        session = await self._open(viewer, session_id)
                    except Busy:
                        self._full = True
                    else:
                        self._full = False
                        return session
                if self._full and place != told:
                    told = place
                    viewer.tell(_busy(place))
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._waiting.remove(viewer)

    async def _open(self, viewer: SocketViewer, session_id: str | None) -> "Session":
        opening = asyncio.get_running_loop().run_in_executor(None, self.engine.open, session_id)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # the viewer went away; what it asked for must not stay open without anybody
            opening.add_done_callback(lambda done: _close_unused(done, viewer))
            raise


def _close_unused(opening: "asyncio.Future[Session]", viewer: SocketViewer) -> None:
    if not opening.cancelled() and opening.exception() is None:
        session = opening.result()
        session.attach(viewer)
        session.detach(viewer)


def _busy(place: int) -> Problem:
    others = "nobody" if place == 1 else "one other" if place == 2 else f"{place - 1} others"
    return Problem(
        message=f"Every film this machine can make at once is being watched; {others} before you.",
        action="Stay: it begins by itself.",
        code="busy",
        position=place,
    )
