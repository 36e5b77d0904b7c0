"""How fast a released architecture would run here: real layers and sizes, random weights, nothing to download.

Speed does not depend on what the weights say. On CUDA every preset runs at 480x832, eager and compiled; a CPU
gets a scaled-down model, so that all of it can be tried, and says so in everything it prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from rich.table import Table
from torch import Tensor

from app.loading.model import resident_bytes
from benchmarks.speed.cost import architecture
from cache.kv import KVStore
from cache.types import Pass, Row
from models.autoencoder import Autoencoder
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines.build import make_policies
from pipelines.components import choose_device
from pipelines.conditioning import Conditioner
from pipelines.cost import Steady, chunk_flops, frame_tokens, latent_size, steady
from pipelines.engine import Engine
from pipelines.fit import hold
from pipelines.memory_plan import MemoryPlan
from pipelines.peak import matmul_peak, synchronise
from pipelines.presets import Preset
from pipelines.streaming import Stream
from pipelines.types import Controls
from weights.catalog import RELEASED_FPS, RELEASED_SIZE

HOPS = ("conditioning", "plan", "denoise", "remember", "decode")
MODES = ("eager", "compiled")
FEWEST = 3
"""Chunks measured, in whole cycles of a preset, for each figure."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is built: pixels, layers (None: all), width of the autoencoder; `label` says what is smaller than real."""

    size: tuple[int, int]
    layers: int | None
    decoder_width: int
    label: str | None


FULL = Scale(RELEASED_SIZE, None, 96, None)
SMALL = Scale((32, 64), 1, 8, "scaled down: 1 layer, 32x64 pictures, a narrow autoencoder; no figure of the real model")


class OutOfTimeError(Exception):
    """The budget is spent."""


class Deadline:
    """Time that all measurements share."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else perf_counter() + seconds

    def check(self) -> None:
        """Raise OutOfTimeError when the budget is spent."""
        if self._end is not None and perf_counter() > self._end:
            raise OutOfTimeError


def measure(
    presets: Mapping[str, Preset],
    *,
    model: str = "wan-1.3b",
    device: str = "auto",
    budget: float | None = None,
    modes: Sequence[str] = MODES,
    backend: str = "inductor",
    scale: Scale | None = None,
    decoder: str = "full",
    weights: str = "full",
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Run every preset on random weights; times in seconds, memory in bytes.

    Args:
        presets: by name.
        model: of the catalogue, for its architecture.
        device: auto, cpu or cuda.
        budget: seconds for everything; what does not fit is left out and named. None = as long as it takes.
        modes: eager, compiled or both, in this order for all presets.
        backend: of torch.compile.
        scale: what to build; the real size on CUDA, a small one on a CPU.
        decoder: full, Wan's own autoencoder, or tiny.
        weights: of the layers, in the type that computes ("full"), or in fp8 and widened for use.
        report: told before each measurement.
    """
    deadline = Deadline(budget)
    config = dict(architecture(model))
    place, dtype = choose_device(device)
    scale = scale or (FULL if place == "cuda" else SMALL)
    config |= {"text_len": 512} | ({} if scale.layers is None else {"num_layers": scale.layers})
    size = latent_size(config, *scale.size)
    with torch.random.fork_rng(devices=[place] if place == "cuda" else []):
        torch.manual_seed(0)
        transformer = _transformer(config, place, dtype)
        autoencoder = _autoencoder(config, scale, place, dtype, decoder)
    if weights == "fp8":
        hold(transformer, MemoryPlan(weights="fp8"), place, dtype)
    peak = matmul_peak(place, dtype)
    words = Conditioner(_Words(config["text_len"], config["text_dim"]))
    rows: list[dict[str, Any]] = []
    for mode in modes:
        if mode == "compiled":
            torch.compiler.reset()
            transformer.compile_repeated_blocks(backend=backend)
        for name, preset in presets.items():
            report(f"{name}, {mode}")
            row: dict[str, Any] = {"preset": name, "mode": mode}
            try:
                engine = Engine(transformer, words, make_policies(preset), autoencoder, RELEASED_FPS)
                row |= _run(engine, steady(preset), size, config, peak, deadline)
            except OutOfTimeError:
                row["left_out"] = "the time budget was spent"
            except torch.OutOfMemoryError:
                row["left_out"] = "the device is out of memory"
            rows.append(row)
    return {
        "benchmark": "random_weights",
        "model": model,
        "random_weights": True,
        "scaled_down": scale.label,
        "size": list(scale.size),
        "layers": config["num_layers"],
        "device": torch.cuda.get_device_name() if place == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "matmul_peak_flops": peak,
        "film_fps": RELEASED_FPS,
        "budget_s": budget,
        "presets": rows,
    }


class _Stopwatch:
    """Waits for the device around forwards and after passes while it is on, so that each hop's time is its own."""

    def __init__(self, transformer: CausalWanTransformer3DModel, device: torch.device) -> None:
        self._device, self._begun = device, 0.0
        self.on, self.seconds = False, 0.0
        self._hooks = [
            transformer.register_forward_pre_hook(self._before),
            transformer.register_forward_hook(self._after),
        ]

    def observe(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        if self.on:
            synchronise(self._device)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, module: torch.nn.Module, arguments: object) -> None:
        if self.on:
            synchronise(self._device)
            self._begun = perf_counter()

    def _after(self, module: torch.nn.Module, arguments: object, flow: object) -> None:
        if self.on:
            synchronise(self._device)
            self.seconds += perf_counter() - self._begun


class _Words:
    """Any text as random numbers of the encoder's shape; its time is not part of a chunk's."""

    def __init__(self, length: int, width: int) -> None:
        self._embeds = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return self._embeds.expand(len(prompts), -1, -1)


def _transformer(config: Mapping[str, Any], device: str, dtype: torch.dtype) -> CausalWanTransformer3DModel:
    """Random weights where they are needed, in the precision that real ones are loaded in."""
    with torch.device(device):
        model = CausalWanTransformer3DModel(**config)
    kept = set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)


def _autoencoder(
    config: Mapping[str, Any], scale: Scale, device: str, dtype: torch.dtype, decoder: str
) -> Autoencoder | None:
    """That of Wan 2.1, or its tiny one; None for a model with another, whose chunks then end at their latents."""
    if config["in_channels"] != 16:
        return None
    if decoder == "tiny":
        with torch.device(device):
            tiny = AutoencoderTAEHV().eval().requires_grad_(False)
        for parameter in tiny.parameters():
            parameter.data = parameter.data.to(dtype)
        return tiny
    with torch.device(device):
        vae = AutoencoderKLWan(base_dim=scale.decoder_width).requires_grad_(False)
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    return WanVAEStream(vae)


def _run(
    engine: Engine,
    cost: Steady,
    size: tuple[int, int],
    config: Mapping[str, Any],
    peak: float,
    deadline: Deadline,
) -> dict[str, Any]:
    """One preset in one mode: warm up, then chunks that run freely, then chunks with every hop waited for."""
    deadline.check()
    device, _ = engine.transformer.expects
    assert isinstance(engine.transformer, CausalWanTransformer3DModel)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    watch = _Stopwatch(engine.transformer, device)
    stream = Stream(engine, height=size[0], width=size[1], observer=watch.observe)
    count = -(-FEWEST // len(cost.cycle)) * len(cost.cycle)
    decode = engine.autoencoder is not None

    def chunk(prompt: str = "another thing") -> tuple[float, dict[str, float]]:
        deadline.check()
        begun = perf_counter()
        made = stream.next_chunk(Controls(prompt), decode=decode)  # ends with its pixels, or latents, on the host
        return perf_counter() - begun, made.seconds

    try:
        begun = perf_counter()
        for _ in range(cost.warm_up):
            chunk("one thing")
        for _ in range(cost.warm_up + 1):  # what is steady counts from a new prompt on
            chunk()
        warm_up = perf_counter() - begun
        free = [chunk()[0] for _ in range(count)]
        watch.on = True
        timed: list[dict[str, float]] = []
        for _ in range(count):
            watch.seconds = 0.0
            _, seconds = chunk()
            timed.append(seconds | {"model": watch.seconds})
    finally:
        watch.remove()
    tokens = frame_tokens(config, size)
    flops = chunk_flops(config, tokens, cost)
    model = _mean(seconds["model"] for seconds in timed)
    pictures = engine.policies.plan.chunk * 4
    return {
        "chunk_s": _mean(free),
        "fps_end_to_end": pictures / _mean(free),
        "fps_denoise": pictures / _mean(sum(seconds.get(hop, 0.0) for hop in HOPS[:-1]) for seconds in timed),
        "model_s": model,
        "hops_s": {hop: _mean(seconds.get(hop, 0.0) for seconds in timed) for hop in HOPS},
        "warm_up_s": warm_up,
        "decoded": decode,
        "flops": flops,
        "share_of_peak": flops / model / peak,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes(),
    }


def _mean(values: Iterable[float]) -> float:
    """Of whole cycles, whose chunks differ."""
    listed = list(values)
    return sum(listed) / len(listed)


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    height, width = result["size"]
    title = (
        f"{result['model']} with random weights, {height}x{width}, {result['layers']} layers, {result['dtype']},\n"
        f"{result['device']}; a matrix product reaches {result['matmul_peak_flops'] / 1e12:.3g} TFLOP/s"
    )
    if result["scaled_down"]:
        title += f"\n{result['scaled_down'].upper()}"
    left_out = [row for row in result["presets"] if "left_out" in row]
    rows = Table(
        title=title,
        caption="\n".join(f"{row['preset']}, {row['mode']}: left out, {row['left_out']}" for row in left_out),
        box=None,
        padding=(0, 1, 0, 0),
    )
    for heading in ("preset", "mode", "ms", "fps", "shown", *HOPS[2:], "TFLOP", "peak", "GiB"):
        rows.add_column(heading, justify="left" if heading in ("preset", "mode") else "right", no_wrap=True)
    for row in result["presets"]:
        if "left_out" in row:
            continue
        rows.add_row(
            row["preset"],
            row["mode"],
            f"{row['chunk_s'] * 1e3:.0f}",
            f"{row['fps_denoise']:.1f}",
            f"{row['fps_end_to_end']:.1f}",
            *(f"{row['hops_s'][hop] * 1e3:.0f}" for hop in HOPS[2:]),
            f"{row['flops'] / 1e12:.3g}",
            f"{row['share_of_peak']:.0%}",
            f"{row['peak_bytes'] / 2**30:.1f}",
        )
    return rows
