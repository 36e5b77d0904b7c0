"""Plans that spread a finished stream over devices, applied from outside; models hold no line of distributed code.

Add a plan: one file with a frozen dataclass that satisfies `ParallelPlan`, one line in the registry below. What takes a
stream's rows through the layers is its `runner` (models/transformer.py): a plan puts its own there.
"""

from typing import Protocol, TypeVar

from parallel.single import Single

S = TypeVar("S")


class ParallelPlan(Protocol):
    """Takes a stream, replaces in it what has to be replaced, and gives it back."""

    def apply(self, stream: S) -> S: ...


PARALLEL_PLANS: dict[str, type[ParallelPlan]] = {"single": Single}
