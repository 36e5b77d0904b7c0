"""Feature caches: what every one of them keeps, and what each promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from cache import FEATURE_CACHES
from cache.features.clean_pass import CleanPass
from cache.features.cross_chunk import CrossChunk
from cache.features.facts import Facts
from cache.features.first_block import FirstBlock
from cache.features.profiled import Profiled
from cache.features.reuse import FeatureCache, extrapolation, kept
from cache.features.taylorseer import TaylorSeer
from cache.features.teacache import TeaCache, polynomial
from cache.layer_plan import EVERY, Done, EveryLayer, LayerPlan, LayerPolicy, Left, Tap
from cache.residuals import Residuals, leave, taken
from cache.rope import rotary_tables
from cache.types import Pass, Row, Slots, clean_row
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.presets import PRESETS
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.streaming import Stream
from pipelines.types import Reused
from tests.tiny import FOX, HEIGHT, WIDTH, WOLF, FakeText, film, gap, tiny_engine, tiny_stream, tiny_transformer

LAYERS, LEVELS, CHUNK = 4, (1000.0, 800.0, 600.0, 400.0), 3
READY: dict[str, dict[str, Any]] = {
    "first-block": {"threshold": 1.0},
    "cross-chunk": {"limit": 1.0},
    "profiled": {"background": (0, 1, 3)},
    "teacache": {"threshold": 1e9},
}
"""Settings under which a policy uses something again whatever the model's weights are."""


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(dtype=torch.float64, num_layers=LAYERS)


def made(name: str, **fields: Any) -> FeatureCache:
    return FEATURE_CACHES[name](LEVELS, CHUNK, **{**READY.get(name, {}), **fields})


def stream_of(model: CausalWanTransformer3DModel, layers: LayerPolicy, *, seed: int = 0, **policies: Any) -> Stream:
    engine = tiny_engine(model, **{"levels": LEVELS, **policies})
    return tiny_stream(replace(engine, policies=replace(engine.policies, layers=layers)), seed=seed)


def calls_of(model: CausalWanTransformer3DModel, stream: Stream, chunks: int) -> list[int]:
    """Which layers add something, call by call; layers that leave only their keys add nothing."""
    calls: list[int] = []
    handles = [
        block.ffn.register_forward_pre_hook(lambda _, __, layer=layer: calls.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    film(stream, [FOX] * chunks)
    for handle in handles:
        handle.remove()
    return calls


# ------------------------------------------------------------------ every policy


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_every_cache_saves_layers_and_changes_the_film(model: CausalWanTransformer3DModel, name: str) -> None:
    whole, short = stream_of(model, EveryLayer()), stream_of(model, made(name))
    assert len(calls_of(model, short, 4)) < 0.95 * len(calls_of(model, whole, 4))
    frames = range(whole.state.cur - CHUNK, whole.state.cur)
    assert gap(whole.state.latents.get(frames), short.state.latents.get(frames)) > 1e-3


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_what_a_chunk_says_was_used_again_is_what_was_not_computed(
    model: CausalWanTransformer3DModel, name: str
) -> None:
    stream, calls = stream_of(model, made(name)), list[int]()
    handles = [block.ffn.register_forward_pre_hook(lambda _, __: calls.append(1)) for block in model.blocks]
    told = [stream.next_chunk(FOX, decode=False).reused for _ in range(4)]
    for handle in handles:
        handle.remove()
    sums = sum((each for each in told if each is not None), Reused())
    assert sums.of_passes == 4 * (len(LEVELS) + 1)
    assert sums.of_layers == sums.of_passes * LAYERS
    writing = 4  # each ends with the keys of its last layer, whoever decides
    assert sums.of_layers - sums.layers - writing == len(calls) < sums.of_layers - writing
    assert stream_of(model, EveryLayer()).next_chunk(FOX, decode=False).reused is None


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_undo_resume_and_files_go_on_bit_for_bit(model: CausalWanTransformer3DModel, name: str, tmp_path: Path) -> None:
    script = [FOX, FOX, WOLF, FOX]
    stream = stream_of(model, made(name))
    film(stream, [FOX] * 3)
    before, fork = stream.snapshot(), stream.fork()
    save_snapshot(before, tmp_path / "s")
    after = film(stream, script)
    stream.restore(before)
    other = stream_of(model, made(name), seed=9)
    film(other, [WOLF] * 2)
    other.restore(load_snapshot(tmp_path / "s"))
    assert film(stream, script) == film(fork, script) == film(other, script) == after


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_streams_side_by_side_are_as_alone(model: CausalWanTransformer3DModel, name: str) -> None:
    policy = made(name)
    alone = [film(stream_of(model, policy, seed=seed), [FOX] * 4) for seed in (1, 2)]
    one, two = stream_of(model, policy, seed=1), stream_of(model, policy, seed=2)
    mixed = [(*film(one, [FOX]), *film(two, [FOX])) for _ in range(4)]
    assert [[pair[number] for pair in mixed] for number in range(2)] == alone


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_a_new_prompt_shows_nothing_of_the_old_one(
    model: CausalWanTransformer3DModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stream whose features are thrown away by hand; one that keeps them makes another film."""
    policy = made(name)

    def switched(throw: bool) -> list[str]:
        stream = stream_of(model, policy)
        film(stream, [FOX] * 3)
        for left in stream.state.residuals if throw else ():
            left.reset()
        return film(stream, [WOLF] * 2)

    expected = switched(throw=True)
    assert switched(throw=False) == expected
    monkeypatch.setattr(FeatureCache, "of_prompt", property(lambda _: False))
    assert (switched(throw=False) != expected) == (policy.chunks > 1 or name == "teacache"), "a stale cache goes unseen"


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_passes_that_write_the_memory_leave_the_keys_of_every_layer(name: str) -> None:
    policy, slots = made(name), Slots(0, 0, ())
    frames = range(3, 6)
    everything = Left(LAYERS, *[tuple((*range(6),) if fill else (0,) * 6 for _ in range(9)) for fill in (1, 0)])
    for work, row in (
        ("clean", clean_row(frames, 0.0, "x0", 1)),
        ("replay", clean_row(frames, 0.0, "stored", 1)),
        ("denoise", replace(row_at(1, frames), commit=frames)),
    ):
        plan = policy.plan(Pass(work, (row,)), row, slots, everything)
        assert plan.run(LAYERS) == [range(LAYERS)], work
        plan.check(LAYERS, policy.buffers(LAYERS))


def row_at(step: int, frames: range = range(3)) -> Row:
    to = LEVELS[step + 1] if step + 1 < len(LEVELS) else None
    return Row(0, frames, (LEVELS[step],) * 3, (to,) * 3, "euler", "noisy", 1)


def test_names_are_settings_and_what_cannot_be_is_refused() -> None:
    base = PRESETS["embedded"]
    for name in FEATURE_CACHES:
        preset = apply_knobs(base, {"feature_cache": name})
        levels = make_policies(base).plan.levels
        facts = Facts(6, levels, computed=((True,) * len(levels),), background=(1,))
        assert isinstance(make_policies(preset, facts).layers, FEATURE_CACHES[name])
        assert knob_values(preset)["feature_cache"] == name
        assert apply_knobs(preset, {"feature_cache": "none"}) == base
    assert make_policies(base).layers == EveryLayer()
    with pytest.raises(KnobError, match="choose from none, clean-pass"):
        apply_knobs(base, {"feature_cache": "magic"})
    with pytest.raises(ValueError, match="several noise levels in one pass"):
        make_policies(replace(PRESETS["rolling-forcing"], feature_cache="clean-pass"))


# ------------------------------------------------------------------ the mechanism


def forward(model: CausalWanTransformer3DModel, plan: LayerPlan, buffers: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 2, HEIGHT, WIDTH, generator=draw, dtype=torch.float64)
    rotary = rotary_tables([0, 1], *model.grid(HEIGHT, WIDTH), 32, dtype=torch.float64)
    text = model.text_keys(FakeText().encode(["a fox"]).double())
    return model(x, torch.full((1, 2), 500.0), text, rotary, layers=plan, buffers=buffers)


def test_what_a_run_of_layers_added_is_what_it_adds_again(model: CausalWanTransformer3DModel) -> None:
    """Of every run, from the first layer and of one layer too; and of a whole partition at once (T22)."""
    expected = forward(model, EVERY)
    size = (1, 2 * HEIGHT * WIDTH // 4, 64)
    for cuts in (cut for count in range(3) for cut in combinations(range(1, LAYERS), count)):
        parts = [range(a, b) for a, b in zip((0, *cuts), (*cuts, LAYERS), strict=True)]
        buffers = [torch.empty(size, dtype=torch.float64) for _ in parts]
        keep = sorted((tap for i, part in enumerate(parts) for tap in kept(part, i)), key=lambda tap: tap.layer)
        forward(model, LayerPlan(taps=tuple(keep)), buffers)
        for i, part in enumerate(parts):
            assert gap(forward(model, LayerPlan((part,), (Tap(part.stop, i, "add"),)), buffers), expected) < 1e-12
        everything = tuple(Tap(part.stop, i, "add") for i, part in enumerate(parts))
        assert gap(forward(model, LayerPlan((range(LAYERS),), everything), buffers), expected) < 1e-12
        assert gap(forward(model, LayerPlan((range(LAYERS),)), ()), expected) > 1e-2


def test_what_earlier_frames_left_is_taken_compared_and_grows_older() -> None:
    left = Residuals(2, (1, 1, 2), 6, "cpu", torch.float32, LAYERS)
    left.put(0, range(3), torch.tensor([[[1.0, 1.0]] * 3]))
    add = LayerPlan((range(1, 4),), (Tap(4, 0, "add", back=3),))
    now = [(left, range(3, 6))]
    assert leave(add, taken(add, now), now) == [None]
    assert (left.left.age(0, range(3, 6)), left.left.age(0, range(3))) == (1, 0)
    keep = LayerPlan(taps=(*kept(range(1, 4), 0), Tap(4, 0, "compare", back=3, other=0)))
    later = [(left, range(6, 9))]
    given = taken(keep, later)
    given.buffers[0].fill_(1.5)
    given.buffers[given.plan.taps[-1].back].fill_(0.5)
    (change,) = leave(keep, given, later)
    left.over(Done(6, 600.0, whole=True), change, 3)
    assert (left.left.age(0, range(6, 9)), left.left.done[-1].change) == (0, 0.5)
    with pytest.raises(ValueError, match="holds nothing of frame 0"):
        left.get(0, range(3))


# ------------------------------------------------------------------ each


def test_a_threshold_of_nothing_is_no_cache_and_of_all_runs_first_and_last(
    model: CausalWanTransformer3DModel,
) -> None:
    """T21."""
    exact = film(stream_of(model, EveryLayer()), [FOX] * 3)
    assert film(stream_of(model, made("first-block", threshold=0.0)), [FOX] * 3) == exact
    calls = calls_of(model, stream_of(model, made("first-block", first=1, last=1)), 1)
    clean = [*range(LAYERS)][:-1]
    assert calls == [*range(LAYERS), *[0, LAYERS - 1] * 3, *clean]


def test_first_block_has_all_the_limits_and_decides_a_pass_late() -> None:
    def short(changes: Sequence[tuple[bool, float | None]], **fields: Any) -> bool:
        policy = FirstBlock(LEVELS, CHUNK, threshold=0.1, **fields)
        done = tuple(Done(0, LEVELS[i], whole, change) for i, (whole, change) in enumerate(changes))
        left = Left(LAYERS, ((0, 1, 2),) * 4, ((0, 0, 0),) * 4, done)
        return bool(policy.plan(Pass("denoise", ()), row_at(len(changes)), Slots(0, 0, ()), left).skip)

    assert not short([]), "there is nothing to use"
    assert not short([(True, None)]), "nothing was measured"
    assert short([(True, None), (True, 0.05)])
    assert not short([(True, None), (True, 0.15)])
    assert not short([(True, None), (True, 0.05)], warm_up=3)
    assert short([(True, None), (True, 0.05), (False, 0.08)])
    assert not short([(True, None), (True, 0.05), (False, 0.08)], in_a_row=1)
    assert not short([(True, None), (True, 0.05), (False, 0.08)], most=1)
    assert not short([(True, None), (True, 0.05), (False, 0.08)], accumulated=0.07)
    assert not short([(True, None), (True, 0.05), (False, 0.2)])
    with pytest.raises(ValueError, match="tell nothing"):
        FirstBlock(LEVELS, CHUNK, first=0)


class Straight:
    """A timestep is a thousand times its sigma, without a table."""

    def sigma(self, timestep: float) -> float:
        return timestep / 1000


def test_the_clean_pass_is_exact_in_the_limit_and_worse_the_noisier_it_is_taken_from(
    model: CausalWanTransformer3DModel,
) -> None:
    """T24: keys and values against those of the true pass."""

    def error(last: float) -> float:
        levels = (1000.0, last)
        found: list[list[torch.Tensor]] = []
        for layers in (EveryLayer(), CleanPass(levels, CHUNK)):
            engine = tiny_engine(model, levels=levels)
            stream = tiny_stream(replace(engine, policies=replace(engine.policies, layers=layers, schedule=Straight())))
            film(stream, [FOX])
            found.append([part for layer in range(LAYERS) for part in stream.state.kv[0].logical(layer)[1:]])
        return max(gap(*pair) for pair in zip(*found, strict=True))

    errors = [error(level) for level in (1e-7, 1e-3, 1.0, 20.0)]
    assert errors[0] < 1e-6
    assert errors == sorted(errors)
    assert errors[1] > 100 * errors[0]


def test_a_chunk_uses_the_one_before_until_it_is_old_or_changes() -> None:
    def plan(change: float | None, ages: int | None, level: float = LEVELS[1], **fields: Any) -> LayerPlan:
        policy = CrossChunk(LEVELS, CHUNK, **{"limit": 0.1, **fields})
        frames = ((0, 1, 2) if ages is not None else (-1, -1, -1),) * 4
        done = (
            Done(0, LEVELS[0], whole=True),
            Done(0, level, whole=True, change=change),
            Done(3, LEVELS[0], whole=True),
        )
        left = Left(LAYERS, frames, (((ages or 0),) * 3,) * 4, done)
        return policy.plan(Pass("denoise", ()), row_at(1, range(3, 6)), Slots(0, 3, ()), left)

    assert plan(0.05, 0).skip == (range(1, LAYERS),)
    assert not plan(0.15, 0).skip
    assert not plan(0.05, None).skip, "nothing was left"
    assert not plan(0.05, 1).skip, "it is old"
    assert not plan(0.05, 0, level=777.0).skip, "it was of another level"
    assert plan(0.05, 1, age=2).skip
    assert not plan(None, 0).skip, "nothing was measured"
    assert not plan(0.0, 0, limit=0.0).skip
    assert plan(None, 0, limit=1.0).skip


def test_an_unchanged_chunk_is_the_one_before(model: CausalWanTransformer3DModel) -> None:
    """Where nothing differs but the frames' numbers, what the other layers added is what they would add."""
    state, policy = Residuals(4, (1, 6, 64), 6, "cpu", torch.float64, LAYERS), made("cross-chunk")
    expected = forward(model, EVERY)
    for frames in (range(3), range(3, 6)):
        row = row_at(0, frames)
        plan = policy.plan(Pass("denoise", (row,)), row, Slots(0, 0, ()), state.left)
        rows = [(state, range(frames.start, frames.start + 2))]
        given = taken(plan, rows)
        out = forward(model, given.plan, given.buffers)
        leave(plan, given, rows)
        state.over(Done(frames.start, row.levels[0], not plan.skip), None, CHUNK)
        state._frames[0][2] = 2  # the film of this test has two frames, the policy's chunk three
        assert gap(out, expected) < 1e-12
        assert bool(plan.skip) == (frames.start == 3)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_what_is_foretold_is_exact_to_its_order(order: int) -> None:
    """T27: through the points; a ladder of differences taken for derivatives misses a square by the distance."""
    points = [0.0, 1.0, 3.0][: order + 1]
    for degree in range(order + 2):
        told = sum(w * p**degree for w, p in zip(extrapolation(points, 5.0), points, strict=True))
        assert (abs(told - 5.0**degree) < 1e-10) == (degree <= order)
    e, squares = 2.0, [(x - 2.0) ** 2 for x in (0.0, 1.0, 2.0)]
    first = [b - a for a, b in pairwise(squares)]
    ladder = squares[2] + first[1] * e + (first[1] - first[0]) * e**2 / 2
    assert abs(ladder - e**2) == e


def test_a_forecast_goes_through_the_last_computed_passes() -> None:
    policy = TaylorSeer(LEVELS, CHUNK, order=1, interval=2)
    done: list[Done] = []
    plans: list[LayerPlan] = []
    for step in range(4):
        left = Left(LAYERS, ((0, 1, 2),) * 2, ((0, 0, 0),) * 2, tuple(done))
        plans.append(policy.plan(Pass("denoise", ()), row_at(step), Slots(0, 0, ()), left))
        done.append(Done(0, LEVELS[step], not plans[-1].skip))
    assert [bool(plan.skip) for plan in plans] == [False, False, True, False]
    assert [(tap.buffer, tap.weight) for tap in plans[2].taps] == [(0, -1.0), (1, 2.0)]


def test_teacache_adds_up_what_it_expects_from_the_chunk_before() -> None:
    def short(before: Sequence[float | None], now: Sequence[tuple[bool, float | None]], **fields: Any) -> bool:
        policy = TeaCache(LEVELS, CHUNK, **{"threshold": 0.3, **fields})
        earlier = [Done(0, level, whole=True, change=change) for level, change in zip(LEVELS, before, strict=False)]
        done = [Done(3, LEVELS[i], whole, change) for i, (whole, change) in enumerate(now)]
        left = Left(LAYERS, ((3, 4, 5),) * 3, ((0, 0, 0),) * 3, (*earlier, *done))
        return bool(policy.plan(Pass("denoise", ()), row_at(len(now), range(3, 6)), Slots(0, 3, ()), left).skip)

    calm = (None, 0.1, 0.1, 0.1)
    first = (True, None)
    assert not short(calm, []), "the first pass is computed"
    assert short(calm, [first])
    assert short(calm, [first, (False, 0.15)]), "0.15 and 0.1 are less than 0.3"
    assert not short(calm, [first, (False, 0.25)]), "added up they are not"
    assert short(calm, [first, (True, 0.25)]), "what came before a computed pass does not count"
    assert not short(calm, [first, (True, 0.1), (True, 0.1)]), "the last pass is computed"
    assert not short((), [first]), "there is no chunk before"
    assert not short((None, None, None, None), [first]), "nothing was measured"
    assert not short(calm, [first], threshold=0.0)
    assert not short(calm, [first], coefficients=(4.0, 0.0)), "the polynomial says 0.4"
    assert polynomial((2.0, -1.0, 3.0), 2.0) == 9.0


def test_what_is_kept_of_a_layer_modulated_is_what_its_attention_reads(model: CausalWanTransformer3DModel) -> None:
    read: list[torch.Tensor] = []
    handle = model.blocks[2].attn1.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    buffers = [torch.empty(1, 2 * HEIGHT * WIDTH // 4, 64, dtype=torch.float64)]
    forward(model, LayerPlan(taps=(Tap(2, 0, "keep_modulated"),)), buffers)
    handle.remove()
    assert torch.equal(read[0], buffers[0])
    with pytest.raises(ValueError, match="behind the last layer"):
        LayerPlan(taps=(Tap(LAYERS, 0, "keep_modulated"),)).check(LAYERS, 1)


def test_runs_of_background_layers_are_left_out_and_the_others_computed(model: CausalWanTransformer3DModel) -> None:
    policy = Profiled(LEVELS, CHUNK, background=(3, 0, 1))
    assert policy.runs == (range(2), range(3, 4))
    calls = calls_of(model, stream_of(model, policy), 1)
    assert calls == [*range(LAYERS), 2, *range(LAYERS), 2, *[*range(LAYERS)][:-1]]
    many = Profiled(tuple(1000.0 - step for step in range(50)), CHUNK, background=(1,))
    held = Left(LAYERS, ((0, 1, 2),), ((0, 0, 0),))
    whole = [step for step in range(50) if not many.denoise(row_at(0), step, held).skip]
    assert whole == [*range(6), *range(11, 50, 6)]


def test_a_correction_is_a_factor_and_an_offset_of_each_channel(model: CausalWanTransformer3DModel) -> None:
    left = Residuals(1, (1, HEIGHT * WIDTH // 4, 64), 2, "cpu", torch.float64, LAYERS)
    rows = [(left, range(2))]
    draw = torch.Generator().manual_seed(5)
    corrections = torch.randn(3, 2, 64, generator=draw, dtype=torch.float64)
    part = range(1, LAYERS)
    given = taken(LayerPlan(taps=kept(part, 0)), rows)
    forward(model, given.plan, given.buffers)
    leave(LayerPlan(taps=kept(part, 0)), given, rows)
    factor, offset = corrections[1]
    changed = left.get(0, range(2)) * factor + offset
    plan = LayerPlan((part,), (Tap(LAYERS, 0, "add", corrected=1),))
    given = taken(plan, rows, corrections)
    out = forward(model, given.plan, given.buffers)
    left.put(0, range(2), changed)
    by_hand = LayerPlan((part,), (Tap(LAYERS, 0, "add"),))
    given = taken(by_hand, rows)
    assert gap(out, forward(model, given.plan, given.buffers)) < 1e-12
    with pytest.raises(ValueError, match="names a correction, and the engine has none"):
        taken(plan, rows)
