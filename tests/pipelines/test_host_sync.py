"""The host never waits for the device but where a chunk's pixels leave it: counted on a device that is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cache import FEATURE_CACHES
from cache.deep_forcing import DeepForcing
from cache.features.facts import Facts
from cache.kv import KVStore
from cache.refresh import SinkRefresh
from cache.scorers.logit_sum import LogitSum
from cache.switches import Recache
from cache.types import Pass, Row
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import PRESETS, Preset
from pipelines.streaming import Observer, Stream
from pipelines.types import Controls
from tests.played_device import AWAY, Crossing, device, send
from tests.tiny import FOX, HEIGHT, WIDTH, WOLF, FakeText, tiny_autoencoder, tiny_transformer

# ------------------------------------------------------------------ films

LAYERS = 1
PIXELS, LATENTS = "pipelines/streaming.py:_decode", "pipelines/streaming.py:_make"
"""Where a chunk leaves the device: its pixels, or its latents for the hash of a film that is not decoded."""


@dataclass(frozen=True, slots=True)
class Run:
    """Hashes of the chunks, and what crossed the border in each."""

    hashes: list[str]
    waits: list[Counter[Crossing]]
    uploads: list[Counter[Crossing]]


def networks() -> tuple[CausalWanTransformer3DModel, AutoencoderTAEHV]:
    return tiny_transformer(num_layers=LAYERS), tiny_autoencoder()


def stream_of(preset: Preset, parts: tuple[nn.Module, nn.Module], observer: Observer | None = None) -> Stream:
    transformer, autoencoder = parts
    levels = make_policies(replace(preset, feature_cache="")).plan.levels
    facts = Facts(
        LAYERS, levels, computed=((True, *(step % 2 == 0 for step in range(1, len(levels)))),), background=(0,)
    )
    policies = make_policies(preset, facts)
    corrections = torch.full((facts.corrections, 2, 64), 0.5).to(transformer.patch_embedding.weight.device)  # type: ignore[union-attr]
    engine = Engine(transformer, Conditioner(FakeText()), policies, autoencoder, corrections=corrections)  # type: ignore[arg-type]
    return Stream(engine, height=HEIGHT, width=WIDTH, seed=3, observer=observer)


def away(
    preset: Preset,
    script: Sequence[Controls],
    observer: Observer | None = None,
    *,
    decode: bool = False,
    fine: bool = True,
) -> Run:
    """A film on the played device."""
    parts = networks()
    with device(fine=fine) as played:
        stream = stream_of(preset, (send(parts[0]), send(parts[1])), observer)
        run = Run([], [], [])
        for controls in script:
            played.waits.clear()
            played.uploads.clear()
            run.hashes.append(stream.next_chunk(controls, decode=decode).sha256)
            run.waits.append(Counter(played.waits))
            run.uploads.append(Counter(played.uploads))
    return run


def home(preset: Preset, script: Sequence[Controls], *, decode: bool = False) -> list[str]:
    stream = stream_of(preset, networks())
    return [stream.next_chunk(controls, decode=decode).sha256 for controls in script]


def short(preset: Preset) -> Preset:
    """Two steps a chunk where the list is only a list."""
    if preset.schedule.plan != "serial":
        return preset
    return replace(preset, schedule=replace(preset.schedule, denoising_step_list=(1000, 500)))


def film_of(preset: Preset) -> list[Controls]:
    """Until the memory is full and has forgotten, then a new prompt."""
    chunks = preset.cache.capacity // preset.chunk + 2
    return [FOX] * chunks + [WOLF] * 2


def where(waits: Counter[Crossing]) -> list[str]:
    return [f"{wait.operator} in {wait.place}" for wait in waits.elements()]


class Kinds:
    """An observer that notes the kinds of passes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        self.seen.append(work.kind)


@pytest.mark.parametrize("name", PRESETS)
def test_the_host_waits_once_a_chunk_and_that_is_for_its_pixels(name: str) -> None:
    """In the ordinary loop, where the memory forgets, and where a new prompt replays it."""
    preset, kinds = short(PRESETS[name]), Kinds()
    script = film_of(preset)
    run = away(preset, script, kinds, decode=True)
    assert ("replay" in kinds.seen) == (preset.switch.replays > 0)
    for waits in run.waits:
        assert [wait.place for wait in waits.elements()] == [PIXELS], where(waits)
    assert run.hashes == home(preset, script, decode=True), "the played device computes something else"


@pytest.mark.parametrize("name", PRESETS)
def test_a_device_without_float64_plays_every_preset(name: str) -> None:
    """As Apple's GPUs: what would make a float64 tensor on it raises, as it does there."""
    preset = short(PRESETS[name])
    run = away(preset, [FOX] * 3 + [WOLF], decode=True, fine=False)
    for waits in run.waits:
        assert [wait.place for wait in waits.elements()] == [PIXELS], where(waits)


def test_float64_on_a_device_without_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schedulers.flow_match.finest", lambda device: torch.float64)
    with pytest.raises(TypeError, match="to_x0 makes float64"):
        away(PRESETS["embedded"], [FOX], fine=False)


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_a_feature_cache_waits_for_nothing_but_what_it_measured(name: str) -> None:
    """That is copied while the device works (no wait) and read from the host's memory a pass later."""
    preset = replace(PRESETS["embedded"], feature_cache=name)
    script = [FOX] * 5 + [WOLF] * 2
    run = away(preset, script)
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits), run.waits
    assert run.hashes == home(preset, script)


def deep(**changes: Any) -> Preset:
    preset = short(PRESETS["deep-forcing"])
    return replace(preset, cache=DeepForcing(window=9, sink=2, budget=7, recent=4, **changes))


def test_choosing_tokens_waits_for_nothing_and_sends_nothing() -> None:
    """Chunks that choose (every second one) and chunks that do not cross the border equally often."""
    run = away(deep(), [FOX] * 8)
    counted = [
        (sum(waits.values()), sum(uploads.values())) for waits, uploads in zip(run.waits, run.uploads, strict=True)
    ]
    assert len(set(counted[4:])) == 1, counted
    assert not [upload for upload in run.uploads[-1] + run.uploads[-2] if "selection" in upload.place]
    assert run.hashes == home(deep(), [FOX] * 8)


def test_tokens_are_chosen_on_a_device_without_float64() -> None:
    run = away(deep(), [FOX] * 6, fine=False)
    assert [sum(waits.values()) for waits in run.waits] == [1] * 6


def test_a_recache_of_a_pruned_memory_waits_for_nothing() -> None:
    preset = replace(deep(), switch=Recache(window=9, sink=2))
    kinds = Kinds()
    run = away(preset, [FOX] * 6 + [WOLF] * 2, kinds)
    assert kinds.seen.count("replay") == 1
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits)


def test_a_sink_that_is_renewed_waits_for_nothing_but_its_scores() -> None:
    """They are copied while the device works (no wait) and read from the host's memory a chunk later."""
    preset = PRESETS["streamdiffusion-v2"]
    assert isinstance(preset.cache, SinkRefresh)
    preset = replace(preset, cache=replace(preset.cache, threshold=1.0))
    sinks: list[list[int]] = []

    def watch(work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        sinks.append([slot.frame for slot in store.entries if slot.tag == "sink"])

    run = away(preset, [FOX] * 12, watch)
    assert len({tuple(sink) for sink in sinks}) > 4, "the sink was never renewed"
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits)


# ------------------------------------------------------------------ the counter can fail

MUTATIONS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.amax()),
    "truth": lambda x: bool((x > 0).any()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy": lambda x: torch.empty(x.shape).copy_(x),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_wait_in_the_choice_of_tokens_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score = LogitSum.score

    def looks(self: LogitSum, layer: int, *tensors: Tensor) -> Tensor:
        MUTATIONS[what](tensors[1])
        return score(self, layer, *tensors)

    monkeypatch.setattr(LogitSum, "score", looks)
    run = away(deep(), [FOX] * 4)
    found = [wait.place for wait in run.waits[3].elements() if wait.place != LATENTS]
    assert len(found) == LAYERS
    assert not any(len(waits) > 1 for waits in run.waits[:3]), "nothing is chosen before the memory is full"


@pytest.mark.parametrize("how", [lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x + torch.ones(x.shape)])
def test_what_no_device_allows_fails(how: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and arrays straight from the device, and the host's tensors among the device's."""
    write = KVStore.stage

    def looks(self: KVStore, *arguments: Any) -> None:
        how(self.tensors()["keys"])
        write(self, *arguments)

    monkeypatch.setattr(KVStore, "stage", looks)
    with pytest.raises((RuntimeError, TypeError), match=r"tolist|numpy|host beside"):
        away(deep(), [FOX])


def test_numbers_sent_to_the_device_are_counted_apart() -> None:
    with device() as played:
        torch.zeros(3).to(AWAY)
        torch.tensor([1, 2], device=AWAY)
        x = torch.zeros(2, device=AWAY)
        x.copy_(torch.ones(2), non_blocking=True)
        assert float((x + 1).sum()) == 4
    assert [wait.operator for wait in played.waits] in (["item"], ["_local_scalar_dense"])
    assert len(played.uploads) == 2
