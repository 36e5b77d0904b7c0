"""A crew of ranks for tests: this process leads a tiny film, and spawned ones follow it over gloo."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parallel import Facts, choose_plan
from parallel.channel import Failed, Leader, Member
from parallel.link import Link, open_store
from parallel.plan import Costs
from pipelines.engine import Engine
from pipelines.ranks import FollowStream, LeadStream, ToldText
from pipelines.streaming import Stream
from tests.tiny import HEIGHT, WIDTH

ROOT = Path(__file__).resolve().parents[2]
TOKEN, EVEN = "tests", Costs()

Make = Callable[[], Engine]


def facts_of(engine: Engine, preset: str = "tiny") -> Facts:
    config, policies = engine.transformer.config, engine.policies
    heads, layers = config["num_attention_heads"], config["num_layers"]
    return Facts(preset, policies.plan, policies.cache, layers, heads, policies.guidance)


def placed(engine: Engine, backend: str, rank: int) -> Engine:
    """The engine on its rank's device."""
    if backend == "nccl":
        for part in (engine.transformer, engine.autoencoder):
            if isinstance(part, torch.nn.Module):
                part.to(f"cuda:{rank}")
    return engine


class Crew:
    """Rank 0 of several, whose others wait in processes of their own.

    Args:
        size: how many there are.
        backend: gloo or nccl.
    """

    def __init__(self, size: int, backend: str) -> None:
        self.size, self.backend = size, backend
        self.calls = Leader("127.0.0.1", size, TOKEN, self._died, lambda why: self.kill())
        self.store = open_store("127.0.0.1", 0, listens=True)
        where = [str(self.calls.port), str(self.store.port), str(size), backend]
        self.processes = [
            subprocess.Popen([sys.executable, "-m", "tests.parallel.crew", str(rank), *where], cwd=ROOT)
            for rank in range(1, size)
        ]
        self.calls.gather()
        self.link = Link(0, size, backend, self.store, self.calls.why)

    def _died(self, rank: int) -> str:
        code = self.processes[rank - 1].poll() if len(self.processes) >= rank else None
        return "" if code is None else f"it ended with code {code}"

    def stream(self, make: Make, plan: str, costs: Costs = EVEN, **settings: Any) -> LeadStream:
        """A film of the engine that a function of a module makes, on all ranks."""
        engine = placed(make(), self.backend, 0)
        chosen = choose_plan(plan, self.size, facts_of(engine))
        shares = chosen.shares(facts_of(engine), costs, self.link)
        self.calls.tell(("open", make, plan, costs, settings))
        return LeadStream(engine, chosen, shares, self.link, self.calls, height=HEIGHT, width=WIDTH, **settings)

    def alone(self, make: Make, plan: str | None = None, **settings: Any) -> Stream:
        """The same film in this process: as it is, or with rows apart as the plan runs them."""
        return alone(make, plan, self.backend, **settings)

    def ask(self, message: object) -> list[Any]:
        """Tell all others something, and hear what each answers."""
        self.calls.tell(message)
        return self.calls.heard()

    def kill(self) -> None:
        """End all others at once, so that nobody here waits for them for ever."""
        for process in self.processes:
            process.kill()

    def close(self) -> None:
        self.calls.close()
        self.link.close()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def crew_of(size: int, backend: str = "gloo") -> Generator[Crew]:
    """A crew that is gone afterwards, whatever happens."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    crew = Crew(size, backend)
    try:
        yield crew
    finally:
        crew.close()
        torch.set_num_threads(before)


def alone(make: Make, plan: str | None = None, backend: str = "gloo", **settings: Any) -> Stream:
    """The same film in one process: as it is, or with rows apart as the plan runs them."""
    engine, share = placed(make(), backend, 0), None
    if plan is not None:
        (share,) = choose_plan(plan, 1, facts_of(engine)).shares(facts_of(engine), Costs(), None)
    return Stream(engine, share=share, height=HEIGHT, width=WIDTH, **settings)


def follow(rank: int, port: int, store_port: int, size: int, backend: str) -> None:
    """The life of another rank."""
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    member = Member("127.0.0.1", port, TOKEN, rank, lambda why: sys.exit(1))
    store = open_store("127.0.0.1", store_port, listens=False)
    link = Link(rank, size, backend, store, lambda: "rank 0 is gone")
    stream: FollowStream | None = None
    while (message := member.hear()) is not None:
        try:
            if message[0] == "sleep":
                time.sleep(message[1])
            elif message[0] == "open":
                make, plan, costs, settings = message[1:]
                engine = placed(make(), backend, rank)
                chosen = choose_plan(plan, size, facts_of(engine))
                shares = chosen.shares(facts_of(engine), costs, link)
                alone = replace(engine, conditioner=ToldText(), autoencoder=None)  # pyright: ignore
                stream = FollowStream(alone, chosen, shares, link, height=HEIGHT, width=WIDTH, **settings)
            else:
                assert stream is not None
                reply = stream.carry_out(message)
                if reply is not None:
                    member.tell(reply)
        except Exception as error:
            traceback.print_exc()
            member.tell(Failed(repr(error)))
            raise
    member.close()
    link.close()


if __name__ == "__main__":
    follow(*map(int, sys.argv[1:5]), sys.argv[5])
