"""The live server as a process: real sockets, the client of the documentation, flags, ports, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from app import cli_web
from app.cli import main
from app.errors import UsageMistake
from app.server import make_app
from app.serving import find_place
from app.wire import MAX_MESSAGE, unpack_frame
from tests.live_doubles import SECRET, PaintedEngine, served, until

ROOT = Path(__file__).resolve().parent.parent
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


def test_a_message_beyond_the_limit_closes_the_socket(server: str) -> None:
    with connect(f"ws://{server}{SOCKET}") as link:
        link.send("x" * (MAX_MESSAGE + 1))
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
    monkeypatch.setattr("app.serving.PORTS_TRIED", 1)
    first = find_place("127.0.0.1", 0)
    with first.listener, pytest.raises(UsageMistake, match="--port"):
        find_place("127.0.0.1", first.port)


PROGRAM = """
import sys
import app.engine, app.server
from app.cli import main
from tests.live_doubles import PaintedEngine
app.engine.LiveEngine = PaintedEngine
make = app.server.make_app
app.server.make_app = lambda engine, **given: make(engine, page=False, **given)
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
