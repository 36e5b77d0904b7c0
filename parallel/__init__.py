"""Plans that spread a finished stream over ranks, applied from outside; models hold no line of distributed code.

A rank is a process with a device of its own. All ranks decide the same integers, and each holds a share of the memory
and of the work (parallel/share.py). Add a plan: one file with a frozen dataclass that satisfies `ParallelPlan`, one
line in the registry below. This `__init__` stays torch-free; tensors are in the modules that a plan imports when it is
applied.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from parallel.cascade import Cascade
from parallel.clips import Clips
from parallel.layers import Layers
from parallel.levels import Levels
from parallel.lost import LinkLost as LinkLost
from parallel.plan import Costs as Costs
from parallel.plan import Facts as Facts
from parallel.plan import ParallelPlan as ParallelPlan
from parallel.single import Single
from parallel.ulysses import Ulysses

PARALLEL_PLANS: dict[str, type[ParallelPlan]] = {
    "single": Single,
    "levels": Levels,
    "layers": Layers,
    "ulysses": Ulysses,
    "clips": Clips,
    "cascade": Cascade,
}
MOST_RANKS = 64
"""More are refused as a slip of the finger: no plan has so many levels or layers to give away."""

_BEST_FIRST = ("levels", "cascade", "ulysses", "layers")
"""What `auto` tries: levels gain the most and send the least, layers gain memory first; a cascade is asked for."""


def read_plan(written: str) -> tuple[str, int | None]:
    """Name and number of ranks of a plan as people write it: `levels=2`, `ulysses`, `auto`, `single`.

    Raises:
        ValueError: no such plan, or no such number; the sentence lists the choices.
    """
    name, equals, count = written.strip().lower().partition("=")
    names = (*PARALLEL_PLANS, "auto")
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.0)
        raise ValueError(f"unknown plan {name[:40]!r}: choose one of {', '.join(names)} (nearest: {near[0]})")
    if not equals:
        return name, 1 if name == "single" else None
    if not re.fullmatch(r"[0-9]{1,3}", count) or not 1 <= int(count) <= MOST_RANKS:
        raise ValueError(f"{name}={count[:20]} is no number of ranks: give 1 to {MOST_RANKS}, such as {name}=2")
    if name == "single" and int(count) != 1:
        raise ValueError("single is one process: leave out its number, or choose levels, layers or ulysses")
    return name, int(count)


def choose_plan(name: str, ranks: int, facts: Facts) -> ParallelPlan:
    """The plan of that name for so many ranks; `auto` takes the first that this stream can run under.

    Raises:
        ValueError: the plan cannot run it; the reason is in the sentence.
    """
    if name != "auto":
        plan = PARALLEL_PLANS[name](ranks)
        plan.check(facts)
        return plan
    if ranks == 1:
        return Single(1)
    reasons: list[str] = []
    for candidate in _BEST_FIRST:
        plan = PARALLEL_PLANS[candidate](ranks)
        try:
            plan.check(facts)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return plan
    raise ValueError(f"no plan spreads preset {facts.preset!r} over {ranks} ranks: {reasons[-1]}")
