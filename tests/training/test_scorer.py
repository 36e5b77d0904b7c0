"""The scorer that ships: right on the world's own films, at chance on shuffled labels, fair to soft pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from training.clip import APART, RELATIONS
from training.paths import fit_motion
from training.scorer import ATTRIBUTES, LAG, OBJECT, SCENERY, WEIGHTS, Scorer, Verdict, adherence, verdict
from training.scorer_training import draw_clip, grow, labels, paint_pairs, spoil, train_scorer
from training.world import (
    COLORS,
    MOTIONS,
    PAIRED,
    SCENES,
    SHAPES,
    SIZE,
    SPEED,
    ClipSpec,
    Companion,
    object_stretch,
    positions,
    render,
    sample_spec,
)

FRAMES, SIDE = 33, 96
JUDGED = ("color", "shape", "motion", "scene")
ADDED = {"pattern": 0.97, "weather": 0.97, "hour": 0.97, "camera": 0.85, "companion": 0.97}
"""Least shares; a camera that is about to turn is hard to tell from one that stands still."""


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


@pytest.fixture(scope="module")
def truth() -> list[ClipSpec]:
    """Clips as the world draws them, and as many of two objects."""
    rng = np.random.default_rng(20)
    mixed = [sample_spec(rng, held_out=i % 4 == 0) for i in range(110)]
    pairs: list[ClipSpec] = []
    while len(pairs) < 50:
        spec = sample_spec(rng)
        pairs += [spec] if spec.companion else []
    return mixed + pairs


@pytest.fixture(scope="module")
def verdicts(scorer: Scorer, truth: list[ClipSpec]) -> list[Verdict]:
    films = (render([spec], FRAMES, start=3, size=SIDE)[0] for spec in truth)
    return [scorer.judge(film).facing(spec) for film, spec in zip(films, truth, strict=True)]


def share(verdicts: list[Verdict], specs: list[ClipSpec], name: str) -> float:
    return float(np.mean([getattr(v, name) == getattr(s, name) for v, s in zip(verdicts, specs, strict=True)]))


@pytest.mark.parametrize("name", JUDGED)
def test_ground_truth_films_are_judged_right(verdicts: list[Verdict], truth: list[ClipSpec], name: str) -> None:
    assert share(verdicts, truth, name) >= 0.99
    assert share(verdicts, truth, "size") >= 0.98


@pytest.mark.parametrize("name", ADDED)
def test_air_camera_pattern_and_company_are_judged_right(
    verdicts: list[Verdict], truth: list[ClipSpec], name: str
) -> None:
    assert share(verdicts, truth, name) >= ADDED[name]
    assert len({getattr(spec, name) for spec in truth}) > 1


@pytest.mark.parametrize(
    ("name", "choices"), [("color", COLORS), ("shape", SHAPES), ("motion", MOTIONS), ("scene", SCENES)]
)
def test_shuffled_labels_score_at_chance(
    verdicts: list[Verdict], truth: list[ClipSpec], name: str, choices: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(0)
    scores = [share(verdicts, [truth[i] for i in rng.permutation(len(truth))], name) for _ in range(40)]
    asked = np.array([[getattr(spec, name) == choice for choice in choices] for spec in truth]).mean(0)
    assert abs(np.mean(scores) - (asked**2).sum()) < 0.02
    assert abs(np.mean(scores) - 1 / len(choices)) < 0.04


def test_shuffled_companions_score_at_chance(verdicts: list[Verdict], truth: list[ClipSpec]) -> None:
    pairs = [(v.companion, s.companion) for v, s in zip(verdicts, truth, strict=True) if v.companion and s.companion]
    rng = np.random.default_rng(0)
    chances = {"color": len(COLORS), "shape": len(SHAPES), "relation": len(RELATIONS)}
    for name, count in chances.items():
        shuffled = [
            np.mean(
                [getattr(seen, name) == getattr(pairs[i][1], name) for (seen, _), i in zip(pairs, order, strict=True)]
            )
            for order in (rng.permutation(len(pairs)) for _ in range(60))
        ]
        assert abs(np.mean(shuffled) - 1 / count) < 0.06


def test_speeds_and_places_agree_with_the_world(verdicts: list[Verdict], truth: list[ClipSpec]) -> None:
    moving = [v.speed for v, s in zip(verdicts, truth, strict=True) if s.motion not in ("still", "spin")]
    assert np.median(moving) == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(np.array(moving) - 1) < 0.2) > 0.94
    assert all(v.speed == 0 for v in verdicts if v.motion == "still")
    away = [
        np.nanmedian(np.abs(v.track - positions(s, FRAMES, 3)))
        for v, s in zip(verdicts, truth, strict=True)
        if s.companion is None
    ]
    assert np.max(away) < 0.03


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("motion", ["left", "up", "still"])
def test_two_objects_are_told_apart_in_every_order(scorer: Scorer, relation: str, motion: str) -> None:
    spec = ClipSpec("red", "heart", "small", motion, "snow", 0.5, 0.5, 0.3, 5, pattern="striped")
    spec = replace(spec, companion=Companion("blue", "square", relation))
    spec = replace(spec, x=0.5 - spec.companion_offset[0] / 2, y=0.5 - spec.companion_offset[1] / 2)
    seen = scorer.judge(render([spec], FRAMES, size=SIDE)[0])
    assert seen.companion is not None
    assert seen.companion.relation == ("above" if relation in ("above", "below") else "left")
    turned = seen.facing(spec)
    assert (turned.color, turned.shape, turned.pattern, turned.motion) == ("red", "heart", "striped", motion)
    assert turned.companion == spec.companion
    assert turned.companion_pattern == "plain"
    other = replace(spec, companion=replace(spec.companion, relation="left" if relation != "left" else "above"))
    assert seen.facing(other).companion != other.companion


def test_what_flickers_up_beside_an_object_is_no_companion(scorer: Scorer) -> None:
    alone = ClipSpec("green", "star", "small", "still", "day", 0.3, 0.5, 0.3, 5)
    film = render([alone], FRAMES, size=SIDE)[0]
    ghost = render([replace(alone, companion=Companion("red", "ball", "left"))], FRAMES, size=SIDE)[0]
    film[10:14] = ghost[10:14]
    found = scorer.judge(film)
    assert (found.color, found.shape, found.companion) == ("green", "star", None)
    assert scorer.judge(ghost).companion == Companion("red", "ball", "left")


def test_a_part_of_a_reading_is_the_reading_of_that_part(scorer: Scorer) -> None:
    spec = ClipSpec("red", "ball", "small", "right", "sea", 0.2, 0.3, 0.3, 5, camera="drifting")
    spec = replace(spec, companion=Companion("blue", "star", "above"))
    film = render([spec], 50, size=SIDE)[0]
    whole, part = scorer.read(film, batch=20).part(10, 45), scorer.read(film[10:45])
    for name in ATTRIBUTES:
        np.testing.assert_allclose(whole.logits[name], part.logits[name], atol=1e-3)
    assert whole.drifting is not None
    assert part.drifting is not None
    np.testing.assert_allclose(whole.drifting, part.drifting, atol=1e-3)
    assert np.isnan(part.drifting[-LAG:]).all()
    assert verdict(whole).companion == verdict(part).companion == spec.companion


def test_films_of_the_worlds_own_size_are_judged_alike(scorer: Scorer) -> None:
    rng = np.random.default_rng(4)
    for spec in (sample_spec(rng) for _ in range(6)):
        large, small = (scorer.judge(render([spec], 20, size=size)[0]) for size in (SIZE, SIDE))
        for name in (*OBJECT, *SCENERY, "motion", "companion"):
            assert getattr(large, name) == getattr(small, name), name


def test_confidence_is_a_probability_and_mostly_high_when_right(verdicts: list[Verdict]) -> None:
    for name in (*ATTRIBUTES, "motion"):
        sure = [verdict.confidences[name] for verdict in verdicts]
        assert 0 <= min(sure) <= max(sure) <= 1
        assert np.mean(sure) > 0.85


def test_adherence_counts_what_is_wrong_and_only_that(scorer: Scorer) -> None:
    spec = ClipSpec("green", "star", "big", "left", "night", 0.5, 0.5, 0.3, 5)
    film = render([spec], FRAMES, size=SIDE)[0]
    asked = [spec, replace(spec, color="red"), replace(spec, scene="sea"), replace(spec, motion="right", shape="ball")]
    scores = adherence([film] * 4, asked, scorer)
    assert [scores[name] for name in ("color", "shape", "size", "motion", "scene", "all")] == [
        0.75,
        0.75,
        1,
        0.75,
        0.75,
        0.25,
    ]
    assert scores["speed"] == pytest.approx(1, abs=0.1)
    assert [scores[name] for name in ADDED] == [1, 1, 1, 1, 1]
    assert math.isnan(scores["relation"])
    company = [replace(spec, companion=Companion("red", "ball", "left")), replace(spec, weather="fog"), spec]
    scores = adherence([film] * 3, company, scorer)
    assert scores["companion"] == scores["weather"] == pytest.approx(2 / 3)
    assert scores["companion_color"] == scores["companion_shape"] == scores["relation"] == 0
    assert scores["all"] == 1
    with pytest.raises(ValueError, match="one clip for every film"):
        adherence([film], asked, scorer)


def test_a_film_played_faster_or_slower_or_frozen_is_noticed(scorer: Scorer) -> None:
    spec = ClipSpec("yellow", "heart", "small", "right", "city", 0.1, 0.5, 0.3, 5)
    film = render([spec], 50, size=SIDE)[0]
    assert scorer.judge(film[::2]).speed == pytest.approx(2, abs=0.25)
    assert scorer.judge(film.repeat_interleave(2, 0)[:50]).speed == pytest.approx(0.5, abs=0.1)
    assert scorer.judge(film[10:11].expand(30, -1, -1, -1)).motion == "still"
    assert scorer.judge(film.flip(0)).motion == "left"


def test_soft_noisy_small_and_eight_bit_pictures_are_judged_fairly(scorer: Scorer) -> None:
    rng = np.random.default_rng(8)
    specs = [replace(sample_spec(rng, simple=True), size="big") for _ in range(16)]
    generator = torch.Generator().manual_seed(1)
    films = [spoil(render([spec], 17, size=SIDE)[0], generator) for spec in specs]
    scores = adherence(films, specs, scorer)
    assert min(scores[name] for name in JUDGED) >= 0.9
    plain = render(specs[:2], 17, size=SIDE)
    double = F.interpolate(plain[0], scale_factor=2, mode="bilinear")
    eight_bit = (double * 255).round().to(torch.uint8)
    found = scorer.judge(eight_bit)
    assert (found.color, found.shape, found.scene) == (specs[0].color, specs[0].shape, specs[0].scene)


def test_scenery_without_an_object_has_no_motion(scorer: Scorer) -> None:
    grey = torch.full((20, 3, 96, 96), 0.5)
    verdict = scorer.judge(grey)
    assert verdict.motion in ("unseen", "still")
    assert verdict.speed == 0
    few = scorer.judge(render([ClipSpec("red", "ball", "big", "up", "sea", 0.5, 0.5, 0, 1)], 4, size=SIDE)[0])
    assert few.motion == "unseen"
    assert few.confidences["motion"] == 0


@pytest.mark.parametrize("frames", [17, 33, 120])
def test_every_motion_is_told_from_noisy_places_alone(frames: int) -> None:
    rng = np.random.default_rng(1)
    for motion in MOTIONS:
        for _ in range(4):
            spec = replace(sample_spec(rng, simple=True), motion=motion, x=0.5, y=0.5)
            start = int(rng.integers(8 if frames < 33 else 50))
            place, stretch = positions(spec, frames, start), object_stretch(spec, frames, start)
            seen = np.all((place > -0.08) & (place < 1.08), axis=1)
            fit = fit_motion(place + rng.normal(0, 0.01, place.shape), seen, stretch[:, 0] / stretch[:, 1])
            assert fit.motion == motion
            assert fit.speed == (0 if motion == "still" else pytest.approx(1, abs=0.3))


def test_a_creeping_object_rests_and_a_misread_place_changes_nothing() -> None:
    time = np.arange(30)
    seen, facing = np.ones(30, dtype=bool), np.ones(30)
    creeping = np.stack([0.3 + 0.1 * SPEED * time, np.full(30, 0.5)], -1)
    assert fit_motion(creeping, seen, facing).motion == "still"
    crossing = np.stack([0.2 + SPEED * time, np.full(30, 0.5)], -1)
    crossing[7] = (0.9, 0.1)
    fit = fit_motion(crossing, seen, facing)
    assert fit.motion == "right"
    assert fit.speed == pytest.approx(1, abs=0.15)


def test_the_scorer_is_small() -> None:
    assert sum(parameter.numel() for parameter in Scorer().parameters()) < 300_000
    assert WEIGHTS.stat().st_size < 600_000


def test_wrong_shapes_and_missing_files_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[T, 3, H, W\]"):
        scorer.read(torch.zeros(5, 96, 96, 3))
    with pytest.raises(FileNotFoundError, match="train one"):
        Scorer.load(tmp_path / "none.safetensors")


def test_training_learns_repeats_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    settings = {"steps": 5, "seed": 3, "log_every": 1, "save_every": 2}
    first = train_scorer(tmp_path / "a", **settings)
    (tmp_path / "a" / "scorer.safetensors").unlink()  # as if it had been killed after its last checkpoint
    second = train_scorer(tmp_path / "a", **settings)
    other = train_scorer(tmp_path / "c", steps=1, seed=4)
    for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    lines = (tmp_path / "a" / "scorer.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert len(losses) == 6  # the last step was made twice
    assert losses[4] == losses[5] < 0.95 * losses[0]


def test_a_scorer_grows_from_an_earlier_ones_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    earlier, grown = Scorer(), Scorer()
    state = {name: value for name, value in earlier.state_dict().items() if not name.startswith("coarse.2")}
    state["object_heads.shape.weight"] = state["object_heads.shape.weight"][:6]  # it knew six shapes
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "six.safetensors")
    fresh = {name: value.clone() for name, value in grown.state_dict().items()}
    grow(grown, tmp_path / "six.safetensors")
    made = grown.state_dict()
    shapes = made["object_heads.shape.weight"]
    assert torch.equal(made["fine.0.0.weight"], state["fine.0.0.weight"])
    assert torch.equal(shapes[:6], state["object_heads.shape.weight"])
    assert torch.equal(shapes[6:], fresh["object_heads.shape.weight"][6:])
    assert torch.equal(made["coarse.2.0.weight"], fresh["coarse.2.0.weight"])


def test_labels_are_the_specs_own() -> None:
    spec = ClipSpec("green", "star", "small", "spin", "sea", 0.5, 0.4, 0.3, 5, pattern="dotted", hour="night")
    spec = replace(spec, companion=Companion("pink", "cross", "left"), x=0.3)
    known = labels([spec], [8])
    first, second = known.objects[0].tolist()
    said = [[choices[int(row[i])] for i, choices in enumerate(OBJECT.values())] for row in (first, second)]
    assert said == [["green", "star", "small", "dotted"], ["pink", "cross", "small", "plain"]]
    scenery = zip(SCENERY.values(), known.scenery[0].tolist(), strict=True)
    assert [choices[int(i)] for choices, i in scenery] == ["sea", "clear", "night"]
    assert first[4:6] == pytest.approx([0.3, 0.4])
    assert second[4:6] == pytest.approx([0.3 + APART, 0.4])
    assert first[6] == second[6] < math.log(0.5)  # a quarter turn shows the edge
    assert first[7] == second[7] == 1
    outside = labels([replace(spec, motion="left", x=-0.15, companion=None)], [0]).objects[0]
    assert outside[:, 7].tolist() == [0, 0]
    crossing = replace(spec, motion="right", x=0.9)
    assert labels([crossing], [0]).objects[0, 1, 4] == pytest.approx(0.9 + APART - 1.4, abs=1e-5)


def test_the_way_of_the_camera_is_that_of_the_scenery() -> None:
    spec = ClipSpec("red", "ball", "small", "still", "night", 0.5, 0.75, 0.02, 5, camera="drifting")
    start, end = 10, 40
    way = torch.diff(labels([spec, spec], [start, end]).camera[:, 1:], dim=0)[0]
    film = render([spec, spec], 1, start=[start, end], size=192)[:, 0].mean(1)
    before, after = (picture - picture.mean() for picture in film)
    best = min(
        ((x, y) for x in range(-20, 21) for y in range(-12, 13)),
        key=lambda by: float((after.roll((-by[1], -by[0]), (0, 1)) - before)[24:90, 24:-24].abs().mean()),
    )
    assert np.abs(np.array(best) / 192 - way.numpy()).max() < 0.012
    assert way.abs().max() > 0.02


def test_training_shows_company_and_a_moving_camera_oftener_than_the_world() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_clip(rng) for _ in range(300)]
    assert 0.4 < np.mean([spec.companion is not None for spec in drawn]) < 0.6
    assert 0.35 < np.mean([spec.camera == "drifting" for spec in drawn]) < 0.6
    assert {spec.motion for spec in drawn if spec.companion} == set(PAIRED)
    pictures, truth = paint_pairs(0, 3, 2)
    assert pictures.shape[1:] == (2, 3, SIDE, SIDE)
    assert len(truth.objects) == 2 * len(pictures)
