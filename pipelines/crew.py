"""A crew of ranks that share one model's films: rank 0 leads, the others load what they are told and follow."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from cache.precision import finest
from cache.rope import rotary_tables
from models.wan import CausalWanTransformer3DModel
from parallel.channel import Failed, Leader, Member
from parallel.link import Link, open_store
from parallel.lost import LinkLost
from parallel.plan import Costs, Facts, ParallelPlan
from parallel.share import Share
from pipelines.build import make_policies, storage_of
from pipelines.components import Components
from pipelines.engine import Engine
from pipelines.presets import Preset
from pipelines.ranks import FollowStream, LeadStream, ToldText
from pipelines.streaming import Stream

__all__ = ["Crew", "Part", "follow", "measured", "open_store"]


@dataclass(frozen=True, slots=True)
class Part:
    """What another rank has loaded: a model without text encoder and autoencoder, for films like this."""

    model: CausalWanTransformer3DModel
    preset: Preset


class Crew:
    """Rank 0 and its others, from the start of the program to its end.

    Args:
        plan: how films are spread.
        facts: of the films.
        store: where ranks find each other.
        host: where the others reach this process.
        order: what they have to load.
        died: how a rank ended, if that is known here; "" if not.
        force: ends this process with a sentence, where nobody notices that a rank is gone.

    Attributes:
        where: what another rank has to know to come.
        costs: what was measured before the first film.
    """

    def __init__(
        self,
        plan: ParallelPlan,
        facts: Facts,
        store: Any,
        *,
        host: str,
        order: object,
        died: Callable[[int], str],
        force: Callable[[str], None],
    ) -> None:
        token = secrets.token_hex(16)
        near = host in ("127.0.0.1", "localhost")
        self._plan, self._facts, self._store, self._order = plan, facts, store, order
        self._calls = Leader("127.0.0.1" if near else "", plan.ranks, token, died, force)
        self.where = f"{host} {self._calls.port} {token}"
        self._link: Link | None = None
        self._backend = ""
        self._shares: Sequence[Share] = ()
        self.costs = Costs()
        self._error: BaseException | None = None
        self._meeting = threading.Thread(target=self._meet, daemon=True, name="meeting of ranks")

    def meet(self) -> None:
        """Let all others load as soon as they are there, while rank 0 loads its own model."""
        self._meeting.start()

    def _meet(self) -> None:
        try:
            self._calls.gather()
            self._calls.tell(("load", self._plan, self._facts, self._order))
        except BaseException as error:
            self._error = error

    def loaded(self) -> list[Any]:
        """Wait until all others have loaded; what each says of it, by rank.

        Raises:
            LinkLost: one is gone, or could not.
        """
        self._meeting.join()
        if self._error is not None:
            raise self._error
        return self._calls.heard()

    def connect(self, backend: str) -> None:
        """Connect all ranks' tensors, over nccl or gloo."""
        self._backend = backend
        self._calls.tell(("link", backend))
        self._link = Link(0, self._plan.ranks, backend, self._store, self._calls.why)

    def stream(self, components: Components, engine: Engine, **settings: Any) -> Stream:
        """Rank 0's stream of a film; `settings` are height, width, seed and video, as of `Stream`."""
        assert self._link is not None  # it was connected
        if not self._shares:  # once: weights that were let go do not come back
            width = engine.policies.plan.width
            self.costs = measured(engine, components, settings["height"], settings["width"], width)
            self._shares = self._plan.shares(self._facts, self.costs, self._link)
        self._calls.tell(("open", self.costs, settings))
        return LeadStream(engine, self._plan, self._shares, self._link, self._calls, **settings)

    @property
    def link(self) -> Link:
        """To the others' tensors."""
        assert self._link is not None
        return self._link

    def close(self) -> None:
        """Let all others end."""
        self._calls.close()
        if self._link is not None and (self._backend == "gloo" or not self._calls.lost):  # NCCL waits for who is gone
            with suppress(RuntimeError):
                self._link.close()


def follow(
    where: str,
    rank: int,
    store: Any,
    *,
    load: Callable[[Any], tuple[Part, object]],
    explain: Callable[[BaseException], str],
    gone: Callable[[str], None],
) -> None:
    """The life of another rank: load what it is told, carry out what it is told, until rank 0 says goodbye.

    Args:
        where: as of `Crew`.
        rank: our number.
        store: where ranks find each other.
        load: loads what rank 0 orders; returns it and what rank 0 has to know of it.
        explain: an error as a sentence, which rank 0 is told.
        gone: ends this process, when rank 0 is gone.

    Raises:
        LinkLost: another rank is gone.
    """
    host, port, token = where.split(" ")
    member = Member(host, int(port), token, rank, gone)
    try:
        _obey(member, rank, store, load)
    except LinkLost:
        raise
    except BaseException as error:
        member.tell(Failed(explain(error)))
        time.sleep(0.5)  # rank 0 hears why before it sees the link break
        raise
    member.close()


def _obey(member: Member, rank: int, store: Any, load: Callable[[Any], tuple[Part, object]]) -> None:
    part: Part | None = None
    link: Link | None = None
    stream: FollowStream | None = None
    plan: Any = None
    facts: Any = None
    while (message := member.hear()) is not None:
        match message:
            case ("load", plan, facts, order):
                part, said = load(order)
                member.tell(said)
            case ("link", backend):
                link = Link(rank, plan.ranks, backend, store, lambda: "rank 0 is gone")
            case ("open", costs, settings):
                assert part is not None  # that is the order of things
                assert link is not None
                told: Any = ToldText()
                engine = Engine(part.model, told, make_policies(part.preset), storage=storage_of(part.preset))
                stream = FollowStream(engine, plan, plan.shares(facts, costs, link), link, **settings)
            case _:
                assert stream is not None
                reply = stream.carry_out(message)
                if reply is not None:
                    member.tell(reply)
    if link is not None:
        with suppress(RuntimeError):
            link.close()


@torch.inference_mode()
def measured(engine: Engine, components: Components, height: int, width: int, chunk: int) -> Costs:
    """How long a row takes in all layers, and decoding a chunk, in this process: shares are cut by it.

    Args:
        engine: for the text.
        components: the model, whole.
        height: of a latent frame.
        width: of a latent frame.
        chunk: latent frames of a row.
    """
    transformer, decoder = components.transformer, components.autoencoder
    device, dtype = transformer.expects
    latents = torch.zeros((1, transformer.config["in_channels"], chunk, height, width), device=device, dtype=dtype)
    levels = torch.zeros((1, chunk), device=device, dtype=finest(device))
    text = transformer.text_keys(engine.conditioner.embed("").to(device, dtype))
    size, working = transformer.config["attention_head_dim"], torch.promote_types(dtype, torch.float32)
    tables = rotary_tables(range(chunk), *transformer.grid(height, width), size, device=device, dtype=working)
    state, frames = decoder.init_decode_state(1, height, width, device), latents.transpose(1, 2)
    row = _fastest(lambda: transformer(latents, levels, text, tables), device)
    return Costs(row, _fastest(lambda: decoder.decode_stream(frames, state), device))


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return best
