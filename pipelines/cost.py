"""What a chunk costs, counted in integers from a preset's own plan and policies: frames, keys, multiplications.

No tensor and no clock: the numbers hold for any machine, are exact to the last matrix product
(tests/benchmarks/test_cost.py asks torch's own counter), and a preset that claims to be cheaper has to show it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from cache.kv_shape import KV_BITS, KVShape
from cache.slots import SlotTable
from cache.types import Pass, PassKind, Replay, Row, Slot, Slots, View, clean_row
from pipelines.presets import Preset
from pipelines.presets.plans import make_plan

HORIZON = 96
"""Chunks walked before and after a new prompt; the second half of each has to repeat itself to count as steady."""


@dataclass(frozen=True, slots=True)
class Forward:
    """One call of the model: `queries` latent frames that attend to `keys` frames, their own among them.

    `times` is 2 where guidance runs it with and without the prompt.
    """

    kind: PassKind
    queries: int
    keys: int
    times: int = 1


@dataclass(frozen=True, slots=True)
class Steady:
    """What a preset does once its memory is full, in a film that has changed its prompt before.

    `cycle` holds the forwards of each chunk of the shortest repeating run of chunks; `warm_up` chunks lead to it, from
    the beginning as from a new prompt. `switch` holds the forwards that a new prompt adds, `slots` counts the frames
    the memories have room for, in all `lanes`. `own` are the frames of the longest pass, `staged` says that keys of a
    pass have to wait until it is over, and `means` counts the running means of a lane.
    """

    chunk: int
    warm_up: int
    cycle: tuple[tuple[Forward, ...], ...]
    switch: tuple[Forward, ...]
    slots: int
    lanes: int = 1
    own: int = 0
    staged: bool = False
    means: int = 0

    @property
    def keys(self) -> float:
        """Frames attended by a latent frame on its way through a forward, on average."""
        forwards = [forward for chunk in self.cycle for forward in chunk]
        return sum(f.queries * f.keys for f in forwards) / sum(f.queries for f in forwards)

    @property
    def queries(self) -> float:
        """Frames that go through the model for each frame of film, guidance counted twice."""
        return sum(f.queries * f.times for chunk in self.cycle for f in chunk) / (len(self.cycle) * self.chunk)


def steady(preset: Preset) -> Steady:
    """Walk the preset's plan and policies until they repeat; ValueError if they never do."""
    walk = _Walk(preset)
    first, _ = _settle(preset.name, [walk.chunk() for _ in range(HORIZON)])
    switch = walk.switch()
    again, cycle = _settle(preset.name, [walk.chunk() for _ in range(HORIZON)])
    lanes, own = walk.plan.lanes, max(walk.plan.width, preset.switch.replays)
    slots = preset.cache.capacity * lanes
    return Steady(preset.chunk, max(first, again), cycle, switch, slots, lanes, own, walk.staged, walk.means)


def kv_bytes(
    config: Mapping[str, Any], grid: tuple[int, int], cost: Steady, width: int = 2, kv_cache_dtype: str = ""
) -> int:
    """What a stream allocates for keys and values, numbers of `width` bytes; `grid` has rows and columns of tokens.

    With a `kv_cache_dtype` what is remembered has fewer bits, and steps beside them as cache/quantised.py keeps them.
    """
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    shape = KVShape(config["num_layers"], 1, cost.slots // cost.lanes, cost.own, *grid, heads, head_dim)
    dense = shape.allocated(cost.lanes, width, staged=cost.staged, means=cost.means)
    if not kv_cache_dtype:
        return dense
    frame = shape.numbers * KV_BITS[kv_cache_dtype] // 8 + 2 * heads * head_dim * 4 + shape.tokens * heads * 2
    return dense - shape.remembered(cost.lanes, width) + cost.slots * shape.layers * frame


def _settle(name: str, chunks: Sequence[tuple[Forward, ...]]) -> tuple[int, tuple[tuple[Forward, ...], ...]]:
    """Chunks before they begin to repeat, and the run that repeats."""
    half = len(chunks) // 2
    period = next((p for p in range(1, half // 2) if chunks[half:] == chunks[half - p : -p]), None)
    if period is None:
        raise ValueError(f"preset {name!r} finds no steady state in {len(chunks)} chunks: count a longer walk")
    start = half
    while start and chunks[start - 1] == chunks[start - 1 + period]:
        start -= 1
    return start, tuple(chunks[start : start + period])


def forward_flops(config: Mapping[str, Any], tokens: int, forward: Forward) -> int:
    """Floating-point operations of a forward's matrix products, a multiply-add counted as two.

    Counted are linear layers, self-attention (scores and values), cross-attention over text keys that are kept, and the
    modulation of every frame; norms and activations are left out, as everybody does, and so are the few products of a
    policy that scores tokens. A pass that only writes the memory ends with the keys of its last layer.

    Args:
        config: of the transformer, with `text_len`.
        tokens: of a latent frame.
        forward: what is asked.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, predicts = prod(config["patch_size"]), forward.kind == "denoise"
    query, key, text = forward.queries * tokens, forward.keys * tokens, config.get("text_len", 512)
    block = query * (12 * width**2 + 4 * width * config["ffn_dim"]) + 4 * query * (key + text) * width
    ends = 2 * query * patch * width * (config["in_channels"] + config["out_channels"] * predicts)
    modulation = 2 * forward.queries * width * (config["freq_dim"] + 7 * width)
    last = block if predicts else query * 4 * width**2  # keys and values alone
    return forward.times * ((config["num_layers"] - 1) * block + last + ends + modulation)


def chunk_flops(config: Mapping[str, Any], tokens: int, cost: Steady) -> float:
    """Of one chunk in the steady state, the mean of its cycle."""
    return sum(forward_flops(config, tokens, f) for chunk in cost.cycle for f in chunk) / len(cost.cycle)


def frame_bytes(config: Mapping[str, Any], tokens: int, width: int = 2) -> int:
    """Keys and values of one remembered latent frame over all layers, numbers of `width` bytes."""
    return 2 * config["num_layers"] * tokens * config["num_attention_heads"] * config["attention_head_dim"] * width


def latent_size(config: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """Height and width of a latent frame for a picture: the Wan 2.1 autoencoder divides by 8, that of 2.2 by 16."""
    stride = 8 if config["in_channels"] == 16 else 16
    return height // stride, width // stride


def token_grid(config: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tokens of a latent frame of that height and width."""
    _, patch_h, patch_w = config["patch_size"]
    return size[0] // patch_h, size[1] // patch_w


def frame_tokens(config: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Tokens of a latent frame of that height and width."""
    return prod(size) // prod(config["patch_size"])


class _Walk:
    """The engine's loop without a model: slots, levels in flight and where the film stands."""

    def __init__(self, preset: Preset) -> None:
        levels = tuple(float(step) for step in preset.schedule.denoising_step_list if step)
        self._preset = preset
        self.plan = make_plan(preset, levels)
        self._guided = 2 if preset.schedule.guidance_scale != 1.0 else 1
        self._lanes = [SlotTable(preset.cache.capacity) for _ in range(self.plan.lanes)]
        self._levels: tuple[float, ...] = ()
        self._switches: tuple[int, ...] = ()
        self._cur, self._text = 0, 1
        self.staged, self.means = False, 0

    def chunk(self) -> tuple[Forward, ...]:
        """The forwards of the next chunk."""
        emitted = range(self._cur, self._cur)
        done: list[Forward] = []
        for work in self.plan.passes(View(self._cur, self._text, self._levels, self._switches)):
            for row in work.rows:
                done.append(self._run(work, row))
                emitted = row.emit or emitted
        self._levels = self._levels[len(emitted) :]
        self._cur = emitted.stop
        return tuple(done)

    def switch(self) -> tuple[Forward, ...]:
        """The forwards that a new prompt adds before the next chunk."""
        done: list[Forward] = []
        self._switches, self._text = (*self._switches, self._cur), self._text + 1
        for action in self._preset.switch.plan(self._slots(0), self._text - 1, self._text):
            if isinstance(action, Replay):
                row = clean_row(action.frames, 0.0, "stored", self._text)
                done.append(self._run(Pass("replay", (row,)), row))
            else:
                for table in self._lanes:
                    table.apply(action)
        return tuple(done)

    def _slots(self, lane: int) -> Slots:
        return Slots(lane, self._cur, self._lanes[lane].entries, self._switches)

    def _run(self, work: Pass, row: Row) -> Forward:
        policies, lane = self._preset, row.lane
        table = self._lanes[lane]
        for action in policies.cache.begin(row, self._slots(lane)):
            table.apply(action)
        ranges = policies.window.select(row, self._slots(lane))
        keys = sum(len(part) for part in ranges)
        staged = [Slot(f, prompt=row.text, level=t) for f, t in zip(row.frames, row.levels, strict=True)]
        seen = [table.places[i] for part in ranges for i in range(part.start, part.stop) if i < len(table.places)]
        ends = policies.cache.end(row, self._slots(lane))
        self.staged |= table.foresee(ends, staged, seen) is None
        for action in ends:
            table.apply(action, staged)
        self.means = max(self.means, sum(slot.tag == "mean" for slot in table.entries))
        if work.kind == "denoise":
            done = max(0, self._cur - row.frames.start)  # finished frames are shown, not changed
            first = row.frames.start + done - self._cur
            reached = tuple(level or 0.0 for level in row.to[done:])
            self._levels = (*self._levels[:first], *reached, *self._levels[first + len(reached) :])
        return Forward(work.kind, len(row.frames), keys, self._guided if work.kind == "denoise" else 1)
