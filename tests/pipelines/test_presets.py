"""Presets, noise plans and steps: every registration keeps the contract, and what cannot work is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import get_args

import numpy as np
import pytest
import torch

from cache.fifo import SinkWindow
from cache.switches import Keep, Recache
from cache.types import Deps, NoisePlan, Pass, Row, View
from models.wan import CausalWanTransformer3DModel
from pipelines.build import build_engine, build_stream, check_pair, make_policies
from pipelines.components import Components
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import PRESETS, Preset, get_preset
from pipelines.types import Controls, Transition, pixel_range
from schedulers import NOISE_PLANS
from schedulers.serial import Serial
from schedulers.steps import STEPS, get_step
from tests.tiny import FOX, WOLF, FakeText, gap, tiny_autoencoder, tiny_stream, tiny_transformer

LEVELS = (1000.0, 937.5, 625.0)


# ------------------------------------------------------------------ noise plans


def plans(name: str) -> list[NoisePlan]:
    make = NOISE_PLANS[name]
    options = [
        {"chunk": 3, "step": "renoise"},
        {"chunk": 3, "step": "euler", "first_chunk": 1},
        {"chunk": 1, "step": "renoise", "first_chunk": 2},
        {"chunk": 2, "step": "renoise", "micro_steps": 3},
        {"chunk": 1, "step": "euler", "references": 2},
        {"chunk": 1, "memory": "clean"},
        {"chunk": 3, "memory": "last"},
        {"chunk": 3, "memory": "level"},
    ]
    known = set(signature(make).parameters)
    return [make(LEVELS, **option) for option in options if set(option) <= known]


def run(plan: NoisePlan, chunks: int) -> list[Pass]:
    """All passes of so many chunks, as the loop asks for them."""
    out: list[Pass] = []
    cur, stand = 0, dict[int, float]()
    for _ in range(chunks):
        passes = plan.passes(View(cur, text=1, levels=tuple(stand[frame] for frame in range(cur, cur + len(stand)))))
        out += passes
        for row in (row for work in passes for row in work.rows if work.kind == "denoise"):
            stand |= {frame: to or 0.0 for frame, to in zip(row.frames, row.to, strict=True) if frame >= cur}
            cur = max(cur, row.emit.stop)
        cur = max(cur, *(work.leave.stop for work in passes))
        stand = {frame: level for frame, level in stand.items() if frame >= cur}
    return out


@pytest.mark.parametrize("name", NOISE_PLANS)
def test_a_noise_plan_emits_and_commits_every_frame_exactly_once(name: str) -> None:
    for plan in plans(name):
        assert plan.needs <= set(get_args(Deps))
        assert plan.needs
        works = run(plan, 50)
        rows = [row for work in works for row in work.rows]
        emitted = [frame for row in rows for frame in row.emit]
        for_good = [row for work in works for row in work.rows if work.kind == "clean" or "hybrid" not in plan.needs]
        committed = Counter(frame for row in for_good for frame in row.commit)
        assert emitted == list(range(len(emitted))), "frames come once and in order"
        assert len(emitted) >= 50
        lanes = {row.lane for row in rows}
        assert lanes == set(range(plan.lanes))
        assert max(len(row.frames) for row in rows) == plan.width
        assert all({committed[frame]} <= {0, plan.lanes} for frame in range(len(emitted)))
        assert all(set(row.emit) <= set(row.frames) and set(row.commit) <= set(row.frames) for row in rows)


@pytest.mark.parametrize("name", NOISE_PLANS)
def test_the_levels_of_a_noise_plan_fall_from_pure_noise_to_the_end(name: str) -> None:
    for plan in plans(name):
        at: dict[int, float | None] = {}
        passes = Counter[int]()
        for work in run(plan, 20):
            assert work.kind in ("denoise", "clean")
            for row in work.rows:
                for frame, level, to in zip(row.frames, row.levels, row.to, strict=True):
                    assert row.text == 1
                    if level == 0.0 and work.kind == "denoise":
                        assert at[frame] is None, f"frame {frame} is a reference before it is finished"
                        assert to == level
                        continue
                    if work.kind == "clean":
                        assert at[frame] is None, f"frame {frame} is remembered before it is finished"
                        continue
                    assert level == at.get(frame, LEVELS[0]), f"frame {frame} jumps"
                    assert to is None or 0 < to < level
                    at[frame] = to
                    passes[frame] += 1
                assert row.step in STEPS
                assert not any(at[frame] is not None for frame in row.emit), "a picture before its last level"
        finished = [passes[frame] for frame, to in at.items() if to is None]
        assert len(finished) >= 20
        assert set(finished) == {len(LEVELS)}


@pytest.mark.parametrize("levels", [(), (500.0, 500.0), (500.0, 700.0), (500.0, 0.0)])
def test_levels_that_do_not_fall_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels must fall strictly"):
        Serial(levels)


def test_a_chunk_has_at_least_one_frame_and_a_row_as_many_levels() -> None:
    with pytest.raises(ValueError, match="at least one latent frame"):
        Serial(LEVELS, chunk=0)
    with pytest.raises(ValueError, match="at least one latent frame"):
        Serial(LEVELS, first_chunk=0)
    with pytest.raises(ValueError, match="2 frames needs as many levels"):
        Row(0, range(2), (1.0,), (None, None), "none", "noisy", 0)


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("name", STEPS)
def test_a_step_ends_at_the_clean_frame_and_keeps_shape_and_dtype(name: str) -> None:
    x, flow, x0, noise = torch.randn(4, 2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    step = get_step(name)
    assert step is STEPS[name]
    assert torch.equal(step(x, flow, x0, (0.9,) * 3, (None,) * 3, noise), x0)
    mixed = step(x, flow, x0, (0.9, 0.8, 0.7), (0.5, None, 0.3), noise)
    assert mixed.shape == x.shape
    assert mixed.dtype == x.dtype
    assert torch.equal(mixed[:, 1], x0[:, 1])
    assert gap(mixed[:, 0], x0[:, 0]) > 1e-2
    with pytest.raises(ValueError, match="a row of 3 frames"):
        step(x, flow, x0, (0.9,), (0.5,), noise)


# ------------------------------------------------------------------ presets


def tiny_engine_of(preset: Preset, model: CausalWanTransformer3DModel) -> Engine:
    return Engine(model, Conditioner(FakeText()), make_policies(preset), tiny_autoencoder())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_streams_and_follows_a_new_prompt(name: str) -> None:
    preset = get_preset(name)
    assert preset.name == name
    assert preset.title
    assert preset.paper
    assert preset.licence
    model = tiny_transformer(num_layers=2)
    stream = tiny_stream(tiny_engine_of(preset, model))
    frame = 0
    branch = stream
    for index in range(12):
        if index == 6:
            branch = stream.fork()
        chunk = stream.next_chunk(FOX)
        assert chunk.index == index
        assert chunk.latent.start == frame
        assert chunk.pixel == range(pixel_range(frame).start, pixel_range(chunk.latent[-1]).stop)
        assert chunk.pixels is not None
        assert chunk.pixels.shape == (len(chunk.pixel), 32, 48, 3)
        assert np.ptp(chunk.pixels) > 20
        assert len(stream.state.kv[0].entries) <= preset.cache.capacity
        frame = chunk.latent.stop
        if index == 7:
            followed = [branch.next_chunk(WOLF).sha256 for _ in range(2)][-1]
            assert followed != chunk.sha256, "the prompt does nothing"
    assert torch.isfinite(stream.state.latents.ring.clone()).all()
    sink = getattr(preset.cache, "sink", 0)
    assert [slot.frame for slot in stream.state.kv[0].entries][:sink] == list(range(sink))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", ["recache", "soft", "cut", "keep"])
def test_a_preset_survives_every_transition(name: str, kind: str) -> None:
    transition = Transition("soft", 2) if kind == "soft" else Transition(kind)  # type: ignore[arg-type]
    preset = replace(get_preset(name), schedule=replace(get_preset(name).schedule, denoising_step_list=(1000, 500)))
    model = tiny_transformer(num_layers=1)
    stream = tiny_stream(tiny_engine_of(preset, model))
    script = [FOX, FOX, Controls(WOLF.prompt, transition), *[WOLF] * 6, FOX]
    chunks = [stream.next_chunk(controls, decode=False) for controls in script]
    assert [chunk.index for chunk in chunks] == list(range(10))
    assert [chunk.epoch for chunk in chunks] == [0, 0] + [int(kind == "cut")] * 8


def test_presets_state_the_numbers_of_their_papers() -> None:
    assert make_policies(PRESETS["longlive"]).plan == Serial((1000.0, 937.5, 833.3333129882812, 625.0), chunk=3)
    assert PRESETS["longlive"].cache == SinkWindow(window=12, sink=3)
    assert PRESETS["self-forcing"].cache == SinkWindow(window=21, sink=0)
    embedded = make_policies(PRESETS["embedded"]).plan
    assert isinstance(embedded, Serial)
    assert len(embedded.levels) == 4
    assert embedded.step == "euler"
    assert embedded.levels[2] == pytest.approx(750.0)  # 3 * 0.5 / (1 + 2 * 0.5)


def test_a_step_list_is_taken_as_it_stands_without_warp() -> None:
    preset = replace(PRESETS["longlive"], schedule=replace(PRESETS["longlive"].schedule, warp=False))
    plan = make_policies(preset).plan
    assert isinstance(plan, Serial)
    assert plan.levels == (1000.0, 750.0, 500.0, 250.0)


# ------------------------------------------------------------------ what is refused


def test_a_plan_over_a_memory_it_cannot_use_is_refused_with_the_reason() -> None:
    longlive = PRESETS["longlive"]
    preset = replace(longlive, schedule=replace(longlive.schedule, plan="stream-batch"))
    with pytest.raises(ValueError, match=r"needs level memory .* keeps clean memory: a pass would read") as refusal:
        make_policies(preset)
    assert "'longlive'" in str(refusal.value)
    check_pair(Serial(LEVELS), longlive)


def test_a_replay_over_a_memory_for_each_level_is_refused() -> None:
    preset = replace(PRESETS["longlive"], cache=SinkWindow(window=12, sink=3, keeps="level"))
    with pytest.raises(ValueError, match=r"memory for each of 4 noise levels.* choose the switch policy keep"):
        make_policies(preset)
    make_policies(replace(preset, switch=Keep()))


def test_a_replay_larger_than_the_memory_is_refused_before_it_empties_it() -> None:
    preset = replace(get_preset("longlive"), switch=Recache(window=21, sink=3))
    with pytest.raises(ValueError, match=r"replays 21 latent frames .* at most 12"):
        make_policies(preset)
    make_policies(replace(preset, switch=Recache(window=12, sink=3)))


def test_a_window_too_small_for_sink_and_chunk_is_refused_with_the_size_it_needs() -> None:
    preset = replace(PRESETS["longlive"], cache=SinkWindow(window=5, sink=3))
    with pytest.raises(ValueError, match=r"window of 5 .* sink of 3 and a chunk of 3: make the window at least 6"):
        make_policies(preset)


@pytest.mark.parametrize(
    ("ask", "wrong", "nearest", "choices"),
    [
        (get_preset, "longlve", "longlive", PRESETS),
        (get_step, "euller", "euler", STEPS),
        (lambda name: make_policies(renamed(name)), "serail", "serial", NOISE_PLANS),
    ],
    ids=["preset", "step", "plan"],
)
def test_an_unknown_name_is_answered_with_the_choices_and_the_nearest(
    ask: object, wrong: str, nearest: str, choices: Sequence[str]
) -> None:
    assert callable(ask)
    with pytest.raises(ValueError, match=f"unknown .*'{wrong}'") as refusal:
        ask(wrong)
    said = str(refusal.value)
    assert all(choice in said for choice in choices)
    assert f"nearest: {nearest}" in said or f"did you mean {nearest}?" in said


def renamed(plan: str) -> Preset:
    return replace(PRESETS["longlive"], schedule=replace(PRESETS["longlive"].schedule, plan=plan))


def components(plans: list[str] | None = None) -> Components:
    """A model folder's contents, in memory."""
    card = {"name": "tiny", "sizes": [[32, 48], [48, 64]], "plans": plans or ["serial-clean"], "fps": 8}
    return Components("tiny", tiny_transformer(num_layers=1), tiny_autoencoder(), FakeText(), card)  # type: ignore[arg-type]


def test_a_model_that_was_not_trained_for_a_plan_needs_an_explicit_word() -> None:
    preset = PRESETS["longlive"]
    with pytest.raises(ValueError, match=r"'tiny' was not trained for preset 'longlive'.* pass --untrained"):
        build_engine(preset, components(["joint"]))
    assert build_engine(preset, components(["joint"]), untrained=True).fps == 8
    assert build_engine(preset, components()).policies == make_policies(preset)


def test_a_stream_is_built_in_the_sizes_the_model_knows() -> None:
    preset = PRESETS["longlive"]
    chunk = build_stream(preset, components(), seed=3).next_chunk(FOX)
    assert chunk.pixels is not None
    assert chunk.pixels.shape[1:3] == (32, 48)
    larger = build_stream(preset, components(), height=48, width=64).next_chunk(FOX)
    assert larger.pixels is not None
    assert larger.pixels.shape[1:3] == (48, 64)
    with pytest.raises(ValueError, match=r"makes 48x32, 64x48, not 48x48"):
        build_stream(preset, components(), height=48, width=48)
    with pytest.raises(ValueError, match=r"does not divide by 8: use multiples of 8"):
        build_stream(preset, components(), height=48, width=50, untrained=True)
    square = build_stream(preset, components(), height=48, width=48, untrained=True).next_chunk(FOX, decode=False)
    assert square.pixels is None


@pytest.mark.parametrize("name", PRESETS)
def test_the_policies_of_a_preset_agree_on_its_sink_and_window(name: str) -> None:
    preset = PRESETS[name]
    for policy in (preset.window, preset.position, preset.switch):
        for number in ("sink", "anchor"):
            assert getattr(policy, number, getattr(preset.cache, number, 0)) == getattr(preset.cache, number, 0)
    held = getattr(preset.cache, "window", None)
    for policy in (preset.window, preset.position):
        assert getattr(policy, "window", held) == held
