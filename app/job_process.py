"""The process that renders a job: started so that it outlives the server, found again, followed by its files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from app import sidecar
from app.errors import UsageMistake, printable, shorten
from app.job_file import Job

RENDERER = (sys.executable, "-P", "-W", "ignore", "-m", "app")  # -P: a job's folder is no place to import from
_NICE = 10
_ROOT = Path(__file__).resolve().parent.parent


def begin(folder: Path, command: Sequence[str]) -> psutil.Popen:
    """Start a render in its folder, or go on with the one that was begun there.

    Raises:
        OSError: it cannot be started.
    """
    record, _ = outcome(folder)
    whole = record is not None and record.status == "whole"  # the server ended before it heard of it
    if not whole and not (folder / "film.part" / "journal.jsonl").is_file():
        for rest in folder.glob("film.*"):  # what cannot be gone on with would only be in the way
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    with (folder / "progress.jsonl").open("wb") as out, (folder / "log.txt").open("wb") as log:
        process = psutil.Popen(
            [*command, "--resume", "--json_progress"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends the server, which ends the render in its own way
        )
    with suppress(psutil.NoSuchProcess):
        process.nice(_NICE)  # the live film comes first
    return process


def adopt(job: Job) -> psutil.Process | None:
    """The render of a job, if an earlier server left it running."""
    if job.process is None:
        return None
    pid, born = job.process
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - born) < 0.1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def ended(process: psutil.Process) -> bool:
    """Whether a render has ended, ours or one of an earlier server."""
    with suppress(psutil.TimeoutExpired):
        process.wait(timeout=0)
        return True
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return False
        process.wait(timeout=0)  # ours that died just now is still to be reaped; another's child nobody waits for
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


def outcome(folder: Path) -> tuple[sidecar.Sidecar | None, str]:
    """What a render that has ended left: the film's record if the film is there, and its last words."""
    record, words = None, None
    with suppress(UsageMistake, OSError):
        record = sidecar.read(folder / "film.json") if (folder / "film.mp4").is_file() else None
    with suppress(OSError):
        words = sentence((folder / "log.txt").read_text("utf-8", errors="replace"))
    return record, words or "The render was ended from outside. Resume goes on with it."


def sentence(log: str) -> str | None:
    """What a render said last of why it ended."""
    said = [line.removeprefix("rivulet: ") for line in log.splitlines() if line.startswith("rivulet: ")]
    return shorten(printable(said[-1]), 500) if said else None


def environment() -> dict[str, str]:
    """The environment of a render, whose own folder holds none of the program."""
    return {**os.environ, "PYTHONPATH": str(_ROOT)}
