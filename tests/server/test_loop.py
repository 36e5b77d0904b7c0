"""Nothing that anybody sends holds the event loop: the longest piece of work on it, under every route, counted."""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from app.config.nodes import LARGEST_FILE
from app.jobs.queue import Jobs
from app.live.heap import settle
from app.live.messages import MAX_MESSAGE
from app.loading.engine_request import EngineRequest
from app.server.access import MAX_BODY, Access
from app.server.desk import Desk, TooBusy, Turns
from app.server.jobs_api import LARGEST_BODY
from app.server.restore import LARGEST_UPLOAD
from app.server.routes import make_app
from pipelines.presets import get_preset
from tests import log_lines
from tests.live_doubles import SECRET, PaintedEngine, served, until

MOST = 0.020
"""Seconds of processor time that one turn of the loop may take."""
SLACK = 2.5
"""What a slow machine may take of it; a script that is read on the loop takes twenty times as much."""
OTHERS = 0.5
"""Processor seconds of other threads. Sending alone took 0.12 to 0.34 on slow, busy machines; twelve of these scripts
take 0.39 to 1.5 there to read, and those that take less than this bound are judged by the loop's pulse alone."""
ATTEMPTS = 3
"""A garbage collection may fall into one turn, not into the same of three attempts."""


class Pulse:
    """Runs on the loop of a server and notes the longest turn: processor time of its thread, which no other takes."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.longest = 0.0
        self.turns = 0
        self.every = 0.001
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._task = asyncio.get_running_loop().create_task(self._beat())
        await self.app(scope, receive, send)

    async def _beat(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(self.every)
            self.longest = max(self.longest, time.thread_time() - before)
            self.turns += 1

    def of(self, act: Callable[[], object]) -> float:
        """The longest turn while something is done, the least of some attempts; a good one ends them."""
        least = 1e9
        for _ in range(ATTEMPTS):
            self._settle()
            self.longest = 0.0
            act()
            self._settle()
            least = min(least, self.longest)
            if least < MOST:
                break
        return least

    def _settle(self) -> None:
        turns = self.turns
        until(lambda: self.turns > turns + 2, seconds=30)


class Painted(PaintedEngine):
    """With what the page asks of an engine."""

    request = EngineRequest(preset=get_preset("embedded"))


LARGE_CHECK = "import json; print(json.dumps({'shots': ['x' * 100] * 140_000}))"


class Server:
    """A whole server with its page, jobs of the largest scripts, a session, and a pulse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access = Access(SECRET)
        self.engine = Painted(folder=folder)
        check = folder / "check.py"
        check.write_text(LARGE_CHECK)
        self.jobs = Jobs(folder / "jobs", renderer=[sys.executable, str(check)])
        app = make_app(self.engine, secret=SECRET, jobs=self.jobs)  # type: ignore[arg-type]  # painted
        self.pulse = Pulse(app)

    def ask(self, method: str, path: str, body: bytes = b"", expect: int = 200, **headers: str) -> bytes:
        link = http.client.HTTPConnection(self.address, timeout=120)
        try:
            link.request(method, path, body or None, {"Host": "localhost", **headers})
            answer = link.getresponse()
            said = answer.read()
            assert answer.status == expect, (answer.status, said[:300])
            return said
        finally:
            link.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    server = Server(tmp_path_factory.mktemp("loop"))
    gc.collect()
    settle()  # as `rivulet web` does when it is ready
    with served(server.pulse) as server.address:
        server.ask("POST", "/v1/videos/plan", b'{"prompt": "a"}')  # its process has begun
        yield server
    server.jobs.close()
    gc.unfreeze()


def body(**fields: Any) -> bytes:
    told = json.dumps(fields).encode()
    assert len(told) <= LARGEST_BODY
    return told


def shots(count: int, line: str) -> str:
    """A shot list; `line` is a shot with its number and second."""
    text = "shots:\n" + "".join(line.format(n=n, at=8 * n) for n in range(count))
    assert len(text) <= LARGEST_FILE
    return text


def log(size: int) -> bytes:
    """A session.jsonl of about so many bytes, with a new prompt every chunk."""
    lines, had = [json.dumps(log_lines.header())], 0
    while had < size:
        chunk = len(lines) // 2
        lines += [json.dumps(log_lines.steered(chunk, f"a ball {chunk}")), json.dumps(log_lines.made(chunk))]
        had += len(lines[-1]) + len(lines[-2]) + 2
    return ("\n".join(lines) + "\n").replace('", "', '","').replace('{"event": ', '{"event":').encode()


TWO_LONG = f"shots:\n- prompt: {'a' * 9000}\n- {{at: 1s, prompt: {'b' * 9000}, transition: soft 10000}}\n"
DAY = {"seconds": 86_000}
SCRIPTS: dict[str, Callable[[], tuple[bytes, int]]] = {
    "shots": lambda: (body(script=shots(10_000, "- prompt: a ball {n}\n"), **DAY), 200),
    "timed shots": lambda: (body(script=shots(10_000, "- {{at: {at}s, prompt: a ball {n}}}\n"), **DAY), 200),
    "the same prompt softly": lambda: (
        body(script=shots(10_000, "- {{at: {at}s, prompt: a ball, transition: soft 4}}\n"), **DAY),
        200,
    ),
    "soft shots": lambda: (
        body(script=shots(10_000, "- {{at: {at}s, prompt: b{n}, transition: soft 8}}\n"), **DAY),
        200,
    ),
    "long prompts": lambda: (body(script=shots(100, "- prompt: {n:09000d}\n"), **DAY), 200),
    "two long prompts that blend for hours": lambda: (
        body(
            script=f"shots:\n- prompt: {'a' * 9000}\n- {{at: 1s, prompt: {'b' * 9000}, transition: soft 10000}}\n",
            **DAY,
        ),
        200,
    ),
    "a frame rate of 240": lambda: (
        body(
            script=shots(9, "- {{at: {at}00s, prompt: b{n}, transition: soft 10000}}\n"), settings={"fps": "240"}, **DAY
        ),
        200,
    ),
    "prompts": lambda: (body(prompt=[f"a ball {n}" for n in range(9_000)], **DAY), 200),
    "text": lambda: (body(script="\n".join(f"ball {n % 7}" for n in range(10_000)), script_kind="txt", **DAY), 200),
    "lines of a megabyte": lambda: (body(script="\n" * 990_000 + "a", script_kind="txt"), 200),
    "timed text": lambda: (
        body(script="".join(f"[{8 * n}s: ball {n}]" for n in range(9_000)), script_kind="txt", **DAY),
        200,
    ),
    "json": lambda: (
        body(script=json.dumps({"prompts": [f"b{n}" for n in range(10_000)]}), script_kind="json", **DAY),
        200,
    ),
    "escapes": lambda: (b'{"script": "' + b"\\u0041" * 660_000 + b'"}', 400),
    "half a million prompts": lambda: (body(prompt=["a b"] * 490_000), 400),
    "settings": lambda: (body(prompt="a", settings={f"f{n}": [1.0] for n in range(200_000)}), 400),
    "fields": lambda: (body(**{f"f{n}": 1 for n in range(250_000)}), 400),
    "brackets": lambda: (b"[" * LARGEST_BODY, 400),
    "a deep script": lambda: (body(script="[" * 500_000, script_kind="json"), 400),
    "a number": lambda: (b'{"prompt": "a", "seed": ' + b"9" * 3_900_000 + b"}", 400),
    "flow": lambda: (body(script="{" * 400_000), 400),
    "sections": lambda: (body(script="[0s" * 300_000, script_kind="txt"), 400),
}
"""What is sent, and how it is answered; megabytes, so each is made for its test alone."""


def others_of(act: Callable[[], object]) -> float:
    """Processor time of all threads of this process but ours, while we do something."""
    before = time.process_time() - time.thread_time()
    act()
    return time.process_time() - time.thread_time() - before


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_no_script_is_read_on_the_loop(name: str, server: Server) -> None:
    asked, status = SCRIPTS[name]()
    kind = {"Content-Type": "application/json"}  # which FastAPI would parse
    ask = lambda: server.ask("POST", "/v1/videos/plan", asked, status, **kind)  # noqa: E731
    assert server.pulse.of(ask) < MOST * SLACK
    server.pulse.every = 0.1  # or the pulse is most of what a busy machine counts
    others = [others_of(ask)]
    while min(others) >= OTHERS and len(others) < ATTEMPTS:
        others.append(others_of(ask))
    server.pulse.every = 0.001
    assert min(others) < OTHERS, "nor by another thread of the server, which would hold the interpreter"


def test_jobs_of_the_largest_scripts_are_made_listed_and_told(server: Server) -> None:
    asked = SCRIPTS["long prompts"]()[0]
    made: list[str] = []

    def create() -> None:
        made.append(json.loads(server.ask("POST", "/v1/videos", asked, 201))["id"])

    assert server.pulse.of(create) < MOST * SLACK
    for _ in range(20):
        create()
    script = json.loads(asked)["script"]
    told = server.ask("GET", "/v1/videos")
    assert script[:50] not in told.decode()
    assert len(json.loads(told)["data"]) == len(made)
    for path in ("", f"/{made[0]}"):
        assert server.pulse.of(lambda path=path: server.ask("GET", f"/v1/videos{path}")) < MOST * SLACK
    assert json.loads(server.ask("GET", f"/v1/videos/{made[0]}"))["request"]["script"] == script
    for turn, sent in (("pause", b""), ("resume", b""), ("move", b'{"to": 0}'), ("cancel", b"")):
        act = lambda turn=turn, sent=sent: server.ask("POST", f"/v1/videos/{made[1]}/{turn}", sent)  # noqa: E731
        with suppress(AssertionError):  # a second attempt finds it turned already
            assert server.pulse.of(act) < MOST * SLACK
    assert (
        server.pulse.of(lambda: server.ask("POST", f"/v1/videos/{made[0]}/move", b" " * 3_000_000, 400)) < MOST * SLACK
    )
    record = {"index": 0, "frames": [0, 12], "shown": 12, "seconds": {"denoise": 0.1}, "drift": 1.0, "memory": 9}
    rows = [json.dumps({"chunk": record | {"index": index, "sha256": "0" * 64}}) for index in range(100_000)]
    part = server.jobs.folder / made[0] / "film.part"
    part.mkdir()
    (part / "journal.jsonl").write_text("\n".join(rows).replace('{"chunk": ', '{"chunk":') + "\n")
    for since in (0, 99_000):
        path = f"/v1/videos/{made[0]}/chunks?since={since}"
        assert len(json.loads(server.ask("GET", path))["data"]) == min(20_000, 100_000 - since)
        assert server.pulse.of(lambda path=path: server.ask("GET", path)) < MOST * SLACK
    assert server.pulse.of(lambda: server.ask("POST", "/v1/videos/check", b'{"prompt": "a"}')) < MOST * SLACK
    for name in made:
        assert server.pulse.of(lambda name=name: delete(server, name)) < MOST * SLACK


def delete(server: Server, name: str) -> None:
    with suppress(AssertionError):
        server.ask("DELETE", f"/v1/videos/{name}")


FILM = b"\0\0\0\x18ftypisom" + bytes(12)
DROPPED: dict[str, Callable[[], tuple[bytes, int]]] = {
    "a log": lambda: (log(2_000_000), 200),
    "a log of 16 MiB": lambda: (log(LARGEST_UPLOAD - 2_000), 400),  # longer than a day
    "braces": lambda: (b"{" * LARGEST_UPLOAD, 400),
    "a film of small boxes": lambda: (FILM + b"\0\0\0\x08free" * 2_000_000, 400),
    "a film of noise": lambda: (FILM + (random.Random(3).randbytes(1_000_000) * 17)[: LARGEST_UPLOAD - 100], 400),
    "json": lambda: (b'{"format": 3, "chunks": [' + b"{}," * 5_000_000 + b"{}]}", 400),
    "too long": lambda: (bytes(LARGEST_UPLOAD + 1), 413),
    "far too long": lambda: (bytes(MAX_BODY), 413),
}


@pytest.mark.parametrize("name", DROPPED)
def test_no_film_that_is_dropped_is_read_on_the_loop(name: str, server: Server) -> None:
    sent, status = DROPPED[name]()
    assert server.pulse.of(lambda: server.ask("POST", "/v1/restore", sent, status)) < MOST * SLACK


def test_a_take_of_hours_a_long_file_and_every_other_page(server: Server) -> None:
    with connect(f"ws://{server.address}/v1/realtime/video") as link:
        hello = json.loads(link.recv(timeout=20))
        name, key = hello["session"], f"token={hello['token']}"
        folder = server.folder / name
        folder.mkdir(exist_ok=True)
        log_lines.save(folder, log(2_000_000))
        (folder / "long.mp4").write_bytes(bytes(60_000_000))
        server.engine.sessions[name].paint(1)
        for path in (
            f"/v1/sessions/{name}/take?{key}",
            f"/v1/sessions/{name}/files/long.mp4?{key}",
            f"/frame.jpg?session={name}&{key}",
            "/",
            "/",
            "/openapi.json",
            "/metrics",
            "/healthz",
            "/readyz",
            "/config",
            "/theme.css",
        ):
            assert server.pulse.of(lambda path=path: server.ask("GET", path)) < MOST * SLACK, path


@contextmanager
def upgraded(address: str) -> Iterator[socket.socket]:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        key = base64.b64encode(os.urandom(16)).decode()
        link.sendall(
            f"GET /v1/realtime/video HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert link.recv(12) == b"HTTP/1.1 101"
        yield link


def frame(kind: int, data: bytes) -> bytes:
    """A message as a browser sends it, masked with zeros."""
    if len(data) < 126:
        size = bytes([0x80 | len(data)])
    else:
        size = b"\xfe" + struct.pack(">H", len(data)) if len(data) < 2**16 else b"\xff" + struct.pack(">Q", len(data))
    return bytes([0x80 | kind]) + size + bytes(4) + data


def message(**fields: Any) -> bytes:
    told = json.dumps(fields, separators=(",", ":")).encode()
    assert len(told) <= MAX_MESSAGE
    return told


QUEUE = [{"id": f"a{n}", "prompt": "x" * 990} for n in range(32)]
MIX = [["x" * 1000, 1.0]] * 4
MESSAGES: dict[str, bytes] = {
    "pings": frame(9, b"") * 40_000,
    "pongs": frame(10, b"x") * 40_000,
    "empty texts": frame(1, b"") * 40_000,
    "acknowledgements": frame(1, message(type="ack", seq=1)) * 10_000,
    "full queues": frame(
        1, message(type="session.queue", items=[{"id": f"a{n}", "prompt": "x" * 990} for n in range(32)])
    )
    * 30,
    "queues too long": frame(1, message(type="session.queue", items=[{}] * 21_000)) * 30,
    "mixes": frame(1, message(type="session.prompt_update", id="a", prompt=MIX)) * 300,
    "mixes too long": frame(1, message(type="session.prompt_update", id="a", prompt=[["a", 1]] * 7_000)) * 30,
    "brackets": frame(1, b"[" * MAX_MESSAGE) * 30,
    "keys": frame(1, message(type="ack", **{f"k{n}": n for n in range(4_000)})) * 30,
    "no text": frame(1, b"\xff" * 100),
}


@pytest.mark.parametrize("name", list(MESSAGES))
def test_no_message_holds_the_loop(name: str, server: Server) -> None:
    def flood() -> None:
        with upgraded(server.address) as link, suppress(ConnectionError):
            link.sendall(MESSAGES[name])
            link.settimeout(0.3)
            with suppress(TimeoutError):
                while link.recv(65_536):
                    pass

    assert server.pulse.of(flood) < MOST * SLACK


RAW = {
    "a body of single bytes": b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * 100_000
    + b"0\r\n\r\n",
    "requests in a row": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300,
    "as many headers as there may be": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 3_000 + b"\r\n",
    "a long address": b"GET /healthz?" + b"a=b&" * 3_800 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "hops": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: " + b"1.1.1.1," * 1_900 + b"\r\n\r\n",
    "cookies": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a=b;" * 3_800 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", list(RAW))
def test_no_request_of_many_pieces_holds_the_loop(name: str, server: Server) -> None:
    host, _, port = server.address.partition(":")

    def send() -> None:
        with socket.create_connection((host, int(port)), timeout=60) as link:
            link.sendall(RAW[name])
            link.settimeout(0.5)
            with suppress(TimeoutError):
                while link.recv(65_536):
                    pass

    assert server.pulse.of(send) < MOST * SLACK


def test_the_pulse_notices_work_on_the_loop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def healthz() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.1:
            pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        healthz()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(server.pulse, "app", app)
    assert server.pulse.of(lambda: server.ask("GET", "/healthz")) > MOST * SLACK


# ------------------------------------------------------------------ the desk


def test_who_comes_when_too_many_wait_is_told_to_come_back(server: Server) -> None:
    slow = SCRIPTS["shots"]()[0]
    answers: list[tuple[int, str | None]] = []

    def one() -> None:
        link = http.client.HTTPConnection(server.address, timeout=120)
        link.request("POST", "/v1/videos/plan", slow, {"Host": "localhost"})
        answer = link.getresponse()
        told = json.loads(answer.read())
        answers.append((answer.status, answer.getheader("retry-after")))
        assert (
            answer.status == 200 or told["error"]["message"] == "The server reads 9 other requests. Try again in 2 s."
        )
        link.close()

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert answers.count((200, None)) >= 9
    assert {*answers} == {(200, None), (503, "2")}
    assert json.loads(server.ask("POST", "/v1/videos/plan", b'{"prompt": "a"}'))["totals"]["shots"] == 1


def test_turns_are_bounded_and_given_back() -> None:
    async def use() -> None:
        turns = Turns(1, waiting=1)
        inside, go = asyncio.Event(), asyncio.Event()

        async def have() -> None:
            async with turns.turn():
                inside.set()
                await go.wait()

        first, second = asyncio.create_task(have()), asyncio.create_task(have())
        await inside.wait()
        await asyncio.sleep(0)
        with pytest.raises(TooBusy):
            async with turns.turn():
                pass
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        go.set()
        await first
        async with turns.turn():
            pass

    asyncio.run(use())


def test_a_desk_that_does_not_begin_is_the_servers_fault_and_not_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, Access(SECRET))
    try:
        with monkeypatch.context() as slow:
            slow.setattr("app.server.desk.BEGIN_SECONDS", 0.0)
            told = asyncio.run(desk.ask("plan", body=b'{"prompt": "a"}'))
        assert told.status_code == 503
        assert b"too busy to begin to read. Try again in" in bytes(told.body)
        assert asyncio.run(desk.ask("plan", body=b'{"prompt": "a"}')).status_code == 200
    finally:
        desk.close()


def test_what_takes_too_long_is_given_up_and_the_desk_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Access(SECRET), seconds=30)

    async def plan(body: bytes) -> tuple[int, Any]:
        told = await desk.ask("plan", body=body)
        return told.status_code, json.loads(bytes(told.body))

    try:
        assert asyncio.run(plan(b'{"prompt": "a"}'))[0] == 200
        desk._seconds = 0.05
        status, told = asyncio.run(plan(SCRIPTS["shots"]()[0]))
        assert (status, told["error"]["message"]) == (400, "This cannot be read within 0.05 s. Send something shorter.")
        desk._seconds = 30
        process = desk._process
        assert process is None
        assert asyncio.run(plan(b'{"prompt": "a"}'))[0] == 200
        process = desk._process
        assert process is not None
        process.kill()  # by the system, for want of memory
        process.wait()
        assert asyncio.run(plan(b'{"prompt": "a"}'))[0] == 200
        process = desk._process
    finally:
        desk.close()
    assert process is not None
    assert process.poll() is not None, "it ends with the server"
