"""Mutated files by the thousand: whatever a file holds, a person gets one sentence, and soon.

Each case damages a good file as editors, disks and strangers do; the good ones and what reads them lie beside this, in
fuzz_scripts.py, fuzz_configs.py, fuzz_live.py and fuzz_records.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import Benchmark, Run
from benchmarks.robust.mutation import run

if TYPE_CHECKING:
    from rich.table import Table


def measure(*, count: int) -> dict[str, Any]:
    """`count` mutated scripts, and as many configs, messages to the live server, files dropped on its page, and records
    of films.

    "passed" if nothing but one-line refusals came of them.
    """
    from benchmarks.robust.fuzz_configs import CONFIGS  # all of the edge, which takes seconds
    from benchmarks.robust.fuzz_live import WIRE, drops
    from benchmarks.robust.fuzz_records import alter, records
    from benchmarks.robust.fuzz_scripts import SCRIPTS

    rows = [row for targets in (SCRIPTS, CONFIGS, WIRE, drops()) for row in run(count, targets=targets)]
    with records() as targets:
        rows += run(count, targets=targets, damage=alter)
    return {
        "benchmark": "fuzz",
        "scripts": count,
        "configs": count,
        "messages": count,
        "dropped": count,
        "records": count,
        "rows": rows,
        "passed": not any(row["other_exceptions"] for row in rows),
    }


def table(result: dict[str, Any]) -> Table:
    """Lay the rows out for a person."""
    from rich.table import Table

    shown = Table("file", "accepted", "refused", "other exceptions", "slowest", title="mutated files")
    for row in result["rows"]:
        numbers = (row["accepted"], row["refused"], row["other_exceptions"])
        shown.add_row(row["file"], *(str(number) for number in numbers), f"{row['slowest_s']:.2f} s")
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzz(Benchmark):
    """Mutated scripts, configs, messages, drops and records by the thousand: one sentence for each, and soon."""

    repeats: Annotated[int, typer.Option("--repeats", min=1, max=10**6, help="Mutated files of each kind.")] = 10_000
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(count=self.repeats)
