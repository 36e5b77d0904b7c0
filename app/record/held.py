"""How a film's model was held in memory, chunk by chunk: the memory plans in its record.

A film changes its plan where one ran out of memory, and where its record says that it did; nothing else changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from app.errors import UsageMistake, printable, shorten_path
from app.record import fields as recorded
from pipelines.memory_plan import MemoryPlan, read_memory_plan

MOST_PLANS = 64
"""Plans that a film can have had: there are no more, and each gives way once."""


class PlanRecord(BaseModel):
    """From `chunk` on the model was held under `plan`, because `vram` asked for it or because memory ran out."""

    model_config = recorded.STRICT

    chunk: recorded.Count
    plan: recorded.HeldAs
    why: Literal["vram", "memory"]

    @property
    def held(self) -> MemoryPlan:
        """The plan itself."""
        return read_memory_plan(self.plan)


def plan_at(plans: Sequence[PlanRecord], chunk: int) -> MemoryPlan | None:
    """The plan in force when a chunk is made; None: nobody chose one."""
    return next((each.held for each in reversed(plans) if each.chunk <= chunk), None)


def changed_from(
    plans: Sequence[PlanRecord], chunk: int, plan: MemoryPlan, why: Literal["vram", "memory"]
) -> tuple[PlanRecord, ...]:
    """The plans of a film that goes on under another one from `chunk` on."""
    return (
        *(each for each in plans if each.chunk < chunk),
        PlanRecord(chunk=chunk, plan=plan.written, why=why),
    )


def check_plans(plans: Sequence[PlanRecord], source: str) -> tuple[PlanRecord, ...]:
    """The plans of a record, if a film can have had them.

    Raises:
        UsageMistake: their order, or a step from one to the next, that cannot be.
    """
    chunks = [each.chunk for each in plans]
    helds = [MemoryPlan(), *(each.held for each in plans)]
    wrong = chunks != sorted(set(chunks))
    for before, after, record in zip(helds, helds[1:], plans, strict=False):
        wrong = wrong or (record.chunk > 0 and not after.goes_on_from(before))
    if wrong:
        raise UsageMistake(
            f"{printable(shorten_path(source))}: the memory plans of its chunks are damaged. Film it anew from its "
            "prompts."
        )
    return tuple(plans)
