"""docs/live-api.md and /openapi.json say what there is: every message, every route; and the example client works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient

from app.cli.web import web_command
from app.config.nodes import LARGEST_FILE
from app.jobs.queue import Jobs
from app.live import messages as wire
from app.live.engine import LIVE_DISK, LIVE_MEMORY, LiveEngine
from app.live.recorder import KEPT_SECONDS
from app.live.saves import OF_ALL_FILMS, OF_ONE_FILM
from app.live.scheduling import FACTOR, LONGEST_DEBT
from app.live.session import UNWATCHED_RECORDING
from app.loading.live import MOST_FILMS
from app.loading.model import EngineRequest
from app.record.log_writer import LARGEST
from app.server import connection as visit
from app.server import routes as server
from app.server.access import MAX_BODY
from app.server.jobs_api import LARGEST_BODY, shown
from app.server.openapi import Restored, ShownJob
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

    def described(method: str, path: str) -> list[str]:
        answers = schema["paths"][path][method]["responses"]
        return list(next(answers[code] for code in answers if code.startswith("2"))["content"])

    made = client.post("/v1/videos", json={"prompt": "a red ball", "seconds": 1})
    assert made.status_code == 201
    assert set(made.json()) == set(schema["components"]["schemas"]["ShownJob"]["properties"])
    ShownJob.model_validate(shown(jobs.get(made.json()["id"])))
    told = client.post("/v1/restore", content=log_lines.a_log())
    assert set(told.json()) == set(schema["components"]["schemas"]["Restored"]["properties"])
    Restored.model_validate(told.json())
    assert set(client.post("/v1/restore", content=b"x").json()) == {"error"}
    for path in ("/metrics", "/healthz", "/v1/videos"):
        assert client.get(path).headers["content-type"].split(";")[0] in described("get", path), path
    assert described("get", "/frame.jpg") == ["image/jpeg"]
    assert described("get", "/live.mjpg") == ["multipart/x-mixed-replace"]


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
    assert f"{wire.MAX_MESSAGE // 1024} KiB; about {visit.MESSAGES_A_SECOND:.0f}" in PAGE
    defaults = {name: option.default for name, option in signature(web_command).parameters.items()}
    assert (defaults["live_disk"], defaults["live_memory"]) == (10 * 10**9, 512 * mib) == (LIVE_DISK, LIVE_MEMORY)
    assert f"one more for every {visit.LONG_MESSAGE // 1024} KiB" in PAGE
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
