"""What several ranks gain: films of one process and of several take turns, messages are counted, more is predicted.

On a machine that is not quiet wall times of two films say little; those of two that take turns, chunk for chunk, can
be divided by each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import EngineBenchmark, Run
from parallel import read_plan
from parallel.prediction import PREDICTED, Machine, Work, speedups
from pipelines.cost import frame_tokens, latent_size
from pipelines.presets.cascaded import cascaded, depth_of
from schedulers.buffer import MovingBuffer
from schedulers.cascade import Cascade, passes_left
from weights.catalog import RELEASED_SIZE, WAN_1_3B, WAN_14B

if TYPE_CHECKING:
    from rich.table import Table

PROMPT = "a red ball bounces over the sea"
NVLINK = 450e9
"""Bytes a second, one way, between two H200 (NVIDIA's data sheet of HGX H200: 900 GB/s both ways)."""
NVLINK_LATENCY = 20e-6
"""Seconds of a small NCCL message between two devices of a board, taken for granted and not measured here."""
H200_FLOPS, H200_SHARE = 989e12, 0.4
"""bf16 without sparsity (NVIDIA's data sheet), and the share of it that a pass is taken to reach."""
RANKS = (1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread(EngineBenchmark):
    """How much faster a film is on several ranks, measured here and predicted for more."""

    plan: Annotated[
        str, typer.Option("--plan", metavar="PLAN=N", help="As --parallel of render: levels=2, ulysses=2.")
    ] = "levels=2"
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, max=24, help="Latent frames of a chunk, in a window of four chunks."),
    ] = None
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Turns of each film.")] = 8
    chunks: Annotated[int, typer.Option("--chunks", min=1, max=1000, help="Chunks of a turn.")] = 6

    def measure(self, run: Run) -> dict[str, Any]:
        """Let the films take turns; one thread a rank unless --threads says otherwise."""
        from app.loading.model import load_model
        from pipelines.build import build_stream
        from pipelines.presets.knobs import apply_knobs
        from pipelines.types import Controls

        name, count = read_plan(self.plan)
        request = replace(self.engine, threads=self.threads or 1)
        if name == "cascade":  # both films are made so
            request = replace(request, preset=cascaded(request.preset, max(depth_of(request.preset), count or 1)))
        if self.frames is not None:
            knobs = {"num_frame_per_block": self.frames, "local_attn_size": 4 * self.frames}
            request = replace(request, preset=apply_knobs(request.preset, knobs))
        run.report(f"loading: one process, and {self.plan}")
        spread = load_model(replace(request, parallel=self.plan))
        one = load_model(request)
        assert spread.ranks is not None  # it was asked for
        ranks: Any = spread.ranks
        made = {"untrained": self.untrained, "seed": 1}
        films = {
            "one": build_stream(request.preset, one.components, **made),
            self.plan: build_stream(
                request.preset, spread.components, **made, make=lambda *a, **k: ranks.stream(spread.components, *a, **k)
            ),
        }
        controls, spent = Controls(PROMPT), {film: list[float]() for film in films}
        lanes = films["one"].engine.policies.plan.lanes
        for stream in films.values():
            for _ in range(films["one"].engine.policies.cache.capacity + lanes):  # until every memory is full
                stream.next_chunk(controls)
        link = ranks.link
        sent = (dict(link.messages), dict(link.bytes)) if link is not None else ({}, {})
        busy = {film: [0.0] * (1 + len(ranks.processes)) for film in films}
        for number in range(self.rounds):
            for film, stream in films.items():
                begun, before = time.perf_counter(), _processor_seconds(ranks.processes)
                for _ in range(self.chunks):
                    stream.next_chunk(controls)
                spent[film].append((time.perf_counter() - begun) / self.chunks)
                for rank, seconds in enumerate(_processor_seconds(ranks.processes)):
                    busy[film][rank] += (seconds - before[rank]) / (self.chunks * self.rounds)
            run.report(f"turn {number + 1} of {self.rounds}: {spent['one'][-1]:.3f} s, {spent[self.plan][-1]:.3f} s")
        chunks = self.rounds * self.chunks
        counted = (
            {
                kind: {
                    "messages": (link.messages[kind] - sent[0].get(kind, 0)) / chunks,
                    "bytes": (link.bytes[kind] - sent[1].get(kind, 0)) / chunks,
                }
                for kind in sorted(link.bytes)
            }
            if link is not None
            else {}
        )
        ratios = [a / b for a, b in zip(spent["one"], spent[self.plan], strict=True)]
        costs = ranks.costs
        work = work_of(films["one"])
        here = Machine(costs.row, costs.beside, 1e9, 1e-4)
        return {
            "benchmark": "parallel",
            "preset": request.preset.name,
            "plan": self.plan,
            "threads": spread.threads,
            "seconds": {film: {"best": min(each), "median": median(each)} for film, each in spent.items()},
            "ratio": {"of_best": min(spent["one"]) / min(spent[self.plan]), "median_of_turns": median(ratios)},
            "processor_seconds": busy,
            "ratio_of_processor_seconds": busy["one"][0] / max(busy[self.plan]),
            "idle_share": 1 - sum(busy[self.plan]) / len(busy[self.plan]) / median(spent[self.plan]),
            "sent_by_rank_0_a_chunk": counted,
            "row_seconds": costs.row,
            "decode_seconds": costs.beside,
            "predicted_here": {plan: speedups(work, here, plan, (1, 2)) for plan in PREDICTED},
            "predicted_h200": h200(),
            "ranks": count,
            "name": name,
        }

    @staticmethod
    def table(result: dict[str, Any]) -> Table:
        """Lay the numbers out for a person."""
        from rich.table import Table

        rows = Table("", "measured (by processor time)", *(f"x{count}" for count in RANKS[1:]), title=_title(result))
        for plan, sizes in result["predicted_h200"].items():
            ratios = result["ratio"]["median_of_turns"], result["ratio_of_processor_seconds"]
            measured = "{:.2f} ({:.2f})".format(*ratios) if plan == result["name"] else ""
            for model, curve in sizes.items():
                rows.add_row(
                    f"{plan}, {model}", measured, *("-" if each is None else f"{each:.1f}" for each in curve[1:])
                )
        return rows


def _title(result: dict[str, Any]) -> str:
    sent = ", ".join(
        f"{each['messages']:.1f} x {kind} ({each['bytes'] / 1e3:.1f} kB)"
        for kind, each in result["sent_by_rank_0_a_chunk"].items()
    )
    return (
        f"{result['preset']}, {result['plan']}, {result['threads']} thread a rank; rank 0 sends a chunk: {sent}. "
        "x2 to x8: predicted for as many H200, not measured"
    )


def _processor_seconds(others: Sequence[int]) -> list[float]:
    """Of this process and of others on this machine, so far."""
    import psutil

    times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *others)]
    return [each.user + each.system for each in times]


def work_of(stream: Any) -> Work:
    """What a chunk of a stream takes."""
    policies, config = stream.engine.policies, stream.engine.transformer.config
    batch, _, channels, height, width = stream.state.latents.ring.shape
    rows, columns = stream.engine.transformer.grid(height, width)
    size, width_of_layer = (
        stream.state.latents.ring.itemsize,
        config["num_attention_heads"] * config["attention_head_dim"],
    )
    plan = policies.plan
    window = isinstance(plan, MovingBuffer)
    clean = plan.lanes == 1 and not window
    return Work(
        rows=plan.micro_steps if window else len(plan.levels) + clean,
        depth=plan.depth if isinstance(plan, Cascade) else 0,
        left=plan.left if isinstance(plan, Cascade) else 0.0,
        together=plan.lanes,
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        latents=batch * plan.chunk * channels * height * width * size,
        hidden=batch * plan.width * rows * columns * width_of_layer * size,
        frames=plan.width if window else 1,
        whole=plan.chunk / plan.width if window and plan.memory == "clean" else 0.0,
    )


def h200() -> dict[str, dict[str, list[float | None]]]:
    """Predicted speed-ups on 1 to 8 H200 at 480p, from counted operations: nothing of it was measured."""
    out: dict[str, dict[str, list[float | None]]] = {}
    for plan in PREDICTED:
        out[plan] = {}
        for model, config in {"1.3B": WAN_1_3B, "14B": WAN_14B}.items():
            heads, depth, ffn = config["num_attention_heads"], config["num_layers"], config["ffn_dim"]
            width, size = heads * config["attention_head_dim"], latent_size(config, *RELEASED_SIZE)
            shape = {
                "levels": (1, 8, 6),
                "layers": (1, 8, 6),
                "clips": (15, 1, 36),
            }  # a row's frames, rows, frames seen
            frames, levels, seen = shape.get(plan, (3, 5, 12))
            batch, window = plan in ("levels", "layers"), plan == "clips"
            chunk = 3 if window else frames
            of_frame = frame_tokens(config, size)
            tokens, keys = of_frame * frames, of_frame * seen
            token = 4 * width**2 + 2 * width**2 + 2 * width * ffn + 2 * (keys + config.get("text_len", 512)) * width
            row = 2 * tokens * depth * token / (H200_FLOPS * H200_SHARE)
            latents, hidden = config["in_channels"] * prod(size) * 2 * frames, tokens * width * 2
            whole = chunk / frames if window else 0.0
            work = Work(levels, levels if batch else 1, depth, heads, latents, hidden, frames if window else 1, whole)
            machine = Machine(row, 0.004 * chunk, NVLINK, NVLINK_LATENCY)
            if plan == "cascade":  # for each number of ranks a film of its own, as deep as they are many
                films = {count: replace(work, depth=count, left=passes_left(levels, count)) for count in RANKS[:levels]}
                found = [speedups(film, machine, plan, (count,))[0] for count, film in films.items()]
                out[plan][model] = [*found, *[None] * (len(RANKS) - len(found))]
                continue
            out[plan][model] = speedups(work, machine, plan, RANKS)
    return out
