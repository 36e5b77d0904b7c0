"""Connections are bounded and have their time: half-open, slow, silent, broken off, full of bytes that are no text."""

from __future__ import annotations

import json
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from app.jobs.queue import Jobs
from app.server import doors
from app.server import main as serving
from app.server import timeouts as patience
from app.server.addresses import read_proxies
from app.server.doors import Caller, Doors, Listener
from app.server.logs import LINES
from app.server.routes import make_app
from tests import live_doubles
from tests.live_doubles import SECRET, PaintedEngine, served, until
from tests.tls_proxy import certificate

SOCKET = "/v1/realtime/video"


# ------------------------------------------------------------------ the door


class Door:
    """A door without a server: who comes in has a pair of sockets."""

    def __init__(self, **settings: Any) -> None:
        self.doors = Doors(**settings)
        self.pairs: list[socket.socket] = []

    def come(self, address: str, doing: doors.Doing = "asking") -> Caller | None:
        ours, theirs = socket.socketpair()
        caller = Caller(ours.family, ours.type, fileno=ours.detach())
        self.pairs += [caller, theirs]
        if not self.doors.enter(caller, address):
            return None
        self.doors.now(caller, doing)
        return caller

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *error: object) -> None:
        for each in self.pairs:
            each.close()


def inside(door: Door, *callers: Caller | None) -> list[bool]:
    return [caller in door.doors for caller in callers]


def test_a_full_door_sends_the_longest_silent_away_and_never_who_is_served() -> None:
    with Door(most=4) as door:
        watching = door.come("1.1.1.1", "served")
        body, old, young = door.come("1.1.1.2", "sending"), door.come("1.1.1.3"), door.come("1.1.1.4")
        assert door.come("1.1.1.5", "served") is not None
        assert inside(door, watching, body, old, young) == [True, True, False, True]
        assert door.come("1.1.1.6", "served") is not None
        assert inside(door, watching, body, old, young) == [True, True, False, False], "silent ones go before bodies"
        assert door.come("1.1.1.7", "served") is not None
        assert inside(door, watching, body) == [True, False]
        assert door.come("1.1.1.8") is None, "all are served, so who comes has to wait"
        assert (len(door.doors), door.doors.refused, door.doors.evicted) == (4, 1, 3)
        watching.close() if watching else None
        assert door.come("1.1.1.9") is not None


def test_one_visitor_fills_its_own_share_and_displaces_only_itself() -> None:
    with Door(most=8, of_one=2) as door:
        other = door.come("1.1.1.1")
        mine = [door.come(f"2001:db8::{number:x}") for number in range(1, 6)]  # one household
        assert inside(door, other, *mine) == [True, False, False, False, True, True]
        busy = [door.come("1.1.1.2", "served") for _ in range(2)]
        assert door.come("1.1.1.2") is None, "its share is used, and nothing of it waits"
        assert inside(door, *busy) == [True, True]


def test_a_trusted_proxy_brings_more_than_one_visitor() -> None:
    with Door(most=8, of_one=2, proxies=read_proxies(["10.0.0.1"])) as door:
        assert None not in [door.come("10.0.0.1", "served") for _ in range(6)]


def test_what_waits_anew_waits_from_now_on() -> None:
    with Door(most=2) as door:
        first, second = door.come("1.1.1.1"), door.come("1.1.1.2")
        assert first is not None
        door.doors.now(first, "served")
        door.doors.now(first, "asking")
        door.come("1.1.1.3")
        assert inside(door, first, second) == [True, False]


def test_who_is_inside_has_a_turn_between_those_who_come() -> None:
    with Listener(socket.AF_INET, Doors()) as listener, ExitStack() as sockets:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        waiting = doors.AT_ONCE + 2
        for _ in range(waiting):
            sockets.enter_context(socket.create_connection(listener.getsockname()))
        turns = [0]
        while sum(turns) < waiting:
            try:
                sockets.enter_context(listener.accept()[0])
                turns[-1] += 1
            except BlockingIOError:
                turns.append(0)
        assert turns == [doors.AT_ONCE, 2]


def test_the_door_stays_below_what_the_system_lets_a_process_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((64, 16), (256, 96), (1024, 768), (20_000, 1024), (-1, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, files=files: (files, files))
        assert doors.most_connections() == most


# ------------------------------------------------------------------ over real sockets


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[PaintedEngine]:
    engine = PaintedEngine(folder=tmp_path)
    engine.start()
    yield engine
    engine.close()


@contextmanager
def a_server(engine: PaintedEngine, door: Doors | None = None, **settings: Any) -> Iterator[tuple[str, int]]:
    with served(make_app(engine, secret=SECRET, page=False, **settings), door) as address:
        host, _, port = address.partition(":")
        yield host, int(port)


def healthy(place: tuple[str, int]) -> bool:
    with urlopen(f"http://{place[0]}:{place[1]}/healthz", timeout=10) as answer:
        return answer.status == 200


def everything(link: socket.socket) -> bytes:
    """What comes until the other side ends."""
    said = b""
    with suppress(ConnectionError):  # a reset, where it ended before all was read
        while piece := link.recv(65_536):
            said += piece
    return said


def test_more_half_open_connections_than_the_door_takes_keep_nobody_out(
    engine: PaintedEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    door = Doors(most=24, of_one=12)
    with (
        a_server(engine, door) as place,
        connect(f"ws://{place[0]}:{place[1]}{SOCKET}") as watching,
        ExitStack() as all_of,
    ):
        assert json.loads(watching.recv(timeout=10))["type"] == "hello"
        for number in range(60):
            link = all_of.enter_context(closing(socket.create_connection(place, timeout=10)))
            with suppress(OSError):
                link.sendall(b"GET / HTTP/1.1\r\nX-Half: " if number % 2 else b"")
        assert healthy(place)
        with connect(f"ws://{place[0]}:{place[1]}{SOCKET}") as another:
            assert json.loads(another.recv(timeout=10))["type"] == "hello"
        assert len(door) <= 12
        assert door.evicted >= 48
        assert isinstance(watching.recv(timeout=10), str | bytes), "who watches goes on watching"
    until(lambda: not len(door))
    assert capfd.readouterr().err == ""


def test_more_connections_than_the_process_may_open_files_keep_nobody_out(
    engine: PaintedEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    """The door's own bounds, with a limit on files that is small enough to be reached here."""
    used = len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 300, hard))
    try:
        door = Doors(of_one=10_000)
        assert door.most < used + 300 - 100
        with a_server(engine, door) as place, ExitStack() as all_of:
            for _ in range(110):  # both ends of each are files of this process
                all_of.enter_context(closing(socket.create_connection(place, timeout=10)))
            assert healthy(place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert capfd.readouterr().err == ""


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(patience, "BODY_SECONDS", 0.4)


def drip(link: socket.socket, data: bytes, pause: float = 0.05) -> None:
    """Send byte by byte until all is sent or the other side has had enough."""
    with suppress(ConnectionError):
        for byte in data:
            link.sendall(bytes([byte]))
            time.sleep(pause)


def test_a_head_that_drips_has_a_limit(engine: PaintedEngine, hurry: None) -> None:
    with a_server(engine) as place:
        for begin in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # at first, and on a kept connection
            with socket.create_connection(place, timeout=10) as link:
                link.sendall(begin)
                while begin and not begin.endswith(b'{"status":"ok"}'):
                    begin += link.recv(65_536)
                began = time.monotonic()
                drip(link, b"GET / HTTP/1.1\r\nX: " + b"y" * 300)
                assert time.monotonic() - began < 10, "it was ended long before all was sent"
                said = everything(link)
                assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(place, timeout=10) as link:
            assert everything(link) == b"", "who says nothing is told nothing"
        with socket.create_connection(place, timeout=10) as link:
            link.sendall(b"GET / HTTP/1.1\r\n")
            said = everything(link)
            assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert said.endswith(b"Send it in one go.\n")


@pytest.mark.parametrize("path", ["/v1/restore", "/healthz", "/none"])
def test_a_body_that_drips_has_a_limit_and_one_that_flows_has_not(
    engine: PaintedEngine, hurry: None, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n".encode()
    with a_server(engine) as place:
        with socket.create_connection(place, timeout=10) as link:
            link.sendall(head)
            began = time.monotonic()
            drip(link, b"x" * 300)
            assert time.monotonic() - began < 10
            assert everything(link)[:10] in (b"HTTP/1.1 4", b"")
        with socket.create_connection(place, timeout=20) as link:
            link.sendall(head)
            for _ in range(6):  # in all longer than a body may stand still
                link.sendall(b"x" * 10_000)
                time.sleep(0.1)
            assert link.recv(65_536).startswith(b"HTTP/1.1 4")
    assert capfd.readouterr().err == ""


def test_a_reader_that_stands_still_is_dropped(
    engine: PaintedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "WRITE_SECONDS", 0.3)
    door = Doors()
    with a_server(engine, door) as place:
        with connect(f"ws://{place[0]}:{place[1]}{SOCKET}") as link:
            hello = json.loads(link.recv(timeout=10))
        (tmp_path / hello["session"] / "long.mp4").write_bytes(bytes(30_000_000))
        asked = GET % f"/v1/sessions/{hello['session']}/files/long.mp4?token={hello['token']}".encode()
        with socket.socket() as still:
            still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            still.connect(place)
            still.sendall(asked)
            until(lambda: len(door) == 1)
            until(lambda: len(door) == 0, seconds=10)


def test_a_handshake_of_tls_that_never_comes_is_counted(
    engine: PaintedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)
    monkeypatch.setattr(
        live_doubles, "server_config", lambda app: serving.server_config(app, ssl_certfile=cert, ssl_keyfile=key)
    )
    door = Doors(most=12, of_one=6)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with a_server(engine, door) as place, ExitStack() as all_of:
        for _ in range(30):
            all_of.enter_context(closing(socket.create_connection(place, timeout=10)))
        with urlopen(f"https://{place[0]}:{place[1]}/healthz", timeout=10, context=context) as answer:
            assert answer.status == 200
        assert len(door) <= 6
        assert door.evicted >= 24


# ------------------------------------------------------------------ nothing that is sent makes a traceback


def text_frame(data: bytes) -> bytes:
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


UPGRADE = (
    b"GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HEADED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
SENT: dict[str, bytes] = {
    "path": GET % b"/\xff\xfe",
    "quoted path": GET % b"/%ff%fe%00",
    "quoted file": GET % b"/v1/sessions/%ff/files/%00.jpg?token=%ff",
    "quoted video": GET % b"/v1/videos/%ed%a0%80",
    "query": GET % b"/frame.jpg?session=%ff%00&token=%ed%a0%80",
    "variant": GET % b"/v1/videos/x/content?variant=%ff%00",
    "number": GET % b"/v1/videos/x/chunks?since=%ff",
    "raw query": GET % b"/frame.jpg?session=\xff",
    "header": HEADED % b"X-Name: \xff\xfe",
    "host": b"GET /healthz HTTP/1.1\r\nHost: [::\xff\r\n\r\n",
    "origin": HEADED.replace(b"GET", b"POST") % b"Origin: http://[\xff",
    "cookie": HEADED % b"Cookie: rivulet_login=\xff; =; \xff",
    "login": HEADED % b"Authorization: Basic \xff\xff",
    "range": HEADED % b"Range: bytes=\xff-",
    "forwarded": HEADED % b"X-Forwarded-For: \xff\r\nForwarded: for=\xff",
    "name of header": HEADED % b"X-N\xffme: x",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\xff\r\n\r\n",
    "long head": b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
    "body": POST % (b"/v1/videos", 14, b'{"prompt": "\xff'),
    "surrogate": POST % (b"/v1/videos", 22, b'{"prompt": "a\\ud800"}  '[:22]),
    "plan": POST % (b"/v1/videos/plan", 4, b"\xff\xfe\x00\x00"),
    "restore": POST % (b"/v1/restore", 4, b"{\xff\xfe}"),
    "move": POST % (b"/v1/videos/x/move", 4, b"\xff\xfe\x00\x00"),
    "chunked": b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": POST.replace(b"Content", b"Content-Length: 7\r\nContent") % (b"/v1/restore", 4, b"abcd"),
    "socket text": UPGRADE + b"\r\n" + text_frame(b"\xff\xfe\xfd"),
    "socket frame": UPGRADE + b"\r\n" + b"\xff" * 40,
    "socket unmasked": UPGRADE + b"\r\n" + b"\x81\x02hi",
    "socket half a text": UPGRADE + b"\r\n" + b"\x01\x81\x00\x00\x00\x00\xc3" + b"\x80\x80\x00\x00\x00\x00",
    "socket close": UPGRADE + b"\r\n" + b"\x88\x82\x00\x00\x00\x00\x00\x01",
    "socket many headers": UPGRADE + b"X: y\r\n" * 300 + b"\r\n",
    "socket long header": UPGRADE + b"X: " + b"y" * 12_000 + b"\r\n\r\n",
    "socket header": UPGRADE + b"X: \xff\xfe\r\n\r\n",
    "socket bad key": UPGRADE.replace(b"AAAA==", b"\xff") + b"\r\n",
    "socket no key": UPGRADE.partition(b"Sec-WebSocket-Key")[0] + b"\r\n",
    "socket version": UPGRADE.replace(b"13", b"9") + b"\r\n",
    "socket query": UPGRADE.replace(b"video ", b"video?session=%ff&token=%00 ") + b"\r\n",
    "socket path": UPGRADE.replace(b"video ", b"vid%ff ") + b"\r\n",
    "socket post": UPGRADE.replace(b"GET", b"POST") + b"Content-Length: 5\r\n\r\nhello",
    "other upgrade": UPGRADE.replace(b"websocket", b"h2c") + b"\r\n",
}


@contextmanager
def one_server(tmp_path: Path, door: Doors | None = None) -> Iterator[tuple[str, int]]:
    """Which nobody paints for; no fixture, because its log goes where standard error is when it begins."""
    jobs = Jobs(tmp_path / "jobs")
    with a_server(PaintedEngine(folder=tmp_path), door, jobs=jobs) as place:
        yield place
    jobs.close()


def closes(link: socket.socket) -> bytes:
    with suppress(OSError):  # the other side was first
        link.shutdown(socket.SHUT_WR)
    return everything(link)


def until_closed(link: socket.socket) -> bytes:
    """What comes until a frame says goodbye or the other side ends."""
    said = b""
    with suppress(ConnectionError):
        while b"\x88" not in said[-200:] and (piece := link.recv(65_536)):
            said += piece
    return said


@pytest.mark.parametrize("sent", list(SENT))
def test_bytes_that_are_no_text_are_answered_and_make_no_traceback(
    sent: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with one_server(tmp_path) as place:
        head, upgraded, frames = SENT[sent].partition(UPGRADE + b"\r\n")
        with socket.create_connection(place, timeout=20) as link:
            link.sendall(head + upgraded or SENT[sent])
            if upgraded:  # what comes before the answer would be no part of the socket
                said = b""
                while b"\r\n\r\n" not in said:
                    said += link.recv(1)
                assert said.startswith(b"HTTP/1.1 101 ")
                link.sendall(frames)
            said = closes(link) if not upgraded else b"HTTP/1.1 101 " + until_closed(link)
        assert not said or said.startswith(b"HTTP/1.1 "), said[:80]
        assert not said.startswith(b"HTTP/1.1 5"), said[:300]
        assert healthy(place)
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert told.count("\n") <= 1


@pytest.mark.parametrize("path", ["/v1/restore", "/v1/videos", "/v1/videos/plan", "/v1/videos/check", "/healthz", "/x"])
@pytest.mark.parametrize("reset", [False, True])
def test_an_upload_that_is_broken_off_is_no_mistake_of_ours(
    path: str, reset: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    door = Doors()
    with one_server(tmp_path, door) as place:
        with socket.create_connection(place, timeout=20) as link:
            link.sendall(POST % (path.encode(), 1_000_000, b"x" * 50_000))
            time.sleep(0.05)
            if reset:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert healthy(place)
        until(lambda: not len(door), seconds=20)
    assert capfd.readouterr().err == ""


def test_a_download_that_is_broken_off_is_no_mistake_of_ours(
    engine: PaintedEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    door = Doors()
    with a_server(engine, door) as place:
        with connect(f"ws://{place[0]}:{place[1]}{SOCKET}") as link:
            hello = json.loads(link.recv(timeout=10))
            (tmp_path / hello["session"] / "long.mp4").write_bytes(bytes(10_000_000))
            for path in (f"/v1/sessions/{hello['session']}/files/long.mp4?", f"/live.mjpg?session={hello['session']}&"):
                with socket.create_connection(place, timeout=20) as reader:
                    reader.sendall(GET % f"{path}token={hello['token']}".encode())
                    assert reader.recv(1000).startswith(b"HTTP/1.1 200")
                    reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert healthy(place)
        until(lambda: not len(door), seconds=20)
    told = capfd.readouterr().err
    assert "Traceback" not in told, told
    assert told.count("\n") <= 1, "asyncio may say once that it writes to nobody"


def test_a_body_longer_than_it_may_be_is_told_so_when_it_does_not_say_its_length(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.access.MAX_BODY", 100_000)
    head = b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with one_server(tmp_path) as place, socket.create_connection(place, timeout=20) as link:
        link.sendall(head + 4 * (b"8000\r\n" + b"x" * 0x8000 + b"\r\n"))
        assert link.recv(65_536).startswith(b"HTTP/1.1 413 ")
    assert capfd.readouterr().err == ""


def test_what_the_server_is_made_to_say_is_a_few_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with one_server(tmp_path) as place:
        for _ in range(40):
            with socket.create_connection(place, timeout=20) as link:
                link.sendall(b"\x16\x03\x01\r\n\r\n")
                everything(link)
    told = capfd.readouterr().err
    assert told.count("\n") == told.count("Invalid HTTP request") == LINES


def test_a_listener_gives_the_server_back_after_a_crowd() -> None:
    listener = Listener(socket.AF_INET, Doors(most=1))
    with listener, ExitStack() as all_of:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        listener.setblocking(False)
        links: list[Callable[[], object]] = []
        for _ in range(3):
            link = all_of.enter_context(socket.create_connection(listener.getsockname(), timeout=5))
            links.append(link.getpeername)
        first, _ = listener.accept()
        first.doors.now(first, "served") if first.doors else None
        with first, pytest.raises(BlockingIOError):
            listener.accept()
        assert listener.doors.refused == 2
        assert len(listener.doors) == 0
