"""The painted world: what a label says is what the picture shows, at every frame and in every window."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from training.atmosphere import DAYLIT, HOURS, WEATHERS
from training.shapes import PATTERNS
from training.world import (
    CAMERAS,
    COLORS,
    FPS,
    MARGIN,
    MOTIONS,
    SCENES,
    SHAPES,
    SIZE,
    SIZES,
    SPAN,
    SPEED,
    ClipSpec,
    Companion,
    Switch,
    _paint_together,
    is_held_out,
    object_stretch,
    positions,
    render,
    render_switch,
    sample_spec,
    sample_switch,
    snapshots,
    switch_positions,
)

SIDE = 96
SPEC = ClipSpec("red", "ball", "big", "left", "sea", 0.5, 0.5, 0.25, 7)


def specs(count: int, seed: int = 0) -> list[ClipSpec]:
    rng = np.random.default_rng(seed)
    return [sample_spec(rng) for _ in range(count)]


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_window_of_a_film_is_the_film(motion: str) -> None:
    spec = replace(SPEC, motion=motion, scene=SCENES[MOTIONS.index(motion)], shape="star", y=0.6)
    film = render([spec], 30, size=SIDE)[0]
    assert torch.equal(render([spec], 5, start=17, size=SIDE)[0], film[17:22])
    assert np.array_equal(positions(spec, 5, 17), positions(spec, 30)[17:22])
    assert not torch.equal(film[0], film[20])  # even a resting object has moving scenery


def test_a_batch_of_different_clips_equals_the_clips_alone() -> None:
    some, starts = specs(6), [0, 3, 50, 7, 1000, 2]
    batch = render(some, 4, start=starts, size=SIDE)
    assert batch.shape == (6, 4, 3, SIDE, SIDE)
    assert batch.dtype == torch.float32
    for spec, start, film in zip(some, starts, batch, strict=True):
        assert torch.equal(render([spec], 4, start=start, size=SIDE)[0], film)


def test_clips_painted_together_as_on_an_accelerator_equal_clips_painted_alone() -> None:
    some = specs(24, 3)
    clocks = np.stack([np.arange(start, start + 3) for start in range(24)])
    paths = [(positions(spec, 3, i), object_stretch(spec, 3, i)) for i, spec in enumerate(some)]
    together = _paint_together(torch.empty(24, 3, 3, SIDE, SIDE), some, paths, clocks)
    assert len({spec.scene for spec in some}) == len(SCENES)
    assert torch.allclose(together, render(some, 3, start=range(24), size=SIDE), atol=1e-5)


def test_the_same_numbers_paint_at_every_size() -> None:
    small, large = render([SPEC], 1, size=48)[0], render([SPEC], 1, size=96)[0]
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - halved).abs().mean() < 0.02
    assert (small - halved.flip(-1)).abs().mean() > 0.05


def test_pictures_stay_within_range_and_use_it() -> None:
    assert render([SPEC], 1).shape == (1, 1, 3, SIZE, SIZE)
    film = render(specs(24), 2, start=9, size=SIDE)
    assert film.min() >= 0
    assert film.max() <= 1
    assert film.flatten(1).amax(1).min() > 0.7
    assert film.flatten(1).std(1).min() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_the_object_is_where_its_label_says_and_has_its_colour(shape: str, color: str) -> None:
    scene = "night"
    spec = ClipSpec(color, shape, "big", "orbit", scene, 0.7, 0.4, 0.1, 3)
    # What differs between two films that differ in colour alone is the object.
    film, other = render([spec, replace(spec, color="white")], 20, size=SIDE)
    changed = (film - other).abs().amax(1)
    assert (changed > 0.2).float().mean() > 0.03
    grid = (torch.arange(SIDE) + 0.5) / SIDE
    mass = changed / changed.sum((1, 2), keepdim=True)
    seen = torch.stack([(mass.sum(1) * grid).sum(-1), (mass.sum(2) * grid).sum(-1)], -1)
    assert np.abs(seen.numpy() - positions(spec, 20)).max() < 0.05  # a heart is heavier above its middle
    body = (film * (changed[:, None] > 0.3)).sum((0, 2, 3))
    assert int(body.argmax()) == ["red", "green", "blue"].index(color)


def test_shapes_cover_clearly_different_pixels() -> None:
    looks = [ClipSpec("white", shape, "big", "still", "night", 0.5, 0.5, 0.0, 1) for shape in SHAPES]
    masks = (render(looks, 1, size=SIDE)[:, 0] > 0.6).all(1).float()
    for i in range(len(SHAPES)):
        for j in range(i):
            union = torch.maximum(masks[i], masks[j]).sum()
            assert (masks[i] - masks[j]).abs().sum() > 0.12 * union, (SHAPES[i], SHAPES[j])


def test_colours_are_far_apart() -> None:
    values = np.array(list(COLORS.values()))
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1) + 9 * np.eye(len(values))
    assert distance.min() > 0.3


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_a_crossing_is_straight_and_returns_at_the_other_side(motion: str, axis: int, sign: int) -> None:
    track = positions(replace(SPEC, motion=motion), 200)
    steps = np.diff(track[:, axis])
    returns = np.abs(steps) > 0.5
    assert np.allclose(steps[~returns], sign * SPEED)
    assert np.allclose(steps[returns], sign * (SPEED - SPAN))
    assert returns.sum() == 3  # one round takes 64 pixel frames
    assert np.ptp(track[:, 1 - axis]) == 0
    assert track.min() >= -MARGIN
    assert track.max() < 1 + MARGIN
    assert 2.5 < 1 / SPEED / FPS < 3.5  # seconds to cross the picture


def test_an_object_is_never_out_of_sight_for_long() -> None:
    for size in SIZES:
        spec = ClipSpec("red", "ball", size, "right", "night", 0.5, 0.5, 0.1, 3)
        film, other = render([spec, replace(spec, color="white")], 70, size=SIDE)
        seen = ((film - other).abs().amax((1, 2, 3)) > 0.2).numpy()
        hidden = max(len(gap) for gap in "".join("x" if s else "." for s in seen).split("x"))
        assert hidden <= 6
        assert seen.sum() > 60


def test_a_bounce_falls_like_a_ball_and_stays_in_the_picture() -> None:
    for size, radius in SIZES.items():
        spec = replace(SPEC, motion="bounce", size=size)
        track = positions(spec, 100)
        assert np.ptp(track[:, 0]) == 0
        assert np.ptp(track[:, 1]) > 0.35
        assert track[:, 1].min() - radius > -0.02
        assert (track[:, 1] + radius * object_stretch(spec, 100)[:, 1]).max() < 0.95
        assert object_stretch(spec, 100)[:, 1].min() < 0.9


def test_an_orbit_is_a_circle_and_a_spin_turns_in_place() -> None:
    orbit = positions(replace(SPEC, motion="orbit", x=0.72), 96)
    away = np.linalg.norm(orbit - 0.5, axis=1)
    assert np.ptp(away) < 1e-6
    assert np.allclose(orbit[:48], orbit[48:])
    spin = replace(SPEC, motion="spin")
    assert np.ptp(positions(spec=spin, frames=64)) == 0
    assert np.ptp(object_stretch(spin, 64)[:, 0]) > 0.7
    assert np.ptp(object_stretch(replace(SPEC, motion="still"), 64)) == 0


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("place", [(0.5, 0.5), (1.15, 0.3), (0.4, -0.15), (0.9, 0.95)])
def test_a_motion_may_begin_anywhere_and_settles_without_a_jump(motion: str, place: tuple[float, float]) -> None:
    spec = replace(SPEC, motion=motion, x=place[0], y=place[1], begin=40)
    track = positions(spec, 80, 40)
    assert np.allclose(track[0], place)
    steps = np.abs(np.diff(track, axis=0))
    assert np.minimum(steps, np.abs(steps - SPAN)).max() < 0.21
    across = {"left": 1, "right": 1, "up": 0, "down": 0}.get(motion)
    settled = track[40:] if across is None else track[40:, across]
    assert settled.min() > 0.2
    assert settled.max() < 0.8


def test_held_out_combinations_are_a_twentieth_and_never_drawn_unless_asked() -> None:
    every = [(c, s, m, p) for c in COLORS for s in SHAPES for m in MOTIONS for p in SCENES]
    share = np.mean([is_held_out(*combination) for combination in every])
    assert 0.04 < share < 0.06
    rng = np.random.default_rng(4)
    for _ in range(300):
        drawn, switch = sample_spec(rng), sample_switch(rng, 41)
        for spec in (drawn, switch.first, switch.second):
            assert not is_held_out(spec.color, spec.shape, spec.motion, spec.scene)
    asked = [sample_spec(rng, held_out=True) for _ in range(20)]
    assert all(is_held_out(s.color, s.shape, s.motion, s.scene) for s in asked)


def test_the_same_seed_draws_the_same_clips() -> None:
    assert specs(8, 5) == specs(8, 5)
    assert specs(8, 5) != specs(8, 6)
    drawn = specs(400)
    for name, count in (("color", 8), ("shape", 9), ("size", 2), ("motion", 8), ("scene", 8)):
        assert len({getattr(spec, name) for spec in drawn}) == count


def test_kept_scenery_is_kept() -> None:
    kept = sample_spec(np.random.default_rng(1), keep=SPEC, at=(0.2, 0.3), begin=9)
    assert (kept.scene, kept.phase, kept.style) == (SPEC.scene, SPEC.phase, SPEC.style)
    assert positions(kept, 1, 9)[0] == pytest.approx((0.2, 0.3))


def test_a_switch_changes_something_and_the_object_goes_on_from_where_it_was() -> None:
    rng = np.random.default_rng(2)
    changed: set[str] = set()
    names = ("color", "shape", "size", "motion", "scene", "pattern", "weather", "hour", "camera", "companion")
    for _ in range(120):
        switch = sample_switch(rng, 61)
        changed |= {name for name in names if getattr(switch.first, name) != getattr(switch.second, name)}
        assert any(getattr(switch.first, name) != getattr(switch.second, name) for name in names)
        track = switch_positions(switch, 61)
        step = np.abs(track[switch.frame] - positions(switch.first, 1, switch.frame)[0])
        assert step.max() < 0.03
    assert changed == set(names)


def test_a_switch_dissolves_and_leaves_alone_what_stays() -> None:
    second = replace(SPEC, motion="up", begin=10, x=float(positions(SPEC, 1, 10)[0, 0]))
    film = render_switch([Switch(SPEC, second, 10, 6)], 24, size=SIDE)[0]
    assert torch.equal(film[:10], render([SPEC], 10, size=SIDE)[0])
    assert torch.allclose(film[16:], render([second], 8, start=16, size=SIDE)[0], atol=1e-6)
    corner = film[:, :, :20, -20:]  # sky, which notices no more than the end of the shadow
    assert torch.allclose(corner[:18], render([SPEC], 18, size=SIDE)[0][:, :, :20, -20:], atol=0.004)
    night = render_switch([Switch(SPEC, replace(SPEC, scene="night", style=1), 10, 6)], 24, size=SIDE)[0]
    light = night[:, :, 2:8, 2:8].mean((1, 2, 3))
    assert light[9] - light[17] > 0.4
    assert (light[9:17].diff() < 0).all()
    for begin, frames in ((0, 10), (12, 6), (17, 7)):  # before, within and behind
        window = render_switch([Switch(SPEC, second, 10, 6)], frames, start=begin, size=SIDE)[0]
        assert torch.allclose(window, film[begin : begin + frames], atol=1e-6)
    cut = render_switch([Switch(SPEC, second, 10, 0)], 24, size=SIDE)[0]
    assert torch.equal(cut[10], render([second], 1, start=10, size=SIDE)[0, 0])


def test_the_number_of_starts_must_fit() -> None:
    with pytest.raises(ValueError, match="2 clips need as many starts, not 3"):
        render([SPEC, SPEC], 2, start=[1, 2, 3])


AIRS = [
    {"weather": "rain"},
    {"weather": "fog"},
    {"hour": "night"},
    {"camera": "drifting"},
    {"weather": "rain", "hour": "night", "camera": "drifting", "pattern": "striped"},
    {"companion": Companion("blue", "star", "above"), "size": "small", "pattern": "dotted"},
]


@pytest.mark.parametrize("changes", AIRS)
def test_weather_night_camera_and_company_are_the_same_in_every_window_and_in_every_batch(
    changes: dict[str, object],
) -> None:
    spec = replace(SPEC, scene="meadow", **changes)
    film = render([spec], 24, start=100, size=SIDE)[0]
    assert torch.equal(render([spec], 3, start=117, size=SIDE)[0], film[17:20])
    batch = render([SPEC, spec, replace(spec, style=8)], 3, start=[0, 117, 5], size=SIDE)
    assert torch.equal(batch[1], film[17:20])
    clear = render([replace(SPEC, scene="meadow")], 1, start=100, size=SIDE)[0, 0]
    assert (film[0] - clear).abs().mean() > 0.01
    later = render([spec], 1, start=1100, size=SIDE)[0, 0]
    assert (later - film[0]).abs().mean() > 0.005


def test_mixed_air_painted_together_as_on_an_accelerator_equals_clips_painted_alone() -> None:
    some = [replace(SPEC, scene="sea", style=i, **changes) for i, changes in enumerate((*AIRS, {}, *AIRS))]
    clocks = np.stack([np.arange(start, start + 2) for start in range(len(some))])
    paths = [(positions(spec, 2, i), object_stretch(spec, 2, i)) for i, spec in enumerate(some)]
    together = _paint_together(torch.empty(len(some), 2, 3, 48, 48), some, paths, clocks)
    assert torch.allclose(together, render(some, 2, start=range(len(some)), size=48), atol=1e-5)


def test_snapshots_are_the_films_own_frames() -> None:
    some = specs(4, 8)
    clocks = np.array([[0, 31, 5]] * 4)
    picked = snapshots(some, clocks, size=48)
    for spec, pictures in zip(some, picked, strict=True):
        assert torch.allclose(pictures, render([spec], 32, size=48)[0, [0, 31, 5]], atol=1e-5)


def test_night_is_darker_fog_is_paler_and_a_drifting_camera_leaves_the_object_alone() -> None:
    for scene in DAYLIT:
        day = replace(SPEC, scene=scene)
        usual, night, fog = render([day, replace(day, hour="night"), replace(day, weather="fog")], 1, size=SIDE)[:, 0]
        assert night.mean() < 0.6 * usual.mean()
        assert fog[:, :, :].std(dim=(1, 2)).mean() < usual.std(dim=(1, 2)).mean()
    fixed, drifting = render([SPEC, replace(SPEC, camera="drifting")], 1, size=SIDE)[:, 0]
    apart = (fixed - drifting).abs().amax(0)
    middle = SIDE // 2
    assert apart[middle - 6 : middle + 6, middle - 6 : middle + 6].max() < 0.02
    assert apart[:12].mean() > 0.02 or apart[-12:].mean() > 0.02


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", ["striped", "dotted"])
def test_a_pattern_changes_the_object_and_nothing_outside_it(shape: str, pattern: str) -> None:
    plain = replace(SPEC, shape=shape)
    marked, unmarked, other = render(
        [replace(plain, pattern=pattern), plain, replace(plain, color="blue")], 1, size=SIDE
    )
    changed, inside = ((a - unmarked).abs().amax((0, 1)) > 1e-6 for a in (marked, other))
    assert changed.sum() > 0.1 * inside.sum()
    assert not (changed & ~inside).any()
    assert float((changed & inside).sum() / inside.sum()) < 0.9  # the object keeps its colour


def test_labels_from_before_the_world_grew_still_load_and_new_ones_survive() -> None:
    old = {
        name: getattr(SPEC, name) for name in ("color", "shape", "size", "motion", "scene", "x", "y", "phase", "style")
    }
    assert ClipSpec.of(old) == SPEC
    for spec in specs(60, 2):
        assert ClipSpec.of(asdict(spec)) == spec


def test_a_simple_clip_shows_one_plain_object_in_clear_weather() -> None:
    rng = np.random.default_rng(1)
    for spec in (sample_spec(rng, simple=True) for _ in range(200)):
        air = (spec.pattern, spec.weather, spec.hour, spec.camera, spec.companion)
        assert air == ("plain", "clear", "usual", "fixed", None)
    drawn = specs(600, 9)
    assert {spec.pattern for spec in drawn} == set(PATTERNS)
    assert {spec.weather for spec in drawn} == set(WEATHERS)
    assert {spec.camera for spec in drawn} == set(CAMERAS)
    assert {spec.hour for spec in drawn if spec.scene in DAYLIT} == set(HOURS)
    assert {spec.hour for spec in drawn if spec.scene not in DAYLIT} == {"usual"}
