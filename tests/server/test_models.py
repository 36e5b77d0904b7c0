"""Models over HTTP: everybody may look; only this machine may fetch, one at a time, with a licence's tick."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs.queue import Jobs
from app.server.downloads import Downloads
from app.server.models_api import Models
from app.server.routes import make_app
from tests.live_doubles import SECRET, PaintedEngine
from weights.catalog import MODELS
from weights.here import is_folder
from weights.hub import RemoteFile

ASKED = "longlive-1.3b"
"""A model whose weights are narrow, of several parts."""


class Wire:
    """A hub whose files are small; it stops in the middle of each until `go` is set."""

    def __init__(self) -> None:
        self.go, self.waits = threading.Event(), threading.Event()
        self.fetched: list[str] = []
        self.broken: Exception | None = None

    def files(self, repo: str) -> Sequence[RemoteFile]:
        if self.broken is not None:
            raise self.broken
        found: list[RemoteFile] = []
        for spec in {spec for model in MODELS.values() for spec in model.weights if spec.repo == repo}:
            names = ["config.json", "model.safetensors", "tokenizer_config.json"] if is_folder(spec) else [""]
            found += [RemoteFile(f"{spec.file}/{name}".rstrip("/"), 8, None) for name in names]
        return found

    def fetch(self, repo: str, path: str, folder: Path | None, report: Any) -> Path:
        assert folder is not None
        report(path, 4, 8, 2e6)
        self.waits.set()
        assert self.go.wait(30)
        report(path, 8, 8, 2e6)
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"8 bytes.")
        self.fetched.append(path)
        return place


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def models(tmp_path: Path, wire: Wire) -> Models:
    return Models(tmp_path / "models", Downloads(tmp_path / "models", hub=wire))


@pytest.fixture
def client(tmp_path: Path, models: Models) -> Iterator[TestClient]:
    engine: Any = PaintedEngine(folder=tmp_path)
    jobs = Jobs(tmp_path / "jobs")
    app = make_app(engine, secret=SECRET, page=False, jobs=jobs, models=models, hosts=("films.example",))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 5)) as client:
        yield client
    jobs.close()


def rows(client: TestClient) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in client.get("/v1/models").json()["data"]}


def test_every_model_is_listed_with_what_a_person_decides_by(client: TestClient) -> None:
    found = rows(client)
    assert list(found) == list(MODELS)
    assert (found["embedded"]["state"], found["embedded"]["size"]) == ("here", [192, 192])
    assert found["embedded"]["parts"][0]["page"] == ""  # a folder of this machine is nobody's business
    row = found[ASKED]
    assert (row["state"], row["bytes"]) == ("away", 0)
    assert row["pull"] == f"rivulet models pull {ASKED} --accept_licence {ASKED}"
    assert all(part["fetch"].startswith("hf download ") for part in row["parts"])
    assert "longlive" in row["presets"]
    told = client.get(f"/v1/models/{ASKED}/verdict").json()
    assert told["verdict"].startswith(("fits", "does not fit"))
    assert client.get("/v1/models/embedded/verdict").json()["verdict"] == "small"
    refused = client.get("/v1/models/longlive/verdict")
    assert (refused.status_code, "longlive" in refused.json()["error"]["message"]) == (400, True)


def test_a_download_needs_the_tick_tells_how_far_it_is_and_ends_whole(
    client: TestClient, models: Models, wire: Wire
) -> None:
    ask: dict[str, Any] = {"model": ASKED}
    refused = client.post("/v1/models/download", json=ask)
    assert (refused.status_code, wire.fetched) == (403, [])
    assert "asks for your consent" in refused.json()["error"]["message"]
    assert client.post("/v1/models/download", json=ask | {"licence_accepted": True}).json()["status"] == "running"
    assert wire.waits.wait(30)
    told = client.get("/v1/models/download").json()
    assert (told["status"], told["model"], told["done"], told["rate"]) == ("running", ASKED, 4, 2e6)
    assert told["total"] > 8
    assert client.post("/v1/models/download", json={"model": "wan-1.3b"}).status_code == 409
    wire.go.set()
    ended = models.downloads.wait(30)
    assert (ended.status, ended.message) == ("done", f"{ASKED} is here.")
    assert rows(client)[ASKED]["state"] == "here"


def test_a_cancelled_download_ends_and_what_came_stays(client: TestClient, models: Models, wire: Wire) -> None:
    client.post("/v1/models/download", json={"model": ASKED, "licence_accepted": True})
    assert wire.waits.wait(30)
    client.delete("/v1/models/download")
    wire.go.set()
    ended = models.downloads.wait(30)
    assert ended.status == "cancelled"
    assert rows(client)[ASKED]["state"] != "here"
    wire.broken = OSError("the wire is cut")
    client.post("/v1/models/download", json={"model": ASKED, "licence_accepted": True})
    failed = models.downloads.wait(30)
    assert (failed.status, "the wire is cut" in failed.message) == ("failed", True)


@pytest.mark.parametrize(
    ("headers", "client_host"),
    [
        ({"host": "films.example"}, "127.0.0.1"),  # a name: somebody else's browser, through a proxy of this machine
        ({"x-forwarded-for": "203.0.113.9"}, "127.0.0.1"),
        ({"via": "1.1 proxy"}, "127.0.0.1"),
        ({}, "203.0.113.9"),
    ],
)
def test_only_somebody_at_this_machine_may_have_something_fetched(
    headers: dict[str, str], client_host: str, client: TestClient, wire: Wire
) -> None:
    far = TestClient(client.app, base_url="http://localhost", client=(client_host, 5), headers=headers)
    assert far.get("/v1/models").json()["may_pull"] is False
    for answer in (far.post("/v1/models/download", json={"model": "wan-1.3b"}), far.delete("/v1/models/download")):
        assert (answer.status_code, "at this machine" in answer.json()["error"]["message"]) == (403, True)
    assert client.get("/v1/models").json()["may_pull"] is True
    assert wire.fetched == []


def test_an_offline_server_fetches_nothing(tmp_path: Path, wire: Wire) -> None:
    downloads = Downloads(tmp_path, offline=True, hub=wire)
    with pytest.raises(Exception, match="--offline"):
        downloads.begin("wan-1.3b", licence_accepted=True)
    assert downloads.state.status == "idle"
