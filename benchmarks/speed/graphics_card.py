"""The benchmark of a graphics card: released architectures under every preset, in parts that go on from call to call.

An hour of a card comes in pieces: each call measures what is not measured yet until its time is spent, keeps every
figure as soon as it has it, and the same command goes on. What a part measures is in random_model.py: real layers and
sizes, random weights, chunks that run freely and chunks with every hop waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.config.lengths import parse_length
from app.config.readers import choose
from app.errors import UsageMistake, shorten
from benchmarks.benchmark import Benchmark, Run
from benchmarks.speed.cost import MODEL, Architecture
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs

if TYPE_CHECKING:
    from rich.table import Table

_FIRST = ("longlive", "self-forcing")
"""What most people run; their parts come before the others of a kind."""
PUBLISHED: dict[str, str] = {
    "longlive": "20.7 fps on an H100 (its README); a user: 14.1 end to end (LongLive issue 103, the successor)",
    "self-forcing": "17 fps on an H100 (Huang et al. 2025, arXiv 2506.08009)",
    "rolling-forcing": "16 fps on one GPU (its README)",
}
"""What the originals say of themselves, on their own cards and with their own weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """One measurement.

    Attributes:
        preset: streaming system.
        mode: eager or compiled.
        decoder: full, Wan's own autoencoder, or tiny.
        weights: of the layers, in the type that computes ("full") or in fp8 and widened for use.
        window: latent frames seen; None as the preset has it.
    """

    preset: str
    mode: str = "eager"
    decoder: str = "full"
    weights: str = "full"
    window: int | None = None

    @property
    def name(self) -> str:
        """What it is, for people and for the file."""
        window = "" if self.window is None else f", window {self.window}"
        decoder = "" if self.decoder == "full" else f", {self.decoder} autoencoder"
        return f"{self.preset}, {self.mode}{decoder}{', fp8 weights' if self.weights == 'fp8' else ''}{window}"


def parts() -> Iterator[Part]:
    """All of them, the most telling first."""
    presets = [
        *_FIRST,
        *(name for name, preset in PRESETS.items() if name not in _FIRST and preset.model != "embedded"),
    ]
    yield from (Part(preset) for preset in presets)
    yield from (Part(preset, decoder="tiny") for preset in _FIRST)
    yield from (Part(preset, "compiled") for preset in presets)
    yield from (Part(preset, "compiled", decoder="tiny") for preset in _FIRST)
    yield from (Part(preset, weights="fp8") for preset in _FIRST)
    yield Part("longlive", window=21)  # which has 12, and self-forcing 21: both see both
    yield Part("self-forcing", window=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphicsCard(Benchmark):
    """What a graphics card makes of the released architectures: every preset, in parts; the same command goes on."""

    model: Architecture = MODEL
    budget: Annotated[str, typer.Option("--budget", metavar="TIME", help="Begin no part after so long.")] = "8m"
    device: Annotated[str, typer.Option("--device", help="cuda; cpu tries it all at a small size, of no worth.")] = (
        "cuda"
    )

    @property
    def partial(self) -> bool:
        """Figures of a processor are none of a card."""
        return self.device != "cuda"

    def measure(self, run: Run) -> dict[str, Any]:
        """Measure parts until the budget is spent."""
        import torch

        length, device = parse_length(self.budget), choose(self.device, ("cuda", "cpu"), "device")
        if length.unit != "s":
            raise UsageMistake(f"--budget is a time: {shorten(self.budget, 40)}. Write it like 8m or 90s.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageMistake(
                "There is no CUDA card here. rivulet bench cost counts what one would do; --device cpu tries it all."
            )
        from benchmarks.speed.random_model import measure

        card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        result = run.known() or {}
        cards: dict[str, Any] = result.get("cards", {})
        about = {"torch": torch.__version__, "model": self.model}
        mine = cards.get(card, {})
        if mine.get("about") != about:  # figures of two builds do not stand in one table
            mine = {"about": about, "parts": {}}
        result = {"benchmark": "gpu", "cards": {**cards, card: mine}}
        begun = time.monotonic()
        for part in parts():
            if part.name in mine["parts"]:
                continue
            if time.monotonic() - begun > length.amount:
                break
            preset = PRESETS[part.preset]
            if part.window is not None:
                preset = apply_knobs(preset, {"local_attn_size": part.window})
            found = measure(
                {part.preset: preset},
                model=self.model,
                device=device,
                modes=(part.mode,),
                decoder=part.decoder,
                weights=part.weights,
                report=lambda line, part=part: run.report(part.name),
            )
            (row,) = found.pop("presets")
            mine["parts"][part.name] = asdict(part) | row
            mine["run"] = found
            run.keep(result)
        left = [part.name for part in parts() if part.name not in mine["parts"]]
        if left:
            run.report(f"{len(left)} parts are left; the same command goes on with {left[0]}.")
        return result | {"card": card, "left": left}

    @staticmethod
    def table(result: dict[str, Any]) -> Table:
        """Lay the numbers out for a person."""
        from rich.table import Table

        mine = result["cards"][result["card"]]
        told = mine.get("run", {})
        small = f"\n{told['scaled_down'].upper()}" if told.get("scaled_down") else ""
        left = f"; {len(result['left'])} parts are left" if result["left"] else ""
        title = f"{mine['about']['model']} with random weights on {result['card']}{left}{small}"
        shown = Table(title=title, box=None, padding=(0, 1, 0, 0))
        for heading in ("part", "fps", "denoise", "ms", "remember", "decode", "peak", "GiB"):
            shown.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
        for name, row in mine["parts"].items():
            if "left_out" in row:
                shown.add_row(name, row["left_out"])
                continue
            hops = row["hops_s"]
            shown.add_row(
                name,
                f"{row['fps_end_to_end']:.1f}",
                f"{row['fps_denoise']:.1f}",
                *(f"{1000 * seconds:.0f}" for seconds in (row["chunk_s"], hops["remember"], hops["decode"])),
                f"{row['share_of_peak']:.0%}",
                f"{row['peak_bytes'] / 2**30:.1f}",
            )
        shown.caption = "\n".join(f"{name}, as published: {said}" for name, said in PUBLISHED.items())
        return shown
