"""Replay of Rolling Forcing: the product's preset through the product's loop, with the original's habits around it.

The released system writes the memory after every pass of a film's beginning too, where the oldest chunk is not
finished (the next write replaces it: work without effect), ends a finite film by letting the window run empty, and
draws noise for the whole window once a chunk to use one chunk of it. A plan and a noise source here do as it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.rope import rotary_tables, rotate
from cache.types import Deps, Pass, Row, View
from cache.windows import RollingWindow
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine, Policies
from pipelines.presets import PRESETS, Preset
from pipelines.streaming import Stream
from pipelines.types import Controls
from schedulers.buffer import MovingBuffer
from schedulers.flow_match import to_x0
from schedulers.noise import Address, RecordedNoise
from tests.golden_models import load_transformer
from tests.golden_rollout import RecordedText
from tests.golden_trace import Ledger, NotSupportedError, Trace


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sidecar says of the run; lengths in latent frames."""

    chunk: int
    capacity: int
    visible: int
    sink: int
    shift: float
    steps: tuple[float, ...]
    warp: bool
    context_noise: float

    @classmethod
    def read(cls, sidecar: dict[str, Any]) -> Settings:
        args, attention = sidecar["args"], sidecar["attn"]
        tokens = attention["frame_length"]
        return cls(
            chunk=args["num_frame_per_block"],
            capacity=sidecar["kv_cache_tokens"] // sidecar["frame_seqlen"],
            visible=attention["max_attention_size"] // tokens,
            sink=attention["block_length"] // tokens,
            shift=args.get("model_kwargs", {}).get("timestep_shift", 8.0),  # the original's own default
            steps=tuple(args["denoising_step_list"]),
            warp=bool(args.get("warp_denoising_step", False)),
            context_noise=float(args.get("context_noise", 0)),
        )

    def preset(self) -> Preset:
        """The product's preset with this run's numbers."""
        preset = PRESETS["rolling-forcing"]
        recipe = replace(
            preset.schedule,
            denoising_step_list=self.steps,
            shift=self.shift,
            warp=self.warp,
            clean_level=self.context_noise,
        )
        return replace(
            preset,
            schedule=recipe,
            cache=SinkWindow(window=self.capacity, sink=self.sink, counts="commit"),
            window=RollingWindow(visible=self.visible, sink=self.sink),
            chunk=self.chunk,
        )

    def check(self, sidecar: dict[str, Any], frames: int, given: Tensor | None) -> None:
        """Raise NotSupportedError for runs whose rules were never recorded."""
        if given is not None or sidecar["args"].get("independent_first_frame"):
            raise NotSupportedError("Rolling Forcing that begins with given frames or a shorter first block")
        if self.chunk != self.sink:
            raise NotSupportedError(f"blocks of {self.chunk} where every call stores its first {self.sink} frames")
        if frames % self.chunk or frames // self.chunk < len(self.steps):
            raise NotSupportedError(
                f"a film of {frames} frames that does not fill a window of {len(self.steps)} blocks"
            )
        if any(call["prompt"] for call in sidecar["calls"]):
            raise NotSupportedError("Rolling Forcing under several prompts")


@dataclass(frozen=True, slots=True)
class Released:
    """A moving buffer of a film of `frames` latent frames: it runs empty at the end, and every pass is written."""

    buffer: MovingBuffer
    frames: int

    @property
    def needs(self) -> frozenset[Deps]:
        return self.buffer.needs

    @property
    def chunk(self) -> int:
        return self.buffer.chunk

    @property
    def lanes(self) -> int:
        return self.buffer.lanes

    @property
    def width(self) -> int:
        return self.buffer.width

    def passes(self, view: View) -> Sequence[Pass]:
        *windows, clean = self.buffer.passes(view)
        return [each for window in windows for each in (self._within_the_film(window), clean)]

    def _within_the_film(self, work: Pass) -> Pass:
        (row,) = work.rows
        count = min(len(row.frames), self.frames - row.frames.start)
        short = replace(row, frames=row.frames[:count], levels=row.levels[:count], to=row.to[:count])
        return replace(work, rows=(short,))


class WindowNoise:
    """Recorded draws, each of the whole window's shape and for one chunk of it; a chunk that ends gets none."""

    def __init__(self, recorded: RecordedNoise, chunk: int) -> None:
        self._recorded, self._chunk = recorded, chunk

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        if addresses[0].purpose == "initial":
            return self._recorded.frames(addresses, shape)
        out = torch.zeros(shape[0], len(addresses), *shape[1:])
        for first in range(0, len(addresses), self._chunk):
            part = slice(first, first + self._chunk)
            if addresses[first].level:
                out[:, part] = self._recorded.frames(addresses, shape)[:, part]
        return out


class _Ring:
    """Which latent frame stands in which slot of the original's cache: each call stores its first frames."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.slots: list[int] = []

    def follow(self, start: int) -> None:
        new = range(start, start + self._settings.sink)
        if new[0] in self.slots:
            return
        excess = max(0, len(self.slots) + len(new) - self._settings.capacity)
        del self.slots[self._settings.sink : self._settings.sink + excess]
        self.slots += new


class _Witness:
    """The observer: compares each pass with the recorded call."""

    def __init__(
        self, trace: Trace, ledger: Ledger, settings: Settings, policies: Policies, noise: RecordedNoise
    ) -> None:
        self._trace, self._ledger, self._settings, self._noise = trace, ledger, settings, noise
        self._schedule = policies.schedule
        self._calls: list[dict[str, Any]] = trace.sidecar["calls"]
        self._drawn = _draws_until_next_call(trace.sidecar["events"])
        self._ring = _Ring(settings)
        self._newest = 0
        self.passes = 0
        self.film: list[Tensor] = []

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        number = self.passes
        self.passes += 1
        if number >= len(self._calls):
            return  # counted at the end
        call, label, same = self._calls[number], f"call {number}", self._ledger.same
        tokens = self._trace.sidecar["frame_seqlen"]
        same(f"{label} number", number, call["call"])
        same(f"{label} kind", {"denoise": "denoise", "clean": "cache"}[work.kind], call["kind"])
        same(f"{label} writes", bool(row.commit), call.get("updating_cache", False))
        same(f"{label} prompt", row.text - 1, call["prompt"])
        same(f"{label} start", row.frames.start * tokens, call["current_start"])
        same(f"{label} frames", len(row.frames), call["num_frames"])
        same(f"{label} draws so far", self._noise.used, self._drawn[number])

        if x0 is None:
            sigma = torch.tensor([[self._schedule.sigma(level) for level in row.levels]])
            x0 = to_x0(x, flow, sigma)
        for name, ours in (("x", x), ("flow", flow), ("x0", x0)):
            if f"call.{number:03}.{name}" in self._trace:
                self._ledger.close(f"call.{number:03}.{name}", ours)
        times = torch.tensor([row.levels])
        same(f"{label} timesteps", all(torch.equal(torch.tensor([t]), times) for t in call["timestep"]), True)
        if f"call.{number:03}.t" in self._trace:
            self._ledger.close(f"call.{number:03}.t", times.expand(x.shape[0], -1), atol=0.0)

        self._counters(f"{label} before", call["before"])
        self._ring.follow(row.frames.start)
        self._newest = max(self._newest, row.frames.start + self._settings.sink)
        self._counters(f"{label} after", call["after"])
        self.memory(f"kv.call{number:03}.", store)
        if row.emit:
            self.film.append(x0[:, : len(row.emit)])

    def _counters(self, label: str, recorded: dict[str, Any]) -> None:
        tokens = self._trace.sidecar["frame_seqlen"]
        self._ledger.same(f"{label}: frames seen", [self._newest * tokens], recorded["global_end_index"])
        self._ledger.same(f"{label}: frames kept", [len(self._ring.slots) * tokens], recorded["local_end_index"])

    def memory(self, prefix: str, store: KVStore) -> None:
        """Keys and values in the original's slot order: block 0 raw, later ones rotated at their frames."""
        s, slots = store.shape, self._ring.slots
        for layer in range(s.layers):
            if f"{prefix}{layer}.k" not in self._trace:
                continue
            frames, keys, values = store.logical(layer)
            where = [frames.index(frame) for frame in slots]
            raw = keys[:, where].flatten(1, 2)
            tables = rotary_tables(slots, s.rows, s.columns, s.head_dim, dtype=torch.float64)
            turned = rotate(raw.double(), *tables).float()
            sink = slice(0, self._settings.sink * s.tokens)
            turned[:, sink] = raw[:, sink]
            valid = (slice(None), slice(0, len(slots) * s.tokens))
            self._ledger.close(f"{prefix}{layer}.k", turned, index=valid)
            self._ledger.close(f"{prefix}{layer}.v", values[:, where].flatten(1, 2), index=valid)

    def finish(self, stream: Stream) -> None:
        """The film, the memory it leaves behind, and that nothing was left over."""
        self._ledger.same("calls", self.passes, len(self._calls))
        self._ledger.same("draws left", self._noise.left, 0)
        store = stream.state.kv[0]
        self._ledger.same("frames in memory", [slot.frame for slot in store.entries], self._ring.slots)
        self.memory("kv.final.", store)
        self._counters("the end", self._trace.sidecar["final_index"])
        self._ledger.close("out.latents", torch.cat(self.film, dim=1))


def _draws_until_next_call(events: list[dict[str, Any]]) -> list[int]:
    """For each call, how many draws came before the next one."""
    counts: list[int] = []
    for event in events:
        if "call" in event:
            counts.append(counts[-1] if counts else 0)
        elif "randn" in event:
            counts[-1] += 1
    return counts


@torch.no_grad()
def replay(trace: Trace, ledger: Ledger) -> None:
    settings = Settings.read(trace.sidecar)
    noise, prompts = trace["in.noise"], trace.numbered("in.prompt.")
    batch, frames, _, height, width = noise.shape
    settings.check(trace.sidecar, frames, trace.tensors.get("in.initial_latent"))
    policies = make_policies(settings.preset())
    buffer = policies.plan
    assert isinstance(buffer, MovingBuffer)
    ledger.exact("sched.denoising_step_list", torch.tensor(buffer.levels).to(trace["sched.denoising_step_list"].dtype))

    model: CausalWanTransformer3DModel = load_transformer(trace)
    recorded = RecordedNoise(trace.numbered("noise."), initial=noise)
    witness = _Witness(trace, ledger, settings, policies, recorded)
    engine = Engine(model, Conditioner(RecordedText(prompts)), replace(policies, plan=Released(buffer, frames)))
    source = WindowNoise(recorded, settings.chunk)
    stream = Stream(engine, height=height, width=width, batch=batch, noise=source, observer=witness)
    ledger.same("tokens a frame", stream.state.kv[0].shape.tokens, trace.sidecar["frame_seqlen"])
    while stream.state.cur < frames:
        stream.next_chunk(Controls("0"), decode=False)
    witness.finish(stream)
