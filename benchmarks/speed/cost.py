"""What a chunk costs under each preset, as pipelines/cost.py counts it: a table, and the forwards as a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.config.readers import choose
from app.config.table import READERS
from benchmarks.benchmark import Benchmark, EveryPreset, Run
from pipelines.cost import (
    Forward,
    Steady,
    chunk_flops,
    forward_flops,
    frame_bytes,
    frame_tokens,
    kv_bytes,
    latent_size,
    steady,
    token_grid,
)
from pipelines.presets import PRESETS, Preset
from weights.catalog import MODELS, RELEASED_FPS, RELEASED_SIZE

if TYPE_CHECKING:
    from rich.table import Table

MODEL = "wan-1.3b"
"""Whose architecture is counted unless another is asked for: of every system here but one."""


def architecture(model: str) -> Mapping[str, Any]:
    """The transformer's config of a model of the catalogue; ValueError if only its weights know it."""
    known = {name: spec.config for name, spec in MODELS.items() if spec.config}
    if model not in known:
        raise ValueError(
            f"cost is counted for the released architectures, and {model!r} is none: choose one of "
            f"{', '.join(known)}, or run rivulet bench stream --model {model}"
        )
    return known[model]


def measure(model: str = MODEL, presets: Mapping[str, Preset] = PRESETS) -> dict[str, Any]:
    """Count a chunk of every preset on one architecture at the released size."""
    config = architecture(model)
    size = latent_size(config, *RELEASED_SIZE)
    tokens = frame_tokens(config, size)
    rows: list[dict[str, Any]] = []
    for name, preset in presets.items():
        cost = steady(preset)
        rows.append(
            {
                "preset": name,
                "forwards": formula(cost),
                "keys": cost.keys,
                "flops": chunk_flops(config, tokens, cost),
                "flops_a_second": chunk_flops(config, tokens, cost) * RELEASED_FPS / 4 / cost.chunk,
                "switch_flops": sum(forward_flops(config, tokens, forward) for forward in cost.switch),
                "remembered_bytes": cost.slots * frame_bytes(config, tokens),
                "memory_bytes": kv_bytes(config, token_grid(config, size), cost),
                "warm_up_chunks": cost.warm_up,
            }
        )
    return {"benchmark": "cost", "model": model, "size": list(RELEASED_SIZE), "tokens": tokens, "presets": rows}


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    height, width = result["size"]
    rows = Table(
        title=f"counted, not measured: {result['model']} at {height}x{width}, {result['tokens']} tokens a frame",
        caption="TFLOP: of a chunk, of a second of film, of what a new prompt adds. GiB: allocated for keys and values "
        "in bfloat16; held: what they remember",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for heading in ("preset", "forwards of a chunk", "chunk", "second", "prompt", "keys", "GiB", "held"):
        words = heading in ("preset", "forwards of a chunk")
        rows.add_column(heading, justify="left" if words else "right", no_wrap=heading != "forwards of a chunk")
    for row in result["presets"]:
        rows.add_row(
            row["preset"],
            row["forwards"],
            f"{row['flops'] / 1e12:.0f}",
            f"{row['flops_a_second'] / 1e12:.0f}",
            f"+{row['switch_flops'] / 1e12:.0f}" if row["switch_flops"] else "-",
            f"{row['keys']:.1f}",
            f"{row['memory_bytes'] / 2**30:.2f}",
            f"{row['remembered_bytes'] / 2**30:.2f}",
        )
    return rows


def formula(cost: Steady) -> str:
    """The forwards of a chunk, as in "(4 + 1 clean) × (3 q, 12 k)"; chunks of a cycle behind a bar."""
    return " | ".join(_forwards(chunk) for chunk in cost.cycle)


def _forwards(chunk: Sequence[Forward]) -> str:
    parts: list[str] = []
    for (queries, keys), run in groupby(chunk, key=lambda forward: (forward.queries, forward.keys)):
        counts: dict[str, int] = {}
        for forward in run:
            counts[forward.kind] = counts.get(forward.kind, 0) + forward.times
        said = " + ".join(f"{count}" + (f" {kind}" if kind != "denoise" else "") for kind, count in counts.items())
        parts.append(f"{f'({said})' if '+' in said else said} × ({queries} q, {keys} k)")
    return " + ".join(parts)


def chosen_presets(name: str | None) -> dict[str, Preset]:
    """The preset of that name alone, or every one.

    Raises:
        UsageMistake: there is none.
    """
    return PRESETS if name is None else {name: PRESETS[choose(name, list(PRESETS), "preset")]}


Architecture = Annotated[str, typer.Option("--model", help="Whose architecture.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Benchmark):
    """What a chunk costs under each preset, counted: multiplications, frames attended to, bytes remembered.

    Counted for the released architectures at 480x832; `rivulet bench random_weights` times them.
    """

    preset: EveryPreset = None
    model: Architecture = MODEL
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        """One preset is not the table."""
        return self.preset is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(READERS["model"]("--model", self.model), chosen_presets(self.preset))
