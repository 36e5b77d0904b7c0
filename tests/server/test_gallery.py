"""The gallery: what was made is found, named, starred, thrown away and brought back, by whoever holds its token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs.job import Job, VideoRequest, new_job
from app.jobs.queue import Jobs
from app.server.access import Access
from app.server.routes import make_app
from tests.live_doubles import SECRET, PaintedEngine

STILL = "still-20261130-120000-a-red-ball.png"
LAST = "last-20261130-120005-1-a-blue-star-over-snow.mp4"
VIDEO = "video_" + "a" * 24


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    folder = tmp_path / "jobs" / VIDEO
    folder.mkdir(parents=True)
    job = new_job(VIDEO, VideoRequest.model_validate({"prompt": "a green ring", "seconds": 1}), models=["embedded"])
    done: dict[str, Any] = {"status": "completed", "frames_done": 16, "completed_at": 1e9}
    (folder / "job.json").write_text(Job.model_validate(job.model_dump() | done).model_dump_json())
    jobs = Jobs(tmp_path / "jobs")
    yield jobs
    jobs.close()


@pytest.fixture
def client(tmp_path: Path, jobs: Jobs) -> Iterator[TestClient]:
    for film, names in {
        "mine": (STILL, LAST, "session.jsonl", "state-1.safetensors", ".last-2.part.mp4"),
        "other": (STILL,),
    }.items():
        (tmp_path / film).mkdir()
        for name in names:
            (tmp_path / film / name).write_bytes(b"x" * 7)
    engine: Any = PaintedEngine(folder=tmp_path)
    with TestClient(make_app(engine, secret=SECRET, page=False, jobs=jobs), base_url="http://localhost") as client:
        yield client


def token(film: str = "mine", *, view: bool = False) -> str:
    return Access(SECRET).token(film, view=view)


def shelf(client: TestClient, *films: tuple[str, str]) -> dict[str, dict[str, Any]]:
    body = {"films": [{"session": session, "token": key} for session, key in films]}
    answer = client.post("/v1/gallery", json=body)
    assert answer.status_code == 200, answer.text
    return {item["item"]: item for item in answer.json()["data"]}


def test_renders_are_everybodys_and_live_films_are_whose_token_is_given(client: TestClient) -> None:
    assert list(shelf(client)) == [f"film:{VIDEO}"]
    found = shelf(client, ("mine", token()), ("other", token()), ("nothing", token("nothing")))
    assert {item["kind"]: item["name"] for item in found.values()} == {
        "film": "a green ring",
        "picture": "a red ball",
        "last seconds": "a blue star over snow",
        "take": "live film",
    }
    assert set(found) == {f"film:{VIDEO}", *(f"live:mine/{name}" for name in (STILL, LAST, "session.jsonl"))}
    assert client.get(f"/{found[f'live:mine/{STILL}']['url']}").content == b"x" * 7


def test_names_stars_and_the_bin_are_kept_beside_what_they_are_of(
    client: TestClient, jobs: Jobs, tmp_path: Path
) -> None:
    for item, key in ((f"live:mine/{STILL}", token()), (f"film:{VIDEO}", "")):
        for change in ({"name": "Sommer 🌞"}, {"favourite": True}, {"binned": True}):
            told = client.post("/v1/gallery/mark", json={"item": item, "token": key, **change}).json()
        assert (told["name"], told["favourite"], told["binned"]) == ("Sommer 🌞", True, True)
        assert shelf(client, ("mine", token()))[item] == told
    assert json.loads((tmp_path / "mine" / "marks.json").read_text())[STILL]["favourite"] is True
    back = client.post("/v1/gallery/mark", json={"item": f"film:{VIDEO}", "binned": False, "name": ""}).json()
    assert (back["binned"], back["name"]) == (False, "a green ring"), "without a name of one's own it has its usual one"


def test_only_what_lies_in_the_bin_is_deleted_and_then_it_is_gone(
    client: TestClient, jobs: Jobs, tmp_path: Path
) -> None:
    for item, key in ((f"live:mine/{STILL}", token()), (f"film:{VIDEO}", "")):
        asked = {"item": item, "token": key}
        refused = client.delete("/v1/gallery", params=asked)
        assert (refused.status_code, "in the bin" in refused.json()["error"]["message"]) == (400, True)
        client.post("/v1/gallery/mark", json={**asked, "binned": True})
        assert client.delete("/v1/gallery", params=asked).json() == {"item": item, "deleted": True}
        assert item not in shelf(client, ("mine", token()))
    assert not (tmp_path / "mine" / STILL).exists()
    assert jobs.list() == []
    assert (tmp_path / "other" / STILL).exists()


@pytest.mark.parametrize(
    ("item", "key", "status"),
    [
        (f"live:mine/{STILL}", token("other"), 403),
        (f"live:mine/{STILL}", token(view=True), 403),
        ("live:mine/state-1.safetensors", token(), 404),
        ("live:mine/../other/" + STILL, token(), 404),
        ("live:../mine/" + STILL, token("../mine"), 404),
        ("live:mine/marks.json", token(), 404),
        ("film:video_" + "b" * 24, "", 404),
        ("film:../../etc", "", 404),
        ("", "", 404),
    ],
)
def test_what_is_not_ones_own_cannot_be_touched(client: TestClient, item: str, key: str, status: int) -> None:
    answer = client.post("/v1/gallery/mark", json={"item": item, "token": key, "binned": True})
    assert answer.status_code == status, answer.text
    assert client.delete("/v1/gallery", params={"item": item, "token": key}).status_code in (status, 403)
    assert client.get("/v1/gallery/poster", params={"item": item, "token": key}).status_code in (status, 404)


def test_a_damaged_file_of_marks_loses_the_marks_and_nothing_else(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "mine" / "marks.json").write_text("[1, 2")
    assert len(shelf(client, ("mine", token()))) == 4
    assert client.post("/v1/gallery", content=b"{").status_code == 400
