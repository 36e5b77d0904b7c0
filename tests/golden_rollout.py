"""Replay of whole rollouts: the product's presets, with the sidecar's numbers, driven through the product's loop.

Recorded noise goes in; every pass's input, timestep, flow and clean estimate, the memory after it, the text's keys and
the film come out. The memory is laid out as the original kept it: `Ring` follows its slots in integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.rope import rotary_tables, rotate
from cache.switches import Recache
from cache.types import Pass, Row
from cache.windows import AllRemembered, SinkAndRecent
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine, Policies
from pipelines.presets import PRESETS, Preset
from pipelines.streaming import Stream
from pipelines.types import Controls
from schedulers.flow_match import to_x0
from schedulers.noise import RecordedNoise
from tests.golden_models import load_transformer
from tests.golden_trace import Ledger, NotSupportedError, Trace

GLOBAL_WINDOW = 21
"""Latent frames that the originals see at most when their window is -1."""

KINDS = {"denoise": "denoise", "clean": "cache", "replay": "recache", "prefill": "prefill"}
"""Our word for a pass -> the sidecar's."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sidecar says of the run; lengths in latent frames."""

    system: str
    chunk: int
    capacity: int
    window: int
    sink: int
    first_chunk: int | None
    global_sink: bool
    infinite: bool
    switches: tuple[int, ...]
    shift: float
    steps: tuple[float, ...]
    warp: bool
    context_noise: float

    @classmethod
    def read(cls, sidecar: dict[str, Any]) -> Settings:
        args, scenario, model = sidecar["args"], sidecar["scenario"], sidecar["args"].get("model_kwargs", {})
        capacity = sidecar["kv_cache_tokens"] // sidecar["frame_seqlen"]
        local = model.get("local_attn_size", -1)
        switches = scenario.get("switch", args.get("switch_frame_indices", ()))
        return cls(
            system=scenario["sys"],
            chunk=args.get("num_frame_per_block", 1),
            capacity=capacity,
            window=min(capacity, GLOBAL_WINDOW) if local == -1 else local,
            sink=model.get("sink_size", 0),
            first_chunk=1 if args.get("independent_first_frame") else None,
            global_sink=bool(args.get("global_sink", False)),
            infinite=bool(model.get("use_infinite_attention", False)),
            switches=tuple(switches or ()),
            shift=model.get("timestep_shift", 8.0),  # the originals' own default
            steps=tuple(args["denoising_step_list"]),
            warp=bool(args.get("warp_denoising_step", False)),
            context_noise=float(args.get("context_noise", 0)),
        )

    def preset(self) -> Preset:
        """The product's preset of that system with this run's numbers."""
        if self.window > self.capacity or (self.switches and self.window < self.capacity):
            raise NotSupportedError(f"a window of {self.window} in a cache of {self.capacity} latent frames")
        if self.system == "ll" and self.sink > self.chunk:
            # The original protects its sink from every later pass of a chunk, so that the part of it that the
            # second chunk fills keeps the keys of that chunk's first, noisy pass.
            raise NotSupportedError(f"a sink of {self.sink} that the first chunk of {self.chunk} does not fill")
        name = "self-forcing" if self.system == "sf" else "longlive-infinity" if self.infinite else "longlive"
        preset = self.timed(PRESETS[name])
        switch = preset.switch
        if isinstance(switch, Recache):
            switch = replace(switch, window=self.window, sink=self.sink, keep_sink=self.global_sink)
        narrow = self.window < self.capacity
        return replace(
            preset,
            cache=SinkWindow(window=self.capacity, sink=self.sink),
            window=SinkAndRecent(self.window, self.sink) if narrow else AllRemembered(),
            switch=switch,
        )

    def timed(self, preset: Preset) -> Preset:
        """The preset with this run's steps and chunks."""
        recipe = replace(
            preset.schedule,
            denoising_step_list=self.steps,
            shift=self.shift,
            warp=self.warp,
            clean_level=self.context_noise,
        )
        return replace(preset, schedule=recipe, chunk=self.chunk, first_chunk=self.first_chunk)


class RecordedText:
    """Stands in for the text encoder: the prompt's number names its recorded embeddings."""

    def __init__(self, prompts: list[Tensor]) -> None:
        self._prompts = prompts

    def encode(self, prompts: Any) -> Tensor:
        (number,) = prompts
        return self._prompts[int(number)]


class Ring:
    """Which latent frame stands in which slot of the original's cache, from the counters it recorded."""

    def __init__(self, tokens: int, settings: Settings) -> None:
        self._tokens, self._settings = tokens, settings
        self.slots: list[int] = []

    def follow(self, call: dict[str, Any]) -> None:
        """Do with frame numbers what the original's call did with keys."""
        start, count = call["current_start"] // self._tokens, call["num_frames"]
        (known,), (old,) = (call["before"][name] for name in ("global_end_index", "local_end_index"))
        (held,) = call["after"]["local_end_index"]
        sink, fresh = self._settings.sink, max(0, start + count - known // self._tokens)
        evicted = (old - held) // self._tokens + fresh
        del self.slots[sink : sink + evicted]
        first = held // self._tokens - count
        # LongLive leaves the sink alone when it visits old frames again, unless the switch renews it
        again = self._settings.system == "ll" and fresh == 0 and start > 0
        spared = sink if again and not call.get("sink_recache_after_switch") else 0
        for slot, frame in enumerate(range(start, start + count), start=first):
            if slot >= spared:
                self.slots[slot : slot + 1] = [frame]


class Witness:
    """The observer: compares each pass with the recorded call."""

    def __init__(
        self, trace: Trace, ledger: Ledger, model: CausalWanTransformer3DModel, settings: Settings, policies: Policies
    ) -> None:
        self._trace, self._ledger, self._model = trace, ledger, model
        self._settings, self._schedule = settings, policies.schedule
        self._calls: list[dict[str, Any]] = trace.sidecar["calls"]
        self._ring = Ring(trace.sidecar["frame_seqlen"], settings)
        self.noise: RecordedNoise | None = None
        self.passes = 0
        self.film: list[Tensor] = []
        self._drawn_before = _draws_before_calls(trace.sidecar["events"])

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        number = self.passes
        self.passes += 1
        if number >= len(self._calls):
            return  # counted at the end
        call, label = self._calls[number], f"call {number}"
        ledger, tokens = self._ledger, self._trace.sidecar["frame_seqlen"]
        ledger.same(f"{label} number", number, call["call"])
        ledger.same(f"{label} kind", KINDS[work.kind], call["kind"])
        ledger.same(f"{label} prompt", row.text - 1, call["prompt"])
        # A replay beside a sink that is kept leaves out the frames whose keys nobody reads.
        skipped = call["num_frames"] - len(row.frames) if work.kind == "replay" else 0
        if skipped:
            ledger.same(f"{label} frames left out", skipped, self._settings.sink)
        ledger.same(f"{label} start", row.frames.start - skipped, call["current_start"] // tokens)
        ledger.same(f"{label} frames", len(row.frames) + skipped, call["num_frames"])
        if self.noise is not None:
            ledger.same(f"{label} draws so far", self.noise.used, self._drawn_before[number])

        if x0 is None:
            sigma = torch.tensor([[self._schedule.sigma(level) for level in row.levels]])
            x0 = to_x0(x, flow, sigma)
        part = (slice(None), slice(skipped, None))
        for name, ours in (("x", x), ("flow", flow), ("x0", x0)):
            if f"call.{number:03}.{name}" in self._trace:
                ledger.close(f"call.{number:03}.{name}", ours, index=part)
        self._timesteps(f"call.{number:03}.t", row, skipped, call)
        self._ring.follow(call)
        self._memory(f"kv.call{number:03}.", store, label)
        if row.emit:
            self.film.append(x0)
        elif work.kind == "prefill":
            self.film.append(x)

    def _timesteps(self, name: str, row: Row, skipped: int, call: dict[str, Any]) -> None:
        ours = torch.tensor([row.levels])
        for recorded in call["timestep"]:
            times = torch.tensor([recorded])[:, skipped if len(recorded) > 1 else 0 :]
            self._ledger.same(f"{name} (sidecar)", bool((times == ours).all()), True)
        if name in self._trace:
            shape = self._trace[name].shape  # a prefill declares one timestep for all of its frames
            ours = ours[:, :1] if shape[1] == 1 else ours
            index = (slice(None), slice(skipped if shape[1] > 1 else 0, None))
            self._ledger.close(name, ours.expand(shape[0], -1), index=index, atol=0.0)

    def _memory(self, prefix: str, store: KVStore, label: str) -> None:
        """Keys and values in the original's slot order; only valid slots, as README of the traces says."""
        frames, _, _ = store.logical(0)
        self._ledger.same(f"{label} frames in memory", frames, self._ring.slots)
        for layer in range(store.shape.layers):
            if f"{prefix}{layer}.k" not in self._trace:
                continue
            frames, keys, values = store.logical(layer)
            valid = (slice(None), slice(0, len(frames) * store.shape.tokens))
            keys = keys.flatten(1, 2)
            if not self._settings.infinite:  # LongLive-infinity keeps its keys un-rotated, as we do
                s = store.shape
                tables = rotary_tables(frames, s.rows, s.columns, s.head_dim, dtype=torch.float64)
                keys = rotate(keys.double(), *tables).float()
            self._ledger.close(f"{prefix}{layer}.k", keys, index=valid)
            self._ledger.close(f"{prefix}{layer}.v", values.flatten(1, 2), index=valid)

    def finish(self, stream: Stream, prompt: Tensor) -> None:
        """The film, the memory it leaves behind, and that nothing was left over."""
        ledger, sidecar = self._ledger, self._trace.sidecar
        ledger.same("calls", self.passes, len(self._calls))
        if self.noise is not None:
            ledger.same("draws left", self.noise.left, 0)
        store, tokens = stream.state.kv[0], sidecar["frame_seqlen"]
        self._memory("kv.final.", store, "the end:")
        ledger.same("global_end_index", [stream.state.cur * tokens], sidecar["final_index"]["global_end_index"])
        held = len(self._ring.slots)  # what the memory was just compared with
        ledger.same("local_end_index", [held * tokens], sidecar["final_index"]["local_end_index"])
        for layer, (keys, values) in enumerate(self._model.text_keys(prompt)):
            if f"kv.final.{layer}.cross_k" in self._trace:
                ledger.close(f"kv.final.{layer}.cross_k", keys)
                ledger.close(f"kv.final.{layer}.cross_v", values)
        ledger.close("out.latents", torch.cat(self.film, dim=1))


def _draws_before_calls(events: list[dict[str, Any]]) -> list[int]:
    """For each call, how many draws came before the next call: that many its step has used."""
    counts: list[int] = []
    drawn = 0
    for event in events:
        if "randn" in event:
            drawn += 1
            counts[-1:] = [drawn] if counts else []
        elif "call" in event:
            counts.append(drawn)
    return counts


def replay(trace: Trace, ledger: Ledger) -> None:
    settings = Settings.read(trace.sidecar)
    run(trace, ledger, settings, make_policies(settings.preset()), Witness)


@torch.no_grad()
def run(trace: Trace, ledger: Ledger, settings: Settings, policies: Policies, watch: type[Witness]) -> None:
    """The whole film under these policies, every pass compared by a witness of that kind."""
    sidecar = trace.sidecar
    model = load_transformer(trace)
    prompts = trace.numbered("in.prompt.")
    noise, initial = trace["in.noise"], trace.tensors.get("in.initial_latent")
    batch, frames, _, height, width = noise.shape
    given = 0 if initial is None else initial.shape[1]
    recorded = RecordedNoise(trace.numbered("noise."), initial=noise, first_frame=given)
    witness = watch(trace, ledger, model, settings, policies)
    witness.noise = recorded
    engine = Engine(model, Conditioner(RecordedText(prompts)), policies)
    stream = Stream(engine, height=height, width=width, batch=batch, noise=recorded, observer=witness)
    ledger.same("tokens a frame", stream.state.kv[0].shape.tokens, sidecar["frame_seqlen"])

    levels = getattr(policies.plan, "levels", ())
    steps = trace["sched.denoising_step_list"]
    ledger.exact("sched.denoising_step_list", torch.tensor(levels).to(steps.dtype))

    prompt = 0
    if initial is not None:
        stream.prefill(initial, Controls(str(prompt)))
    while stream.state.cur < given + frames:
        # one switch at most a chunk, at the first chunk that begins at its frame or later
        if prompt < len(settings.switches) and stream.state.cur >= settings.switches[prompt]:
            prompt += 1
        stream.next_chunk(Controls(str(prompt)), decode=False)
    witness.finish(stream, prompts[prompt])
