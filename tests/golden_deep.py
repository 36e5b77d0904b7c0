"""Replay of Deep Forcing: which tokens were kept and why, where the sink stood, and all that a rollout compares.

The released system writes 21 into the first move of the sink, so with a window of another length its sink stands off
by a constant for ever: a policy here does the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cache.deep_forcing import DeepForcing, DeepSink
from cache.kv import KVStore
from cache.rope import rotary_tables_at, rotate
from cache.scorers.logit_sum import LogitSum
from cache.selection import FRAME, USES
from cache.types import NATIVE, Action, Pass, Rebase, Row, Slots, TokenScorer
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.engine import Policies
from pipelines.presets import PRESETS
from tests.golden_rollout import Ring, Settings, Witness, run
from tests.golden_trace import Ledger, NotSupportedError, Trace

EXCLUDED = -1e30
"""The score that the original writes for the sink and for the frames that judge, which are not to be chosen from."""

SCORES_ATOL = 5e-5
"""Sums of some hundred logits, in float32 on both sides; the last token kept and the first dropped are 1e-3 apart."""

TRAINED = 21
"""The window that the original's first move of the sink takes for granted."""


class Listener:
    """A scorer that writes down, layer by layer, its last scores and which tokens were used up.

    The original records scores before it excludes those that were chosen too often.
    """

    def __init__(self, scorer: LogitSum | None = None) -> None:
        self.scorer = scorer or LogitSum()
        self.heard: dict[int, Tensor] = {}
        self.used_up: dict[int, Tensor] = {}

    @property
    def keep_q(self) -> int:
        return self.scorer.keep_q

    def score(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, uses: Tensor) -> Tensor:
        self.heard[layer] = self.scorer.score(layer, queries, keys, values, torch.zeros_like(uses))
        self.used_up[layer] = uses >= self.scorer.max_reuse
        return self.scorer.score(layer, queries, keys, values, uses)


@dataclass(frozen=True, slots=True)
class Released(DeepForcing):
    """Deep Forcing as shipped: the sink stands `late` frames after its place."""

    late: int = 0
    listener: Listener = field(default_factory=Listener)

    @property
    def scorer(self) -> TokenScorer:
        return self.listener

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        actions = DeepForcing.begin(self, row, slots)
        return [replace(each, base=each.base + self.late) if isinstance(each, Rebase) else each for each in actions]


class _PrunedRing(Ring):
    """Which latent frame stands in which slot; those that hold single tokens are NATIVE."""

    def __init__(self, tokens: int, settings: Settings, kept: int) -> None:
        super().__init__(tokens, settings)
        self._sink, self._kept = settings.sink, kept

    def follow(self, call: dict[str, Any]) -> None:
        super().follow(call)
        if call["rolled"]:
            self.slots[self._sink : self._sink + self._kept] = [NATIVE] * self._kept


class DeepWitness(Witness):
    """A rollout's comparison, and of the memory that of single tokens."""

    def __init__(
        self, trace: Trace, ledger: Ledger, model: CausalWanTransformer3DModel, settings: Settings, policies: Policies
    ) -> None:
        super().__init__(trace, ledger, model, settings, policies)
        self._cache = policies.cache
        kept = 0
        if isinstance(self._cache, Released):
            kept = _budget(self._cache) - self._cache.sink - self._cache.recent
        self._kept = kept
        self._ring = _PrunedRing(trace.sidecar["frame_seqlen"], settings, kept)
        self._before: list[Tensor] = []
        self._selections = {(each["call"], each["layer"]): each for each in trace.sidecar["selection"] or ()}
        # The place the original says its sink has, less the frames we moved it by: it says so before it moves it.
        rolled = [call["current_start"] for call in self._calls if call["rolled"]]
        first = rolled[0] // trace.sidecar["frame_seqlen"] if rolled else 0
        self._offset = -self._cache.late if isinstance(self._cache, Released) else first - settings.window

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        number = self.passes
        super().__call__(work, row, x, flow, x0, store)
        if number >= len(self._calls):
            return
        state = self._calls[number]["state"]
        if "sink_base_abs_start_frame" in state and self._settings.sink:
            base = store.entries[0].base + self._offset
            self._ledger.same(f"call {number} sink", base, state["sink_base_abs_start_frame"])
        if isinstance(self._cache, Released):
            if self._calls[number]["rolled"]:
                self._selection(number, row, store, self._cache)
            self._before = [store.tokens(layer) for layer in range(store.shape.layers)]

    def _selection(self, number: int, row: Row, store: KVStore, cache: Released) -> None:
        """The tokens that stayed, found again among those that could; and the scores they were chosen by."""
        tokens = store.shape.tokens
        total = self._before[0].shape[1] + len(row.frames) * tokens
        first, last = cache.sink * tokens, total - cache.recent * tokens
        for layer in range(store.shape.layers):
            name = f"call{number:03}.{layer}"
            recorded = self._selections[number, layer]
            self._ledger.same(f"{name} candidates", total, recorded["T"])
            self._ledger.same(f"{name} sink", first, recorded["sink_tokens"])
            self._ledger.same(f"{name} recent", total - last, recorded["R_eff"])
            self._ledger.same(f"{name} chosen", self._kept * tokens, recorded["top_c"])
            where = {tuple(place): index for index, place in enumerate(self._before[layer][0, :, :USES].tolist())}
            after = store.tokens(layer)[0, first : first + self._kept * tokens, :USES].tolist()
            keep = [*range(first), *(where[tuple(place)] for place in after), *range(last, total)]
            self._ledger.exact(f"pc.keep.{name}", torch.tensor(keep))
            scores = torch.full((total,), EXCLUDED)
            if self._kept:
                scores[first:last] = cache.listener.heard[layer][0]
                used_up = int(cache.listener.used_up[layer].sum())
                self._ledger.same(f"{name} used up", used_up, recorded["n_excluded_by_reuse"])
                self._ledger.close(f"pc.scores.{name}", scores, atol=SCORES_ATOL)
            elif f"pc.scores.{name}" in self._trace:
                self._ledger.compared.add(f"pc.scores.{name}")
                self._ledger.notes.append(f"{name} has scores, but a budget that chooses no token")

    def _memory(self, prefix: str, store: KVStore, label: str) -> None:
        """Keys and values, and of every token its frame and how often it was chosen."""
        frames, _, _ = store.logical(0)
        self._ledger.same(f"{label} frames in memory", frames, self._ring.slots)
        for layer in range(store.shape.layers):
            if f"{prefix}{layer}.k" not in self._trace:
                continue
            frames, keys, values = store.logical(layer)
            index = _index(store, layer, frames)
            places = index.clone()
            sink = slice(0, self._settings.sink * store.shape.tokens)
            base = store.entries[0].base if store.entries else 0
            places[:, sink, FRAME] += base
            tables = rotary_tables_at(places[..., :USES], store.shape.head_dim, dtype=torch.float64)
            valid = (slice(None), slice(0, index.shape[1]))
            turned = rotate(keys.flatten(1, 2).double(), *tables).float()
            self._ledger.close(f"{prefix}{layer}.k", turned, index=valid)
            self._ledger.close(f"{prefix}{layer}.v", values.flatten(1, 2), index=valid)
            if f"{prefix}{layer}.abs_frame_idx" in self._trace:
                places[:, sink, FRAME] += self._offset if base else 0
                empty = torch.full((1, self._settings.capacity * store.shape.tokens - index.shape[1]), -1)
                known = torch.cat([places[..., FRAME].long(), empty.expand(len(index), -1)], dim=1)
                self._ledger.exact(f"{prefix}{layer}.abs_frame_idx", known)
                uses = torch.cat([index[..., USES].long(), torch.zeros_like(empty).expand(len(index), -1)], dim=1)
                self._ledger.exact(f"{prefix}{layer}.topc_select_counts", uses)


def _index(store: KVStore, layer: int, frames: list[int]) -> Tensor:
    """Frame, row, column and uses of every token of the logical memory, [B, S, 4]: whole frames as they must be."""
    s = store.shape
    raster = [[frame, row, column, 0] for frame in frames for row in range(s.rows) for column in range(s.columns)]
    index = torch.tensor(raster).expand(s.batch, -1, -1).clone()
    for slot, entry in enumerate(store.entries):
        if entry.tag == "kept":
            part = slice(slot * s.tokens, (slot + 1) * s.tokens)
            index[:, part] = store.tokens(layer)[:, part].long()
    return index


def _budget(cache: DeepForcing) -> int:
    return max(min(cache.budget, cache.window), cache.sink + cache.recent)


def _policies(trace: Trace, settings: Settings) -> Policies:
    sidecar = trace.sidecar
    knobs, tokens = sidecar["args"]["model_kwargs"], sidecar["frame_seqlen"]
    starts = [call["current_start"] // tokens for call in sidecar["calls"] if call["rolled"]]
    if settings.window != settings.capacity:
        raise NotSupportedError(f"a window of {settings.window} in a cache of {settings.capacity} latent frames")
    if settings.switches or any(call["prompt"] for call in sidecar["calls"]):
        raise NotSupportedError("Deep Forcing under several prompts")
    try:
        if knobs.get("is_ds_only", False):
            preset, cache = PRESETS["deep-forcing-sink"], DeepSink(settings.window, settings.sink)
        else:
            preset = PRESETS["deep-forcing"]
            released = Released(
                window=settings.window,
                sink=settings.sink,
                budget=knobs.get("budget", 16),
                recent=knobs.get("recent", 4),
                max_reuse=knobs.get("topc_max_reuse", 7),  # these three: the original's own defaults
            )
            _check(trace, released)
            late = 0 if not starts else (TRAINED - released.budget) - (starts[0] - _budget(released))
            listener = Listener(LogitSum(released.recent, released.max_reuse))
            cache = replace(released, late=late, listener=listener)
        return make_policies(replace(settings.timed(preset), cache=cache))
    except ValueError as error:  # a combination that the product refuses, with its reason
        raise NotSupportedError(str(error)) from error


def _check(trace: Trace, cache: DeepForcing) -> None:
    """Raise NotSupportedError for choices whose rules were never recorded."""
    tokens = trace.sidecar["frame_seqlen"]
    if trace["in.noise"].shape[0] > 1:
        raise NotSupportedError("tokens chosen for several films at once")
    for each in trace.sidecar["selection"] or ():
        if each["R_eff"] != cache.recent * tokens:
            raise NotSupportedError(f"a choice by {each['R_eff']} queries where {cache.recent} frames have more")
        if each["T"] - each["R_eff"] - each["sink_tokens"] - each["n_excluded_by_reuse"] < each["top_c"]:
            raise NotSupportedError("fewer tokens left to choose from than are to be chosen")


def replay(trace: Trace, ledger: Ledger) -> None:
    settings = Settings.read(trace.sidecar)
    policies = _policies(trace, settings)
    if isinstance(policies.cache, Released) and policies.cache.late:
        ledger.notes.append(f"the sink stands {policies.cache.late} frames off, as released")
    run(trace, ledger, settings, policies, DeepWitness)
