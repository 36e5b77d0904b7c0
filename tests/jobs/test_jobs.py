"""Render jobs outlive their server: queued, killed, paused, moved and taken up again, over HTTP and without."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from app.config.table import READERS
from app.errors import UsageMistake
from app.jobs.chunks import chunk_rows
from app.jobs.job import SETTINGS, Job, VideoRequest, new_job, place, render_words
from app.jobs.queue import Jobs, JobsFull, NoSuchJob, WrongState
from app.record import sidecar
from app.server.access import Access
from app.server.desk import Desk
from app.server.routes import make_app
from tests.live_doubles import PaintedEngine, served
from tests.media.test_video import decode

ROOT = Path(__file__).resolve().parents[2]
# The real command line over a stream that paints, a chunk in so many seconds.
PAINTED = """
import sys, time
from functools import partial
sys.path.insert(0, {root!r})
import app.render.estimate, app.render.batch
from app.cli.main import main
from app.render.render import render
from tests.app_doubles import Opener
opener = Opener(before=lambda index: time.sleep(600 if index == {hold} else {delay}))
app.render.estimate.open_stream = opener
app.render.batch.render = partial(render, opener=opener)
sys.exit(main(sys.argv[1:]))
"""
SHORT, LONG = 1.5, 60.0


def renderer(tmp_path: Path, delay: float = 0.05, hold: int = -1) -> list[str]:
    """A command that renders, and stops before chunk `hold` for good."""
    file = tmp_path / f"renderer-{delay}-{hold}.py"
    file.write_text(PAINTED.format(root=str(ROOT), delay=delay, hold=hold))
    return [sys.executable, str(file)]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path))
    found.start()
    yield found
    for job in found.list():
        found.delete(job.id)
    found.close()


@pytest.fixture(autouse=True)
def renders_that_do_not_stand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine starves what is nice, and these tests wait for it."""
    monkeypatch.setattr("app.jobs.process._NICE", 0)


def until(true: Callable[[], bool], *, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


def ask(prompt: str | list[str] = "a red ball", seconds: float = SHORT, **more: Any) -> VideoRequest:
    return VideoRequest.model_validate(
        {"prompt": prompt, "seconds": seconds, "settings": {"segment_chunks": 2, "scale": 8}, **more}
    )


def is_(jobs: Jobs, job: Job, status: str) -> Callable[[], bool]:
    return lambda: jobs.get(job.id).status == status


def test_a_job_becomes_a_film_with_its_seed_and_its_prompts(jobs: Jobs) -> None:
    job = jobs.create(ask(["a red ball", "a blue star"], seed=11))
    assert (job.status, job.frames, job.shots, job.size) == ("queued", 24, 2, "192x192")
    until(is_(jobs, job, "completed"))
    done = jobs.get(job.id)
    assert (done.progress, done.frames_done, done.chunk, done.error) == (100.0, 24, done.chunks, None)
    film = jobs.film(job.id)
    assert film is not None
    assert len(decode(film)) == 24
    record = sidecar.read(film.with_suffix(".json"))
    assert (record.seed, record.status, [shot.prompt for shot in record.shots]) == (
        11,
        "whole",
        ["a red ball", "a blue star"],
    )
    assert jobs.preview(job.id) is not None


def test_jobs_are_rendered_one_at_a_time_in_the_order_they_are_given(jobs: Jobs) -> None:
    first = jobs.create(ask(seconds=LONG))
    second, third, fourth = (jobs.create(ask(name=name)) for name in ("second", "third", "fourth"))
    until(lambda: jobs.get(first.id).frames_done > 0)
    assert [jobs.get(job.id).position for job in (first, second, third, fourth)] == [None, 0, 1, 2]
    assert jobs.move(fourth.id, 0).position == 0
    assert [jobs.get(job.id).position for job in (second, third, fourth)] == [1, 2, 0]
    with pytest.raises(WrongState, match="being rendered"):
        jobs.move(first.id, 1)
    jobs.cancel(second.id)
    jobs.cancel(first.id)
    until(is_(jobs, fourth, "completed"))
    until(is_(jobs, third, "completed"))
    times = [jobs.get(job.id).started_at or 0.0 for job in (first, fourth, third)]
    assert times == sorted(times)
    assert jobs.get(second.id).started_at is None
    with pytest.raises(WrongState, match="completed, so it cannot be queued"):
        jobs.resume(third.id)


def test_a_paused_render_goes_on_to_the_film_it_would_have_been(jobs: Jobs) -> None:
    whole = jobs.create(ask(seconds=20))
    until(is_(jobs, whole, "completed"))
    job = jobs.create(ask(seconds=20))
    until(lambda: jobs.get(job.id).chunk >= 3)
    assert jobs.pause(job.id).status == "paused"
    until(lambda: jobs.get(job.id).process is None)
    rendered = jobs.get(job.id).frames_done
    assert 0 < rendered < job.frames
    assert jobs.film(job.id) is not None  # what there is plays
    time.sleep(0.1)
    assert jobs.get(job.id).frames_done == rendered
    jobs.resume(job.id)
    until(is_(jobs, job, "completed"))
    films = [jobs.film(each.id) for each in (whole, job)]
    assert films[0] is not None
    assert films[1] is not None
    assert films[0].read_bytes() == films[1].read_bytes()


def test_the_preview_of_a_growing_film_is_its_newest_frame(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path, hold=25))
    jobs.start()
    job = jobs.create(ask(["a red ball", "a blue star"], seconds=30))
    assert jobs.preview(job.id) is None
    until(lambda: jobs.get(job.id).chunk >= 3)
    early = jobs.preview(job.id)
    until(lambda: jobs.get(job.id).chunk >= 24)
    late = jobs.preview(job.id)
    assert early is not None
    assert late is not None
    colours = [Image.open(io.BytesIO(picture)).convert("RGB").getpixel((1, 100)) for picture in (early, late)]
    assert max(abs(a - b) for a, b in zip(*colours, strict=True)) > 20  # the second prompt has another colour
    progress = jobs.get(job.id)
    assert 0 < progress.progress < 100
    assert (progress.fps or 0) > 0
    assert (progress.eta_seconds or 0) > 0
    jobs.delete(job.id)
    jobs.close()


def test_a_closed_server_ends_its_render_and_the_next_one_goes_on_with_it(tmp_path: Path) -> None:
    first = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path))
    with pytest.raises(UsageMistake, match="Another rivulet works in"):
        Jobs(tmp_path / "jobs")
    first.start()
    job, queued = first.create(ask(seconds=20)), first.create(ask())
    until(lambda: first.get(job.id).chunk >= 3)
    process = first.get(job.id).process
    assert process is not None
    first.close()
    assert not psutil.pid_exists(process[0])
    second = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path))
    assert [each.status for each in second.list()] == ["queued", "in_progress"]
    second.start()
    until(is_(second, queued, "completed"))
    assert second.get(job.id).status == "completed"
    second.close()


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import app.jobs.process
app.jobs.process._NICE = 0
from app.jobs.queue import Jobs
from app.jobs.job import VideoRequest
jobs = Jobs(Path({folder!r}), renderer={renderer!r})
jobs.start()
if not jobs.list():
    jobs.create(VideoRequest.model_validate({{"prompt": "a red ball", "seconds": 20}}))
time.sleep(60)
"""


def test_a_render_goes_on_while_its_server_is_dead_and_is_found_again(tmp_path: Path) -> None:
    code = SERVER.format(root=str(ROOT), folder=str(tmp_path / "jobs"), renderer=renderer(tmp_path, 0.2))
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        progress = tmp_path / "jobs"
        until(lambda: any(file.stat().st_size for file in progress.glob("*/progress.jsonl")))
    finally:
        server.kill()  # kill -9: nobody tells the render
        server.wait()
    jobs = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path, 0.2))
    (job,) = jobs.list()
    assert job.status == "in_progress"
    assert job.process is not None
    assert psutil.pid_exists(job.process[0])
    jobs.start()
    until(lambda: jobs.get(job.id).process == job.process and jobs.get(job.id).chunk > 1)  # adopted, not begun anew
    os.kill(job.process[0], signal.SIGKILL)  # and now the render itself
    until(is_(jobs, job, "failed"))
    assert jobs.get(job.id).error == "The render was ended from outside. Resume goes on with it."
    jobs.resume(job.id)
    until(is_(jobs, job, "completed"))
    jobs.close()


def test_a_cancelled_job_keeps_its_film_so_far_and_goes_on_to_the_same_one_when_it_is_resumed(jobs: Jobs) -> None:
    job = jobs.create(ask(seconds=20))
    until(lambda: jobs.get(job.id).chunk >= 2)
    jobs.cancel(job.id)
    until(lambda: jobs.get(job.id).process is None)
    film = jobs.film(job.id)
    assert film is not None
    assert film.name == "film.mp4"
    assert 0 < len(decode(film)) < 320
    jobs.resume(job.id)
    until(is_(jobs, job, "completed"))
    assert len(decode(film)) == 320
    assert not (film.parent / "film.part").exists()


def test_a_deleted_job_leaves_nothing_and_its_render_ends(jobs: Jobs) -> None:
    job = jobs.create(ask(seconds=LONG))
    until(lambda: jobs.get(job.id).chunk >= 2)
    process = jobs.get(job.id).process
    assert process is not None
    jobs.delete(job.id)
    assert not (jobs.folder / job.id).exists()
    until(lambda: not psutil.pid_exists(process[0]))
    with pytest.raises(NoSuchJob):
        jobs.get(job.id)


def test_a_render_that_fails_says_why_in_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import sys; print('noise\\nrivulet: The disk is full. \\x1b[2JFree some.', file=sys.stderr); sys.exit(1)"
    )
    jobs = Jobs(tmp_path / "jobs", renderer=[sys.executable, str(broken)])
    jobs.start()
    job = jobs.create(ask(name="../../etc/passwd \x1b[2J"))
    until(is_(jobs, job, "failed"))
    assert jobs.get(job.id).error == r"The disk is full. \x1b[2JFree some."
    assert "\x1b" not in job.name
    jobs.close()
    gone = Jobs(tmp_path / "jobs", renderer=["/no/such/program"])
    gone.start()
    gone.resume(job.id)
    until(is_(gone, job, "failed"))
    assert gone.get(job.id).error == "The render could not start (No such file or directory)."
    gone.close()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "Say what to show, once"),
        ({"prompt": "a", "script": "b"}, "Say what to show, once"),
        ({"prompt": ""}, "a prompt is empty"),
        ({"prompt": "a\0b"}, "bytes that are not text"),
        ({"prompt": "a\ud800"}, "bytes that are not text"),
        ({"prompt": "x" * 20_000}, "20000 characters"),
        ({"prompt": "x" * 2_000_000}, "are too many"),
        ({"prompt": []}, "0 prompts are too few"),
        ({"script": "version: 1\nshots: &a [*a]"}, "script.yaml, line"),
        ({"script": "!!python/object/apply:os.system [ls]"}, "script.yaml, line"),
        ({"script": "[" * 5000, "script_kind": "json"}, "script.json, line"),
        ({"script": '{"prompts": ["a"]}\n{"prompts": ["b"]}', "script_kind": "jsonl"}, "holds 2 films"),
        ({"prompt": "a", "seconds": 1e300}, "duration"),
        ({"prompt": "a", "seconds": float("nan")}, "duration"),
        ({"prompt": "a", "seconds": -1}, "duration"),
        ({"prompt": "a", "size": "huge"}, "is not a size"),
        ({"prompt": "a", "seed": -2}, "out of range"),
        ({"prompt": "a", "preset": "embeded"}, "did you mean embedded"),
        ({"prompt": "a", "model": "/etc"}, "There is no model"),
        ({"prompt": "a", "model": "../weights/embedded"}, "There is no model"),
        ({"prompt": "a", "transition": "--overwrite"}, "There is no transition"),
        ({"prompt": "a", "settings": {"audio": "/etc/passwd"}}, "There is no setting 'audio'"),
        ({"prompt": "a", "settings": {"output": "/tmp/x.mp4"}}, "There is no setting 'output'"),
        ({"prompt": "a", "settings": {"shift": "1 --overwrite"}}, "is not a number"),
        ({"prompt": "a", "transition_chunks": 3}, "has no length"),
    ],
)
def test_what_cannot_be_rendered_is_refused_before_it_is_queued(
    body: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path / "jobs")
    with pytest.raises(UsageMistake, match=sentence) as refused:
        jobs.create(VideoRequest.model_construct(**VideoRequest.model_validate({}).model_dump() | body))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert jobs.list() == []
    assert [path.name for path in jobs.folder.iterdir()] == ["lock"]
    jobs.close()


def test_no_setting_of_a_request_names_a_file_or_this_machine() -> None:
    assert set(SETTINGS) <= set(READERS)
    paths = {"script", "prompts", "output", "report", "audio", "models_dir", "model", "device", "threads", "offline"}
    assert not paths & set(SETTINGS)


def test_the_command_of_a_render_holds_none_of_a_persons_words() -> None:
    words = render_words(
        ask(
            "--overwrite -o /etc/passwd",
            name="--debug",
            size="96x96",
            seed=-1,
            transition="soft",
            transition_chunks=3,
            settings={"untrained": False, "recache_on_switch": False, "denoising_step_list": [1000, 500], "fps": "24"},
        )
    )
    assert words[0] == "render"
    assert words[1:] == [word for word in words[1:] if word.startswith("--") and " " not in word]
    assert {"--no_recache_on_switch", "--denoising_step_list=1000.0,500.0", "--seed=-1", "--height=96"} <= set(words)
    assert not any("passwd" in word or "overwrite" in word or "untrained" in word for word in words)
    import typer

    from app.cli.main import app, normalise

    command = typer.main.get_command(app).commands["render"]  # type: ignore[attr-defined]  # a private class
    command.make_context("render", normalise(words)[1:])


def test_disk_and_number_of_jobs_are_bounded(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", max_jobs=2, max_bytes=100_000)
    first = jobs.create(ask())
    jobs.create(ask())
    with pytest.raises(JobsFull, match="2 render jobs already"):
        jobs.create(ask())
    (jobs.folder / first.id / "film.mp4").write_bytes(bytes(200_000))
    jobs.pause(first.id)
    jobs.delete(jobs.list()[0].id)
    with pytest.raises(JobsFull, match=r"Render jobs take 0\.0 of the 0\.0 GB"):
        jobs.create(ask())
    jobs.delete(first.id)
    jobs.create(ask())
    jobs.close()


def test_a_render_that_fills_the_disk_is_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.queue._SAVE", 0.2)
    jobs = Jobs(tmp_path / "jobs", max_bytes=40_000, renderer=renderer(tmp_path, 0.02))
    jobs.start()
    job = jobs.create(ask(seconds=LONG))
    until(is_(jobs, job, "paused"))
    assert "GB that they may" in (jobs.get(job.id).error or "")
    jobs.close()


def test_half_made_and_damaged_jobs_do_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    (folder / ("video_" + "a" * 24)).mkdir(parents=True)
    (folder / ("video_" + "b" * 24)).mkdir()
    (folder / ("video_" + "b" * 24) / "job.json").write_text('{"id": "../..", "status"')
    (folder / "mine").mkdir()
    jobs = Jobs(folder)
    (damaged,) = jobs.list()
    assert (damaged.id, damaged.status) == ("video_" + "b" * 24, "cancelled")
    assert "cannot be read" in (damaged.error or "")
    jobs.delete(damaged.id)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "mine"]
    jobs.close()


def test_a_dry_run_tells_shots_and_cost(jobs: Jobs) -> None:
    told = json.loads(jobs.measure(ask(["a red ball", "a blue star"], seconds=6)))
    assert [shot["prompt"] for shot in told["shots"]] == ["a red ball", "a blue star"]
    assert told["totals"]["frames"] == 96
    assert told["estimate"]["seconds"] > 0
    assert jobs.list() == []
    with pytest.raises(UsageMistake, match=r"script\.yaml, line 1"):
        jobs.measure(VideoRequest.model_validate({"script": "shots: 3"}))


def test_the_embedded_model_renders_a_job(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", words=("--threads=1",))
    jobs.start()
    job = jobs.create(ask("a red ball over the sea", seconds=1))
    until(lambda: jobs.get(job.id).status in ("completed", "failed"))
    assert jobs.get(job.id).error is None
    film = jobs.film(job.id)
    assert film is not None
    assert len(decode(film)) == 16
    jobs.close()


# Over HTTP.


def test_chunks_are_told_while_they_are_made_and_when_the_film_is_done(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path, delay=0.4))
    jobs.start()
    job = jobs.create(ask(["a red ball", "a blue star"], seconds=3.0, transition="soft", transition_chunks=1))

    def chunks(since: int = 0) -> dict[str, Any]:
        return chunk_rows(jobs.folder / job.id, place(job.request, models=["embedded"])[2], since=since)

    until(lambda: len(chunks()["data"]) > 0)
    growing = chunks()
    assert growing["chunks"] == job.chunks > len(growing["data"])
    until(is_(jobs, job, "completed"))
    done = chunks()
    record = sidecar.read(jobs.folder / job.id / "film.json")
    jobs.close()
    assert [shot["prompt"] for shot in done["shots"]] == ["a red ball", "a blue star"]
    assert done["blends"] == [done["shots"][1]["chunk"]]
    assert [row["sha256"] for row in done["data"]] == [chunk.sha256 for chunk in record.chunks]
    assert done["data"][: len(growing["data"])] == growing["data"]
    assert sum(row["shown"] for row in done["data"]) == job.frames
    assert [row["chunk"] for row in chunks(2)["data"]] == list(range(2, job.chunks))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Its process takes a second to begin, and keeps nothing of what it has read."""
    desk = Desk(tmp_path_factory.mktemp("desk"), Access(b"0" * 32))
    yield desk
    desk.close()


@pytest.fixture
def client(jobs: Jobs, desk: Desk) -> Iterator[Any]:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from app.server.jobs_api import jobs_router

    app = FastAPI()
    app.include_router(jobs_router(jobs, desk))
    with TestClient(app) as found:
        yield found


def test_a_film_is_ordered_watched_and_fetched_over_http(client: Any) -> None:
    made = client.post(
        "/v1/videos", json={"prompt": "a red ball", "seconds": SHORT, "size": "96x96", "name": "Ünter x"}
    )
    assert made.status_code == 201
    video = made.json()
    assert (video["object"], video["status"], video["error"]) == ("video", "queued", None)
    assert not {"rank", "process"} & video.keys()
    path = f"/v1/videos/{video['id']}"
    until(lambda: client.get(path).json()["status"] == "completed")
    assert [each["id"] for each in client.get("/v1/videos").json()["data"]] == [video["id"]]
    whole = client.get(f"{path}/content")
    assert whole.headers["content-type"] == "video/mp4"
    assert "nter-x.mp4" in whole.headers["content-disposition"]
    part = client.get(f"{path}/content", headers={"Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, whole.content[4:12])
    assert part.headers["content-range"] == f"bytes 4-11/{len(whole.content)}"
    assert client.get(f"{path}/content", headers={"Range": "bytes=999999999-"}).status_code == 416
    picture = client.get(f"{path}/content", params={"variant": "thumbnail"})
    assert picture.headers["content-type"] == "image/jpeg"
    Image.open(io.BytesIO(picture.content)).verify()
    assert client.delete(path).json() == {"id": video["id"], "object": "video.deleted", "deleted": True}
    assert client.get(path).status_code == 404


def test_a_job_is_paused_moved_resumed_and_cancelled_over_http(client: Any) -> None:
    first, second = (client.post("/v1/videos", json={"prompt": "a", "seconds": LONG}).json() for _ in range(2))
    path = f"/v1/videos/{second['id']}"
    assert client.post(f"{path}/move", json={"to": 0}).json()["status"] == "queued"
    assert client.post(f"{path}/pause").json()["status"] == "paused"
    assert client.post(f"{path}/move", json={"to": 0}).status_code == 409
    assert client.post(f"{path}/resume").json()["status"] == "queued"
    assert client.post(f"{path}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/videos/{first['id']}/cancel").json()["status"] == "cancelled"
    refused = client.get(f"{path}/content")
    assert (refused.status_code, refused.json()["error"]["type"]) == (409, "invalid_request_error")


def test_where_shots_stand_is_told_with_the_line_of_a_mistake(client: Any) -> None:
    script = "version: 1\nshots:\n  - {at: 0s, prompt: a red ball}\n  - {at: 2s, prompt: a blue star}\nend: 4s\n"
    told = client.post("/v1/videos/plan", json={"script": script}).json()
    assert [shot["actual"]["second"] for shot in told["shots"]] == [0.0, 2.0625]
    assert (told["totals"]["frames"], told["estimate"]) == (64, None)
    wrong = client.post("/v1/videos/plan", json={"script": script.replace("2s", "0s")})
    assert (wrong.status_code, "line 4" in wrong.json()["error"]["message"]) == (400, True)
    assert client.get("/v1/videos").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "Correct it and send it again"),
        (b"{", 400, "Correct it and send it again"),
        (b"[]", 400, "Correct it and send it again"),
        (b'{"prompt": "a", "n": 5}', 400, "n: "),
        (b'{"prompt": "a", "seed": 1e400}', 400, "seed: "),
        (b'{"prompt": "a", "seconds": NaN}', 400, "duration"),
        (b'{"prompt": "\xff"}', 400, "Correct it"),
        (b'{"prompt": "a", "model": "gpt"}', 400, "There is no model"),
        (b" " * 4_000_001, 400, "more than 4000000 bytes"),
        (b"[" * 100_000, 400, "Correct it"),
        (json.dumps({"prompt": "a" * 1_100_000}).encode(), 400, "are too many"),
    ],
)
def test_bad_requests_are_one_sentence(body: bytes, status: int, sentence: str, client: Any) -> None:
    for path in ("/v1/videos", "/v1/videos/plan", "/v1/videos/check"):
        answer = client.post(path, content=body)
        assert answer.status_code == status
        message = answer.json()["error"]["message"]
        assert sentence in message
        assert "\n" not in message
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", ["video_x", "..%2f..%2fetc%2fpasswd", "lock", "video_" + "0" * 24])
def test_names_of_jobs_are_looked_up_and_never_paths(name: str, client: Any) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("GET", "/chunks"), ("POST", "/pause")):
        answer = client.request(method, f"/v1/videos/{name}{path}")
        assert answer.status_code == 404


def test_a_new_job_is_judged_without_a_model() -> None:
    code = (
        "import sys; from app.jobs.job import VideoRequest, new_job; "
        "new_job('x', VideoRequest.model_validate({'prompt': 'a'}), models=['embedded']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
    assert new_job("x", ask(), models=["embedded"]).frames == 24


def test_a_check_that_is_left_ends_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", renderer=renderer(tmp_path, hold=0))
    engine: Any = PaintedEngine(folder=tmp_path)
    body = json.dumps({"prompt": "a red ball", "seconds": 1})

    def checks() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # another child of this process may end meanwhile
                found += [child] if "--dry_run" in " ".join(child.cmdline()) else []
        return found

    with served(make_app(engine, secret=b"0" * 32, page=False, jobs=jobs)) as address:
        for _ in range(2):
            asking = http.client.HTTPConnection(address, timeout=60)
            asking.request("POST", "/v1/videos/check", body, {"content-type": "application/json"})
            before = {child.pid for child in checks()}
            until(lambda before=before: bool({child.pid for child in checks()} - before))
            asking.close()
        until(lambda: not checks())
        jobs._renderer = tuple(renderer(tmp_path))
        asking = http.client.HTTPConnection(address, timeout=60)
        asking.request("POST", "/v1/videos/check", body, {"content-type": "application/json"})
        answer = asking.getresponse()
        assert (answer.status, json.loads(answer.read())["totals"]["shots"]) == (200, 1)
        asking.close()
    jobs.close()
