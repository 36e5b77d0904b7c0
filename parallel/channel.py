"""Channel between ranks for what is said in words: what to do next, parts of a state, that one is alive, why one ended.

Plain sockets beside torch.distributed, because a rank that waits for a person must not run into a timeout, and because
a rank that is gone has to be noticed by those that wait for its tensors for ever: each end says every second that it
is there, in a thread of its own, so that a rank may sleep or compute as long as it likes.
"""

from __future__ import annotations

import hmac
import pickle
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from parallel.lost import LinkLost

BEAT, SILENCE = 1.0, 5.0
"""Seconds between two signs of life, and without one until a rank counts as gone."""
GRACE = 2.0
"""Seconds in which whoever waits for tensors may notice by itself that a rank is gone, and end in order."""
ARRIVAL = 300.0
"""Seconds in which all ranks have to come."""
_END = "end"


class _Peer:
    """One end of one socket: messages go out under a lock and come in through a thread.

    Args:
        connection: the socket.
        gone: told once, why the other end is gone; not after it said goodbye.
    """

    def __init__(self, connection: socket.socket, gone: Callable[[str], None]) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._gone, self._lock = connection, gone, threading.Lock()
        self.inbox: queue.Queue[Any] = queue.Queue()
        self._over = False
        self._heard = time.monotonic()
        for work in (self._read, self._beat):
            threading.Thread(target=work, daemon=True, name=f"rank channel {work.__name__}").start()

    def tell(self, message: object) -> None:
        """Send a message; one that cannot be sent is lost, and the other end counts as gone."""
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._send(struct.pack(">Q", len(data)) + data)

    def close(self) -> None:
        """Say goodbye."""
        self._over = True
        self.tell(_END)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            self._lost("the link to it broke")

    def _read(self) -> None:
        try:
            while True:
                (size,) = struct.unpack(">Q", _exactly(self._socket, 8, self._is_there))
                if not size:
                    continue
                message = pickle.loads(_exactly(self._socket, size, self._is_there))  # of our own rank
                if message == _END:
                    self._over = True
                self.inbox.put(message)
        except OSError:
            self._lost("the link to it broke")
        finally:
            self._socket.close()

    def _is_there(self) -> None:
        self._heard = time.monotonic()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over:
            time.sleep(BEAT)
            now = time.monotonic()
            if now - last > 3 * BEAT:  # this whole process stood still, and could hear nobody
                self._heard = now
            last = now
            if now - self._heard > SILENCE:
                self._lost(f"it has been silent for {SILENCE:.0f} s")
                return
            # Of a large message that is on its way every byte is a sign of life, and the lock is held.
            if self._lock.acquire(timeout=BEAT):
                try:
                    self._socket.sendall(bytes(8))
                except OSError:
                    self._lost("the link to it broke")
                finally:
                    self._lock.release()

    def _lost(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._gone(why)


def _exactly(connection: socket.socket, size: int, heard: Callable[[], None] = lambda: None) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise ConnectionError("closed")
        heard()
        data += part
    return bytes(data)


class Leader:
    """Rank 0's end: it tells all others, and hears from each.

    Args:
        host: where to listen.
        ranks: how many there are, itself included.
        token: what the others prove themselves with.
        died: how a rank ended, if that is known here; "" if not.
        force: ends this process with a sentence, where nobody notices that a rank is gone.

    Attributes:
        port: where they come to.
    """

    def __init__(
        self, host: str, ranks: int, token: str, died: Callable[[int], str], force: Callable[[str], None]
    ) -> None:
        self._listener = socket.create_server((host, 0), backlog=ranks)
        self.port: int = self._listener.getsockname()[1]
        self._ranks, self._token, self._died, self._force = ranks, token, died, force
        self._peers: dict[int, _Peer] = {}
        self._why = ""
        self._known = threading.Event()
        self._noticed = threading.Event()

    def gather(self) -> None:
        """Wait for all others.

        Raises:
            LinkLost: one did not come.
        """
        end = time.monotonic() + ARRIVAL
        self._listener.settimeout(0.2)
        with self._listener:
            while len(self._peers) < self._ranks - 1:
                missing = [rank for rank in range(1, self._ranks) if rank not in self._peers]
                for rank in missing:
                    if died := self._died(rank):
                        raise LinkLost(f"Rank {rank} is gone ({died}) before it began. Run it with --debug to see why.")
                if time.monotonic() > end:
                    raise LinkLost(f"Rank {missing[0]} did not come within {ARRIVAL:.0f} s. Start all ranks together.")
                with suppress(TimeoutError):
                    self._admit(self._listener.accept()[0])

    def _admit(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with suppress(OSError, ValueError, struct.error):
            (size,) = struct.unpack(">H", _exactly(connection, 2))
            token, _, rank = _exactly(connection, size).partition(b" ")
            if (
                hmac.compare_digest(token, self._token.encode())
                and 0 < int(rank) < self._ranks
                and int(rank) not in self._peers
            ):
                connection.settimeout(None)
                number = int(rank)
                self._peers[number] = _Peer(connection, lambda why: self._gone(number, why))
                return
        connection.close()

    def tell(self, message: object) -> None:
        """Tell all others."""
        for peer in self._peers.values():
            peer.tell(message)

    def tell_each(self, messages: Sequence[object]) -> None:
        """Tell every other rank its own message, by rank; the first is ours."""
        for rank, peer in self._peers.items():
            peer.tell(messages[rank])

    def heard(self) -> list[Any]:
        """The next message of every other rank, by rank.

        Raises:
            LinkLost: one is gone, or failed.
        """
        replies: list[Any] = []
        for rank in range(1, self._ranks):
            while True:
                if self._known.is_set():
                    raise LinkLost(self.why())
                with suppress(queue.Empty):
                    message = self._peers[rank].inbox.get(timeout=0.2)
                    break
            if isinstance(message, Failed):
                self._gone(rank, message.sentence, said=True)
                raise LinkLost(self.why())
            replies.append(message)
        return replies

    def why(self) -> str:
        """What became of a rank; whoever asks has noticed, and ends in order."""
        self._noticed.set()
        if not self._known.wait(GRACE):
            return "The link to another rank was lost."
        return self._why

    @property
    def lost(self) -> bool:
        """Whether a rank is gone."""
        return self._known.is_set()

    def close(self) -> None:
        """Let all others end."""
        for peer in self._peers.values():
            peer.close()

    def _gone(self, rank: int, why: str, *, said: bool = False) -> None:
        if self._known.is_set():
            return
        with suppress(queue.Empty):
            while not said:
                message = self._peers[rank].inbox.get_nowait()
                if isinstance(message, Failed):
                    why, said = message.sentence, True
        if said:
            self._why = f"Rank {rank} failed: {why}"
        else:
            end = time.monotonic() + 1
            while not (died := self._died(rank)) and time.monotonic() < end:
                time.sleep(0.05)
            self._why = f"Rank {rank} is gone ({died or why})."
        self._known.set()
        if not self._noticed.wait(GRACE):
            self._force(self._why)


class Failed:
    """What a rank that cannot go on says before it ends.

    Args:
        sentence: why.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence


class Member:
    """Another rank's end.

    Args:
        host: where rank 0 listens.
        port: likewise.
        token: what it is proven with.
        rank: our number.
        gone: ends this process: rank 0 is gone.
    """

    def __init__(self, host: str, port: int, token: str, rank: int, gone: Callable[[str], None]) -> None:
        connection = socket.create_connection((host, port), timeout=30)
        hello = f"{token} {rank}".encode()
        connection.sendall(struct.pack(">H", len(hello)) + hello)
        connection.settimeout(None)
        self._peer = _Peer(connection, gone)

    def hear(self) -> Any:
        """The next message; None when all is over."""
        message = self._peer.inbox.get()
        return None if message == _END else message

    def tell(self, message: object) -> None:
        """Tell rank 0."""
        self._peer.tell(message)

    def close(self) -> None:
        """Say goodbye."""
        self._peer.close()
