"""One pass of a plan: where its rows' latents come from, the model, what memory keeps, and where the frames go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cache.buffers import Buffers
from cache.kv import KVStore
from cache.layer import LayerMemory
from cache.layer_plan import EVERY, Done, LayerPlan
from cache.precision import finest
from cache.residuals import Residuals, Taken, leave, taken
from cache.types import Pass, Row, Slot
from models.transformer import Batch, Runner
from parallel.share import Share
from pipelines.derived import RotaryTables, TextKeys
from pipelines.engine import Engine
from pipelines.state import StreamState
from pipelines.types import Reused, Start
from schedulers.flow_match import per_frame, to_x0
from schedulers.noise import Address, NoiseSource
from schedulers.steps import get_step, sigma_row
from schedulers.unipc import Past

PURE_NOISE = 1000.0
"""The level at which the noise of a chunk of video is drawn: how much of it enters does not change what it is."""

Observer = Callable[[Pass, Row, Tensor, Tensor, Tensor | None, KVStore], None]
"""Called after every pass with its input, flow, x0 (denoise passes only) and the memory; for tests and traces.

A pass that only writes the memory computes its flow for an observer alone.
"""


class Handover(Protocol):
    """Where the rows of a pass lie on several ranks: which are ours, and how latents get to where they go on."""

    def frame_holder(self, frame: int, level: float, scene: int) -> int:
        """The rank that has a frame in flight which stands at a level, in a scene that began with frame `scene`."""
        ...

    def run(self, work: Pass, run: Callable[[Sequence[Row]], None], state: StreamState) -> None:
        """Run our rows of a pass by `run`, some at a time; `state.flight` and `state.latents` then hold ours."""
        ...


class _Ready(NamedTuple):
    """A row about to go through the model: latents [B, F, C, H, W], keys it sees, query positions, its layers."""

    row: Row
    latents: Tensor
    memory: list[LayerMemory]
    positions: tuple[int, ...]
    layers: LayerPlan


class _Later(NamedTuple):
    """What is done after the picture of a pass has left; `arrive` only waits for what it needs."""

    run: Callable[[], None]
    arrive: Callable[[], object] = lambda: None


class Passes:
    """Carries out a stream's passes on its state.

    Args:
        engine: weights and policies.
        state: what changes.
        buffers: of all lanes.
        noise: where noise comes from.
        observer: sees every row.
        runner: takes rows through the layers.
        share: what of the stream's memory is here.

    Attributes:
        handover: where rows lie on several ranks.
        reused: what a feature cache has done for the chunk so far; None where there is none.
    """

    def __init__(
        self,
        engine: Engine,
        state: StreamState,
        buffers: Buffers,
        noise: NoiseSource,
        observer: Observer | None,
        runner: Runner,
        share: Share,
    ) -> None:
        self.handover: Handover | None = None
        self._share, self._layers = share, engine.transformer.config["num_layers"]
        self._later: list[_Later] = []
        self.engine, self.state, self.noise, self.observer, self.runner = engine, state, noise, observer, runner
        self.model_seconds, self.guidance_scale = 0.0, engine.policies.guidance_scale
        self._buffers = buffers
        self._device, self._dtype = state.latents.ring.device, state.latents.ring.dtype
        batch, _, *frame = state.latents.ring.shape
        self._frame = (batch, *frame)
        self.texts = TextKeys(engine, batch)
        shape = state.kv[share.lanes.start].shape
        self._tables = RotaryTables((shape.rows, shape.columns), shape.head_dim, self._device, self._dtype)
        self.reused: Reused | None = None
        self.begin_chunk(None)

    def begin_chunk(self, guidance_scale: float | None) -> None:
        """Forget what lasts for a chunk: the last clean estimate, a solver's memory, the time the model took."""
        self.settle()
        self._clean: tuple[range, Tensor] = range(0), self.state.latents.ring
        self._past: list[Past] = []
        self.model_seconds = 0.0
        self.reused = Reused() if self.engine.policies.layers.chunks else None
        policies, self._entered = self.engine.policies, range(0)
        self.guidance_scale = policies.guidance_scale if guidance_scale is None else guidance_scale
        self._residual = policies.guidance != "full" and self.guidance_scale != 1.0

    def run(self, work: Pass, start: Start | None = None) -> None:
        """All rows of a planned pass; frames in flight go on to their next level, and finished ones may leave."""
        self._entered = range(0)
        rows = [(row, self.gather(row, start)) for row in work.rows]
        if self._share.apart:
            rows.reverse()  # the oldest chunk first, which may be a picture then
        if self.handover is not None:
            self._hand_over(self.handover, work, rows)
        elif rows:
            self.run_rows(work, rows)
        self.state.latents.put(work.leave, self.state.flight.get(work.leave))

    def _hand_over(self, handover: Handover, work: Pass, rows: Sequence[tuple[Row, Tensor]]) -> None:
        """Our rows of a pass; of all others only where their frames stand then."""
        latents = {id(row): each for row, each in rows}

        def run(ours: Sequence[Row]) -> None:
            self.run_rows(work, [(row, latents[id(row)]) for row in ours])

        handover.run(work, run, self.state)
        if work.kind == "denoise":
            for row in work.rows:
                self._reach(row)

    def run_rows(self, work: Pass, rows: Sequence[tuple[Row, Tensor]]) -> None:
        """Rows with their latents through the model, in one forward if their memories lie side by side."""
        denoise = work.kind == "denoise"  # memory belongs to the prompt
        ready = [self._prepare(work, row, latents) for row, latents in rows]
        # On a processor rows round alike however many there are (models/wan.py), and together they are cheaper.
        apart = self._share.apart and (self.handover is None or self._device.type != "cpu")
        alike = not apart and len(ready) > 1 and len({each.layers for each in ready}) == 1
        lanes = [each.row.lane - self._share.lanes.start for each in ready]
        joint = self._buffers.joint([each.memory for each in ready], lanes) if alike else None
        groups = [(ready, joint)] if joint is not None else [([each], each.memory) for each in ready]
        given = [self._taken(members, 0) for members, _ in groups]
        batches = [self._batch(*group, along) for group, along in zip(groups, given, strict=True)]
        halves: list[Taken] = []
        asked, doubled = batches, denoise and self.guidance_scale != 1.0 and not self._residual
        if doubled:
            halves = [self._taken(members, 1) for members, _ in groups]
            asked = [
                part
                for (members, _), batch, half in zip(groups, batches, halves, strict=True)
                for part in self._guided(batch, len(members), half)
            ]
        once = denoise and self._residual and self.engine.policies.guidance == "residual-once"
        new = [each for each in ready if once and each.row.frames == self._entered]
        begun = perf_counter()
        none = Taken(EVERY, [], {})
        without = [self._guided(self._batch([each], each.memory, none), 1, none)[1] for each in new]
        flows, bare = self.runner.run([*asked, *without]), list[Tensor]()
        if new:
            flows, bare = flows[: len(asked)], flows[len(asked) :]
        if doubled:
            pairs = zip(flows[::2], flows[1::2], strict=True)
            flows = [torch.lerp(plain, flow, self.guidance_scale) for flow, plain in pairs]
            for (members, _), half in zip(groups, halves, strict=True):
                self._leave(members, half, 1)
        self.model_seconds += perf_counter() - begun
        if self.reused is not None:
            for along in (*given, *halves):
                spared = along.plan.spared(self._layers)
                self.reused += Reused(spared, self._layers, spared > 0, 1)
        for each, flow in zip(new, bare, strict=True):  # what the empty prompt makes of them stands in for the video
            self.state.origin[0].put(each.row.frames, self._clean_of(each.row, each.latents, flow.transpose(1, 2)))
        for number, ((members, _), along) in enumerate(zip(groups, given, strict=True)):
            end = _Later(partial(self._end, work, members, along, flows, number), partial(flows.__getitem__, number))
            if number and self._share.apart and groups[0][0][0].row.emit and self.observer is None:
                for each in members:
                    self._reach(each.row)
                self._later.append(end)  # the picture of the first row need not wait for the others
            else:
                end.run()

    def _end(self, work: Pass, members: Sequence[_Ready], along: Taken, flows: Sequence[Tensor], number: int) -> None:
        """What the layers made of rows that went through them together goes where it belongs."""
        denoise, flow = work.kind == "denoise", flows[number]
        changes = self._leave(members, along, 0)
        if denoise and self.engine.policies.layers.chunks:
            self._note(members, changes)
        for each, part in zip(members, flow.transpose(1, 2).chunk(len(members)), strict=True):
            self._finish(work, each, self._pushed(each, part) if denoise and self._residual else part)

    def settle(self) -> None:
        """End what was left for later; nothing reads the state before that, but for the picture that left it."""
        later, self._later = self._later, []
        for end in later:
            end.run()

    def drop(self) -> None:
        """Forget what was left for later, because the state is to be another."""
        for end in self._later:
            end.arrive()  # what is on its way still comes
        self._later = []

    def gather(self, row: Row, start: Start | None = None) -> Tensor:
        """A planned row's latents [B, F, C, H, W]; frames that are new begin from noise, or from `start`."""
        state = self.state
        if row.source == "x0":
            frames, clean = self._clean
            first = row.frames.start - frames.start
            return clean[:, first : first + len(row.frames)]
        if row.source == "stored":
            return state.latents.get(row.frames)
        finished = range(row.frames.start, min(row.frames.stop, state.cur))
        known = state.cur + len(state.levels)
        fresh = range(max(known, row.frames.start), row.frames.stop)
        if fresh:
            levels = row.levels[len(row.frames) - len(fresh) :]
            state.flight.put(fresh, self._enter(fresh, levels, start))
            state.levels = (*state.levels, *levels)
        flying = range(max(row.frames.start, state.cur), row.frames.stop)
        if not finished:
            return state.flight.get(flying)
        return torch.cat([state.latents.get(finished), state.flight.get(flying)], dim=1)

    def _enter(self, frames: range, levels: Sequence[float], start: Start | None) -> Tensor:
        """What new frames begin from: noise at their levels, or clean latents with a share of pure noise."""
        state, self._entered = self.state, frames
        if self._residual and (start is None or not state.origin):
            raise ValueError(
                f"guidance {self.engine.policies.guidance} pushes away from a video, and there is none: open the "
                "stream for video, or choose the guidance full"
            )
        if start is None:
            return self._draw(frames, levels, "initial")
        noise = self._draw(frames, (PURE_NOISE,) * len(frames), "initial")
        clean = start.latents.to(self._device)
        for origin in state.origin:
            origin.put(frames, clean)
        state.scale = start.scale
        return (noise * start.scale + clean * (1.0 - start.scale)).to(noise.dtype)

    def _prepare(self, work: Pass, row: Row, latents: Tensor) -> _Ready:
        """Ask the policies what the row sees, where everything stands, and which layers run."""
        state, policies = self.state, self.engine.policies
        store = state.kv[row.lane]
        for action in policies.cache.begin(row, store.slots(state.cur, state.switches)):
            store.apply(action)
        slots = store.slots(state.cur, state.switches)
        ranges = policies.window.select(row, slots)
        queries, keys = policies.position.place(row, ranges, slots)
        layers = policies.layers.plan(work, row, slots, state.residuals[row.lane].left)
        if work.kind != "denoise" and self.observer is None:
            layers = layers.without_flow(self._layers)
        if layers != EVERY:
            layers.check(self._layers, policies.layers.buffers(self._layers))
        if len(self._share.layers) < self._layers:
            layers = layers.part(self._share.layers)
        ends = None if self.observer is not None else (policies.cache.end(row, slots), _leaves(row))
        memory = store.read(ranges, keys, len(row.frames), ends)
        if policies.scope is not None and work.kind == "denoise":
            seen = policies.scope.seen(len(row.frames))
            memory = [layer._replace(scope=seen) for layer in memory]
        return _Ready(row, latents, memory, tuple(queries), layers)

    def _left(self, rows: Sequence[_Ready], half: int) -> list[tuple[Residuals, range]]:
        """What was left of each row's lane, with the prompt or without (`half` 1), and its frames."""
        first = half * len(self.state.kv)
        return [(self.state.residuals[first + each.row.lane], each.row.frames) for each in rows]

    def _taken(self, rows: Sequence[_Ready], half: int) -> Taken:
        """What rows that share a memory take along and leave behind."""
        layers = rows[0].layers
        if half and not self.engine.policies.layers.halves:
            return Taken(EVERY, [], {})
        return taken(layers, self._left(rows, half), self.engine.corrections) if layers.taps else Taken(layers, [], {})

    def _batch(self, rows: Sequence[_Ready], memory: Sequence[LayerMemory], along: Taken) -> Batch:
        """Rows that share a memory, stacked."""
        count = len(rows)
        x = (rows[0].latents if count == 1 else torch.cat([each.latents for each in rows])).transpose(1, 2)
        timestep = _timesteps(tuple(each.row.levels for each in rows), self._frame[0], self._device)
        tables = self._tables.of(tuple(each.positions for each in rows), self._frame[0])
        return Batch(x, timestep, self.texts.of(self.state.text, count), tables, memory, along.plan, along.buffers)

    def _guided(self, batch: Batch, rows: int, along: Taken) -> tuple[Batch, Batch]:
        """The batch, and the same under the empty prompt, leaving no keys behind."""
        bare = [layer.read_only() for layer in batch.memory]
        text = self.texts.without_prompt(rows)
        return batch, batch._replace(text=text, memory=bare, layers=along.plan, buffers=along.buffers)

    def _pushed(self, ready: _Ready, flow: Tensor) -> Tensor:
        """The flow away from the one that leads back to the video (residual guidance, StreamDiffusion)."""
        policies, row = self.engine.policies, ready.row
        sigma = per_frame(self._sigmas(row), flow)
        back = (ready.latents - self.state.origin[0].get(row.frames)) / sigma * policies.guidance_delta
        return torch.lerp(back, flow, self.guidance_scale)

    def _sigmas(self, row: Row) -> Tensor:
        return sigma_row(tuple(self.engine.policies.schedule.sigma(level) for level in row.levels), self._device)

    def _clean_of(self, row: Row, latents: Tensor, flow: Tensor) -> Tensor:
        return to_x0(latents, flow, self._sigmas(row))

    def _leave(self, rows: Sequence[_Ready], along: Taken, half: int) -> list[Tensor | None]:
        """Keep what the plan left in buffers; what it measured, a row each."""
        return leave(rows[0].layers, along, self._left(rows, half)) if along.buffers else [None] * len(rows)

    def _note(self, rows: Sequence[_Ready], changes: Sequence[Tensor | None]) -> None:
        """Let a policy know which passes there were, and what changed."""
        for each, (held, frames), change in zip(rows, self._left(rows, 0), changes, strict=True):
            done = Done(frames.start, each.row.levels[0], not each.layers.skip)
            held.over(done, change, self.engine.policies.plan.width)

    def _finish(self, work: Pass, ready: _Ready, flow: Tensor) -> None:
        """Let the memory keep what the row leaves, and the frames go on."""
        row, latents = ready.row, ready.latents
        state, store = self.state, self.state.kv[row.lane]
        store.stage(_leaves(row), ready.layers)
        x0 = self._step(row, latents, flow) if work.kind == "denoise" else None
        for action in self.engine.policies.cache.end(row, store.slots(state.cur, state.switches)):
            store.apply(action)
        if self._share.apart and row.emit:
            self._later.insert(0, _Later(store.over))  # ranks may compare, and a picture waits for this row
        else:
            store.over()
        if self.observer is not None:
            self.observer(work, row, latents, flow, x0, store)

    def _step(self, row: Row, latents: Tensor, flow: Tensor) -> Tensor:
        """Take the row's frames to their next levels; returns the clean estimate."""
        state, schedule = self.state, self.engine.policies.schedule
        sigma_from = tuple(schedule.sigma(level) for level in row.levels)
        sigma_to = tuple(None if level is None else schedule.sigma(level) for level in row.to)
        x0 = self._clean_of(row, latents, flow)
        noise = None
        if row.step == "renoise" and any(level is not None for level in row.to):
            noise = self._draw(row.frames, [level or 0.0 for level in row.to], "renoise")
        after = get_step(row.step)(latents, flow, x0, sigma_from, sigma_to, noise, self._past)
        done = max(0, state.cur - row.frames.start)  # finished frames are shown, not changed
        state.flight.put(range(row.frames.start + done, row.frames.stop), after[:, done:])
        self._reach(row)
        state.latents.put(row.emit, after[:, row.emit.start - row.frames.start :])
        self._clean = row.frames, x0
        return x0

    def _reach(self, row: Row) -> None:
        """Its frames stand at their next levels."""
        state, done = self.state, max(0, self.state.cur - row.frames.start)
        first, reached = row.frames.start + done - state.cur, tuple(level or 0.0 for level in row.to[done:])
        state.levels = (*state.levels[:first], *reached, *state.levels[first + len(reached) :])

    def _draw(self, frames: range, levels: Sequence[float], purpose: str) -> Tensor:
        """Addressed noise [B, F, C, H, W] for the frames at their levels; anchored, every chunk has the first one's."""
        state = self.state
        first = frames.start if state.origin and self.engine.policies.video.anchored else 0
        addresses = [
            Address(state.seed, state.stream, frame - first, level, purpose)
            for frame, level in zip(frames, levels, strict=True)
        ]
        return self.noise.frames(addresses, self._frame).to(self._device, self._dtype)


def _leaves(row: Row) -> list[Slot]:
    """The frames whose keys a pass makes."""
    return [Slot(f, prompt=row.text, level=t) for f, t in zip(row.frames, row.levels, strict=True)]


@lru_cache(maxsize=256)
def _timesteps(rows: tuple[tuple[float, ...], ...], batch: int, device: torch.device) -> Tensor:
    """[rows * batch, F], as finely as the device can; kept, so that a steady stream copies none to the device."""
    return torch.tensor([levels for levels in rows for _ in range(batch)], dtype=finest(device), device=device)
