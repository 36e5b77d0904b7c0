"""Passes that run some of the layers: replays that begin deep, features used again, layers on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache.deep_forcing import DeepForcing
from cache.layer_plan import EVERY, EveryLayer, LayerPlan, LayerPolicy, Left, Tap
from cache.positions import MovedSink
from cache.refresh import SinkRefresh
from cache.switches import Keep, Recache
from cache.types import Pass, Row, Slots
from models.transformer import Batch, LocalRunner, Transformer
from models.wan import CausalWanTransformer3DModel
from pipelines.engine import Engine
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from schedulers.batch import StreamBatch
from tests.tiny import FOX, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

LAYERS = 4


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(dtype=torch.float64, num_layers=LAYERS)


@contextmanager
def inputs_of(model: CausalWanTransformer3DModel, layer: int) -> Iterator[list[Tensor]]:
    """What enters a block, call by call."""
    seen: list[Tensor] = []
    handle = model.blocks[layer].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


# ------------------------------------------------------------------ integers


def test_what_runs_is_what_is_not_skipped() -> None:
    plan = LayerPlan(skip=(range(4, 6), range(1, 2)))
    assert [layer for layer in range(8) if plan.runs(layer)] == [0, 2, 3, 6, 7]
    assert plan.run(8) == [range(1), range(2, 4), range(6, 8)]
    assert LayerPlan((range(2),)).run(4) == [range(2, 4)]
    assert LayerPlan((range(2, 4),)).run(4) == [range(2)]
    assert EVERY.run(3) == [range(3)]


def test_a_buffer_is_read_before_a_pass_unless_the_pass_itself_fills_it_first() -> None:
    plan = LayerPlan(taps=(Tap(0, 0, "keep"), Tap(1, 1, "add"), Tap(2, 0, "keep_change"), Tap(3, 2, "take")))
    assert (plan.reads(), plan.writes()) == ({1, 2}, {0})


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (LayerPlan((range(3, 5),)), "cannot skip .* layers 0 to 3"),
        (LayerPlan((range(-1, 1),)), "cannot skip"),
        (LayerPlan((range(2, 2),)), "cannot skip"),
        (LayerPlan(taps=(Tap(5, 0, "take"),)), "4 layers"),
        (LayerPlan(taps=(Tap(0, 2, "take"),)), "2 buffers"),
        (LayerPlan(taps=(Tap(2, 0, "keep"), Tap(1, 1, "keep"))), "order of their layers"),
        (LayerPlan(taps=(Tap(1, 0, "keep_change"),)), "nothing to compare with"),
        (LayerPlan(taps=(Tap(0, 0, "keep"), Tap(1, 0, "keep_change"), Tap(2, 0, "keep_change"))), "nothing to compare"),
    ],
)
def test_a_plan_that_no_model_can_follow_is_refused(plan: LayerPlan, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan.check(4, 2)
    LayerPlan((range(4),), (Tap(0, 0, "keep"), Tap(4, 0, "keep_change"), Tap(4, 1, "take"))).check(4, 2)


# ------------------------------------------------------------------ replays that begin deep


@dataclass(frozen=True, slots=True)
class FromLayer(LayerPolicy):
    """Replays run from `layer` on, upon what entered it in the clean pass."""

    layer: int

    @property
    def of_prompt(self) -> bool:
        return False

    def buffers(self, layers: int) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind == "replay":
            return LayerPlan((range(self.layer),), (Tap(self.layer, 0, "take"),))
        return LayerPlan(taps=(Tap(self.layer, 0, "keep"),)) if work.kind == "clean" else EVERY


def engine_of(model: CausalWanTransformer3DModel, layers: LayerPolicy, **policies: object) -> Engine:
    engine = tiny_engine(model, **{"levels": (1000.0,), **policies})
    return replace(engine, policies=replace(engine.policies, layers=layers))


def keys_of(stream: Stream) -> list[tuple[Tensor, Tensor]]:
    store = stream.state.kv[0]
    store.stage([])
    return [(keys.clone(), values.clone()) for _, keys, values in map(store.logical, range(store.shape.layers))]


def replayed(model: CausalWanTransformer3DModel, layers: LayerPolicy, switch: Recache | Keep) -> Stream:
    stream = tiny_stream(engine_of(model, layers, switch=switch))
    film(stream, [FOX] * 5)
    stream._condition(WOLF)
    return stream


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_replay_from_a_layer_runs_the_deep_ones_on_what_entered_them(
    model: CausalWanTransformer3DModel, layer: int
) -> None:
    kept = keys_of(replayed(model, EveryLayer(), Keep()))
    with inputs_of(model, layer) as entered:
        whole = keys_of(replayed(model, EveryLayer(), Recache(9, 3)))
    with inputs_of(model, layer - 1) as below, inputs_of(model, layer) as run:
        deep = keys_of(replayed(model, FromLayer(layer), Recache(9, 3)))
    assert len(run) == len(below) + 1, "the layers below had no replay"
    clean = torch.cat(entered[1:10:2][-2:], dim=1)  # the clean passes of the last two chunks
    assert torch.equal(run[-1], clean)
    for number in range(LAYERS):
        for part in range(2):
            if number < layer:
                assert torch.equal(deep[number][part], kept[number][part]), "a skipped layer wrote"
            else:
                assert gap(deep[number][part][:, 3:], kept[number][part][:, 3:]) > (1e-2 if number > layer else -1)
    if layer == 1:  # what enters it knows nothing of the text but by layer 0
        assert gap(deep[0][0], whole[0][0]) < 1e-12


def test_a_replay_takes_only_what_was_left_and_a_cut_forgets_it(model: CausalWanTransformer3DModel) -> None:
    stream = replayed(model, FromLayer(2), Recache(9, 3))
    film(stream, [Controls("an owl", Transition("cut"))])
    with pytest.raises(ValueError, match="buffer 0 holds nothing of frame 14"):
        stream.state.residuals[0].get(0, range(14, 15))
    stream.state.residuals[0].get(0, range(15, 18))


# ------------------------------------------------------------------ features used again


@dataclass(frozen=True, slots=True)
class Again(LayerPolicy):
    """The first pass of a chunk runs all and keeps what the `part` of the layers adds; noisy ones after it add that."""

    part: range

    def buffers(self, layers: int) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind != "denoise":
            return EVERY
        if row.levels[0] == 1000.0:
            return LayerPlan(taps=(Tap(self.part.start, 0, "keep"), Tap(self.part.stop, 0, "keep_change")))
        return LayerPlan((self.part,), (Tap(self.part.stop, 0, "add"),))


@pytest.mark.parametrize("part", [range(1, 3), range(2, 4), range(4)], ids=["middle", "end", "all"])
def test_features_used_again_are_what_the_layers_added_before(model: CausalWanTransformer3DModel, part: range) -> None:
    """Against the block's own outputs, put in by hand."""
    levels = (1000.0, 600.0)
    stream = tiny_stream(engine_of(model, Again(part), levels=levels))
    calls: list[int] = []
    with torch.inference_mode():
        handles = [
            block.register_forward_pre_hook(lambda _, __, layer=layer: calls.append(layer))
            for layer, block in enumerate(model.blocks)
        ]
        stream.next_chunk(FOX, decode=False)
        for handle in handles:
            handle.remove()
    rest = [layer for layer in range(LAYERS) if layer not in part]
    assert calls == [*range(LAYERS), *rest, *range(LAYERS)], "a full pass, a short one, the clean one"

    added: list[Tensor] = []
    whole = tiny_stream(engine_of(model, EveryLayer(), levels=levels))
    entered: dict[int, Tensor] = {}
    number = 0

    def before(_block: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        entered[0] = args[0].clone()

    def after(_block: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        nonlocal number
        number += 1
        if number == 1:
            added.append(out - entered[0])
        return entered[0] + added[0] if number == 2 else None

    hooks = [model.blocks[part.start].register_forward_pre_hook(before)]
    hooks.append(model.blocks[part.stop - 1].register_forward_hook(after))
    expected = whole.next_chunk(FOX, decode=False)
    for hook in hooks:
        hook.remove()
    frames = expected.latent
    assert gap(stream.state.latents.get(frames), whole.state.latents.get(frames)) < 1e-12
    straight = tiny_stream(engine_of(model, EveryLayer(), levels=levels))
    straight.next_chunk(FOX, decode=False)
    assert gap(straight.state.latents.get(frames), whole.state.latents.get(frames)) > 1e-2, (
        "using it again does nothing"
    )


def test_what_passes_left_is_part_of_snapshots_forks_and_files(
    model: CausalWanTransformer3DModel, tmp_path: Path
) -> None:
    engine = engine_of(model, FromLayer(2), switch=Recache(9, 3))
    stream = tiny_stream(engine)
    film(stream, [FOX] * 5)
    bare = tiny_stream(engine_of(model, EveryLayer())).snapshot()
    assert stream.snapshot().nbytes - bare.nbytes >= 9 * 6 * 64 * 8
    save_snapshot(stream.snapshot(), tmp_path / "s")
    fork = stream.fork()
    after = film(stream, [WOLF, WOLF, FOX])
    assert film(fork, [WOLF, WOLF, FOX]) == after
    other = tiny_stream(engine, seed=5)
    film(other, [WOLF] * 2)
    other.restore(load_snapshot(tmp_path / "s"))
    assert film(other, [WOLF, WOLF, FOX]) == after
    fork.restore(load_snapshot(tmp_path / "s"))
    with torch.inference_mode():
        fork.state.residuals[0].tensors()["held"].mul_(1.5)
    assert film(fork, [WOLF]) != after[:1], "what was left does nothing"


def test_rows_of_several_lanes_keep_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward for all lanes and one for each leave the same behind."""
    policy = Again(range(1, 2))
    films: list[Stream] = []
    for together in (True, False):
        small = tiny_transformer(dtype=torch.float64)
        plan = StreamBatch((1000.0, 600.0), chunk=1)
        engine = engine_of(small, policy, plan=plan, cache=SinkRefresh(6, 3, keeps="level"), switch=Keep())
        if not together:
            monkeypatch.setattr("cache.buffers.Buffers.joint", lambda *_: None)
        stream = tiny_stream(replace(engine, policies=replace(engine.policies, layers=KeepAll())))
        film(stream, [FOX] * 8)
        films.append(stream)
    for lane in range(2):
        held = [stream.state.residuals[lane].get(0, range(5, 7)) for stream in films]
        assert gap(*held) < 1e-10
    assert gap(films[0].state.residuals[0].get(0, range(6, 7)), films[0].state.residuals[1].get(0, range(6, 7))) > 1e-2


@dataclass(frozen=True, slots=True)
class KeepAll(LayerPolicy):
    """Every pass keeps what enters its second layer."""

    def buffers(self, layers: int) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        return LayerPlan(taps=(Tap(1, 0, "keep"),))


def test_guidance_without_the_prompt_runs_all_layers_and_leaves_nothing(model: CausalWanTransformer3DModel) -> None:
    plain, kept = (tiny_stream(engine_of(model, each)) for each in (EveryLayer(), KeepAll()))
    guided = replace(FOX, guidance_scale=3.0)
    assert film(plain, [guided] * 3) == film(kept, [guided] * 3)


def test_memory_takes_no_new_frame_of_a_pass_that_skipped_layers(model: CausalWanTransformer3DModel) -> None:
    @dataclass(frozen=True, slots=True)
    class Lazy(LayerPolicy):
        def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
            return LayerPlan((range(1, 2),))

    with pytest.raises(ValueError, match=r"frames \[0\], of which the memory holds not all: let it run all layers"):
        film(tiny_stream(engine_of(model, Lazy())), [FOX])
    deep = DeepForcing(window=8, sink=2, budget=7, recent=3)

    @dataclass(frozen=True, slots=True)
    class LazyLater(LayerPolicy):
        def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
            return LayerPlan((range(1, 2),)) if row.frames.start >= 9 and work.kind == "denoise" else EVERY

    stream = tiny_stream(engine_of(model, LazyLater(), cache=deep, position=MovedSink(), switch=Keep()))
    with pytest.raises(ValueError, match="prunes has to run all layers"):
        film(stream, [FOX] * 5)


# ------------------------------------------------------------------ layers on several devices


class Pipeline:
    """Runs the first layers, hands the residual stream on, and runs the others: two devices would do no more."""

    def __init__(self, model: Transformer, border: int, layers: int) -> None:
        self._model, self._border, self._layers = model, border, layers
        self.batches = 0

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [self._one(batch) for batch in batches]

    def _one(self, batch: Batch) -> Tensor:
        self.batches += 1
        rows, _, frames, height, width = batch.latents.shape
        tokens = frames * height * width // 4
        wire = [torch.empty((rows, tokens, 64), dtype=batch.latents.dtype)]
        first = LayerPlan((range(self._border, self._layers),), (Tap(self._border, 0, "keep"),))
        then = LayerPlan((range(self._border),), (Tap(self._border, 0, "take"),))
        self._model(*batch[:5], layers=first, buffers=wire)
        return self._model(*batch[:5], layers=then, buffers=wire)


@pytest.mark.parametrize("border", [1, 2, 3])
def test_a_runner_that_splits_the_layers_makes_the_same_film_bit_for_bit(
    model: CausalWanTransformer3DModel, border: int
) -> None:
    engine = tiny_engine(model)
    script = [FOX] * 5 + [replace(WOLF, guidance_scale=2.0)] * 3
    expected = film(tiny_stream(engine), script)
    stream = tiny_stream(engine)
    pipeline = Pipeline(engine.transformer, border, LAYERS)
    stream.runner = pipeline
    assert film(stream, script[:4]) == expected[:4]
    twin = stream.fork()
    assert twin.runner is pipeline, "a branch goes the same way"
    assert film(twin, script[4:]) == film(stream, script[4:]) == expected[4:]
    assert pipeline.batches == 4 * 3 + 2 * (3 + 1 + 3 * 5)


def test_the_batches_of_a_pass_come_together() -> None:
    """All lanes and both sides of guidance at once, so that a plan can spread them."""
    sizes: list[int] = []

    class Counting(LocalRunner):
        def run(self, batches: Sequence[Batch]) -> list[Tensor]:
            sizes.append(len(batches))
            return super().run(batches)

    plan = StreamBatch((1000.0, 600.0), chunk=1)
    engine = tiny_engine(plan=plan, cache=SinkRefresh(6, 3, keeps="level"), switch=Keep())
    stream = tiny_stream(engine)
    stream.runner = Counting(engine.transformer)
    film(stream, [FOX] * 2 + [replace(FOX, guidance_scale=2.0)] * 9)
    assert max(sizes) == 4, "two lanes that see unlike numbers of keys, each twice"
    assert sizes[-1] == 2, "two lanes in one batch, twice"
