"""What the next server makes of jobs whose server was killed: films are made once, renders followed, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.jobs.job import Job, render_words
from app.jobs.process import ended, renders_in
from app.jobs.queue import Jobs
from tests.jobs.test_jobs import LONG, ROOT, SERVER, ask, is_, renderer, until
from tests.media.test_video import decode

NOBODY = ["/no/such/program"]
"""A renderer that cannot be started: what is completed under it was not made again."""
FRAMES = 24


@pytest.fixture(autouse=True)
def renders_that_do_not_stand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.process._NICE", 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of jobs with one in it that is done."""
    folder = tmp_path_factory.mktemp("finished")
    jobs = Jobs(folder / "jobs", renderer=renderer(folder, 0.0))
    jobs.start()
    job = jobs.create(ask())
    until(is_(jobs, job, "completed"))
    jobs.close()
    return folder / "jobs"


def left(finished: Path, tmp_path: Path, **noted: Any) -> tuple[Path, Path]:
    """A copy of it in which the server was killed before it noted `noted`: the folder of all, and of the job."""
    jobs = tmp_path / "jobs"
    shutil.copytree(finished, jobs)
    (folder,) = jobs.glob("video_*")
    job = json.loads((folder / "job.json").read_text())
    before = {"status": "in_progress", "completed_at": None, "process": [4_000_000, 1.0], "progress": 50.0, "chunk": 1}
    (folder / "job.json").write_text(json.dumps(job | before | noted))
    return jobs, folder


def film_of(folder: Path) -> tuple[int, int, bytes]:
    film = folder / "film.mp4"
    return film.stat().st_ino, film.stat().st_mtime_ns, film.read_bytes()


def started(jobs: Jobs, *statuses: str) -> Job:
    """Start, wait until the only job is one of these, and close."""
    jobs.start()
    (job,) = jobs.list()
    until(lambda: jobs.get(job.id).status in statuses)
    job = jobs.get(job.id)
    jobs.close()
    return job


def test_a_film_that_was_finished_while_its_server_was_dead_is_not_made_again(tmp_path: Path) -> None:
    code = SERVER.format(root=str(ROOT), folder=str(tmp_path / "jobs"), renderer=renderer(tmp_path, 0.05))
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: any(file.stat().st_size for file in (tmp_path / "jobs").glob("*/progress.jsonl")))
    finally:
        server.kill()
        server.wait()
    until(lambda: bool(list((tmp_path / "jobs").glob("*/film.json"))))
    until(lambda: not renders_in(tmp_path / "jobs"))
    (folder,) = (tmp_path / "jobs").glob("video_*")
    before = film_of(folder)
    job = started(Jobs(tmp_path / "jobs", renderer=NOBODY), "completed", "failed")
    assert (job.status, job.error, job.progress, job.process) == ("completed", None, 100.0, None)
    assert job.frames_done == job.frames == 320
    assert film_of(folder) == before
    assert started(Jobs(tmp_path / "jobs", renderer=NOBODY), "completed").completed_at == job.completed_at


@pytest.mark.parametrize(
    "noted",
    [
        {},
        {"status": "queued", "process": None, "started_at": None},  # killed before it noted that it began
        {"status": "paused"},
        {"status": "failed", "error": "The render was ended from outside."},
    ],
    ids=["in hand", "queued", "paused", "failed"],
)
def test_whatever_was_noted_last_a_whole_film_is_a_job_that_is_done(
    noted: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    jobs, folder = left(finished, tmp_path, **noted)
    (folder / "film.part").mkdir()  # killed while it cleared away
    (folder / "film.part.mp4").write_bytes(b"rest")
    before = film_of(folder)
    assert started(Jobs(jobs, renderer=NOBODY), "completed").error is None
    assert film_of(folder) == before
    assert not list(folder.glob("film.part*"))


def cut(folder: Path) -> None:
    film = folder / "film.mp4"
    film.write_bytes(film.read_bytes()[:-200])


def other_frames(folder: Path) -> None:
    record = json.loads((folder / "film.json").read_text())
    record["film"]["frames"] += 1
    (folder / "film.json").write_text(json.dumps(record))


def no_film(folder: Path) -> None:
    (folder / "film.mp4").write_bytes(b"\0" * 5000)


def no_record(folder: Path) -> None:
    (folder / "film.json").unlink()


@pytest.mark.parametrize("damage", [cut, other_frames, no_film, no_record])
def test_a_film_that_is_not_whole_is_replaced_and_not_removed(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    jobs, folder = left(finished, tmp_path)
    damage(folder)
    before = film_of(folder)
    job = started(Jobs(jobs, renderer=NOBODY), "completed", "failed")
    assert (job.status, job.error) == ("failed", "The render could not start (No such file or directory).")
    assert film_of(folder) == before, "nothing better has come"
    again = Jobs(jobs, renderer=renderer(tmp_path, 0.0))
    again.start()
    again.resume(job.id)
    until(is_(again, job, "completed"))
    again.close()
    assert len(decode(folder / "film.mp4")) == FRAMES
    assert film_of(folder)[0] != before[0]


def test_a_render_that_failed_while_its_server_was_dead_says_why(finished: Path, tmp_path: Path) -> None:
    jobs, folder = left(finished, tmp_path)
    no_record(folder)
    (folder / "log.txt").write_text("rivulet: The disk is full. Free some space.\n")
    job = started(Jobs(jobs, renderer=renderer(tmp_path)), "completed", "failed")
    assert (job.status, job.error) == ("failed", "The disk is full. Free some space.")


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A process that has got the number of a render."""
    code = "import time; time.sleep(60)"
    process = psutil.Popen([sys.executable, "-c", code, "render", "--output=film.mp4", "--json_progress"], cwd=tmp_path)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("status", ["in_progress", "paused", "cancelled"])
def test_a_process_that_has_the_number_of_a_render_is_left_alone(
    status: str, stranger: psutil.Popen, finished: Path, tmp_path: Path
) -> None:
    noted = {"status": status, "process": [stranger.pid, stranger.create_time()]}
    jobs, folder = left(finished, tmp_path, **noted)
    for file in folder.glob("film*"):
        file.unlink()
    job = started(Jobs(jobs, renderer=NOBODY), "failed" if status == "in_progress" else status)
    assert job.process is None
    assert stranger.is_running()
    assert stranger.status() != psutil.STATUS_ZOMBIE


BEGIN = """
import json, sys
from pathlib import Path
import app.jobs.process
app.jobs.process._NICE = 0
folder, command = json.load(sys.stdin)
print(app.jobs.process.begin(Path(folder), command).pid)
"""


def running(tmp_path: Path, **noted: Any) -> tuple[Path, psutil.Process]:
    """A job whose render runs, a child of somebody who has gone, and of which no more is noted than this."""
    jobs = Jobs(tmp_path / "jobs")
    job = jobs.create(ask(seconds=LONG))
    folder = jobs.folder / job.id
    asked = json.dumps([str(folder), [*renderer(tmp_path, 0.1), *render_words(job.request)]])
    begun = subprocess.run(
        [sys.executable, "-c", BEGIN], input=asked, capture_output=True, text=True, cwd=ROOT, check=True
    )
    process = psutil.Process(int(begun.stdout))
    until(lambda: bool((folder / "progress.jsonl").stat().st_size))
    data = json.loads((folder / "job.json").read_text())
    born = process.create_time()
    told = {name: value(process.pid, born) if callable(value) else value for name, value in noted.items()}
    (folder / "job.json").write_text(json.dumps(data | told))
    jobs.close()
    return jobs.folder, process


@pytest.mark.parametrize(
    "noted",
    [
        {"status": "in_progress", "process": lambda pid, born: [pid, born]},
        {"status": "in_progress", "process": lambda pid, born: [pid, born - 3600]},  # the clock was set meanwhile
        {"status": "in_progress", "process": lambda pid, born: [pid, born + 86_400]},
        {"status": "queued", "process": None},  # killed before it noted that it began
    ],
    ids=["noted", "clock back", "clock on", "not noted"],
)
def test_a_render_that_runs_is_followed_whatever_the_clock_says(noted: dict[str, Any], tmp_path: Path) -> None:
    folder, process = running(tmp_path, **noted)
    jobs = Jobs(folder, renderer=NOBODY)
    jobs.start()
    try:
        (job,) = jobs.list()
        until(lambda: jobs.get(job.id).status != "queued" and jobs.get(job.id).chunk > 1)
        found = jobs.get(job.id)
        assert (found.status, found.process) == ("in_progress", (process.pid, process.create_time()))
        assert list(renders_in(folder)) == [job.id]
        jobs.delete(job.id)
    finally:
        jobs.close()
    until(lambda: ended(process))


@pytest.mark.parametrize("status", ["paused", "cancelled", "failed", "completed"])
def test_a_render_that_nobody_wants_is_ended(status: str, tmp_path: Path) -> None:
    folder, process = running(tmp_path, status=status, process=None)
    jobs = Jobs(folder, renderer=NOBODY)
    jobs.start()
    until(lambda: ended(process))
    jobs.close()


def test_the_queue_keeps_its_order_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2e9]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    jobs = Jobs(tmp_path / "jobs")
    made = [jobs.create(ask()).id for _ in range(4)]
    jobs.pause(made[0])
    jobs.resume(made[0])
    assert [jobs.get(name).position for name in made] == [3, 0, 1, 2]
    jobs.close()
    again = Jobs(tmp_path / "jobs")
    assert [again.get(name).position for name in made] == [3, 0, 1, 2]
    again.close()
