"""Engines on a Ray cluster: an actor with a GPU, or with cores, that has one model and answers about its streams."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.cluster.fleet import Fleet
from app.cluster.gateway import ClusterEngine
from app.cluster.host import Asked, ModelFacts, Reply, StreamHost
from app.cluster.nodes import Cluster, Node, device_on, ray_module
from app.cluster.remote import EngineLost
from app.loading.live import MOST_FILMS, Copy

if TYPE_CHECKING:
    from app.loading.engine_request import EngineRequest

START_SECONDS, ANSWER_SECONDS = 180.0, 60.0
"""What an engine has to load its model in, and what it has to answer in; then it counts as lost."""
MOST_ENGINES = 64


class EngineActor(StreamHost):
    """A StreamHost in a process of its own."""

    def where(self) -> tuple[str, int]:
        """The node's name and the process."""
        return os.uname().nodename, os.getpid()


class RayEngine:
    """An actor, as the gateway sees it; app.cluster.remote.Far.

    Args:
        actor: its handle.
        where: node and process.
    """

    def __init__(self, actor: Any, where: tuple[str, int]) -> None:
        self._ray, self._actor = ray_module(), actor
        self.node, self.process = where

    @property
    def where(self) -> str:
        """The node and the process, for people."""
        return f"{self.node}, process {self.process}"

    def ask(self, asked: Asked, copy: Any = None) -> tuple[Reply, Any]:
        """See app.cluster.remote.Far."""
        errors = self._ray.exceptions
        reply, made = self._actor.ask.options(num_returns=2).remote(asked, copy)
        try:
            answer: Reply = self._ray.get(reply, timeout=ANSWER_SECONDS)
        except errors.GetTimeoutError as error:
            raise EngineLost(f"it has not answered for {ANSWER_SECONDS:g} s") from error
        except errors.RayTaskError:
            raise  # a mistake of ours, with its traceback
        except errors.ObjectLostError as error:  # not the engine: what it was to go back to
            raise RuntimeError("The copy that the film was to go on from is gone with its node.") from error
        except errors.RayError as error:
            raise EngineLost("its process has ended, or its node is gone") from error
        if answer.size:
            self._ray.wait([made], timeout=0, fetch_local=True)  # where it survives the engine's node
        return answer, made

    def forget(self, stream: int) -> None:
        """See app.cluster.remote.Far."""
        if self._ray.is_initialized():  # else the cluster was left already
            self._actor.forget.remote(stream)

    def fetch(self, copy: Any) -> Copy:
        """See app.cluster.remote.Far."""
        if not isinstance(copy, self._ray.ObjectRef):
            return copy
        try:
            return self._ray.get(copy, timeout=ANSWER_SECONDS)
        except self._ray.exceptions.RayError as error:
            raise OSError("the copy is gone with the node that had it") from error

    def end(self) -> None:
        """See app.cluster.remote.Far."""
        if self._ray.is_initialized():
            self._ray.kill(self._actor)


def begin_engine(request: EngineRequest, cores: int, gpus: int) -> tuple[RayEngine, ModelFacts]:
    """Start an actor and load its model.

    Raises:
        ValueError, OSError: what loading refused.
        RuntimeError: there is no room for it, or it ended.
    """
    ray = ray_module()
    actor: Any = ray.remote(EngineActor).options(num_cpus=cores, num_gpus=gpus, max_restarts=0).remote()
    try:
        where, facts = ray.get([actor.where.remote(), actor.load.remote(request)], timeout=START_SECONDS)
    except ray.exceptions.RayTaskError as error:
        ray.kill(actor)
        cause = error.cause
        raise cause if isinstance(cause, Exception) else error from None
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        ray.kill(actor)
        raise RuntimeError(f"An engine did not start within {START_SECONDS:g} s. Is there room for it?") from error
    return RayEngine(actor, where), facts


def cluster_engine(where: str, request: EngineRequest, *, max_sessions: int, **live: Any) -> ClusterEngine:
    """The gateway of a server over the cluster at `where`.

    Args:
        where: as of Cluster.
        request: which model; with a thread of its own for each core of an engine.
        max_sessions: films on each engine; 0: one for each core of it, 4 on a GPU.
        live: folder, prompt, seed, keep_seconds, undo_memory, live_memory, live_disk.

    Raises:
        UsageMistake: there is no Ray, nobody at that address, or no room for an engine.
    """
    cluster = Cluster(where, kept=live["undo_memory"])  # ways back are copies in the store
    try:
        nodes = cluster.nodes
        device = device_on(nodes, request.device)
        cores, gpus = request.threads or 1, int(device == "cuda")
        cluster.check_fits(cores, gpus, "An engine")
        asked = replace(request, device=device, threads=cores)
        films = max_sessions or (MOST_FILMS if gpus else min(MOST_FILMS, cores))
        most = min(MOST_ENGINES, room_for(nodes, cores, gpus))
        fleet = Fleet(lambda: begin_engine(asked, cores, gpus))
        return ClusterEngine(fleet, asked, most=most, films=films, leave=cluster.close, **live)
    except BaseException:
        cluster.close()
        raise


def room_for(nodes: list[Node], cores: int, gpus: int) -> int:
    """How many engines find room on some nodes."""
    return sum(min(node.cores // cores, node.gpus // gpus if gpus else MOST_ENGINES) for node in nodes)
