"""Ranks of one film: how they start, find each other, load the same model, and end together.

Rank 0 is the program as it always is. The others are started by it, or by torchrun, and do nothing but what it tells
them (pipelines/crew.py); they print nothing and write nothing. Whatever becomes of one of them, all end.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import EXIT_FAILURE, UsageMistake, printable
from app.loading.fitting import config_of
from app.loading.launch import CLOSING, MEET, OURS, OVER, Asked, launched, store_of
from app.loading.same_model import compare, fingerprint
from parallel import PARALLEL_PLANS, Costs, Facts, ParallelPlan, choose_plan
from weights.find import get_model

if TYPE_CHECKING:
    from torch import nn

    from app.loading.engine_request import EngineRequest
    from pipelines.components import Components
    from pipelines.crew import Crew
    from pipelines.engine import Engine
    from pipelines.streaming import Stream

_ROOT = Path(__file__).resolve().parents[2]
_MET: list[int] = []
"""Filled once the ranks of a launch know each other: from then on they end with rank 0."""


class Ranks:
    """The ranks that help with a model's films.

    Args:
        asked: the plan.
        request: what to load; its threads and device are settled.

    Attributes:
        plan: the plan.

    Raises:
        UsageMistake, ValueError: the plan cannot run this, the machine has too few devices, or a port is in use.
    """

    def __init__(self, asked: Asked, request: EngineRequest) -> None:
        self._device, self._facts = request.device, facts_of(request)
        self.plan: ParallelPlan = choose_plan(asked.name, asked.ranks, self._facts)
        name = next(name for name, kind in PARALLEL_PLANS.items() if isinstance(self.plan, kind))
        self._written = f"{name}={asked.ranks}"
        self._children: list[subprocess.Popen[bytes]] = []
        self._crew: Crew | None = None
        if asked.ranks > 1:
            _check_devices(request.device, asked.ranks)
            self._start(request)

    @property
    def written(self) -> str:
        """The plan, as people write it."""
        return self._written

    def _start(self, request: EngineRequest) -> None:
        import torch

        from pipelines.crew import Crew, open_store

        started, host = launched(), "127.0.0.1"
        if started is None:
            store = open_store(host, 0, listens=True)
            self._children = [_child(rank, self.plan.ranks, store.port) for rank in range(1, self.plan.ranks)]
        else:
            store, host = store_of(started), started.host
        CLOSING.append(self.close)
        atexit.register(self.close)
        self._crew = Crew(self.plan, self._facts, store, host=host, order=request, died=self._died, force=_force)
        _MET.append(self.plan.ranks)
        store.set(MEET, self._crew.where)
        self._crew.meet()
        if request.device == "cuda":
            torch.cuda.set_device(0 if started is None else started.local)

    def _died(self, rank: int) -> str:
        code = self._children[rank - 1].poll() if len(self._children) >= rank else None
        if code is None:
            return ""
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"

    def loaded(self, transformer: nn.Module) -> None:
        """Wait until all ranks have loaded, compare what they have, and connect them.

        Raises:
            UsageMistake: one has other weights or another version.
            LinkLost: one is gone.
        """
        if self._crew is not None:
            compare([fingerprint(transformer), *self._crew.loaded()])
            self._crew.connect("nccl" if self._device == "cuda" else "gloo")

    def stream(self, components: Components, engine: Engine, **settings: Any) -> Stream:
        """Rank 0's stream of a film; `settings` as of pipelines.streaming.Stream."""
        from pipelines.streaming import Stream

        if self._crew is not None:
            return self._crew.stream(components, engine, **settings)
        (share,) = self.plan.shares(self._facts, Costs(), None)
        return Stream(engine, share=share, **settings)

    @property
    def link(self) -> Any:
        """To the tensors of the others, which counts them; None in one process."""
        return None if self._crew is None else self._crew.link

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes that were started for others."""
        return [child.pid for child in self._children]

    @property
    def costs(self) -> Costs:
        """What was measured before the first film was spread."""
        return Costs() if self._crew is None else self._crew.costs

    def close(self) -> None:
        """Let all ranks end, and wait for those that are ours."""
        if self._crew is not None:
            self._crew.close()
        end = time.monotonic() + 5
        for child in self._children:
            try:
                child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        self._crew, self._children = None, []


def facts_of(request: EngineRequest) -> Facts:
    """What a plan is judged by, before any weights are loaded."""
    from pipelines.build import make_policies

    config = config_of(get_model(request.model or request.preset.model))
    policies = make_policies(replace(request.preset, feature_cache=""))  # which may go by a profile of the weights
    return Facts(
        request.preset.name,
        policies.plan,
        policies.cache,
        int(config["num_layers"]),
        int(config["num_attention_heads"]),
        policies.guidance,
        features=bool(request.preset.feature_cache),
    )


def release() -> None:
    """Let the others of a launch end, where rank 0 ends without a film that they could have helped with."""
    started = launched()
    if started is not None and started.rank == 0 and not _MET:
        with suppress(UsageMistake, RuntimeError):  # then nobody waits
            store_of(started).set(MEET, OVER)


def _child(rank: int, size: int, port: int) -> subprocess.Popen[bytes]:
    """Another rank on this machine, which ends when we do."""
    told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in told.items()}, OURS: "1"}
    debug = ["--debug"] if "--debug" in sys.argv else []
    # A session of its own: a Ctrl-C is for rank 0, which ends the film in order and all others with it.
    return subprocess.Popen(
        [sys.executable, "-m", "app", *debug],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _check_devices(device: str, ranks: int) -> None:
    """Raise UsageMistake where there are fewer devices than ranks."""
    if device == "mps":
        raise UsageMistake("An Apple GPU makes a film alone. Leave --parallel and --gpus out, or give --device cpu.")
    if device != "cuda":
        return
    import torch

    count = torch.cuda.device_count()
    here = ranks if launched() is None else int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    if here > count:
        raise UsageMistake(
            f"{here} ranks need as many CUDA devices, and there are {count} here. Give --gpus {count}, or --device cpu."
        )


def _force(sentence: str) -> None:
    """End this process, whose main thread waits for a rank that is gone; the film's files are as after a kill."""
    print(f"rivulet: {printable(sentence)} --resume goes on with what there is.", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILURE)
