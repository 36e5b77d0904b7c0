"""docs/live-api.md and /openapi.json say what there is: every message, every route; and the example client works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.cli.web import web_command
from app.config.nodes import LARGEST_FILE
from app.jobs.queue import Jobs
from app.jobs.uploads import Upload
from app.live import messages as wire
from app.live.engine import LIVE_DISK, LIVE_MEMORY, LiveEngine
from app.live.picture_header import MAX_PICTURE
from app.live.pictures import BAD_IN_A_ROW
from app.live.recorder import KEPT_SECONDS
from app.live.saves import OF_ALL_FILMS, OF_ONE_FILM
from app.live.scheduling import FACTOR, LONGEST_DEBT
from app.live.session import UNWATCHED_RECORDING
from app.loading.engine_request import EngineRequest
from app.loading.live import MOST_FILMS
from app.media.compressed import LARGEST as LARGEST_SIDE
from app.media.source import OPEN_SECONDS
from app.record.log_writer import LARGEST
from app.server import connection, schemas
from app.server import routes as server
from app.server.access import MAX_BODY, Access
from app.server.downloads import Download
from app.server.gallery import DeletedItem, Gallery, GalleryItem
from app.server.jobs_api import LARGEST_BODY
from app.server.models_api import ModelList, ModelVerdict
from app.server.refusals import Refusal
from app.server.restore import LARGEST_UPLOAD
from app.server.rooms import MAX_VIEWERS, MAX_WAITING
from app.server.routes import make_app
from pipelines.presets import get_preset
from tests import log_lines
from tests.app_doubles import save_tiny_model
from tests.live_doubles import SECRET, PaintedEngine, served

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "live-api.md").read_text("utf-8")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path / "jobs")
    yield jobs
    jobs.close()


@pytest.fixture
def client(tmp_path: Path, jobs: Jobs) -> Iterator[TestClient]:
    engine: Any = PaintedEngine(folder=tmp_path)
    app = make_app(engine, secret=SECRET, page=False, jobs=jobs, login="a:b")
    with TestClient(app, base_url="http://localhost") as client:
        client.auth = ("a", "b")
        yield client


def kinds(base: type[Any]) -> set[type[Any]]:
    below = base.__subclasses__()
    return {leaf for child in below for leaf in kinds(child)} if below else {base}


def names_in(page: str) -> set[str]:
    """Everything in `code`, taken apart into words."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"[A-Za-z0-9_.]+", " ".join(re.findall(r"`([^`]+)`", text))))


@pytest.mark.parametrize("side", [wire.FromClient, wire.FromServer], ids=["client", "server"])
def test_every_message_and_every_field_is_on_the_page(side: type[Any]) -> None:
    named = names_in(PAGE) | set(re.findall(r"\w+", PAGE.partition("## Messages")[2].partition("\n## ")[0]))
    for kind in kinds(side):
        fields = set(kind.model_fields) - {"type"}
        if "type" in kind.model_fields:
            assert kind.model_fields["type"].default in names_in(PAGE), kind
        assert fields <= named, (kind, fields - named)
    assert set(get_args(wire.Action)) <= named


def test_every_route_is_on_the_page_and_in_the_description(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for path in schema["paths"]:
        written = path.replace("{session}", "ID").replace("{video_id}", "ID").replace("{name}", "NAME")
        parts = (written, written.rpartition("/ID")[2]) if "/ID/" in written else (written,)
        assert any(f"{part}" in PAGE for part in parts if part), written
    for route in re.findall(r"`(?:GET|POST|DELETE) (/[^`?]*)", PAGE):
        path = re.sub(r"/ID\b", "/{}", route).replace("NAME", "{}")
        assert path in {re.sub(r"\{\w+\}", "{}", known) for known in schema["paths"]} | {"/openapi.json"}, route


def test_every_reference_of_the_description_leads_somewhere(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()

    def references(tree: Any) -> Iterator[str]:
        for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            yield from references(value)
        if isinstance(tree, dict) and isinstance(tree.get("$ref"), str):
            yield tree["$ref"]
        assert not isinstance(tree, dict) or "$defs" not in tree

    found = set(references(schema))
    assert len(found) >= 8
    for reference in found:
        at = schema
        for key in reference.removeprefix("#/").split("/"):
            at = at[key]
    assert schema["components"]["securitySchemes"]["login"]["scheme"] == "basic"


def test_the_description_says_what_is_answered(client: TestClient, jobs: Jobs, tmp_path: Path) -> None:
    schema = client.get("/openapi.json").json()
    jobs._renderer = (sys.executable, "-m", "app")
    made = client.post("/v1/videos", json={"prompt": "a red ball", "seconds": 1})
    video = made.json()["id"]
    blended = {"script": "shots:\n- prompt: a\n- {at: 3s, prompt: b, transition: soft 2}\n", "seconds": 6}
    part = jobs.folder / video / "film.part"
    part.mkdir()
    record = {"index": 0, "frames": [0, 12], "shown": 12, "seconds": {"denoise": 0.1}, "drift": None, "memory": 9}
    told = json.dumps({"chunk": record | {"sha256": "0" * 64}}, separators=(",", ":"))
    (part / "journal.jsonl").write_text(f"{told}\n")
    (tmp_path / "film1").mkdir()
    log_lines.save(tmp_path / "film1", log_lines.a_log())
    token = {"token": Access(SECRET).token("film1")}
    path = "/v1/videos/{video_id}"
    (tmp_path / "film1" / "still-20261130-120000-a-red-ball.png").write_bytes(b"x")
    binned = {"item": "live:film1/still-20261130-120000-a-red-ball.png", **token, "binned": True}
    here = TestClient(client.app, base_url="http://localhost", client=("127.0.0.1", 5))  # of embedded all is here
    here.headers.update(client.headers)
    here.auth = client.auth
    answers: list[tuple[str, str, Any, type[BaseModel]]] = [
        ("get", "/healthz", client.get("/healthz"), schemas.Health),
        ("get", "/readyz", client.get("/readyz"), schemas.Readiness),
        ("post", "/v1/videos", made, schemas.ShownJob),
        ("post", "/v1/videos/plan", client.post("/v1/videos/plan", json=blended), schemas.Plan),
        ("post", "/v1/videos/check", client.post("/v1/videos/check", json=blended), schemas.Check),
        ("get", "/v1/videos", client.get("/v1/videos"), schemas.JobList),
        ("get", path, client.get(f"/v1/videos/{video}"), schemas.ShownJob),
        ("get", f"{path}/chunks", client.get(f"/v1/videos/{video}/chunks"), schemas.MadeChunks),
        ("post", f"{path}/move", client.post(f"/v1/videos/{video}/move", json={"to": 0}), schemas.ShownJob),
        ("post", f"{path}/pause", client.post(f"/v1/videos/{video}/pause"), schemas.ShownJob),
        ("post", f"{path}/resume", client.post(f"/v1/videos/{video}/resume"), schemas.ShownJob),
        ("post", f"{path}/cancel", client.post(f"/v1/videos/{video}/cancel"), schemas.ShownJob),
        ("delete", path, client.delete(f"/v1/videos/{video}"), schemas.DeletedJob),
        ("post", "/v1/restore", client.post("/v1/restore", content=log_lines.a_log()), schemas.Restored),
        ("post", "/v1/beginnings", client.post("/v1/beginnings", content=b"\xff\xd8\xff a JPEG"), Upload),
        ("get", "/v1/sessions/{session}/take", client.get("/v1/sessions/film1/take", params=token), schemas.Restored),
        ("post", "/v1/gallery", client.post("/v1/gallery", json={"films": [{"session": "film1", **token}]}), Gallery),
        ("post", "/v1/gallery/mark", client.post("/v1/gallery/mark", json=binned), GalleryItem),
        ("delete", "/v1/gallery", client.delete("/v1/gallery", params={"item": binned["item"], **token}), DeletedItem),
        ("get", "/v1/models", client.get("/v1/models"), ModelList),
        ("get", "/v1/models/{name}/verdict", client.get("/v1/models/embedded/verdict"), ModelVerdict),
        ("get", "/v1/models/download", client.get("/v1/models/download"), Download),
        ("post", "/v1/models/download", here.post("/v1/models/download", json={"model": "embedded"}), Download),
        ("delete", "/v1/models/download", here.delete("/v1/models/download"), Download),
    ]
    for method, route, answer, model in answers:
        assert answer.is_success, (method, route, answer.text)
        described = schema["paths"][route][method]["responses"][str(answer.status_code)]["content"]
        assert described["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}, route
        model.model_validate(answer.json(), extra="forbid")
        assert set(answer.json()) == set(schema["components"]["schemas"][model.__name__]["properties"]), route
    json_routes = {
        (method, route)
        for route, methods in schema["paths"].items()
        for method, operation in methods.items()
        for code, answer in operation["responses"].items()
        if code.startswith("2") and "application/json" in answer["content"]
    }
    assert json_routes == {(method, route) for method, route, _, _ in answers}


def test_the_description_says_what_is_asked_and_how_it_is_refused(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    bodies = {
        route: operation["post"]["requestBody"]["content"]
        for route, operation in schema["paths"].items()
        if "requestBody" in operation.get("post", {})
    }
    assert {
        route: body["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for route, body in bodies.items()
        if "application/json" in body
    } == {
        "/v1/gallery": "Asked",
        "/v1/gallery/mark": "Said",
        "/v1/models/download": "PullRequest",
        "/v1/videos": "VideoBody",
        "/v1/videos/plan": "VideoBody",
        "/v1/videos/check": "VideoBody",
        "/v1/videos/{video_id}/move": "Move",
    }
    assert list(bodies["/v1/restore"]) == list(bodies["/v1/beginnings"]) == ["application/octet-stream"]
    for refused, status in (
        (client.post("/v1/restore", content=b"x"), 400),
        (client.post("/v1/videos", content=b""), 400),
        (client.post("/v1/videos/x/move", content=b'{"to": -1}'), 400),
        (client.post("/v1/videos/x/move", json={"to": 0}), 404),
        (client.get("/v1/videos/x/chunks?since=now"), 422),
        (client.get("/v1/sessions/film1/take?token=x"), 403),
    ):
        told = Refusal.model_validate(refused.json(), extra="forbid").error
        assert (refused.status_code, told.code) == (status, status), refused.text
    detail = client.get("/frame.jpg?session=film1&token=x")
    schemas.Detail.model_validate(detail.json(), extra="forbid")
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    for route, media in (
        ("/metrics", ["text/plain"]),
        ("/frame.jpg", ["image/jpeg"]),
        ("/live.mjpg", ["multipart/x-mixed-replace"]),
        ("/v1/videos/{video_id}/content", ["video/mp4", "image/jpeg", "image/gif"]),
    ):
        assert list(schema["paths"][route]["get"]["responses"]["200"]["content"]) == media


def test_the_client_of_the_page_plays_a_real_model(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 30
    (tmp_path / "client.py").write_text(code[1])
    model = save_tiny_model(tmp_path / "model")
    request = EngineRequest(preset=get_preset("embedded"), model=str(model), threads=1)
    engine = LiveEngine(request, folder=tmp_path / "live", prompt="a red ball over the sea", seed=3)
    try:
        engine.start()
        with served(make_app(engine, secret=SECRET, page=False)) as address:
            done = subprocess.run(
                [sys.executable, "client.py", f"ws://{address}/v1/realtime/video", "a blue star over snow", "24"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
    finally:
        engine.close()
    assert done.returncode == 0, done.stderr
    assert "session.prompt_update.applied" in done.stdout
    pictures = list((tmp_path / "frames").glob("*.jpg"))
    assert len(pictures) == 24
    assert all(picture.read_bytes().startswith(b"\xff\xd8") for picture in pictures)


def test_the_limits_of_the_page_are_those_of_the_server() -> None:
    limits = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", PAGE.partition("## Limits")[2], re.MULTILINE))
    mib = 2**20
    held = {
        "sockets; viewers of one film; readers of its pictures": (
            f"{server.MAX_SOCKETS}; {MAX_VIEWERS}; {server.MAX_PICTURE_READERS}"
        ),
        "a prompt; texts in a mix; prompts that queue": f"1000 characters; 4; {wire.QUEUE_LIMIT}",
        "a request; a dropped file; the body of a job": (
            f"{MAX_BODY // mib} MiB; {LARGEST_UPLOAD // mib} MiB; {LARGEST_BODY // 10**6} MB, "
            f"a script in it {LARGEST_FILE // 10**6} MB"
        ),
        "what is always kept for save_last": f"{KEPT_SECONDS} s",
        "files under way, of one film and of all": f"{OF_ONE_FILM}; {OF_ALL_FILMS}",
        "a recording that nobody watches": f"{UNWATCHED_RECORDING:.0f} s",
        "a film's log": f"{LARGEST // mib} MiB",
    }
    assert {name: limits[name] for name in held} == held
    assert f"further ones wait, {MAX_WAITING} at most" in limits["films at a time, and who waits"]
    assert f"{wire.MAX_MESSAGE // 1024} KiB; about {connection.MESSAGES_A_SECOND:.0f}" in PAGE
    defaults = {name: option.default for name, option in signature(web_command).parameters.items()}
    assert (defaults["live_disk"], defaults["live_memory"]) == (10 * 10**9, 512 * mib) == (LIVE_DISK, LIVE_MEMORY)
    kib, sides = MAX_PICTURE // 1024, LARGEST_SIDE
    assert limits["a picture; its sides; how it counts"].startswith(f"{kib} KiB; {sides}; as a message")
    assert f"more for every {connection.LONG_PICTURE // 1024} KiB" in limits["a picture; its sides; how it counts"]
    assert f"{sides} pixels a\nside or {kib} KiB are refused" in PAGE
    assert f"nothing has come for {OPEN_SECONDS:g} s, or when\n{BAD_IN_A_ROW} pictures in a row" in PAGE
    assert f"one more for every {connection.LONG_MESSAGE // 1024} KiB" in PAGE
    assert (defaults["host"], defaults["max_sessions"], defaults["auth"]) == ("127.0.0.1", 0, None)
    assert f"({MOST_FILMS} on a GPU; on a CPU one for each core, {MOST_FILMS} at most)" in PAGE
    assert f"for three times as long, {LONGEST_DEBT:.0f} s at most" in PAGE
    assert FACTOR == 3


def test_no_more_sockets_than_the_limit_are_served(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_SOCKETS", 1)
    headers = {"authorization": "Basic YTpi"}
    with client.websocket_connect("ws://localhost/v1/realtime/video", headers=headers) as first:
        assert first.receive_json()["type"] == "hello"
        with client.websocket_connect("ws://localhost/v1/realtime/video", headers=headers) as second:
            assert second.receive_json()["code"] == "full"
            assert second.receive_json()["type"] == "session.done"
