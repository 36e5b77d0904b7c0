"""The live server around a painted film: what a socket is told, who may do what, and what is refused."""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from app.live.checkpoint import NotKept
from app.live.frame_header import unpack_frame
from app.live.messages import MAX_MESSAGE
from app.server import connection, rooms
from app.server.access import ADDRESSES, ALLOWED, SECONDS, Access, Guesses, host_names, read_secret
from app.server.routes import make_app
from tests.live.test_messages import mutated
from tests.live_doubles import SECRET, PaintedEngine, problem_of, until

SOCKET = "ws://localhost/v1/realtime/video"
ACCESS = Access(SECRET)


@pytest.fixture
def engine(tmp_path: Path) -> PaintedEngine:
    return PaintedEngine(folder=tmp_path)


def client_of(engine: PaintedEngine, **settings: Any) -> TestClient:
    return TestClient(make_app(engine, secret=SECRET, page=False, **settings), base_url="http://localhost")


@pytest.fixture
def client(engine: PaintedEngine) -> Iterator[TestClient]:
    with client_of(engine) as client:
        yield client


def greeted(socket: WebSocketTestSession) -> dict[str, Any]:
    """Return hello, past video.start."""
    hello = socket.receive_json()
    assert hello["type"] == "hello", hello
    assert socket.receive_json() == {"type": "video.start"}
    return hello


def address(hello: dict[str, Any], token: str = "token") -> str:
    return f"{SOCKET}?session={hello['session']}&token={hello[token]}"


def ask(socket: WebSocketTestSession, kind: str, **fields: Any) -> None:
    socket.send_json({"type": kind} | fields)


# ------------------------------------------------------------------ films


def test_a_film_says_hello_and_plays(client: TestClient, engine: PaintedEngine) -> None:
    with client.websocket_connect(SOCKET) as socket:
        hello = greeted(socket)
        assert (hello["role"], hello["version"], hello["fps"]) == ("driver", 1, 16)
        until(lambda: engine.sessions["film1"].viewers)
        engine.sessions["film1"].paint()
        header, payload = unpack_frame(socket.receive_bytes())
        assert (header.seq, header.frame, payload[:2]) == (0, 0, b"\xff\xd8")
    until(lambda: not engine.sessions["film1"].viewers)


def test_no_more_than_three_frames_are_under_way_and_the_newest_comes_next(
    client: TestClient, engine: PaintedEngine
) -> None:
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        film = engine.sessions["film1"]
        until(lambda: film.viewers)
        for _ in range(3):
            film.paint()
            unpack_frame(socket.receive_bytes())
        assert film.viewers[0].credit == 0
        film.paint(10)
        ask(socket, "ack", seq=0)
        assert unpack_frame(socket.receive_bytes())[0].seq == 12, "what was not sent in time is replaced"
        assert film.viewers[0].dropped == 9
        ask(socket, "ack", seq=12)  # counts for all before
        until(lambda: film.viewers[0].credit == 3)


def test_a_prompt_is_accepted_and_applied_and_a_refusal_is_a_sentence(
    client: TestClient, engine: PaintedEngine
) -> None:
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        until(lambda: engine.sessions["film1"].viewers)
        ask(socket, "session.prompt_update", id="p", prompt="a blue star", transition={"kind": "soft", "chunks": 3})
        assert [socket.receive_json()["type"].rpartition(".")[2] for _ in range(2)] == ["accepted", "applied"]
        ask(socket, "session.prompt_update", id="q", prompt="xyzzy")
        assert problem_of([socket.receive_json()]).code == "refused"


@pytest.mark.parametrize("sent", ["", "{", "[]", '{"type": "hello"}', '{"type": "ack", "seq": 1, "x": 1}', b"\x00\xff"])
def test_a_message_that_is_none_costs_a_sentence_and_not_the_socket(client: TestClient, sent: str | bytes) -> None:
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        socket.send_bytes(sent) if isinstance(sent, bytes) else socket.send_text(sent)
        assert problem_of([socket.receive_json()]).code == "message"
        ask(socket, "session.prompt_update", id="q", prompt="xyzzy")
        assert problem_of([socket.receive_json()]).code == "refused", "the socket lives"


def test_a_saved_file_has_an_address_that_opens_it_and_nothing_else(client: TestClient, engine: PaintedEngine) -> None:
    with client.websocket_connect(SOCKET) as socket:
        hello = greeted(socket)
        film = engine.sessions["film1"]
        until(lambda: film.viewers)
        (engine.folder / "secret").write_bytes(SECRET)
        (film.folder / "link.jpg").symlink_to(engine.folder / "secret")
        (film.folder / "input.pictures").write_bytes(b"what a camera saw")
        ask(socket, "session.do", action="snapshot")
        url = socket.receive_json()["url"]
        assert not url.startswith("/"), "relative, so that it holds behind a proxy's sub-path"
        answer = client.get(f"/{url}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        token = f"?token={hello['view_token']}"
        for name in ("..%2Fsecret", "%2e%2e%2fsecret", "link.jpg", "input.pictures", "none.jpg", ".hidden", "a" * 200):
            assert client.get(f"/v1/sessions/film1/files/{name}{token}").status_code == 404, name
        assert client.get("/v1/sessions/film1/files/snap.jpg?token=x").status_code == 403
        assert client.get("/v1/sessions/film2/files/snap.jpg" + token).status_code == 403
    assert client.get(f"/{url}").status_code == 200, "also when nobody watches any more"


def test_a_film_can_wait_for_its_first_play(engine: PaintedEngine) -> None:
    with client_of(engine, autostart=False) as client, client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        assert [message.action for message in engine.sessions["film1"].submitted] == ["pause"]  # type: ignore[attr-defined]


def test_a_film_that_is_stopped_ends_for_everybody(client: TestClient, engine: PaintedEngine) -> None:
    with client.websocket_connect(SOCKET) as driver:
        hello = greeted(driver)
        with client.websocket_connect(address(hello)) as viewer:
            greeted(viewer)
            until(lambda: len(engine.sessions["film1"].viewers) == 2)
            ask(driver, "session.stop")
            for socket in (driver, viewer):
                assert socket.receive_json() == {"type": "session.done", "reason": "stopped"}
                with pytest.raises(WebSocketDisconnect):
                    socket.receive_json()


# ------------------------------------------------------------------ driver, viewers, queue


def test_one_drives_and_the_others_watch(client: TestClient, engine: PaintedEngine) -> None:
    with client.websocket_connect(SOCKET) as driver, client.websocket_connect(address(greeted(driver))) as viewer:
        assert greeted(viewer)["role"] == "viewer"
        ask(viewer, "session.prompt_update", id="p", prompt="a star")
        assert problem_of([viewer.receive_json()]).code == "viewer"
        assert engine.sessions["film1"].submitted == []
        ask(viewer, "session.do", action="hand_over")  # not its to give
        ask(viewer, "session.do", action="take_over")
        assert viewer.receive_json()["asked"]
        assert driver.receive_json() == {"type": "session.role", "role": "driver", "asked": True, "seconds": 10.0}
        ask(driver, "session.do", action="keep")
        assert driver.receive_json()["role"] == "driver"
        assert viewer.receive_json() == {"type": "session.role", "role": "viewer", "asked": False, "seconds": None}
        ask(viewer, "session.do", action="take_over")
        assert (viewer.receive_json()["role"], driver.receive_json()["asked"]) == ("viewer", True)
        ask(driver, "session.do", action="hand_over")
        assert (viewer.receive_json()["role"], driver.receive_json()["role"]) == ("driver", "viewer")
        ask(driver, "session.do", action="pause")
        assert problem_of([driver.receive_json()]).code == "viewer"


def test_a_driver_that_does_not_answer_loses_the_controls(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "ANSWER_SECONDS", 0.05)
    with client.websocket_connect(SOCKET) as driver, client.websocket_connect(address(greeted(driver))) as viewer:
        greeted(viewer)
        ask(viewer, "session.do", action="take_over")
        assert [viewer.receive_json()["role"] for _ in range(2)] == ["viewer", "driver"]
        assert [driver.receive_json()["role"] for _ in range(2)] == ["driver", "viewer"]


def test_who_has_waited_longest_drives_when_the_driver_leaves_and_a_link_for_watching_never_does(
    client: TestClient,
) -> None:
    with client.websocket_connect(SOCKET) as driver:
        hello = greeted(driver)
        with (
            client.websocket_connect(address(hello, "view_token")) as watcher,
            client.websocket_connect(address(hello)) as heir,
        ):
            assert (watched := greeted(watcher))["token"] == ""
            assert watched["role"] == greeted(heir)["role"] == "viewer"
            driver.close()
            assert heir.receive_json()["role"] == "driver"
            ask(watcher, "session.do", action="take_over")
            assert problem_of([watcher.receive_json()]).code == "viewer"


def test_a_page_that_is_loaded_again_finds_its_own_place(client: TestClient) -> None:
    with client.websocket_connect(f"{SOCKET}?client=tab1") as before:
        hello = greeted(before)
        with client.websocket_connect(f"{address(hello)}&client=tab1") as again:
            assert greeted(again)["role"] == "driver"
            assert before.receive_json() == {"type": "session.done", "reason": "replaced"}


def test_who_finds_every_film_taken_is_told_a_place_and_then_let_in(
    engine: PaintedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "RETRY_SECONDS", 0.02)
    engine.max_sessions = 1
    with client_of(engine) as client, client.websocket_connect(SOCKET) as first:
        greeted(first)
        until(lambda: engine.sessions["film1"].viewers)
        with client.websocket_connect(SOCKET) as second:
            assert problem_of([second.receive_json()]).position == 1
            with client.websocket_connect(SOCKET) as third:
                told = problem_of([third.receive_json()])
                assert (told.code, told.position) == ("busy", 2)
                assert "rivulet_waiting 2.0\n" in client.get("/metrics").text
                first.close()
                assert greeted(second)["session"] == "film2"
                assert problem_of([third.receive_json()]).position == 1
        assert "rivulet_waiting 0.0\n" in client.get("/metrics").text, "who goes does not wait any more"


# ------------------------------------------------------------------ security


def test_only_the_right_token_opens_a_film(client: TestClient) -> None:
    with client.websocket_connect(SOCKET) as socket:
        hello = greeted(socket)
        for token in ("", "x", hello["token"][:-1], hello["token"].upper(), "ü"):
            with client.websocket_connect(f"{SOCKET}?session=film1&token={token}") as other:
                assert problem_of([other.receive_json()]).code == "token"
                assert other.receive_json()["type"] == "session.done"
            assert client.get("/frame.jpg", params={"session": "film1", "token": token}).status_code == 403
        assert client.get("/frame.jpg").status_code == client.get("/live.mjpg?session=film1").status_code == 422
        assert client.get(f"/frame.jpg?session=film1&token={hello['view_token']}").status_code == 404  # no frame yet


def test_tokens_are_of_one_session_one_right_and_one_secret() -> None:
    tokens = {ACCESS.token("a"), ACCESS.token("b"), ACCESS.token("a", view=True), Access(b"1" * 32).token("a")}
    assert len(tokens) == 4
    assert [ACCESS.opens("a", ACCESS.token("a", view=view)) for view in (False, True)] == ["drive", "view"]
    assert ACCESS.opens("b", ACCESS.token("a")) is None


def test_the_secret_is_kept_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    secret = read_secret(tmp_path)
    assert len(secret) == 32
    assert read_secret(tmp_path) == secret
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(ValueError, match="Delete it"):
        read_secret(tmp_path)


def refused(client: TestClient, **headers: str) -> bool:
    try:
        with client.websocket_connect(SOCKET, headers={name.replace("_", "-"): v for name, v in headers.items()}) as s:
            greeted(s)
    except WebSocketDisconnect:
        return True
    return False


def test_pages_of_other_origins_cannot_open_sockets_nor_change_anything(
    client: TestClient, engine: PaintedEngine
) -> None:
    for origin in ("https://evil.example", "http://localhost.evil.example", "null", "http://localhost:81", "file://"):
        assert refused(client, origin=origin), origin
        assert client.post("/healthz", headers={"origin": origin}).status_code == 403
    assert engine.opened == 0
    assert not refused(client, origin="http://localhost")
    assert refused(client, origin="https://film.example", x_forwarded_host="film.example")
    with client_of(engine, hosts=host_names(["https://film.example:443"])) as behind:
        assert not refused(behind, origin="https://film.example")


def test_a_foreign_name_pointed_at_this_machine_is_not_answered(client: TestClient, engine: PaintedEngine) -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        assert client.get("/healthz", headers={"host": host}).status_code == 421, host
        assert refused(client, host=host, origin=f"http://{host}")
    for host in ("127.0.0.1:7860", "[::1]:7860", "localhost", "LOCALHOST:1", "192.168.1.5:7860"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200, host
    with client_of(engine, hosts=["film.example"]) as named:
        assert named.get("/healthz", headers={"host": "film.example"}).status_code == 200


def test_a_password_is_asked_for_on_every_route_and_the_socket(engine: PaintedEngine) -> None:
    with client_of(engine, login="ann:b:c") as client:
        paths = [
            "/",
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/frame.jpg",
            "/live.mjpg",
            "/v1/videos",
            "/x",
        ]
        for path in paths:
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic"), path
        assert refused(client)
        for wrong in ("Basic x", "Basic " + base64.b64encode(b"ann:bc").decode(), "Bearer ann:b:c", "Basic ä"):
            assert client.get("/healthz", headers={"authorization": wrong.encode("latin-1")}).status_code == 401
        assert refused(client, cookie="rivulet_login=ann:b:c")
        answer = client.get("/healthz", auth=("ann", "b:c"))
        assert answer.status_code == 200
        assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert not refused(client, cookie=answer.headers["set-cookie"].split(";")[0])
        basic = base64.b64encode(b"ann:b:c").decode()
        client.cookies.clear()
        assert not refused(client, authorization=f"Basic {basic}")


def test_who_guesses_passwords_has_to_wait_and_who_is_in_does_not(engine: PaintedEngine) -> None:
    with client_of(engine, login="ann:secret") as client:
        cookie = client.get("/healthz", auth=("ann", "secret")).headers["set-cookie"].split(";")[0]
        client.cookies.clear()
        for number in range(ALLOWED):
            assert client.get("/healthz").status_code == 401, "a request without a password is no guess"
            assert client.get("/healthz", auth=("ann", f"guess {number}")).status_code == 401
        for password in ("guess", "secret"):
            answer = client.get("/healthz", auth=("ann", password))
            assert answer.status_code == 429
            assert "Try again in" in answer.text
        assert refused(client, authorization=f"Basic {base64.b64encode(b'ann:secret').decode()}")
        assert client.get("/healthz", headers={"cookie": cookie}).status_code == 200
        assert not refused(client, cookie=cookie)


def test_guesses_are_forgotten_after_their_time_and_addresses_do_not_pile_up() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    for second in range(ALLOWED):
        assert guesses.wait("a") == 0
        now[0] = float(second)
        guesses.wrong("a")
    assert guesses.wait("a") == SECONDS - now[0]
    assert guesses.wait("b") == 0
    now[0] = SECONDS + 0.5
    assert guesses.wait("a") == 0, "the first is a minute old, so one more may be tried"
    guesses.wrong("a")
    assert guesses.wait("a") > 0
    for number in range(2 * ADDRESSES):
        guesses.wrong(f"10.0.{number // 256}.{number % 256}")
    assert len(guesses._wrong) == ADDRESSES


def test_a_flood_of_messages_ends_the_socket(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BURST", 20.0)
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        for seq in range(60):
            ask(socket, "ack", seq=seq)
        assert problem_of([socket.receive_json()]).code == "rate"
        assert socket.receive_json()["reason"] == "rate"


def test_a_thousand_mutated_messages_do_not_end_a_socket(
    client: TestClient, engine: PaintedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BURST", 1e9)
    draw = random.Random(4)
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        film = engine.sessions["film1"]
        monkeypatch.setattr(film, "submit", lambda message, viewer: film.submitted.append(message))
        for _ in range(1000):
            message = mutated(draw)
            try:
                socket.send_text(message.decode())
            except UnicodeDecodeError:
                socket.send_bytes(message)
        ask(socket, "session.prompt_update", id="the-end", prompt="a star")
        until(lambda: getattr(film.submitted[-1], "id", "") == "the-end" if film.submitted else False)
        refusals = int(re.findall(r"rivulet_messages_refused_total (\d+)", client.get("/metrics").text)[0])
        assert 800 < refusals < 1000
        assert {problem_of([socket.receive_json()]).code for _ in range(refusals)} <= {"message"}


def test_a_message_that_is_too_long_is_refused(client: TestClient) -> None:
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        socket.send_text('"' + "x" * MAX_MESSAGE + '"')
        assert str(MAX_MESSAGE) in problem_of([socket.receive_json()]).message


def test_a_body_that_is_too_long_is_refused(client: TestClient) -> None:
    for length in ("999999999999", "9" * 5000, "-1", "x"):
        assert client.post("/healthz", headers={"content-length": length}).status_code == 413


def test_viewers_are_counted(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_VIEWERS", 1)
    with client.websocket_connect(SOCKET) as first, client.websocket_connect(address(greeted(first))) as second:
        assert problem_of([second.receive_json()]).code == "full"


# ------------------------------------------------------------------ the other routes


def test_health_readiness_and_metrics(client: TestClient, engine: PaintedEngine) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    engine.ready = False
    assert client.get("/readyz").status_code == 503
    with client.websocket_connect(SOCKET) as socket:
        greeted(socket)
        lines = client.get("/metrics").text.splitlines()
    assert {"rivulet_sockets 1.0", "rivulet_chunk_seconds 0.125", "# TYPE rivulet_frames_sent_total counter"} <= {
        *lines
    }
    assert all(line.startswith(("# TYPE rivulet_", "# HELP rivulet_")) or len(line.split()) == 2 for line in lines)


def test_the_description_is_served_and_no_page_that_loads_from_elsewhere(client: TestClient) -> None:
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    answer = client.get("/openapi.json")
    assert {"/frame.jpg", "/live.mjpg", "/v1/sessions/{session}/files/{name}"} <= set(answer.json()["paths"])
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_a_proxy_may_strip_the_sub_path_or_leave_it(engine: PaintedEngine) -> None:
    with client_of(engine, root_path="/film") as client:
        for prefix in ("", "/film"):
            assert client.get(f"{prefix}/healthz").status_code == 200
            with client.websocket_connect(SOCKET.replace("/v1", f"{prefix}/v1")) as socket:
                greeted(socket)


def test_a_film_that_cannot_be_taken_up_says_so_and_no_other_film_opens(
    engine: PaintedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(engine) as client:
        with client.websocket_connect(SOCKET) as socket:
            film = greeted(socket)

        def gone(session_id: str | None = None) -> None:
            raise NotKept(f"The film {session_id} is damaged.")

        engine.sessions.clear()
        monkeypatch.setattr(engine, "open", gone)
        with client.websocket_connect(address(film)) as socket:
            told = problem_of([socket.receive_json()])
            assert (told.code, told.message) == ("gone", f"The film {film['session']} is damaged.")
            assert socket.receive_json() == {"type": "session.done", "reason": "gone"}
        assert not engine.sessions


def test_what_the_engine_cannot_do_is_told(engine: PaintedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(session_id: str | None = None) -> None:
        time.sleep(0.01)
        raise FileNotFoundError("The weights are not on this disk. Run rivulet doctor.")

    monkeypatch.setattr(engine, "open", fail)
    with client_of(engine) as client, client.websocket_connect(SOCKET) as socket:
        told = problem_of([socket.receive_json()])
        assert (told.code, told.message) == ("engine", "The weights are not on this disk. Run rivulet doctor.")
        assert socket.receive_json()["type"] == "session.done"
