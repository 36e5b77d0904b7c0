"""Replay of Anchor Forcing: the product's preset through the product's loop, with the released anchors in its memory.

The release copies the first chunk after a switch in each of its passes, noisy ones included, and what was copied
before becomes the "prior" each time, so the prior ends as the last noisy pass of the same chunk. It counts switches
from the second on, and times what it shows by the frame that was asked for, which need not begin a chunk. Two
policies here do as it did; positions, re-cache and everything else are the product's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cache.anchors import JunctionAnchors
from cache.kv import KVStore
from cache.positions import Regions
from cache.types import Action, Evict, Move, Pass, Row, SlotRange, Slots, Write
from pipelines.build import make_policies
from pipelines.engine import Policies
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from tests.golden_rollout import Settings, Witness, run
from tests.golden_trace import Ledger, NotSupportedError, Trace

HORIZON, ANCHOR = 21, 3
"""Latent frames that the release has written into its code, whatever its settings."""


def happened(row: Row) -> int:
    """Switches that the release knows of in this pass: it counts one when its re-cache is over."""
    return row.text - 1 - (row.source == "stored")


@dataclass(frozen=True, slots=True)
class ReleasedAnchors(JunctionAnchors):
    """Every pass of the first chunk after a switch is copied; the slots of the prior come before the anchor's."""

    def end(self, row: Row, slots: Slots) -> list[Action]:
        actions = list[Action]()
        if self._copied(row, slots) and len(_anchors(slots)) > self.anchor:
            stale = range(self.sink, self.sink + self.anchor)
            actions.append(Evict(stale))
            slots = replace(slots, entries=slots.entries[: stale.start] + slots.entries[stale.stop :])
        actions += JunctionAnchors.end(self, row, replace(slots, switches=()))  # without a switch it copies nothing
        if not self._copied(row, slots):
            return actions
        film = {slot.frame for slot in slots.entries if slot.tag != "anchor"}
        behind = len(slots.entries) + sum(frame not in film for frame in row.commit)
        first = self.sink + len(_anchors(slots))
        for index, frame in enumerate(row.frames):
            actions.append(Write(range(frame, frame + 1), range(behind + index, behind + index + 1), "anchor"))
            actions.append(Move(behind + index, first + index))
        return actions

    def _copied(self, row: Row, slots: Slots) -> bool:
        return bool(self.anchor and slots.switches) and row.frames.start == slots.switches[-1]


@dataclass(frozen=True, slots=True)
class ReleasedWindow:
    """What the release shows beside sink and recent frames, from the frames at which switches were `asked` for."""

    window: int
    sink: int
    anchor: int
    asked: tuple[int, ...]

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        shown, anchors = self._shown(row, slots), _anchors(slots)
        film = [i for i, slot in enumerate(slots.entries) if i not in anchors and slot.frame not in row.frames]
        end = len(slots.entries)
        return [SlotRange(index, index + 1) for index in sorted([*film, *shown])] + [
            SlotRange(end, end + len(row.frames))
        ]

    def _shown(self, row: Row, slots: Slots) -> list[int]:
        anchors, done, start = _anchors(slots), happened(row), row.frames.start
        if not anchors:
            return []
        if row.source == "stored" and start > slots.entries[0].frame:
            start -= self.sink  # the release replays these too, and drops their keys
        if self.asked[max(0, done - 1)] + self.window - self.sink < start:
            return anchors[-self.anchor :]
        return anchors[: self.anchor] if done > 2 else []


def _anchors(slots: Slots) -> list[int]:
    return [index for index, slot in enumerate(slots.entries) if slot.tag == "anchor"]


class Film:
    """A store of keys without its anchors, which the original keeps in a cache of their own."""

    def __init__(self, store: KVStore) -> None:
        self._store, self.shape = store, store.shape

    def logical(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        frames, keys, values = self._store.logical(layer)
        anchors = _anchors(self._store.slots(0))
        film = [index for index in range(len(frames)) if index not in anchors]
        return [frames[index] for index in film], keys[:, film], values[:, film]


class AnchorWitness(Witness):
    """A rollout's comparison, and that of the anchor, the prior and what the original counted."""

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        number = self.passes
        super().__call__(work, row, x, flow, x0, store)
        if number >= len(self._calls):
            return
        call, label, same = self._calls[number], f"call {number}", self._ledger.same
        first = row.text > 1 and row.source != "stored" and row.frames.start == self._begins(row.text - 1)
        same(f"{label} first chunk after a switch", first, call.get("new_prompt_chunk_flag", False))
        if "prompt_cache" in call and self._settings.switches:
            before = max(0, happened(row) - 1)
            place = HORIZON - self._settings.window - ANCHOR if _anchors(store.slots(0)) else 0
            ours = {"switch_frame": self._settings.switches[before], "prompt_idx": before, "rope_start_frame": place}
            for name, value in ours.items():
                same(f"{label} {name}", [value], call["prompt_cache"][name])
        self._compare_anchors(f"pc.call{number:03}.", store)

    def _begins(self, switch: int) -> int:
        """First frame of the first chunk at or after the frame that switch number `switch` was asked for."""
        asked = self._settings.switches[switch - 1]
        return -(-asked // self._settings.chunk) * self._settings.chunk

    def _memory(self, prefix: str, store: Any, label: str) -> None:
        super()._memory(prefix, Film(store), label)  # type: ignore[arg-type]  # all that it asks of a store

    def finish(self, stream: Stream, prompt: Tensor) -> None:
        super().finish(stream, prompt)
        self._compare_anchors("pc.final.", stream.state.kv[0])

    def _compare_anchors(self, prefix: str, store: KVStore) -> None:
        """Raw keys and values of the last copy and of the one before it; zeros where there was none yet."""
        anchors = _anchors(store.slots(0))
        for layer in range(store.shape.layers):
            if f"{prefix}{layer}.k" not in self._trace:
                continue
            _, keys, values = store.logical(layer)
            for name, where in (("", anchors[-ANCHOR:]), ("_prior", anchors[-2 * ANCHOR : -ANCHOR])):
                for letter, tensor in (("k", keys), ("v", values)):
                    ours = tensor[:, where] if where else torch.zeros_like(tensor[:, :ANCHOR])
                    self._ledger.close(f"{prefix}{layer}.{letter}{name}", ours.flatten(1, 2))


def _policies(sidecar: dict[str, Any], settings: Settings) -> Policies:
    """The preset with this run's numbers; NotSupportedError for runs whose rules were never recorded."""
    basis = settings.preset()
    if not settings.infinite:
        if sidecar["args"].get("use_prompt_cache", True):
            raise NotSupportedError("Anchor Forcing's anchors with absolute positions")
        return make_policies(basis)
    anchor = ANCHOR if sidecar["args"].get("use_prompt_cache", True) else 0
    first_chunks = [max(0, -(-frame // settings.chunk) * settings.chunk) for frame in settings.switches]
    if settings.sink == 0:
        raise NotSupportedError("Anchor Forcing without a sink (the original cannot either)")
    if settings.window + anchor > HORIZON:
        raise NotSupportedError(f"a window of {settings.window} latent frames in {HORIZON} positions")
    if not settings.global_sink and any(frame > settings.window for frame in first_chunks):
        raise NotSupportedError("a re-cache that renews the sink: its queries and keys would stand at two places")
    if anchor and settings.chunk != anchor:
        raise NotSupportedError(f"chunks of {settings.chunk} where the original copies {anchor} latent frames")
    if anchor and not settings.switches:
        raise NotSupportedError("Anchor Forcing under a single prompt")
    preset = replace(
        settings.timed(PRESETS["anchor-forcing"]),
        cache=ReleasedAnchors(settings.window, settings.sink, anchor),
        window=ReleasedWindow(settings.window, settings.sink, anchor, settings.switches),
        position=Regions(HORIZON, settings.window, anchor),
        switch=basis.switch,
    )
    return make_policies(preset)


def replay(trace: Trace, ledger: Ledger) -> None:
    sidecar = trace.sidecar
    settings = Settings.read(sidecar)
    if settings.first_chunk or "in.initial_latent" in trace:
        raise NotSupportedError("Anchor Forcing that begins with given frames or a shorter first chunk")
    # LongLive's rules of slots and re-cache, with keys kept as they are where positions count regions
    settings = replace(settings, system="ll", infinite=bool(sidecar["args"].get("rope_enhance", True)))
    run(trace, ledger, settings, _policies(sidecar, settings), AnchorWitness)
