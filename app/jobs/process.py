"""The process that renders a job: started so that it outlives the server, found again, followed by its files."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil

from app.atomic import file_hash, write_text
from app.errors import UsageMistake, printable, shorten
from app.jobs.job import BEGINNING, FILM, Job, VideoRequest, script_file
from app.record import sidecar

RENDERER = (sys.executable, "-P", "-W", "ignore", "-m", "app")  # -P: a job's folder is no place to import from
CHECK_SECONDS = 300.0
"""A dry run that takes longer than this is given up."""
LARGEST_CHECK = 16 * 2**20
SAID = ("--json_progress",)
_NICE = 10
_LOOK = 0.05
_ROOT = Path(__file__).resolve().parents[2]


def begin(folder: Path, command: Sequence[str]) -> psutil.Popen:
    """Start a render in its folder, or go on with the one that was begun there.

    What cannot be gone on with is in the way; the render replaces it when it has something better, and not before.

    Raises:
        OSError: it cannot be started.
    """
    record, _ = outcome(folder)
    whole = record is not None and is_whole(folder / "film.mp4", record)  # the server ended before it heard of it
    goes_on = whole or (folder / "film.part" / "journal.jsonl").is_file() or not any(folder.glob("film.*"))
    with (folder / "progress.jsonl").open("wb") as out, (folder / "log.txt").open("wb") as log:
        process = psutil.Popen(
            [*command, "--resume" if goes_on else "--overwrite", *SAID],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends the server, which ends the render in its own way
        )
    give_way(process.pid)
    return process


def give_way(child: int) -> None:
    """Have a process of ours work behind the film that plays.

    From here and not by itself: what it imports first takes a second of a processor.
    """
    with suppress(psutil.Error, OSError):
        psutil.Process(child).nice(_NICE)


def renders_in(folder: Path) -> dict[str, psutil.Process]:
    """The renders that run in the jobs of a folder, by job, whoever started them.

    They are told by where they work and at what. Numbers of processes are used again, and the moment at which one was
    born moves when the clock is set; and a server may be killed before it has noted either.
    """
    place, found = folder.resolve(), dict[str, psutil.Process]()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            here = Path(process.cwd())
            if here.parent != place or not {FILM, *SAID} <= set(process.cmdline()):
                continue
            other = found.get(here.name)  # what a render has forked looks the same, and is younger
            if process.status() != psutil.STATUS_ZOMBIE and (other is None or _age(process) > _age(other)):
                found[here.name] = process
    return found


def _age(process: psutil.Process) -> float:
    return -process.create_time()


def dry_run(request: VideoRequest, command: Sequence[str], left: Event, begins: Path | None = None) -> str:
    """What the dry run of a render's command says: the JSON of app.render.dry_run.dry_run_data.

    `begins` is the file that the film begins with.

    Raises:
        UsageMistake: what it refuses, or it takes longer than CHECK_SECONDS, or `left` was set, which ends it.
    """
    with tempfile.TemporaryDirectory() as name:
        file, text = script_file(request)
        write_text(Path(name) / file, text)
        if begins is not None:
            shutil.copyfile(begins, Path(name) / BEGINNING)
        with (Path(name) / "said").open("w+b") as out, (Path(name) / "log.txt").open("w+b") as log:
            process = subprocess.Popen(
                [*command, "--dry_run", "--json"],
                cwd=name,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )
            try:
                _wait(process, left)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            log.seek(0)
            said, words = out.read().decode("utf-8", "replace"), log.read().decode("utf-8", "replace")
    if process.returncode:
        raise UsageMistake(sentence(words) or "The check failed. Ask for something smaller.")
    told = said[said.rstrip().rfind("\n") + 1 :]
    if len(told) > LARGEST_CHECK:
        raise UsageMistake(f"What is to be told of this film is over {LARGEST_CHECK >> 20} MiB. Make it shorter.")
    return told


def _wait(process: "subprocess.Popen[bytes]", left: Event) -> None:
    end = time.monotonic() + CHECK_SECONDS
    while process.poll() is None:
        if left.wait(_LOOK):
            raise UsageMistake("The check was left. Ask for another one.")
        if time.monotonic() > end:
            raise UsageMistake(
                f"The check took more than {CHECK_SECONDS:g} seconds. Take a shorter script or another model."
            )


def ended(process: psutil.Process) -> bool:
    """Whether a render has ended, ours or one of an earlier server."""
    with suppress(psutil.TimeoutExpired):
        process.wait(timeout=0)
        return True
    with suppress(psutil.Error):
        # Another's child is a zombie as long as nobody waits for it. Ours looks like one while its last threads end,
        # and is reaped here once they have.
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
    return True


def progress(folder: Path) -> dict[str, Any]:
    """The last whole line that a render said of a chunk."""
    with suppress(OSError), (folder / "progress.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 65_536))  # a line holds a prompt, of 10,000 characters at most
        for line in reversed(file.read().split(b"\n")[:-1]):
            with suppress(ValueError):
                told = json.loads(line)
                if told.get("event") == "chunk":
                    return told
    return {}


def tell(job: Job, told: Mapping[str, Any]) -> None:
    """Carry what a render said over to its job."""
    if told:
        job.frames_done, job.chunk, job.fps = told["frames_done"], told["chunk"] + 1, told["fps"]
        job.eta_seconds, job.drift = told["eta_seconds"], told["drift"]
        job.progress = round(100 * job.frames_done / max(job.frames, 1), 1)


def outcome(folder: Path) -> tuple[sidecar.Sidecar | None, str | None]:
    """What a render that has ended left: the film's record if the film is there, and its last words if it had any."""
    record, words = None, None
    with suppress(UsageMistake, OSError):
        record = sidecar.read(folder / "film.json") if (folder / "film.mp4").is_file() else None
    with suppress(OSError):
        words = sentence((folder / "log.txt").read_text("utf-8", errors="replace"))
    return record, words


def is_whole(film: Path, record: sidecar.Sidecar) -> bool:
    """Whether a film is what its record says, by its bytes; where an older one has no hash, by its boxes and frames."""
    if record.status != "whole":
        return False
    if record.film.file_sha256 and file_hash(film) != record.film.file_sha256:
        return False
    import av
    from av.error import FFmpegError

    with suppress(OSError, FFmpegError, IndexError):
        at, size = 0, film.stat().st_size
        with film.open("rb") as file:
            while at < size:
                file.seek(at)
                head = file.read(16)
                length = int.from_bytes(head[:4], "big")
                length = int.from_bytes(head[8:], "big") if length == 1 else length
                at += max(8, length) if length else size
        with av.open(str(film)) as container:
            return at == size and container.streams.video[0].frames == record.film.frames
    return False


def sentence(log: str) -> str | None:
    """What a render said last of why it ended."""
    said = [line.removeprefix("rivulet: ") for line in log.splitlines() if line.startswith("rivulet: ")]
    return shorten(printable(said[-1]), 500) if said else None


def environment() -> dict[str, str]:
    """The environment of a render, whose own folder holds none of the program."""
    return {**os.environ, "PYTHONPATH": str(_ROOT)}
