"""How fast attention is with every kernel that works here, at the shapes of a film, and how far from exact.

A chunk of three latent frames sees a window of twelve, as in the presets of Wan 1.3B at 480x832, or in the embedded
model's. Kernels take turns, so that a machine that slows down slows all of them; what counts is the ratio to native.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DeviceName
from app.config.readers import DEVICES, choose
from app.loading.attention import BACKENDS
from benchmarks.benchmark import Benchmark, Run

if TYPE_CHECKING:
    import torch
    from rich.table import Table

SHAPES = {"wan-1.3b": (1560, 12, 128), "embedded": (36, 7, 32)}
"""Tokens of a latent frame (at 480x832 and 192x192), heads and their width, as in the models' configurations."""
PACKAGES = {"flash": "flash_attn", "flash3": "flash_attn_interface", "sage": "sageattention", "xformers": "xformers"}
"""What a kernel needs beside torch."""
FRAMES, WINDOW = 3, 12
WARM_UP = 2


def measure(device: str = "auto", *, shape: str | None = None, repeats: int = 20) -> dict[str, Any]:
    """Time one self-attention with each kernel, in turns."""
    import torch

    from pipelines.components import choose_device

    place, dtype = choose_device(device)
    shape = shape or ("wan-1.3b" if place == "cuda" else "embedded")
    tokens, heads, width = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    sizes = (FRAMES * tokens, WINDOW * tokens, WINDOW * tokens)
    query, key, value = (torch.randn(1, size, heads, width, generator=generator).to(place, dtype) for size in sizes)
    exact = _exact(query[:, :64], key, value)
    off: dict[str, float] = {}
    why: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    for name in BACKENDS:
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            why[name] = f"{PACKAGES[name]} is not installed"
            continue
        if place == "cpu" and name not in ("native", "math"):
            why[name] = "needs a card"
            continue
        try:
            found = _attend(name, query[:, :64], key, value)
            off[name] = float((found.double().cpu() - exact).abs().max())
            times[name] = []
        except Exception as error:  # of diffusers and of every kernel's package, each in its own way
            why[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    for turn in range(repeats + WARM_UP):
        for name, taken in times.items():
            begun = perf_counter()
            _attend(name, query, key, value)
            if place == "cuda":
                torch.cuda.synchronize()
            if turn >= WARM_UP:
                taken.append(perf_counter() - begun)
    native = median(times["native"])
    rows = [
        {
            "kernel": name,
            "seconds": median(times[name]) if name in times else None,
            "ratio": native / median(times[name]) if name in times else None,
            "off": off.get(name),
            "why": why.get(name, ""),
        }
        for name in BACKENDS
    ]
    return {
        "benchmark": "attention",
        "device": place,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "shape": shape,
        "queries": sizes[0],
        "keys": sizes[1],
        "heads": heads,
        "head_dim": width,
        "fastest": min(times, key=lambda name: median(times[name])),
        "kernels": rows,
    }


def _attend(name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    import torch
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        dispatch_attention_fn,  # pyright: ignore[reportUnknownVariableType]
    )

    with torch.inference_mode():
        return dispatch_attention_fn(query, key, value, backend=AttentionBackendName(BACKENDS[name]))


def _exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same by arithmetic in float64, on the CPU."""
    import torch

    q, k, v = (each.double().cpu() for each in (query, key, value))
    weights = torch.einsum("bqnd,bknd->bnqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bnqk,bknd->bqnd", weights, v)


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    title = (
        f"{result['device']}, {result['dtype']}: {result['queries']} queries, {result['keys']} keys, "
        f"{result['heads']} heads of {result['head_dim']}; fastest: --attention {result['fastest']}"
    )
    rows = Table("kernel", "ms", "of native", "largest error", title=title)
    for row in result["kernels"]:
        if row["seconds"] is None:
            rows.add_row(row["kernel"], "-", "-", row["why"])
        else:
            rows.add_row(row["kernel"], f"{1000 * row['seconds']:.2f}", f"{row['ratio']:.2f}x", f"{row['off']:.1e}")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernels(Benchmark):
    """How fast every attention kernel is that works here, beside torch's own."""

    device: DeviceName = "auto"
    shape: Annotated[
        str | None, typer.Option("--shape", help="wan-1.3b or embedded.", show_default="by the device")
    ] = None
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=1000, help="Turns of each.")] = 20
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        shape = None if self.shape is None else choose(self.shape, list(SHAPES), "shape", "--shape")
        return measure(choose(self.device, DEVICES, "device"), shape=shape, repeats=self.repeats)
