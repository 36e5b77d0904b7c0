"""Connection limits: how many connections there may be, of one visitor and in all, and which must go.

They are counted where they are accepted, before a byte was read: a TLS handshake that never comes holds a file
descriptor too, and a process that has none left answers nobody. When the door is full, who has waited longest without
asking anything goes, so that who comes to watch gets in while somebody else holds a thousand silent sockets open.
"""

import asyncio
import socket
from collections import Counter
from contextlib import suppress
from itertools import chain
from typing import Literal

from app.server.addresses import Proxies, household

MOST, OF_ONE = 1024, 128
"""Connections in all, and of one visitor: 64 viewers of one film at one address, and their pages."""
AT_ONCE = 16
"""Connections let in or turned away before the ones inside are looked after again, about 3 ms of work: asyncio would
go on for as long as the queue is."""

Doing = Literal["asking", "sending", "served"]
"""What a connection is at: its request has not come, its body is coming, or we are at work for it."""


def most_connections() -> int:
    """How many connections this process may have: below what the system lets it open, with room for files and pipes."""
    try:
        import resource
    except ImportError:  # Windows, which knows no such limit
        return MOST
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files < 0 else max(16, min(MOST, files - max(160, files // 4)))


class Doors:
    """Who is in.

    Args:
        most: connections in all; None: most_connections().
        of_one: of one visitor, which proxies are not.
        proxies: whose connections carry many visitors.

    Attributes:
        refused: connections turned away; `evicted`: silent ones that made room.
    """

    def __init__(
        self,
        *,
        most: int | None = None,
        of_one: int = OF_ONE,
        proxies: Proxies | None = None,
    ) -> None:
        self.most = most_connections() if most is None else most
        self.of_one = min(of_one, max(1, self.most // 2))
        self.proxies = proxies or Proxies()
        self.refused = self.evicted = 0
        self._inside: dict[Doing, dict[Caller, None]] = {"asking": {}, "sending": {}, "served": {}}
        """Each in the order in which they came to it, so that who waited longest is found without asking everybody."""
        self._of_one: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._inside.values()))

    def __contains__(self, caller: object) -> bool:
        return any(caller in inside for inside in self._inside.values())

    def enter(self, caller: "Caller", address: str) -> bool:
        """Let a connection in, or say that there is no room for it."""
        caller.household = "" if self.proxies.trusts(address) else household(address)
        if caller.household and self._of_one[caller.household] >= self.of_one:
            room = self._make_room(caller.household)
        else:
            room = len(self) < self.most or self._make_room()
        if not room:
            self.refused += 1
            return False
        caller.doors = self
        self._inside[caller.doing][caller] = None
        _callers[caller.fileno()] = caller
        self._of_one[caller.household] += 1
        return True

    def leave(self, caller: "Caller") -> None:
        """Forget a connection."""
        if caller in (inside := self._inside[caller.doing]):
            del inside[caller]
            _callers.pop(caller.fileno(), None)
            self._of_one[caller.household] -= 1
            if not self._of_one[caller.household]:
                del self._of_one[caller.household]

    def now(self, caller: "Caller", doing: Doing) -> None:
        """Note what a connection is at; those that are served are never sent away."""
        if caller.doing != doing and caller in (inside := self._inside[caller.doing]):
            del inside[caller]
            self._inside[doing][caller] = None
            caller.doing = doing

    def _make_room(self, household: str | None = None) -> bool:
        """Send the one away that waited longest, silent ones before those whose body is coming."""
        waiting = chain(self._inside["asking"], self._inside["sending"])
        oldest = next((caller for caller in waiting if household in (None, caller.household)), None)
        if oldest is None:
            return False
        self.leave(oldest)
        self.evicted += 1
        oldest.end()
        return True


class Caller(socket.socket):
    """A connection that was accepted; its transport closes it, which is how the door learns of it."""

    doors: Doors | None = None
    household = ""
    doing: Doing = "asking"

    def close(self) -> None:
        """Leave, and close."""
        if self.doors is not None:
            self.doors.leave(self)
        super().close()

    def end(self) -> None:
        """Make its transport find the end of the connection, whatever that is at."""
        with suppress(OSError):  # the other side was first
            self.shutdown(socket.SHUT_RDWR)


_callers: dict[int, Caller] = {}
"""Who is in behind any door, by the number of the file, of which a process has one each."""


def caller_of(transport: asyncio.BaseTransport) -> Caller | None:
    """The accepted connection under a transport, TLS or not; None if it came through no door."""
    sock = transport.get_extra_info("socket")
    return None if sock is None else _callers.get(sock.fileno())


class Listener(socket.socket):
    """A listening socket with a door."""

    doors: Doors

    def __init__(self, family: int, doors: Doors | None = None) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.doors = Doors() if doors is None else doors  # an empty one is false
        self._left = AT_ONCE

    def accept(self) -> tuple[Caller, tuple[str, int]]:
        """The next connection that may come in.

        Raises:
            BlockingIOError: there is none, or the ones inside come first.
        """
        while self._left:
            self._left -= 1
            try:
                conn, address = super().accept()
            except BlockingIOError:
                break
            caller = Caller(conn.family, conn.type, conn.proto, fileno=conn.detach())
            if self.doors.enter(caller, str(address[0])):
                return caller, address
            caller.close()
        self._left = AT_ONCE
        raise BlockingIOError
