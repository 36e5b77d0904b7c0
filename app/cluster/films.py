"""Batch of films on a cluster: a film is a task, a task that was killed goes on from the film's journal.

Every node sees the folder of the films (one machine, or a shared disk): there lie the journals, as without a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Protocol

from rich.console import Console

from app.cluster.progress import BatchProgress
from app.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, RenderFailure, UsageMistake, explain, printable
from app.loading.model import OneModel
from app.record.request import RenderRequest
from app.record.sidecar import library_versions
from app.render.batch import judge_all, make_folder
from app.render.interrupt import Interrupt
from app.render.render import check_request, render

MOST_LOSSES = 3
"""How often a worker may be lost in a row without a chunk more in the film's journal."""
PATIENCE = 60.0
"""Seconds that films which are being made have to end in, after Ctrl-C."""
_LOOK = 0.2
_MODEL = OneModel()
"""Of a worker's process, for the films that it makes one after the other."""


class WorkerLost(Exception):
    """A worker ended in the middle of a film; the text says how, as a clause."""


@dataclass(frozen=True, slots=True)
class Order:
    """A film to make: in which folder names are to be read, and with which versions it was asked for.

    `judge`: all films of the batch, which are then only read by the model, and none is made.
    """

    request: RenderRequest
    folder: str
    versions: dict[str, str]
    judge: tuple[RenderRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a film: the exit code, what was said while it was made, and why it is not there, if it is not."""

    code: int
    said: str
    why: str = ""


class Workers(Protocol):
    """Processes that make films; app.cluster.ray_workers.RayWorkers is such."""

    def submit(self, order: Order) -> int:
        """Have a film made as soon as there is room; returns the task's number."""
        ...

    def ended(self, tasks: Sequence[int], seconds: float) -> Sequence[int]:
        """Wait, at most so long, until one of these has ended; returns those that have."""
        ...

    def outcome(self, task: int) -> Outcome:
        """What became of one that has ended.

        Raises:
            WorkerLost: its worker was lost.
        """
        ...

    def cancel(self, task: int, *, force: bool) -> None:
        """End one: a film that is being made as Ctrl-C ends it, or at once."""
        ...


def make(order: Order) -> Outcome:
    """Make a film in this process, a worker's, or judge all of them."""
    said = StringIO()
    console = Console(file=said, highlight=False, markup=False, emoji=False, width=120)
    try:
        if (here := library_versions()) != order.versions:
            odd = [f"{name} {here.get(name)}" for name, version in order.versions.items() if here.get(name) != version]
            raise UsageMistake(
                f"Node {os.uname().nodename} has {', '.join(odd)}. Install the same versions everywhere."
            )
        try:
            os.chdir(order.folder)
        except OSError as error:
            raise UsageMistake(
                f"Node {os.uname().nodename} does not see {order.folder}. Let all nodes share the folder of the films."
            ) from error
        if order.judge:
            judge_all(order.judge, _MODEL)
            return Outcome(EXIT_OK, "")
        code = render(order.request, console=console, opener=_MODEL)
    except (Exception, KeyboardInterrupt) as error:  # told where the films were asked for
        why, code = explain(error)
        return Outcome(code, _without_progress(said.getvalue()), why)
    return Outcome(code, _without_progress(said.getvalue()))


def _without_progress(said: str) -> str:
    """What was said of a film, but for its line a chunk."""
    return "\n".join(line for line in said.splitlines() if not line.startswith("["))


@dataclass(slots=True)
class _Film:
    """One film under way; `journal` is what lay there before, `losses` how often in a row nothing came of a worker."""

    number: int
    request: RenderRequest
    journal: tuple[int, int] | None
    losses: int = 0


def render_on(workers: Workers, requests: Sequence[RenderRequest], console: Console) -> int:
    """Make films on workers and return the exit code; Ctrl-C ends all of them.

    Args:
        workers: make them.
        requests: a film each, whose engines say how many threads they compute with.
        console: for what is said.

    Raises:
        UsageMistake: what is wrong with films as they were asked for, before any is begun.
        RenderFailure: some films could not be made; the others were.
    """
    for folder in {request.output.parent for request in requests}:
        make_folder(folder)
    wanted = tuple(request for request in requests if check_request(request))
    here, versions = str(Path.cwd()), library_versions()
    films: dict[int, _Film] = {}
    outcomes: dict[int, Outcome] = {}

    def submit(film: _Film) -> None:
        films[workers.submit(Order(film.request, here, versions))] = film

    with Interrupt() as interrupt:
        if len(wanted) > 1:  # a single one is judged by whoever makes it, before it begins
            _judge(workers, Order(wanted[0], here, versions, wanted), interrupt)
            if interrupt.code is not None:
                return interrupt.code
        for number, request in enumerate(requests):
            submit(_Film(number, request, _stamp(request)))
        try:
            progress = BatchProgress(console, requests)
            while films and not interrupt.asked:
                failed = sum(outcome.code != EXIT_OK for outcome in outcomes.values())
                progress.look({film.number for film in films.values()}, failed)
                for task in workers.ended(list(films), _LOOK):
                    film = films.pop(task)
                    try:
                        outcome = workers.outcome(task)
                    except WorkerLost as lost:
                        again = _again(film)
                        _say(console, f"{film.request.output}: {lost}" + ("" if again is None else "; it goes on."))
                        if again is not None:
                            submit(again)
                            continue
                        outcome = Outcome(1, "", f"Its worker was lost {MOST_LOSSES} times ({lost}).")
                    outcomes[film.number] = outcome
                    _tell(console, film, outcome, len(requests))
            code = interrupt.code
            _end(workers, films, len(requests), console)
        except BaseException:
            for task in films:
                workers.cancel(task, force=True)
            raise
    if code is not None:
        return code
    return _conclude(requests, outcomes)


def _judge(workers: Workers, order: Order, interrupt: Interrupt) -> None:
    """Have a worker read all films with the model; raises what it refuses."""
    for _ in range(MOST_LOSSES):
        task = workers.submit(order)
        while not workers.ended([task], _LOOK):
            if interrupt.asked:
                workers.cancel(task, force=True)
                return
        try:
            outcome = workers.outcome(task)
        except WorkerLost:
            continue
        if outcome.code != EXIT_OK:
            raise (UsageMistake if outcome.code == EXIT_USAGE else RenderFailure)(outcome.why)
        return
    raise RenderFailure(f"No film was begun: the worker that was to read all of them was lost {MOST_LOSSES} times.")


def _again(film: _Film) -> _Film | None:
    """The film to be gone on with after its worker was lost; None where nothing comes of it."""
    now = _stamp(film.request)
    if now is None or now == film.journal:  # nothing was begun: what was asked for is asked again
        return None if film.losses + 1 >= MOST_LOSSES else replace(film, losses=film.losses + 1)
    request = replace(film.request, resume=True, overwrite=False)
    return _Film(film.number, request, now)


def _stamp(request: RenderRequest) -> tuple[int, int] | None:
    """What tells the journal of a film from another, or from itself when it has grown."""
    try:
        found = (request.folder / "journal.jsonl").stat()
    except OSError:
        return None
    return found.st_ino, found.st_size


def _end(workers: Workers, films: dict[int, _Film], count: int, console: Console) -> None:
    """Let films that were interrupted end as they do after Ctrl-C; those that take too long end at once."""
    for task in films:
        workers.cancel(task, force=False)
    left, waited = dict(films), 0.0
    while left and waited < PATIENCE:
        for task in workers.ended(list(left), _LOOK):
            film = left.pop(task)
            try:
                _tell(console, film, workers.outcome(task), count)
            except WorkerLost:
                continue  # it had not begun
        waited += _LOOK
    for task in left:
        workers.cancel(task, force=True)


def _tell(console: Console, film: _Film, outcome: Outcome, count: int) -> None:
    _say(console, f"Film {film.number + 1} of {count}: {film.request.output}")
    if outcome.said.strip():
        _say(console, outcome.said.strip())
    if outcome.why:
        console.print(printable(f"{film.request.output}: {outcome.why}"), style="red", soft_wrap=True)


def _conclude(requests: Sequence[RenderRequest], outcomes: dict[int, Outcome]) -> int:
    failed = [number for number, outcome in sorted(outcomes.items()) if outcome.code != EXIT_OK]
    if not failed:
        return EXIT_OK
    whys = {outcomes[number].why for number in failed}
    if len(failed) == len(requests) and len(whys) == 1 and all(outcomes[n].code == EXIT_USAGE for n in failed):
        raise UsageMistake(whys.pop())
    if all(outcomes[number].code == EXIT_INTERRUPTED for number in failed):
        return EXIT_INTERRUPTED
    names = ", ".join(requests[number].output.name for number in failed[:5])
    raise RenderFailure(
        f"{len(failed)} of {len(requests)} films in {requests[0].output.parent} are not there ({names}). "
        "Correct what was said above and run the same command with --resume."
    )


def _say(console: Console, text: str) -> None:
    console.print(printable(text), soft_wrap=True)
