"""Render jobs: a queue on the disk that is worked off one render at a time and outlives the server.

Every render is a process of its own whose words go to files, so a server that is killed loses nothing: the render goes
on, and the next server finds it by the number and birth of its process. What became of a job is read off its folder.
"""

import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from app.atomic import write_text
from app.errors import UsageMistake, printable, shorten
from app.jobs.disk import no_room, size_of
from app.jobs.job import BEGINNING, Job, Status, VideoRequest, load, new_job, new_name, render_words, script_file
from app.jobs.preview import newest_frame
from app.jobs.process import RENDERER, begin, dry_run, ended, is_whole, outcome, progress, renders_in, tell
from app.jobs.uploads import Uploads
from weights.catalog import MODELS

GRACE = 15.0
"""Seconds that a render has to finish its chunk when asked to end; then it is killed, and resumes all the same."""
HANDOVER = 2.0
"""Seconds that a check waits for one that is just being left."""
_FROM_OUTSIDE = "The render was ended from outside. Resume goes on with it."
_DAMAGED = "The film was damaged after it was made. Resume renders it again."
_LOOK, _SAVE = 0.25, 5.0
_ID = re.compile(r"video_[0-9a-f]{24}")

_log = logging.getLogger(__name__)


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
        self._left: dict[str, psutil.Process] = {}
        self._thread: threading.Thread | None = None
        self.uploads = Uploads(self.folder / "beginnings")
        self._jobs = {job.id: job for job in map(load, _folders(self.folder)) if job is not None}

    def start(self) -> None:
        """Work the queue off, in a thread, from where the last server was."""
        self._left = renders_in(self.folder)
        for job in self._jobs.values():
            self._take_up(job)
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
        """Judge a request and put its job at the end of the queue.

        Raises:
            UsageMistake: what `rivulet render` would refuse before it loads a model.
            JobsFull: see add.
        """
        return self.add(new_job(new_name(), request, models=self._models))

    def add(self, job: Job) -> Job:
        """Put a job that was judged at the end of the queue.

        Raises:
            JobsFull: there are too many jobs, or they take too much of the disk; UsageMistake: see Uploads.of.
        """
        with self._changed:
            if len(self._jobs) >= self._max_jobs:
                raise JobsFull(f"There are {len(self._jobs)} render jobs already. Delete some of them.")
            if no_room := self._no_room():
                raise JobsFull(f"{no_room} Delete some jobs.")
            job.rank, begins = self._last_rank() + 1, self.uploads.of(job.request)
            folder = self.folder / job.id
            folder.mkdir()
            if begins is not None:
                shutil.copyfile(begins, folder / BEGINNING)
            name, text = script_file(job.request)
            write_text(folder / name, text)
            self._jobs[job.id] = job
            self._save(job)
            self._changed.notify_all()
            return self._shown(job)

    def measure(self, request: VideoRequest, left: threading.Event | None = None) -> str:
        """The dry run of a request that was judged, measured on this machine: the JSON of dry_run_data.

        Once `left` is set nobody waits for it any more, and it ends.

        Raises:
            UsageMistake: what `rivulet render` would refuse, or it was left.
            JobsFull: another one is under way.
        """
        if not self._checking.acquire(timeout=HANDOVER):
            raise JobsFull("Another check is under way. Try again in a few seconds.")
        try:
            command = [*self._renderer, *render_words(request), *self._words]
            return dry_run(request, command, left or threading.Event(), self.uploads.of(request))
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
        """Put a paused, failed or cancelled job at the end of the queue; it goes on where it was."""
        return self._turn(job_id, "queued", ("paused", "failed", "cancelled"))

    def cancel(self, job_id: str) -> Job:
        """End a job; what there is of its film stays and plays, and what it would go on with, until it is deleted."""
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
            self._let_go(job)
            del self._jobs[job.id]
            folder = self.folder / job.id
            (folder / "job.json").unlink(missing_ok=True)  # first: a folder without it is swept up at the next start
            if self._running is not None and self._running[0] == job.id:
                with suppress(psutil.NoSuchProcess):
                    self._running[1].kill()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._running is None or self._running[0] != job.id, timeout=GRACE)
        shutil.rmtree(folder, ignore_errors=True)

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
                if job.id not in self._left and self._finished(job):
                    continue
                if job.status == "queued" and (no_room := self._no_room()):
                    job.status, job.error = "paused", f"{no_room} Delete some jobs, then resume this one."
                    self._save(job)
                    continue
                try:
                    process = self._left.pop(job.id, None) or self._begin(job)
                except OSError as error:
                    job.status, job.process = "failed", None
                    job.error = f"The render could not start ({error.strerror})."
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

    def _take_up(self, job: Job) -> None:
        """What becomes of a job of the last server, which may have been killed at any moment."""
        process = self._left.get(job.id)
        if process is not None and job.status in ("queued", "in_progress"):  # it began it and could not note it
            job.status, job.process = "in_progress", (process.pid, process.create_time())
            job.started_at = job.started_at or job.process[1]
            self._save(job)
        elif process is not None:  # one that nobody wants
            self._let_go(job)
        elif job.process is not None and job.status != "completed":  # its render ended with nobody there
            in_hand = job.status == "in_progress" and outcome(self.folder / job.id)[1] is None
            if not self._finished(job) and not in_hand:  # what was only interrupted goes on
                self._conclude(job)

    def _let_go(self, job: Job) -> None:
        """End a render of the last server that waits to be followed behind another."""
        if (process := self._left.pop(job.id, None)) is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _finished(self, job: Job) -> bool:
        """Whether the film of a job is whole; then that is noted, and it is never made again."""
        folder = self.folder / job.id
        record, _ = outcome(folder)
        if record is None or not is_whole(folder / "film.mp4", record):
            return False
        job.status, job.completed_at, job.error = "completed", job.completed_at or time.time(), None
        job.seed, job.process, job.eta_seconds = record.seed, None, None
        job.frames_done, job.chunk, job.progress = job.frames, job.chunks, 100.0
        self._drop_part(job)
        self._save(job)
        return True

    def _conclude(self, job: Job) -> None:
        """Read off the folder what became of a job whose render has ended."""
        folder = self.folder / job.id
        tell(job, progress(folder))
        job.process = job.eta_seconds = None
        if self._finished(job):
            return
        record, last_words = outcome(folder)
        if record is not None:
            job.seed = record.seed
        if job.status == "in_progress" and (last_words or not self._closing):
            damaged = record is not None and record.status == "whole"
            job.status, job.completed_at = "failed", time.time()
            job.error = last_words or (_DAMAGED if damaged else _FROM_OUTSIDE)
            _log.warning("a render has failed", extra={"job": job.id})
        self._save(job)

    def _turn(self, job_id: str, to: Status, among: Sequence[Status]) -> Job:
        with self._changed:
            job = self._job(job_id)
            if job.status not in among:
                raise WrongState(f"This job is {_said(job.status)}, so it cannot be {_said(to)}. Choose another.")
            if to == "queued":
                job.rank, job.error, job.completed_at = self._last_rank() + 1, None, None
            self._let_go(job)
            if to == "cancelled":
                job.completed_at = time.time()
            job.status = to
            self._save(job)
            self._changed.notify_all()
            return self._shown(job)

    def _drop_part(self, job: Job) -> None:
        """Give the disk back what a job whose film is whole would have gone on with."""
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

    def _last_rank(self) -> float:
        """Ranks are counted on, not taken from the clock, which may be set back."""
        return max((job.rank for job in self._jobs.values()), default=0.0)

    def _job(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            raise NoSuchJob(f"There is no render job {printable(shorten(job_id, 40))}. List the jobs to see which are.")
        return self._jobs[job_id]

    def _shown(self, job: Job) -> Job:
        place = self._queue().index(job) if job.status == "queued" else None
        return job.model_copy(update={"position": place})

    def _save(self, job: Job) -> None:
        if job.id in self._jobs:
            job.bytes = size_of(self.folder / job.id)
            write_text(self.folder / job.id / "job.json", job.model_dump_json(indent=1) + "\n")

    def _no_room(self) -> str:
        """What is wrong with the disk, if something is."""
        return no_room(self.folder, taken=sum(job.bytes for job in self._jobs.values()), most=self._max_bytes)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _ID.fullmatch(path.name) and path.is_dir())


def _said(status: Status) -> str:
    return "being rendered" if status == "in_progress" else status
