"""The tasks of the worker process (app/server/desk.py): reads, judges and looks up what people send, in turn.

Every task gives the JSON of an answer. It holds nothing that a restart would lose.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.errors import UsageMistake
from app.jobs.chunks import chunk_rows
from app.jobs.job import Job, VideoRequest, new_job, place
from app.render.dry_run import plan_data
from app.script.timeline import Timeline
from app.server.access import Access
from app.server.refusals import read_body, refusal
from app.server.restore import Takes, VideoBody, read_dropped, restored

LARGEST_ANSWER = 16 * 2**20
"""Bytes: what ten thousand shots with their blends take, twice."""


def plan(takes: Takes, body: bytes) -> dict[str, Any]:
    """Where the shots of a request come to stand."""
    _, script, timeline = place(takes.request(read_body(VideoBody, body)), models=takes.models)
    return plan_data(timeline, notes=script.notes, written_as=script.written_as)


def judge(takes: Takes, body: bytes, job: str) -> BaseModel:
    """The job that a request asks for, under this name."""
    return new_job(job, takes.request(read_body(VideoBody, body)), models=takes.models)


def request(takes: Takes, body: bytes) -> BaseModel:
    """A request that can be rendered."""
    asked = takes.request(read_body(VideoBody, body))
    place(asked, models=takes.models)
    return asked


def restore(takes: Takes, data: bytes) -> dict[str, Any]:
    """What a film or a log was made with."""
    return restored(read_dropped(data), models=takes.models)


def take(takes: Takes, session: str, token: str) -> dict[str, Any]:
    """What was on screen of a live film."""
    return restored(takes.origin(session, token), models=takes.models)


def chunks(takes: Takes, folder: Path, since: int) -> dict[str, Any]:
    """What was made of the job in a folder."""
    job = Job.model_validate_json((folder / "job.json").read_bytes())
    return chunk_rows(folder, _timeline(job.request.model_dump_json(), takes.models), since=since)


@lru_cache(maxsize=8)
def _timeline(asked: str, models: tuple[str, ...]) -> Timeline:
    return place(VideoRequest.model_validate_json(asked), models=models)[2]


TASKS: Mapping[str, Callable[..., BaseModel | dict[str, Any]]] = {
    task.__name__: task for task in (plan, judge, request, restore, take, chunks)
}


def answer(takes: Takes, task: str, given: Mapping[str, Any]) -> tuple[int, bytes]:
    """Status and JSON of what a task gives, or of why it gives nothing."""
    try:
        found = TASKS[task](takes, **given)
        told = found.model_dump_json() if isinstance(found, BaseModel) else json.dumps(found, ensure_ascii=False)
        if len(told) > LARGEST_ANSWER:
            raise UsageMistake(f"What is to be told of this film is over {LARGEST_ANSWER >> 20} MiB. Make it shorter.")
        return 200, told.encode()
    except Exception as error:
        told, status = refusal(error)
        return status, json.dumps(told, ensure_ascii=False).encode()


def main() -> None:
    """Answer until the server goes."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    sys.stdout = sys.stderr  # whatever is printed is no answer
    with suppress(EOFError, BrokenPipeError):
        folder, secret, models = pickle.load(questions)  # of our own server
        takes = Takes(Path(folder), Access(secret), models=models)
        while True:
            task, given = pickle.load(questions)
            pickle.dump(answer(takes, task, given), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main()
