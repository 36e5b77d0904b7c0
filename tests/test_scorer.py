"""The scorer that ships: right on the world's own films, at chance on shuffled labels, fair to soft pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.paths import fit_motion
from training.scorer import ATTRIBUTES, WEIGHTS, Scorer, Verdict, adherence
from training.scorer_training import labels, spoil, train_scorer
from training.world import (
    COLORS,
    MOTIONS,
    SCENES,
    SHAPES,
    SPEED,
    ClipSpec,
    object_stretch,
    positions,
    render,
    sample_spec,
)

FRAMES = 25
JUDGED = ("color", "shape", "motion", "scene")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


@pytest.fixture(scope="module")
def truth() -> list[ClipSpec]:
    rng = np.random.default_rng(20)
    return [sample_spec(rng, held_out=i % 4 == 0) for i in range(104)]


@pytest.fixture(scope="module")
def verdicts(scorer: Scorer, truth: list[ClipSpec]) -> list[Verdict]:
    return [scorer.judge(render([spec], FRAMES, start=3)[0]) for spec in truth]


def share(verdicts: list[Verdict], specs: list[ClipSpec], name: str) -> float:
    return float(np.mean([getattr(v, name) == getattr(s, name) for v, s in zip(verdicts, specs, strict=True)]))


@pytest.mark.parametrize("name", [*JUDGED, "size"])
def test_ground_truth_films_are_judged_right(verdicts: list[Verdict], truth: list[ClipSpec], name: str) -> None:
    assert share(verdicts, truth, name) >= 0.99


@pytest.mark.parametrize(
    ("name", "choices"), [("color", COLORS), ("shape", SHAPES), ("motion", MOTIONS), ("scene", SCENES)]
)
def test_shuffled_labels_score_at_chance(
    verdicts: list[Verdict], truth: list[ClipSpec], name: str, choices: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(0)
    scores = [share(verdicts, [truth[i] for i in rng.permutation(len(truth))], name) for _ in range(40)]
    assert abs(np.mean(scores) - 1 / len(choices)) < 0.04


def test_speeds_and_places_agree_with_the_world(verdicts: list[Verdict], truth: list[ClipSpec]) -> None:
    moving = [v.speed for v, s in zip(verdicts, truth, strict=True) if s.motion not in ("still", "spin")]
    assert np.median(moving) == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(np.array(moving) - 1) < 0.2) > 0.97
    assert all(v.speed == 0 for v in verdicts if v.motion == "still")
    away = [np.nanmedian(np.abs(v.track - positions(s, FRAMES, 3))) for v, s in zip(verdicts, truth, strict=True)]
    assert np.max(away) < 0.03


def test_confidence_is_a_probability_and_mostly_high_when_right(verdicts: list[Verdict]) -> None:
    for name in (*ATTRIBUTES, "motion"):
        sure = [verdict.confidences[name] for verdict in verdicts]
        assert 0 <= min(sure) <= max(sure) <= 1
        assert np.mean(sure) > 0.85


def test_adherence_counts_what_is_wrong_and_only_that(scorer: Scorer) -> None:
    spec = ClipSpec("green", "star", "big", "left", "night", 0.5, 0.5, 0.3, 5)
    film = render([spec], FRAMES)[0]
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
    with pytest.raises(ValueError, match="one clip for every film"):
        adherence([film], asked, scorer)


def test_a_film_played_faster_or_slower_or_frozen_is_noticed(scorer: Scorer) -> None:
    spec = ClipSpec("yellow", "heart", "small", "right", "city", 0.1, 0.5, 0.3, 5)
    film = render([spec], 50)[0]
    assert scorer.judge(film[::2]).speed == pytest.approx(2, abs=0.25)
    assert scorer.judge(film.repeat_interleave(2, 0)[:50]).speed == pytest.approx(0.5, abs=0.1)
    assert scorer.judge(film[10:11].expand(30, -1, -1, -1)).motion == "still"
    assert scorer.judge(film.flip(0)).motion == "left"


def test_soft_noisy_small_and_eight_bit_pictures_are_judged_fairly(scorer: Scorer) -> None:
    rng = np.random.default_rng(8)
    specs = [replace(sample_spec(rng), size="big") for _ in range(16)]
    generator = torch.Generator().manual_seed(1)
    films = [spoil(render([spec], 17)[0], generator) for spec in specs]
    scores = adherence(films, specs, scorer)
    assert min(scores[name] for name in JUDGED) >= 0.9
    plain = render(specs[:2], 17)
    double = F.interpolate(plain[0], scale_factor=2, mode="bilinear")
    eight_bit = (double * 255).round().to(torch.uint8)
    found = scorer.judge(eight_bit)
    assert (found.color, found.shape, found.scene) == (specs[0].color, specs[0].shape, specs[0].scene)


def test_scenery_without_an_object_has_no_motion(scorer: Scorer) -> None:
    grey = torch.full((20, 3, 96, 96), 0.5)
    verdict = scorer.judge(grey)
    assert verdict.motion in ("unseen", "still")
    assert verdict.speed == 0
    few = scorer.judge(render([ClipSpec("red", "ball", "big", "up", "sea", 0.5, 0.5, 0, 1)], 4)[0])
    assert few.motion == "unseen"
    assert few.confidences["motion"] == 0


@pytest.mark.parametrize("frames", [17, 33, 120])
def test_every_motion_is_told_from_noisy_places_alone(frames: int) -> None:
    rng = np.random.default_rng(1)
    for motion in MOTIONS:
        for _ in range(4):
            spec = replace(sample_spec(rng), motion=motion, x=0.5, y=0.5)
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
    assert sum(parameter.numel() for parameter in Scorer().parameters()) < 250_000
    assert WEIGHTS.stat().st_size < 400_000


def test_wrong_shapes_and_missing_files_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[T, 3, H, W\]"):
        scorer.read(torch.zeros(5, 96, 96, 3))
    with pytest.raises(FileNotFoundError, match="train one"):
        Scorer.load(tmp_path / "none.safetensors")


def test_training_learns_repeats_and_writes_what_it_returns(tmp_path: Path) -> None:
    first = train_scorer(tmp_path / "a", steps=4, seed=3, log_every=1)
    second = train_scorer(tmp_path / "b", steps=4, seed=3, log_every=1)
    other = train_scorer(tmp_path / "c", steps=1, seed=4)
    for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    lines = (tmp_path / "a" / "scorer.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert len(losses) == 4
    assert losses[-1] < 0.95 * losses[0]


def test_labels_are_the_specs_own() -> None:
    spec = ClipSpec("green", "star", "big", "spin", "sea", 0.5, 0.4, 0.3, 5)
    row = labels([spec], [8])[0].tolist()
    assert [list(choices)[int(row[i])] for i, choices in enumerate(ATTRIBUTES.values())] == [
        "green",
        "star",
        "big",
        "sea",
    ]
    assert row[4:6] == pytest.approx([0.5, 0.4])
    assert row[6] < math.log(0.5)  # a quarter turn shows the edge
    assert row[7] == 1
    outside = labels([replace(spec, motion="left", x=-0.15)], [0])[0]
    assert outside[7] == 0
