"""Replay of StreamDiffusionV2: the product's model, plans, noise and controller over the released system's memory.

What the released memory does wrong is written down here, in `EvictQueues`, and nowhere in the product: every layer and
lane keeps a queue of slots of its own, which empty sink slots enter; rows without a picture write as well; the first
chunk's memory is copied to all lanes; frame numbers jump back; the list of steps is overwritten as it runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cache.kv import Ends, KVStore
from cache.kv_shape import KVShape
from cache.layer import LayerMemory
from cache.layer_plan import EVERY, LayerPlan
from cache.positions import Absolute
from cache.rope import rotary_tables, rotate
from cache.scorers.similarity import FrameSimilarity
from cache.types import Action, Deps, Pass, Row, Slot, SlotRange, Slots, View
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from pipelines.types import Controls, Start
from schedulers.changes import motion
from schedulers.noise import Address
from schedulers.serial import Serial
from tests.golden_models import load_transformer
from tests.golden_rollout import RecordedText
from tests.golden_trace import ATOL, Ledger, NotSupportedError, Trace

NOISE = PRESETS["streamdiffusion-v2"].video.noise

JUMPS_AT = 50
"""Latent frame at which the released sessions, and its unbatched loop, set the frame counter back."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A cache policy that leaves everything to the store."""

    deps: Deps
    capacity: int
    protected: int = 0
    scorer: None = None

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        return []

    def end(self, row: Row, slots: Slots) -> list[Action]:
        return []


class EvictQueues(KVStore):
    """The released memory of one lane, in place of a KVStore; lengths in latent frames.

    Each layer has `size` slots, the first `sink` of them sinks, and a queue of slots (as their ends) to overwrite next.
    What a pass overwrites is decided layer by layer once its keys are there. `alone` says that the call has one row:
    then a slot serves `steps` calls before its turn is over.
    """

    def __init__(self, shape: KVShape, lane: int, *, size: int, sink: int, threshold: float, steps: int) -> None:
        super().__init__(shape, lane=lane)
        self.alone = True
        self.size, self.sink, self.threshold, self.steps = size, sink, threshold, steps
        s = shape
        self.keys = torch.zeros(s.layers, size, s.tokens, s.heads, s.head_dim)
        self.values = torch.zeros_like(self.keys)
        self.positions = [[0] * size for _ in range(s.layers)]
        self.queues: list[list[int]] = [[] for _ in range(s.layers)]
        self.turns = [steps] * s.layers
        self.similarity: list[list[float]] = []
        self.total = self.held = 0

    def copy_from(self, other: EvictQueues) -> None:
        """Begin as another lane stands."""
        self.keys, self.values = other.keys.clone(), other.values.clone()
        self.positions, self.queues = [list(p) for p in other.positions], [list(q) for q in other.queues]
        self.turns, self.total, self.held = list(other.turns), other.total, other.held

    # what the loop asks of a store and gets another answer here

    def slots(self, cur: int, switches: tuple[int, ...] = ()) -> Slots:
        return Slots(self.lane, cur, (), switches)  # layers differ: each adds what it remembers by itself

    def read(
        self, ranges: Sequence[SlotRange], positions: Sequence[int], frames: int, ends: Ends | None = None
    ) -> list[LayerMemory]:
        s, stop = self.shape, positions[0] + frames
        self._full = stop > self.size or self.held >= self.size
        held = self.held + stop - self.total
        if self._full:  # where chunks do not fill the memory exactly, places that were never written count as well
            held = self.size
        seen, own = (held - frames) * s.tokens, frames * s.tokens
        self.similarity, self._after = [], (stop, held)
        memories: list[LayerMemory] = []
        for layer in range(s.layers):
            view = torch.zeros(2, 1, seen + own, s.heads, s.head_dim)
            staged = torch.zeros(2, 1, own, s.heads, s.head_dim)
            decide = partial(self._decide, layer, tuple(positions), view, staged)
            memories.append(LayerMemory(view[0], view[1], staged[0], staged[1], seen, observe=decide))
        return memories

    def stage(self, frames: Sequence[Slot], plan: LayerPlan = EVERY) -> None:
        self.total, self.held = self._after

    def over(self) -> None:
        """It compares in the middle of the pass."""

    # what it does

    def _decide(self, layer: int, positions: tuple[int, ...], view: Tensor, staged: Tensor, _queries: Tensor) -> None:
        """The pass's keys are staged: choose where they go, and show what is remembered in the other slots."""
        s, queue, (_, held) = self.shape, self.queues[layer], self._after
        count = len(positions)
        keys, values = staged[:, 0].unflatten(1, (count, s.tokens)).unbind(0)
        if count == 1 and self.threshold > -1 and self.sink:
            self._renew_sink(layer, self._rotate(keys, positions), values)
        if self._full:
            if not queue or queue[0] < count:
                raise NotSupportedError(f"a memory of {self.size} latent frames with no slot to overwrite")
            end = queue[0]
            if self.alone and self.turns[layer] > 1:
                self.turns[layer] -= 1
            else:
                self.turns[layer] = self.steps if self.alone else self.turns[layer]
                queue.pop(0)
                if end > self.sink:
                    queue.append(end)
        else:
            end, following = held, held + count
            if self.sink < following <= self.size and queue[-1:] != [following]:
                queue.append(following)
        place = range(end - count, end)
        self.keys[layer, end - count : end], self.values[layer, end - count : end] = keys, values
        self.positions[layer][end - count : end] = positions
        others = [slot for slot in range(held) if slot not in place]
        if others:
            part = slice(0, len(others) * s.tokens)
            view[0, 0, part] = self._rotated(layer, others).flatten(0, 1)
            view[1, 0, part] = self.values[layer, others].flatten(0, 1)

    def _renew_sink(self, layer: int, newest: Tensor, values: Tensor) -> None:
        """The sink slot least like the newest frame is next to go, even where it holds nothing yet."""
        keys = self._rotated(layer, range(self.sink))[None, None]
        held = self.values[layer, : self.sink][None, None]
        frames, new = torch.stack([keys, held]).mean(dim=4), torch.stack([newest, values])[:, None].mean(dim=3)
        scores: list[float] = FrameSimilarity().compare(frames, new).tolist()
        self.similarity.append(scores)
        if min(scores) < self.threshold:
            self.queues[layer].insert(0, scores.index(min(scores)) + 1)

    def _rotated(self, layer: int, slots: Sequence[int]) -> Tensor:
        return self._rotate(self.keys[layer, list(slots)], [self.positions[layer][slot] for slot in slots])

    def _rotate(self, keys: Tensor, positions: Sequence[int]) -> Tensor:
        """[F, T, N, D] at their positions."""
        s = self.shape
        return rotate(keys.flatten(0, 1), *rotary_tables(positions, s.rows, s.columns, s.head_dim)).view_as(keys)

    def content(self, layer: int) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of the slots that hold something, [1, tokens, N, D]."""
        keys = self._rotated(layer, range(self.held)).flatten(0, 1)
        return keys[None], self.values[layer, : self.held].flatten(0, 1)[None]


class Tape:
    """Recorded draws in order, and the order of events; chunks that enter together drew their noise at once."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws, self._waiting, self.used = draws, deque[Tensor](), 0
        self.events: list[dict[str, Any]] = []

    def _next(self) -> Tensor:
        if self.used == len(self._draws):
            raise ValueError(f"all {self.used} recorded draws are used")
        self.events.append({"randn": self.used})
        self.used += 1
        return self._draws[self.used - 1]

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        if addresses[0].purpose != "initial":
            return self._next().reshape(1, -1, *shape[1:])
        if not self._waiting:
            self._waiting.extend(self._next().reshape(-1, *shape[1:]))
        return torch.stack([self._waiting.popleft() for _ in addresses])[None]


class Released:
    """The released loops around the product's passes: first chunk, warm-up, stream, sessions, flush."""

    def __init__(self, trace: Trace, ledger: Ledger) -> None:
        self._trace, self._ledger, sidecar = trace, ledger, trace.sidecar
        args, scenario = sidecar["args"], sidecar["scenario"]
        if args.get("t2v"):
            raise NotSupportedError("the released system's text to video")
        self._mode, self._tokens = scenario["mode"], sidecar["frame_seqlen"]
        self._chunk, self._size = args["num_frame_per_block"], args["num_kv_cache"]
        preset = PRESETS["streamdiffusion-v2"]
        recipe = replace(
            preset.schedule,
            denoising_step_list=tuple(args["denoising_step_list"]),
            warp=bool(args["warp_denoising_step"]),
            plan="serial" if self._mode == "wo_batch" else preset.schedule.plan,
        )
        policies = make_policies(
            replace(
                preset,
                schedule=recipe,
                cache=Silent("last" if self._mode == "wo_batch" else "level", self._size),
                position=Absolute(),
                chunk=self._chunk,
                first_chunk=1 + self._chunk,
            )
        )
        self.plan = policies.plan
        self.levels: list[float] = list(self.plan.levels)
        ledger.close("sched.denoising_step_list", torch.tensor(self.levels), atol=0.0)
        self._serial = Serial(tuple(self.levels), chunk=self._chunk, first_chunk=1 + self._chunk, memory="last")
        self.tape = Tape(trace.numbered("noise."))
        height, width = trace["in.latent.000"].shape[-2:]
        engine = Engine(load_transformer(trace), Conditioner(RecordedText(trace.numbered("in.prompt."))), policies)
        self.stream = Stream(engine, height=height, width=width, noise=self.tape, observer=self._witness)
        steps = len(self.levels)
        self.stores = [
            EvictQueues(
                store.shape,
                store.lane,
                size=self._size,
                sink=args["num_sink_tokens"],
                threshold=args["adapt_sink_threshold"],
                steps=steps,
            )
            for store in self.stream.state.kv
        ]
        self.stream.state.kv = list(self.stores)
        ledger.same("tokens a frame", self.stores[0].shape.tokens, self._tokens)
        self.stream._condition(Controls("0"))
        self._seen: list[tuple[Row, Tensor, Tensor, Tensor]] = []
        self.calls = self.processed = self.position = 0
        self.film: list[Tensor] = []
        self._latents = torch.empty(0)
        self.rows = 1

    def _witness(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: object) -> None:
        assert x0 is not None  # there is no clean pass
        self._seen.append((row, x, flow, x0))

    def _run(self, row: Row, latents: Tensor) -> Tensor:
        """One row through the product's loop; what it stands at after its step."""
        state = self.stream.state
        state.cur, state.levels = row.frames.start, row.levels
        self.stream._passes.run_rows(Pass("denoise", (row,)), [(row, latents)])
        return state.flight.get(row.frames)

    def _enter(self, row: Row, start: Start) -> tuple[Row, Tensor]:
        """New frames, mixed with noise by the product's loop; their level may be one that the list goes on with."""
        state = self.stream.state
        state.cur, state.levels = row.frames.start, ()
        row = replace(row, levels=(start.level,) * len(row.frames))
        return row, self.stream._passes.gather(row, start)

    def one_by_one(self, start: Start | None, kind: str) -> None:
        """One chunk through all levels on one lane; without a start the last one enters again as it is."""
        rows = [work.rows[0] for work in self._serial.passes(View(self.position, self.stream.state.text.version))]
        if start is None:
            rows[0] = replace(rows[0], levels=(self.levels[0],) * self._chunk)
        else:
            rows[0], self._latents = self._enter(rows[0], start)
        latents = self._latents
        for row in rows:
            self._begin_call()
            latents = self._run(row, latents)
            self._compare_call(kind)
        self.position = rows[0].frames.stop
        self._decode()

    def spread(self) -> None:
        """After the first chunk every lane begins with its memory, and with zeros in flight."""
        for store in self.stores:
            store.alone = len(self.stores) == 1
            if store is not self.stores[0]:
                store.copy_from(self.stores[0])
        self.rows = len(self.stores)
        frame = self._trace["in.latent.000"].shape
        self._flying = [torch.zeros(1, self._chunk, frame[1], *frame[3:]) for _ in self.stores]
        # A row without a picture ends a frame after it starts, whatever the chunk: so much the call is told, and only
        # the record shows it.
        self._starts, self._ends = [self.position] * self.rows, [self.position + 1] * self.rows

    def tick(self, start: Start) -> None:
        """One call for a row a level: all move down a row and a new chunk enters above."""
        flying = tuple(level for level in reversed(self.plan.levels[1:]) for _ in range(self._chunk))
        view = View(1 + self._chunk, self.stream.state.text.version, flying)
        (work,) = self.plan.passes(view)
        self._starts = [self.position, *self._starts[:-1]]
        self._ends = [self.position + self._chunk, *self._ends[:-1]]
        rows = [
            replace(row, frames=range(first, first + self._chunk), commit=range(0), emit=range(0))
            for row, first in zip(work.rows, self._starts, strict=True)
        ]
        rows[0], entering = self._enter(rows[0], start)
        self._flying = [entering, *self._flying[:-1]]
        self._begin_call()
        self._flying = [self._run(row, latents) for row, latents in zip(rows, self._flying, strict=True)]
        self._compare_call("stream")
        self.position += self._chunk
        self.processed += 1
        if self.processed >= self.rows:
            self._decode()

    def jump(self) -> None:
        """Set the frame counter back where the released system does."""
        if self._mode != "stream" and self.position >= JUMPS_AT:
            self.position = self._size - 1

    def _begin_call(self) -> None:
        self._seen = []
        self.tape.events.append({"call": self.calls})
        self._before = self._counters()

    def _decode(self) -> None:
        self.tape.events.append({"decode": len(self.film), "after_call": self.calls - 1})
        self.film.append(self._seen[-1][3])

    def _counters(self) -> dict[str, list[int]]:
        stores = self.stores[: self.rows]
        return {
            "global_end_index": [store.total * self._tokens for store in stores],
            "local_end_index": [store.held * self._tokens for store in stores],
        }

    def _compare_call(self, kind: str) -> None:
        ledger, trace, number, tokens = self._ledger, self._trace, self.calls, self._tokens
        self.calls += 1
        recorded = trace.sidecar["calls"]
        if number >= len(recorded):
            return  # counted at the end
        call, stores = recorded[number], self.stores[: self.rows]
        rows = [seen[0] for seen in self._seen]
        ends = self._ends if kind == "stream" else [row.frames.stop for row in rows]
        ours = {
            "kind": kind,
            "num_frames": len(rows[0].frames),
            "prompt": rows[0].text - 1,
            "current_start": [row.frames.start * tokens for row in rows],
            "current_end": [end * tokens for end in ends],
            "timestep": [list(row.levels) for row in rows],
            "before": self._before,
            "after": self._counters(),
            "evict_idx": [[end * tokens for end in store.queues[0]] for store in stores],
            "evict_idx_last": [[end * tokens for end in store.queues[-1]] for store in stores],
            "kv_current_step": self.stores[0].turns[0],
        }
        for name, value in ours.items():
            ledger.same(f"call {number} {name}", value, call[name])
        self._compare_similarity(number, call.get("sink_similarity"), [store.similarity for store in stores])
        prefix = f"call.{number:03}."
        ledger.close(f"{prefix}t", torch.tensor([row.levels for row in rows]), atol=0.0)
        for index, name in ((1, "x"), (2, "flow"), (3, "x0")):
            ledger.close(prefix + name, torch.cat([seen[index] for seen in self._seen]))  # type: ignore[misc]  # tensors
        self._compare_memory(f"kv.call{number:03}.")

    def _compare_similarity(
        self, number: int, recorded: list[list[list[float]]] | None, ours: list[list[list[float]]]
    ) -> None:
        """Recorded by layer, then row."""
        if recorded is None or not ours[0]:
            self._ledger.same(f"call {number} compares sinks", bool(ours[0]), bool(recorded))
            return
        off = (torch.tensor(ours).transpose(0, 1) - torch.tensor(recorded)).abs().max().item()
        self._ledger.same(f"call {number} sink similarity off by {off:.1e}", off <= ATOL, True)

    def _compare_memory(self, prefix: str) -> None:
        """Slots that hold something, in the original's own order, row by row."""
        for layer in range(self.stores[0].shape.layers):
            if f"{prefix}{layer}.k" not in self._trace:
                continue
            for lane, store in enumerate(self.stores[: self.rows]):
                part = (slice(lane, lane + 1), slice(0, store.held * self._tokens))
                for name, content in zip("kv", store.content(layer), strict=True):
                    self._ledger.close(f"{prefix}{layer}.{name}", content, index=part)

    def finish(self) -> None:
        ledger, trace = self._ledger, self._trace
        sidecar = trace.sidecar
        ledger.same("calls", self.calls, len(sidecar["calls"]))
        kept = [
            {key: event[key] for key in ("randn", "call", "decode", "after_call") if key in event}
            for event in sidecar["events"]
        ]
        ledger.same("order of draws, calls and decodes", self.tape.events, [event for event in kept if event])
        ledger.same("final_index", self._counters(), sidecar["final_index"])
        ledger.same("list of steps after the run", self.levels, sidecar["denoising_step_list_after_run"])
        self._compare_memory("kv.final.")
        for number, decoded in enumerate(self.film):
            if f"out.decoded.{number:03}" in trace:
                ledger.close(f"out.decoded.{number:03}", decoded)
        ledger.close("out.all", torch.cat(self.film, dim=1))


@torch.inference_mode()
def replay(trace: Trace, ledger: Ledger) -> None:
    """Walk the recorded events: pictures that enter, and calls that nothing new enters for."""
    released, sidecar = Released(trace, ledger), trace.sidecar
    scenario, chunk = sidecar["scenario"], sidecar["args"]["num_frame_per_block"]
    alone = scenario["mode"] == "wo_batch"
    video, scale = trace["in.video"][0].transpose(0, 1), scenario["noise_scale"]
    entries, chunks, pixel = iter(sidecar["noise_controller"]), 0, 0
    waiting: deque[Tensor] = deque()
    for event in sidecar["events"]:
        if "encode" in event:
            latents = trace[f"in.latent.{event['encode']:03}"].transpose(1, 2)
            ledger.same("latent frames", latents.shape[1], event["latent_frames"])
            if pixel:
                waiting.extend(latents.split(chunk, dim=1))
                entry = next(entries)
                controller = replace(NOISE, still=entry["init_noise_scale"])
                ledger.same("share of noise before", abs(scale - entry["noise_scale_in"]) <= 1e-7, True)
                scale = controller.share(scale, motion(video[pixel - 1 : pixel + event["pixel_frames"]].numpy()))
                # the released list is overwritten as it runs
                released.levels[0] = controller.level(scale)
                off = abs(scale - entry["noise_scale"])
                ledger.same(f"share of noise off by {off:.1e} before call {entry['before_call']}", off <= 1e-7, True)
                ledger.same("first level", released.levels[0], entry["current_step"])
                ledger.same("call after the controller", released.calls, entry["before_call"])
                ledger.same("pixel frames", event["pixel_frames"], entry["chunk_size"])
            else:
                released.one_by_one(Start(latents, scale, released.levels[0]), "prepare")
                chunks += 1
                if not alone:
                    released.spread()
            pixel += event["pixel_frames"]
        elif event.get("call", -1) == released.calls:
            released.jump()
            chunks += bool(waiting)
            level = released.levels[0]
            if waiting:
                start: Start | None = Start(waiting.popleft(), scale, level)
            else:  # the video is over: noise flushes the batch, and the unbatched loop runs its last input again
                start = None if alone else Start(torch.zeros(()), 1.0, level)
            if alone:
                released.one_by_one(start, "denoise")
            else:
                assert start is not None
                released.tick(start)
    ledger.same("controller values left", len(list(entries)), 0)
    ledger.same("chunks", chunks, sidecar["num_chunks"])
    released.finish()
