"""Render jobs: a queue on the disk that is worked off one render at a time and outlives the server.

Every render is a process of its own whose words go to files, so a server that is killed loses nothing: the render goes
on, and the next server finds it by the number and birth of its process. What became of a job is read off its folder.
"""

import json
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from app.dry_run import dry_run_data
from app.errors import UsageMistake, printable, shorten
from app.job_chunks import chunk_rows
from app.job_file import Job, Status, VideoRequest, load, new_job, place, render_words, script_file
from app.job_preview import newest_frame
from app.job_process import RENDERER, adopt, begin, ended, environment, outcome, progress, sentence, tell
from app.whole_file import write_text
from weights.catalog import MODELS

CHECK_SECONDS = 300.0
"""A dry run that takes longer than this is given up."""
GRACE = 15.0
"""Seconds that a render has to finish its chunk when asked to end; then it is killed, and resumes all the same."""
LEAST_FREE = 500_000_000
"""Bytes of the disk that no render may take."""
_LOOK, _SAVE = 0.25, 5.0
_ID = re.compile(r"video_[0-9a-f]{24}")


class NoSuchJob(UsageMistake):
    """There is no job of that name."""


class WrongState(UsageMistake):
    """A job in this state cannot do that."""


class JobsFull(UsageMistake):
    """There is no room for what was asked."""


class Jobs:
    """The jobs in a folder. Every method may be called from any thread.

    Args:
        folder: where the jobs lie, a folder each; made if it is not there.
        max_bytes: of all jobs together: no further job is taken, and the running one is paused.
        max_jobs: kept at a time, whatever their state.
        models: names that a request may give.
        renderer: the command in front of `render ...`.
        words: further arguments of every render, such as --threads=1.

    Raises:
        UsageMistake: another server works in the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 20 * 10**9,
        max_jobs: int = 200,
        models: Sequence[str] = tuple(MODELS),
        renderer: Sequence[str] = RENDERER,
        words: Sequence[str] = (),
    ) -> None:
        self.folder = folder.absolute()
        self._max_bytes, self._max_jobs = max_bytes, max_jobs
        self._models, self._renderer, self._words = models, tuple(renderer), tuple(words)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._owner = FileLock(self.folder / "lock", thread_local=False)
        try:
            self._owner.acquire(timeout=0)
        except Timeout:
            raise UsageMistake(f"Another rivulet works in {folder}. End it, or give another --folder.") from None
        self._changed = threading.Condition()
        self._checking = threading.Lock()
        self._closing = False
        self._running: tuple[str, psutil.Process] | None = None
        self._thread: threading.Thread | None = None
        self._jobs = {job.id: job for job in map(load, _folders(self.folder)) if job is not None}

    def start(self) -> None:
        """Work the queue off, in a thread, from where the last server was."""
        for job in self._jobs.values():  # a server killed while it ended a render left one that nobody wants
            if job.status != "in_progress" and (process := adopt(job)) is not None:
                process.kill()
        self._thread = threading.Thread(target=self._work, name="render jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the render so that the next server goes on with it, and give the folder free."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._owner.release()

    def create(self, request: VideoRequest) -> Job:
        """Put a job at the end of the queue.

        Raises:
            UsageMistake: what `rivulet render` would refuse before it loads a model.
            JobsFull: there are too many jobs, or they take too much of the disk.
        """
        job = new_job(f"video_{secrets.token_hex(12)}", request, models=self._models)
        with self._changed:
            if len(self._jobs) >= self._max_jobs:
                raise JobsFull(f"There are {len(self._jobs)} render jobs already. Delete some of them.")
            if no_room := self._no_room():
                raise JobsFull(f"{no_room} Delete some jobs.")
            folder = self.folder / job.id
            folder.mkdir()
            name, text = script_file(request)
            write_text(folder / name, text)
            self._jobs[job.id] = job
            self._save(job)
            self._changed.notify_all()
            return self._shown(job)

    def plan(self, request: VideoRequest) -> dict[str, Any]:
        """Where the shots of a request come to stand, in a millisecond: app.dry_run.dry_run_data without its estimate.

        Raises:
            UsageMistake: what `rivulet render` would refuse before it loads a model.
        """
        _, script, timeline = place(request, models=self._models)
        return dry_run_data(timeline, notes=script.notes)

    def check(self, request: VideoRequest) -> dict[str, Any]:
        """The dry run of a request, measured on this machine: app.dry_run.dry_run_data.

        Raises:
            UsageMistake: what `rivulet render` would refuse.
            JobsFull: another check is under way.
        """
        place(request, models=self._models)
        if not self._checking.acquire(blocking=False):
            raise JobsFull("Another check is under way. Try again in a few seconds.")
        try:
            with tempfile.TemporaryDirectory() as name:
                file, text = script_file(request)
                write_text(Path(name) / file, text)
                command = [*self._renderer, *render_words(request), *self._words, "--dry_run", "--json"]
                try:
                    done = subprocess.run(
                        command, cwd=name, env=environment(), capture_output=True, text=True, timeout=CHECK_SECONDS
                    )
                except subprocess.TimeoutExpired:
                    raise UsageMistake(
                        f"The check took more than {CHECK_SECONDS:g} seconds. Take a shorter script or another model."
                    ) from None
            if done.returncode:
                raise UsageMistake(sentence(done.stderr) or "The check failed. Ask for something smaller.")
            return json.loads(done.stdout.splitlines()[-1])
        finally:
            self._checking.release()

    def list(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._changed:
            return [self._shown(job) for job in sorted(self._jobs.values(), key=lambda job: -job.created_at)]

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NoSuchJob: there is none; the same for all methods that take a name.
        """
        with self._changed:
            return self._shown(self._job(job_id))

    def pause(self, job_id: str) -> Job:
        """Stop a job after the chunk in hand, so that it can be resumed."""
        return self._turn(job_id, "paused", ("queued", "in_progress"))

    def resume(self, job_id: str) -> Job:
        """Put a paused or failed job at the end of the queue; it goes on where it was."""
        return self._turn(job_id, "queued", ("paused", "failed"))

    def cancel(self, job_id: str) -> Job:
        """End a job for good; what there is of its film stays."""
        return self._turn(job_id, "cancelled", ("queued", "in_progress", "paused", "failed"))

    def move(self, job_id: str, to: int) -> Job:
        """Give a queued job another place in the queue, counted from 0."""
        with self._changed:
            job = self._job(job_id)
            if job.status != "queued":
                raise WrongState(f"This job is {_said(job.status)}, so it has no place in the queue. Choose another.")
            queue = [other for other in self._queue() if other is not job]
            queue.insert(min(max(to, 0), len(queue)), job)
            for rank, other in enumerate(queue):
                other.rank = float(rank)
                self._save(other)
            self._changed.notify_all()
            return self._shown(job)

    def delete(self, job_id: str) -> None:
        """Remove a job and its film; a running one is killed."""
        with self._changed:
            job = self._job(job_id)
            del self._jobs[job.id]
            folder = self.folder / job.id
            (folder / "job.json").unlink(missing_ok=True)  # first: a folder without it is swept up at the next start
            if self._running is not None and self._running[0] == job.id:
                with suppress(psutil.NoSuchProcess):
                    self._running[1].kill()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._running is None or self._running[0] != job.id, timeout=GRACE)
        shutil.rmtree(folder, ignore_errors=True)

    def chunks(self, job_id: str, since: int = 0) -> dict[str, Any]:
        """What was made of a job so far, chunk by chunk from `since` on: app.job_chunks.chunk_rows."""
        job = self.get(job_id)
        _, _, timeline = place(job.request, models=self._models)
        return chunk_rows(self.folder / job.id, timeline, since=since)

    def film(self, job_id: str) -> Path | None:
        """The film, or the part of it that there is; None before its first frame."""
        job = self.get(job_id)
        whole, part = self.folder / job.id / "film.mp4", self.folder / job.id / "film.part.mp4"
        order = (part, whole) if job.status == "in_progress" else (whole, part)
        return next((path for path in order if path.is_file() and path.stat().st_size), None)

    def preview(self, job_id: str) -> bytes | None:
        """The newest frame as a JPEG; None before the first."""
        film = self.film(job_id)
        return None if film is None else newest_frame(film)

    # The queue.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                job = self._next()
                if self._closing or job is None:
                    return
                if job.status == "queued" and (no_room := self._no_room()):
                    job.status, job.error = "paused", f"{no_room} Delete some jobs, then resume this one."
                    self._save(job)
                    continue
                try:
                    process = adopt(job) or self._begin(job)
                except OSError as error:
                    job.status, job.error = "failed", f"The render could not start ({error.strerror})."
                    self._save(job)
                    continue
                self._running = (job.id, process)
                self._save(job)
            self._attend(job, process)
            with self._changed:
                self._conclude(job)
                self._running = None
                self._changed.notify_all()

    def _begin(self, job: Job) -> psutil.Process:
        """Start the render of a job, or go on with it."""
        process = begin(self.folder / job.id, [*self._renderer, *render_words(job.request), *self._words])
        job.status, job.error = "in_progress", None
        job.started_at = job.started_at or time.time()
        job.process = (process.pid, process.create_time())
        return process

    def _attend(self, job: Job, process: psutil.Process) -> None:
        """Follow a render until it has ended; end it where that is asked for."""
        asked, saved = 0.0, time.monotonic()
        while not ended(process):
            told = progress(self.folder / job.id)
            with self._changed:
                self._changed.wait(_LOOK)
                tell(job, told)
                now = time.monotonic()
                if now - saved > _SAVE:
                    saved = now
                    if job.status == "in_progress" and (no_room := self._no_room()):
                        job.status, job.error = "paused", f"{no_room} Delete some jobs, then resume this one."
                    self._save(job)
                ending = self._closing or job.status != "in_progress"
            if ending:
                with suppress(psutil.NoSuchProcess):
                    if not asked:
                        asked = now
                        process.send_signal(signal.SIGTERM)
                    elif now - asked > GRACE:
                        process.kill()

    def _conclude(self, job: Job) -> None:
        """Read off the folder what became of a job whose render has ended."""
        folder = self.folder / job.id
        tell(job, progress(folder))
        job.process = job.eta_seconds = None
        record, last_words = outcome(folder)
        if record is not None:
            job.seed = record.seed
        if record is not None and record.status == "whole":
            job.status, job.completed_at, job.error = "completed", time.time(), None
            job.frames_done, job.chunk, job.progress = job.frames, job.chunks, 100.0
        elif job.status == "in_progress" and not self._closing:
            job.status, job.completed_at, job.error = "failed", time.time(), last_words
        if job.status == "cancelled":
            self._drop_part(job)
        self._save(job)

    def _turn(self, job_id: str, to: Status, among: Sequence[Status]) -> Job:
        with self._changed:
            job = self._job(job_id)
            if job.status not in among:
                raise WrongState(f"This job is {_said(job.status)}, so it cannot be {_said(to)}. Choose another.")
            if to == "queued":
                job.rank, job.error, job.completed_at = time.time(), None, None
            if to == "cancelled":
                job.completed_at = time.time()
                if self._running is None or self._running[0] != job.id:
                    self._drop_part(job)
            job.status = to
            self._save(job)
            self._changed.notify_all()
            return self._shown(job)

    def _drop_part(self, job: Job) -> None:
        """Give the disk back what a cancelled job would have gone on with; without a film the part stays as it."""
        folder = self.folder / job.id
        shutil.rmtree(folder / "film.part", ignore_errors=True)
        if (folder / "film.mp4").is_file():
            (folder / "film.part.mp4").unlink(missing_ok=True)

    def _next(self) -> Job | None:
        """What to render: what was being rendered, then the queue; not while a paused render is still ending."""
        if self._running is not None:
            return None
        begun = [job for job in self._jobs.values() if job.status == "in_progress"]
        return next(iter([*begun, *self._queue()]), None)

    def _queue(self) -> "list[Job]":
        return sorted((job for job in self._jobs.values() if job.status == "queued"), key=lambda job: job.rank)

    def _job(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            raise NoSuchJob(f"There is no render job {printable(shorten(job_id, 40))}. List the jobs to see which are.")
        return self._jobs[job_id]

    def _shown(self, job: Job) -> Job:
        place = self._queue().index(job) if job.status == "queued" else None
        return job.model_copy(update={"position": place})

    def _save(self, job: Job) -> None:
        if job.id in self._jobs:
            job.bytes = _size(self.folder / job.id)
            write_text(self.folder / job.id / "job.json", job.model_dump_json(indent=1) + "\n")

    def _no_room(self) -> str:
        """What is wrong with the disk, if something is."""
        taken = sum(job.bytes for job in self._jobs.values())
        if taken > self._max_bytes:
            return f"Render jobs take {taken / 1e9:.1f} of the {self._max_bytes / 1e9:.1f} GB that they may."
        free = shutil.disk_usage(self.folder).free
        return f"Only {free / 1e9:.1f} GB of the disk are free." if free < LEAST_FREE else ""


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _ID.fullmatch(path.name) and path.is_dir())


def _said(status: Status) -> str:
    return "being rendered" if status == "in_progress" else status


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a render renames and removes as we look
            total += path.stat().st_size
    return total
