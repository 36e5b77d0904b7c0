"""How long a person waits for the command line itself: help, lists and refusals must not pay for torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import Benchmark, Run

if TYPE_CHECKING:
    from rich.table import Table

COMMANDS: dict[str, tuple[str, ...]] = {
    "rivulet --help": ("--help",),
    "rivulet render --help": ("render", "--help"),
    "rivulet presets --help": ("presets", "--help"),
    "rivulet bench --help": ("bench", "--help"),
    "rivulet presets": ("presets",),
    "rivulet render --seeed 1": ("render", "--seeed", "1"),
}


def measure(*, repeats: int) -> dict[str, Any]:
    """Run every command `repeats` times in a process of its own and return the median seconds of each."""
    root = Path(__file__).resolve().parents[2]
    times: dict[str, float] = {}
    for name, arguments in COMMANDS.items():
        spent: list[float] = []
        for _ in range(repeats):
            start = perf_counter()
            subprocess.run([sys.executable, "-m", "app", *arguments], cwd=root, capture_output=True, check=False)
            spent.append(perf_counter() - start)
        times[name] = median(spent)
    return {"benchmark": "startup", "repeats": repeats, "seconds": times}


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    rows = Table("command", "seconds", title=f"median of {result['repeats']} processes each")
    for name, seconds in result["seconds"].items():
        rows.add_row(name, f"{seconds:.2f}")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup(Benchmark):
    """How long the command line takes for help, lists and refusals."""

    repeats: Annotated[int, typer.Option("--repeats", min=1, max=10**6, help="Runs of each command.")] = 5
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(repeats=self.repeats)
