"""How long the server waits for what a connection has begun to say, under uvicorn's two protocols.

Uvicorn waits forever for the rest of a request, and reads whole buffers of 256 KiB in one go; a thousand half-said
requests, or one buffer of the smallest frames there are, would keep everybody else waiting.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from app.server.doors import Doing, caller_of

HEAD_SECONDS = 10.0
"""From the first moment of a connection, or the first byte of a further request, to the end of its head."""
BODY_SECONDS, BODY_RATE = 10.0, 4096.0
"""A body may take so long, and a second more for every so many bytes that have come."""
WRITE_SECONDS = 30.0
"""How long a reader may leave a full buffer as it is."""
CLOSE_SECONDS = 5.0
_DOING: dict[object, Doing] = {h11.IDLE: "asking", h11.SEND_BODY: "sending"}
PIECE = 4096
"""Bytes that are taken in before others have their turn: 700 of the smallest messages, about 10 ms of work."""
_LATE = "The request took too long to come. Send it in one go."
_TOO_LATE = (
    "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    f"content-length: {len(_LATE) + 1}\r\n\r\n{_LATE}\n"
).encode()


class _Pieces(asyncio.BufferedProtocol):
    """Takes in what comes a small piece at a time, and drops a connection whose reader stands still."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _piece: bytearray | None = None
    _still: asyncio.TimerHandle | None = None

    def get_buffer(self, sizehint: int) -> bytearray:
        if self._piece is None:
            self._piece = bytearray(PIECE)
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        assert self._piece is not None
        self.data_received(bytes(memoryview(self._piece)[:nbytes]))

    if TYPE_CHECKING:  # uvicorn's protocol behind this one has it

        def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None:
        """The other side says no more: the transport closes."""

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._still is None:
            self._still = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._moves()

    def connection_lost(self, exc: Exception | None) -> None:
        self._moves()
        super().connection_lost(exc)

    def _moves(self) -> None:
        if self._still is not None:
            self._still.cancel()
            self._still = None


class HttpConnection(_Pieces, H11Protocol):
    """Requests of one connection, each within its time."""

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0
    _had = 0
    _state: Any = h11.IDLE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        H11Protocol.connection_made(self, transport)  # type: ignore[arg-type]  # a stream's, as uvicorn has it
        self._begin()

    def data_received(self, data: bytes) -> None:
        if not self._had and self._state is h11.IDLE:
            self._begin()
        self._had += len(data)
        H11Protocol.data_received(self, data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop()
        self._now("served")
        super().handle_websocket_upgrade(event)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _begin(self) -> None:
        """From now on something is waited for."""
        self._since, self._had = self.loop.time(), 0
        self._look()

    def _look(self) -> None:
        """Note what the connection is at, and set the timer where something is waited for."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._stop()
            return
        state = self.conn.their_state
        if state is not self._state:
            if state in (h11.IDLE, h11.SEND_BODY):
                self._since, self._had = self.loop.time(), 0
            self._state = state
        self._now(_DOING.get(state, "served"))
        if self._timer is None and self._due() is not None:
            self._wait()

    def _now(self, doing: Doing) -> None:
        caller = caller_of(self.transport)
        if caller is not None and caller.doors is not None:
            caller.doors.now(caller, doing)

    def _due(self) -> float | None:
        """When what is waited for has to be there; None: nothing is."""
        state = self.conn.their_state
        if state is h11.IDLE:
            kept_alive = self.timeout_keep_alive_task is not None  # which has a limit of its own
            return None if kept_alive else self._since + HEAD_SECONDS
        if state is h11.SEND_BODY:
            return self._since + BODY_SECONDS + self._had / BODY_RATE
        return None

    def _wait(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # we are the ones who are slow
            self._since = self.loop.time()
        due = self._due()
        if due is None or self.transport.is_closing():
            return
        if self.loop.time() < due:
            self._timer = self.loop.call_at(due, self._wait)
            return
        answered = self.cycle and self.cycle.response_started
        said_something = self._had or self.conn.their_state is h11.SEND_BODY
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if said_something and not answered:
            self.transport.write(_TOO_LATE)
        self.transport.close()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class SocketConnection(_Pieces, WebSocketsSansIOProtocol):
    """A WebSocket; text that is none ends it without a traceback."""

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007, "this is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        with suppress(InvalidState):  # uvicorn closes again what its visitor is closing at this very moment
            super().shutdown()
        self.transport.close()
