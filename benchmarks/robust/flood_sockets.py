"""Half-open sockets of a flood: connections that say nothing, or never end their request, held and opened again.

A process of its own, with a limit of open files of its own. The server bounds what one visitor may hold, so they come
from many addresses of the loopback network.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

OF_ONE = 100
"""Connections from one address: fewer than a visitor may have."""
BEGUN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_FILES = 200
"""Open files beside the sockets."""
_PAUSE = 0.5


def address(number: int) -> str:
    """Where the connection of that number comes from: OF_ONE of them from each address of the loopback network."""
    group = number // OF_ONE
    return f"127.0.{1 + group // 200}.{1 + group % 200}"


def many_addresses() -> bool:
    """Whether this machine has a loopback network, not one address alone."""
    with socket.socket() as sock, suppress(OSError):
        sock.bind((address(0), 0))
        return True
    return False


def allow_files(count: int) -> bool:
    """Let this process open so many sockets; whether the system does."""
    try:
        import resource
    except ImportError:  # Windows, which knows no such limit
        return True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            return False
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


class HalfOpen:
    """`count` connections to a server, never more than begun, for `seconds`; `counted` says what came of them."""

    def __init__(self, url: str, count: int, seconds: float) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "127.0.0.1", where.port or 80
        self._count, self._end = count, time.monotonic() + seconds
        self._open = 0
        self.counted: Counter[str] = Counter()

    async def hold(self) -> None:
        """Until the time is over."""
        await asyncio.gather(*(self._one(number) for number in range(self._count)))

    async def _one(self, number: int) -> None:
        source = (address(number), 0)
        while (left := self._end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    reader, writer = await asyncio.open_connection(self._host, self._port, local_addr=source)
                    self._entered()
                    try:
                        if number % 2:
                            writer.write(BEGUN)
                        await reader.read()  # what the server says, up to its end of the connection
                        self.counted["ended by the server"] += 1
                    finally:
                        self._open -= 1
                        writer.close()
            except TimeoutError:
                return
            except OSError:
                self.counted["refused or reset"] += 1
            await asyncio.sleep(_PAUSE)

    def _entered(self) -> None:
        self._open += 1
        self.counted["opened"] += 1
        self.counted["held at most"] = max(self.counted["held at most"], self._open)


def main(url: str, count: int, seconds: float) -> None:
    """Hold them, and print what came of them as JSON."""
    allow_files(count)
    sockets = HalfOpen(url, count, seconds)
    print("here", flush=True)  # from now on it is measured
    asyncio.run(sockets.hold())
    print(json.dumps(dict(sorted(sockets.counted.items()))))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
