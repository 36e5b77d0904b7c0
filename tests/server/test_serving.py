"""The live server as a process: real sockets, the client of the documentation, flags, ports, and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from urllib.request import urlopen

import pytest
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from app.cli import web as cli_web
from app.cli.main import main
from app.errors import UsageMistake
from app.live.engine import LiveEngine
from app.live.frame_header import unpack_frame
from app.live.picture_header import MAX_PICTURE
from app.server.main import find_place, server_config
from app.server.routes import make_app
from tests.live_doubles import SECRET, PaintedEngine, served, until
from tests.live_tiny import Clock, TinyModel

ROOT = Path(__file__).resolve().parents[2]
SOCKET = "/v1/realtime/video"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[PaintedEngine]:
    engine = PaintedEngine(folder=tmp_path)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def server(engine: PaintedEngine) -> Iterator[str]:
    with served(make_app(engine, secret=SECRET, page=False)) as address:
        yield address


def test_frames_come_over_a_real_socket_uncompressed_and_at_the_rate_of_the_film(server: str) -> None:
    with connect(f"ws://{server}{SOCKET}", compression="deflate") as link:
        assert link.response is not None
        assert "Sec-WebSocket-Extensions" not in link.response.headers
        assert json.loads(link.recv())["type"] == "hello"
        assert json.loads(link.recv())["type"] == "video.start"
        begun = time.monotonic()
        for _ in range(16):
            message = link.recv(timeout=5)
            assert isinstance(message, bytes)
            header, payload = unpack_frame(message)
            assert payload.startswith(b"\xff\xd8")
            link.send(json.dumps({"type": "ack", "seq": header.seq}))
        assert 0.7 < time.monotonic() - begun < 3


def test_a_server_may_end_while_a_visitor_closes() -> None:
    class Line(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None: ...
        def close(self) -> None:
            closed.append(True)

        def is_closing(self) -> bool:
            return bool(closed)

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return None if name != "peername" else ("127.0.0.1", 1)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async def talk() -> None:
        config = server_config(application)  # type: ignore[arg-type]  # any application will do
        config.load()
        assert isinstance(config.ws_protocol_class, type)
        socket_here: Any = config.ws_protocol_class(config=config, server_state=ServerState(), app_state={})
        socket_here.connection_made(Line())
        asks = ["GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        socket_here.data_received("\r\n".join([*asks, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]).encode())
        async with asyncio.timeout(10):
            while not socket_here.handshake_complete:
                await asyncio.sleep(0)
        socket_here.data_received(bytes([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]))  # a masked close frame, code 1000
        socket_here.shutdown()

    closed: list[bool] = []
    asyncio.run(talk())
    assert closed


def test_a_message_beyond_the_limit_closes_the_socket(server: str) -> None:
    with connect(f"ws://{server}{SOCKET}") as link:
        link.send(b"x" * (MAX_PICTURE + 1))
        with pytest.raises(ConnectionClosed) as closed:
            list(link)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_a_page_of_another_origin_is_refused_in_the_handshake(server: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{server}{SOCKET}", origin="https://evil.example"):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code == 403


def test_a_viewer_that_acknowledges_nothing_has_no_credit_left(server: str, engine: PaintedEngine) -> None:
    with connect(f"ws://{server}{SOCKET}"):
        until(lambda: engine.sessions and next(iter(engine.sessions.values())).viewers)
        film = next(iter(engine.sessions.values()))
        until(lambda: film.viewers[0].credit == 0)  # three frames without an answer
    until(lambda: not film.viewers)


def test_motion_jpeg_plays_and_ends_with_its_reader_and_with_the_film(server: str, engine: PaintedEngine) -> None:
    with connect(f"ws://{server}{SOCKET}") as link:
        hello = json.loads(link.recv())
        film = engine.sessions[hello["session"]]
        where = f"?session={film.id}&token={hello['view_token']}"
        host, _, port = server.partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as reader:
            reader.sendall(f"GET /live.mjpg{where} HTTP/1.1\r\nHost: {server}\r\n\r\n".encode())
            seen = b""
            while seen.count(b"--frame\r\nContent-Type: image/jpeg\r\n") < 4:
                seen += reader.recv(4096)
            assert b"content-type: multipart/x-mixed-replace; boundary=frame\r\n" in seen
            assert len(film.viewers) == 2
        until(lambda: len(film.viewers) == 1)
        with urlopen(f"http://{server}/frame.jpg{where}", timeout=5) as still:
            assert still.read().startswith(b"\xff\xd8")
        with urlopen(f"http://{server}/live.mjpg{where}", timeout=5) as whole:
            link.send(json.dumps({"type": "session.stop"}))
            assert whole.read().endswith(b"--frame--\r\n"), "the film's end is the stream's end"


def test_the_client_of_the_documentation_works(server: str, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "live-api.md").read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 35
    (tmp_path / "client.py").write_text(code[1])
    done = subprocess.run(
        [sys.executable, "client.py", f"ws://{server}{SOCKET}", "a blue star", "5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "session.prompt_update.applied" in done.stdout
    assert len(list((tmp_path / "frames").glob("*.jpg"))) == 5


# ------------------------------------------------------------------ flags and process


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--auth", "ann"], "USER:PASSWORD"),
        (["--auth", ":x"], "USER:PASSWORD"),
        (["--root_path", "film"], "like /film"),
        (["--root-path", "/film/"], "like /film"),
        (["--prompt", " "], "--prompt is empty"),
        (["--preset", "embeded"], "did you mean embedded"),
        (["--model", "wrong"], "--model: No model 'wrong'"),
        (["--port", "70000"], "65535"),
        (["--host", "no such host"], "no address"),
        (["--host", "192.0.2.1"], "not this machine"),
        (["--ssl_certfile", "a.pem"], "--ssl_keyfile"),
        (["--ssl_certfile", "a.pem", "--ssl_keyfile", "b.pem"], "No such file"),
        (["--allow_host", "//"], "--allow_host"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_loaded(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", *flags]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["web"]])
def test_without_the_extra_the_command_says_how_to_get_it(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_web, "find_spec", lambda name: None if name == "gradio" else object())
    assert main(command) == 2
    assert "pip install 'rivulet[web]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "environment", "given"),
    [
        ([], {}, {"keep_seconds": 3600.0, "undo_memory": 2**30, "threads": 3}),
        (
            ["--keep_sessions", "60", "--undo_memory", "5000000", "--threads", "2"],
            {},
            {"keep_seconds": 60.0, "undo_memory": 5_000_000, "threads": 2},
        ),
        (["--undo-memory", "0"], {"OMP_NUM_THREADS": "2"}, {"undo_memory": 0, "threads": None}),
    ],
)
def test_what_flags_say_reaches_the_engine_and_a_core_is_left_for_frames_and_browser(
    flags: list[str],
    environment: dict[str, str],
    given: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("app.loading.live.usable_cores", lambda: 4)
    taken: dict[str, object] = {}

    def engine(request: Any, **settings: object) -> None:
        taken.update(settings, threads=request.threads)
        raise UsageMistake("That is enough.")

    monkeypatch.setattr("app.live.engine.LiveEngine", engine)
    assert main(["web", "--no_open", "--port", "0", "--folder", str(tmp_path), *flags]) == 2
    assert {name: taken[name] for name in given} == given


@pytest.mark.parametrize("flags", [["--keep_sessions", "-1"], ["--undo_memory", "-1"], ["--undo_memory", "1G"]])
def test_lengths_and_sizes_that_cannot_be_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


def test_the_next_free_port_is_taken() -> None:
    first = find_place("127.0.0.1", 0)
    second = find_place("127.0.0.1", first.port)
    with first.listener, second.listener:
        assert first.port < second.port <= first.port + 20
        assert second.address == f"127.0.0.1:{second.port}"
    everywhere = find_place("0.0.0.0", 0)
    with everywhere.listener:
        assert everywhere.address.startswith("127.0.0.1:")
    if socket.has_ipv6:
        with find_place("::1", 0).listener as listener:
            assert listener.family == socket.AF_INET6


def test_twenty_taken_ports_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.main.PORTS_TRIED", 1)
    first = find_place("127.0.0.1", 0)
    with first.listener, pytest.raises(UsageMistake, match="--port"):
        find_place("127.0.0.1", first.port)


PROGRAM = """
import sys
import app.live.engine, app.server.routes
from app.cli.main import main
from tests.live_doubles import PaintedEngine
app.live.engine.LiveEngine = PaintedEngine
make = app.server.routes.make_app
app.server.routes.make_app = lambda engine, **given: make(engine, page=False, **given)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly_while_somebody_watches(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "web", "--no_open", "--port", "0", "--folder", str(tmp_path / "live")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    url = re.search(r"Ready: http://(\S+)/ ", lines[1])
    assert url is not None, (lines, process.stderr and process.stderr.read())
    with connect(f"ws://{url[1]}{SOCKET}") as link:
        assert json.loads(link.recv())["type"] == "hello"
        process.send_signal(number)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (code, "")
    assert "Stopped" in out


HANGING = """
import threading, time
import app.live.engine
class Hanging(app.live.engine.LiveEngine):
    def open(self, session_id=None):
        time.sleep(60)  # on a thread that asyncio waits for
    def leave_off(self):
        pass
    def close(self):
        time.sleep(60)
app.live.engine.LiveEngine = Hanging
threading.Thread(target=time.sleep, args=(60,)).start()  # and one that Python waits for
"""


def test_a_signal_ends_it_within_five_seconds_whatever_hangs(tmp_path: Path) -> None:
    program = PROGRAM.replace("make = app", HANGING + "make = app")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "web", "--no_open", "--port", "0", "--folder", str(tmp_path / "live")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    url = re.search(r"Ready: http://(\S+)/ ", lines[1])
    assert url is not None, lines
    with connect(f"ws://{url[1]}{SOCKET}"):
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert time.monotonic() - begun < 5.5  # half a second for a machine with other work
    assert process.returncode == 143
    assert "what was not finished" in out


# ------------------------------------------------------------------ films of a real engine


@contextmanager
def tiny_server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server of tests/live_process.py, and its address; killed at the end."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.live_process", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def tiny_server_here(folder: Path) -> Iterator[str]:
    """The same server in this process; gives its address."""
    model = TinyModel(Clock())
    model.chunk_seconds = 0.0
    request: Any = SimpleNamespace()
    engine = LiveEngine(request, folder=folder, prompt="a red fox runs", seed=5, opener=model)
    engine.start()
    try:
        with served(make_app(engine, secret=SECRET, page=False)) as address:
            yield address
    finally:
        engine.close()


class Visitor:
    """A page: draws every frame that it is sent, unless it is hidden."""

    def __init__(self, address: str, query: str = "") -> None:
        self.opening = connect(f"ws://{address}{SOCKET}{query}", open_timeout=60, max_size=None)
        self.hidden = False
        self.frames: list[int] = []
        self.seqs: list[int] = []
        self.told: list[dict[str, Any]] = []

    def watch(self, until: Callable[[], object], seconds: float = 30.0) -> None:
        """Take what comes until something holds."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "it did not happen in time"
            try:
                message = self.link.recv(timeout=0.1)
            except TimeoutError:
                continue
            if isinstance(message, str):
                self.told.append(json.loads(message))
                continue
            header, _ = unpack_frame(message)
            self.frames.append(header.frame)
            self.seqs.append(header.seq)
            if not self.hidden:
                self.link.send(json.dumps({"type": "ack", "seq": header.seq}))

    def say(self, prompt: str) -> None:
        """Send a prompt and wait for its first frame."""
        self.link.send(json.dumps({"type": "session.prompt_update", "id": "p", "prompt": prompt, "hold": 600.0}))
        self.watch(lambda: any(told["type"].endswith(".applied") for told in self.told))

    def __enter__(self) -> Self:
        self.link = self.opening.__enter__()
        self.hello = json.loads(self.link.recv(timeout=60))
        return self

    def __exit__(self, *error: object) -> None:
        self.opening.__exit__(None, None, None)


def chunks_of(address: str) -> float:
    """How many chunks the server has made."""
    with urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return float(re.findall(r"^rivulet_chunks (\S+)$", answer.read().decode(), re.MULTILINE)[0])


def chunks_settle(address: str, within: float) -> None:
    """Chunks stop coming `within` seconds, and none comes while two of 0.75 s would have."""
    end, made = time.monotonic() + within, chunks_of(address)
    last = time.monotonic()
    while time.monotonic() < last + 1.6:
        time.sleep(0.1)
        if (now := chunks_of(address)) != made:
            assert time.monotonic() < end, "films are still being made"
            made, last = now, time.monotonic()


def test_a_film_survives_its_server_being_killed(tmp_path: Path) -> None:
    with tiny_server(tmp_path) as (process, address), Visitor(address) as page:
        page.watch(lambda: len(page.frames) > 16)
        page.say("a grey wolf")
        parked = tmp_path / page.hello["session"] / "parked.json"
        page.watch(lambda: parked.exists() and "a grey wolf" in parked.read_text())
        page.watch(lambda: page.frames[-1] > page.frames[0] + 32)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        query = f"?session={page.hello['session']}&token={page.hello['token']}"
        shown, seq = page.frames[-1], page.seqs[-1]
    with tiny_server_here(tmp_path) as address, Visitor(address, query) as again:
        assert again.hello["session"] == page.hello["session"]
        again.watch(lambda: len(again.frames) > 8)
        assert -8 * 16 < again.frames[0] - shown <= 32
        assert again.seqs[0] > seq
        with Visitor(address, query) as third:
            assert third.hello["prompt"] == "a grey wolf"
            assert third.hello["role"] == "viewer"


def test_no_film_is_made_five_seconds_after_the_last_tab_was_hidden_or_closed(tmp_path: Path) -> None:
    with tiny_server_here(tmp_path) as address, Visitor(address) as page:
        page.watch(lambda: chunks_of(address) > 3)
        page.hidden = True
        chunks_settle(address, 5.0)
        page.hidden = False
        page.link.send(json.dumps({"type": "ack", "seq": page.seqs[-1] + 10}))
        stopped = chunks_of(address)
        page.watch(lambda: chunks_of(address) > stopped)
        page.link.close()
        chunks_settle(address, 5.0)
