"""Workers on a Ray cluster: a film is a task with as many cores as it has threads, or with a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from app.cluster.films import Order, Outcome, WorkerLost, make, render_on
from app.cluster.nodes import Cluster, device_on, ray_module
from app.errors import UsageMistake
from app.record.request import RenderRequest


def render_films(requests: Sequence[RenderRequest], where: str, console: Console) -> int:
    """Make films on the cluster at `where` and return the exit code; raises as `render_on`, and for the cluster.

    A film computes with the threads that it would have without a cluster, so its bits are the same.
    """
    if any(request.json_progress for request in requests):
        raise UsageMistake("--json_progress tells of films that are made here. Leave it out, or --cluster.")
    engine = requests[0].engine
    if engine.parallel or engine.gpus is not None:
        raise UsageMistake("--cluster makes a film on one GPU, or some cores. Leave --parallel and --gpus out.")
    cluster = Cluster(where)
    try:
        device = device_on(cluster.nodes, engine.device)
        cores, gpus = _threads(engine.threads, device), int(device == "cuda")
        cluster.check_fits(cores, gpus, "A film")
        threads = None if device == "cuda" and engine.threads is None else cores
        requests = [replace(each, engine=replace(each.engine, device=device, threads=threads)) for each in requests]
        nodes = cluster.nodes
        at_once = min(len(requests), sum(node.gpus if gpus else node.cores // cores for node in nodes))
        each = (
            f"a GPU and {cores} core{'s' * (cores != 1)}" if gpus else f"{cores} core{'s' * (cores != 1)} (--threads)"
        )
        where = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
        films = f"{len(requests)} film{'s' * (len(requests) != 1)}"
        console.print(f"{films} on {where}, {at_once} at a time, each with {each}.", soft_wrap=True)
        return render_on(RayWorkers(cores, gpus), requests, console)
    finally:
        cluster.close()


def _threads(asked: int | None, device: str) -> int:
    """Cores of a film: its threads on a CPU; on a GPU one, where nobody says more."""
    if asked is not None:
        return asked
    if device != "cpu":
        return 1
    import torch

    return torch.get_num_threads()


class RayWorkers:
    """Of the cluster that this process has joined.

    Args:
        cores: of a film.
        gpus: likewise.
    """

    def __init__(self, cores: int, gpus: int) -> None:
        ray = self._ray = ray_module()
        self._make = ray.remote(make).options(num_cpus=cores, num_gpus=gpus, max_retries=0)
        self._numbers = itertools.count()
        self._references = dict[int, Any]()

    def submit(self, order: Order) -> int:
        """See app.cluster.films.Workers."""
        number = next(self._numbers)
        self._references[number] = self._make.remote(order)
        return number

    def ended(self, tasks: Sequence[int], seconds: float) -> Sequence[int]:
        """See app.cluster.films.Workers."""
        by_reference = {self._references[task]: task for task in tasks}
        ready, _ = self._ray.wait(list(by_reference), num_returns=1, timeout=seconds)
        return [by_reference[reference] for reference in ready]

    def outcome(self, task: int) -> Outcome:
        """See app.cluster.films.Workers."""
        reference = self._references.pop(task)
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError as error:
            raise WorkerLost("it was cancelled") from error
        except self._ray.exceptions.RayTaskError:
            raise  # a mistake of ours, with its traceback
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(_how(error)) from error

    def cancel(self, task: int, *, force: bool) -> None:
        """See app.cluster.films.Workers."""
        self._ray.cancel(self._references[task], force=force)


def _how(error: Exception) -> str:
    """How a worker was lost, as a clause."""
    kinds = {
        "WorkerCrashedError": "the process that made it has ended",
        "NodeDiedError": "the node that made it is gone",
        "OutOfMemoryError": "the node that made it ran out of memory",
        "RuntimeEnvSetupError": "the node could not start a process for it",
    }
    return kinds.get(type(error).__name__, f"Ray has lost it ({type(error).__name__})")
