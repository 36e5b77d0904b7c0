"""Out of memory in the middle of a render: the next smaller plan, and on from the last snapshot.

What is traded is said, and stands in the film's record with the chunk from which it held.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from app.errors import RenderFailure, card_out_of_memory, explain, out_of_memory
from app.loading.engine_request import EngineRequest
from app.loading.fitting import smaller
from app.loading.model import Opened
from app.media.stills import sink_kind
from app.record.held import PlanRecord, changed_from, plan_at
from app.record.journal import Journal, RenderHistory
from app.record.request import RenderRequest
from pipelines.memory_plan import MemoryPlan


@dataclass(frozen=True, slots=True)
class Again:
    """A render that is opened anew in the same process.

    Attributes:
        engine: as it is opened now.
        plans: of the film.
        seed: of its noise, which is drawn once.
        history: where it goes on; None: it begins anew.
    """

    engine: EngineRequest
    plans: tuple[PlanRecord, ...]
    seed: int
    history: RenderHistory | None

    def of(self, request: RenderRequest) -> RenderRequest:
        """The request that is carried out now."""
        return replace(request, engine=self.engine, plans=self.plans, seed=self.seed)


def next_plan(
    error: BaseException,
    request: RenderRequest,
    seed: int,
    history: RenderHistory | None,
    tell: Callable[[str], object],
    *,
    during: Literal["loading", "the film"],
) -> Again | None:
    """How a render goes on after an error; None: it does not, for the error is another or there is no smaller plan.

    Args:
        error: what came.
        request: what was carried out.
        seed: of its noise.
        history: what the journal tells; None where nothing was made.
        tell: says a sentence to the person.
        during: what it came in.
    """
    if not out_of_memory(error) or (request.live and during != "loading"):
        return None
    begins = 0
    if history is not None and sink_kind(request.output) == "mp4":
        begins = max((each.chunk for each in history.segments if each.sha256), default=0)
    found = smaller(request.engine, begun=begins > 0)
    if found is None or found.plan is None:
        return None
    before = request.engine.plan or MemoryPlan(decoder=found.plan.decoder if begins else "full")
    given_up = [each for each in found.plan.traded if each not in before.traded]
    taken_back = [each for each in before.traded if each not in found.plan.traded]
    where = f"from chunk {begins} on" if begins else "from the beginning"
    tell(
        f"Out of memory in {during}. The film goes on {where} with {' and '.join(given_up) or 'a smaller plan'}"
        f"{f', without {chr(32).join(taken_back)}' if taken_back else ''}; its record says so."
    )
    plans = changed_from(request.plans, begins, found.plan, "memory")
    if begins == 0 or history is None:
        return Again(found, plans, seed, None)
    config = history.header.config.model_copy(update={"plans": list(plans)})
    header = history.header.model_copy(update={"config": config})
    return Again(found, plans, seed, replace(history, header=header, expected=()))


def as_held(request: RenderRequest, opened: Opened) -> RenderRequest:
    """The request as it was carried out: under the plan that was chosen for it."""
    engine = opened.engine or request.engine
    plans = request.plans
    if engine.plan is not None and not plans:
        plans = changed_from((), 0, engine.plan, "vram")
    return replace(request, engine=engine, plans=plans)


def from_here(request: RenderRequest, chunk: int) -> tuple[RenderRequest, bool]:
    """The request of a film that goes on at a chunk, and whether that is made as it was before.

    It is not where the snapshot that the plan was loaded for could not be used, and an older one has to do.
    """
    held = request.engine.plan
    if held is None or plan_at(request.plans, chunk) == held:
        return request, True
    return replace(request, plans=changed_from(request.plans, chunk, held, "memory")), False


def switched(request: RenderRequest, seed: int, chunk: int, journal: Journal) -> Again:
    """How a film goes on at a chunk from which its record names another plan.

    Raises:
        RenderFailure: nothing of it can be gone on with there.
    """
    plan = next(each.held for each in request.plans if each.chunk == chunk)
    history = journal.read()
    if history is None or not any(each.chunk == chunk and each.sha256 for each in history.segments):
        raise RenderFailure(
            f"The film changes how its model is held at chunk {chunk}, which {request.output.name} cannot. Render it "
            "as an .mp4."
        )
    return Again(replace(request.engine, plan=plan), request.plans, seed, history)


def short(error: BaseException) -> str:
    """That memory ran out, as a clause."""
    return explain(error)[0].split(". ")[0]


def last_resort(error: BaseException, request: RenderRequest, *, begun: bool) -> str:
    """What a person can do where a render out of memory does not go on by itself, with the exact command.

    Args:
        error: what came.
        request: what was carried out.
        begun: something of the film is there.
    """
    fresh = None if request.live else smaller(request.engine, begun=False)
    if fresh is not None and fresh.plan is not None:
        return (
            " No smaller plan goes on with what is there; begun anew, the film can be held smaller: add --overwrite "
            f"--vram {fresh.plan.written}."
        )
    if begun and not request.live:
        what = "on the card" if card_out_of_memory(error) else "on this machine"
        return f" Free memory {what} and go on: rivulet render --resume -o {shlex.quote(str(request.output))}"
    plan = request.engine.plan
    tried = f" It was held as small as it can be ({plan.written})." if plan is not None else ""
    return f"{tried} Give a smaller --height and --width, a smaller model, or --device cpu."
