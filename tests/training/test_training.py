"""The training recipe: its optimiser and its clock, its films and the windows that are drawn from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.taehv import AutoencoderTAEHV
from tests import small_recipe
from tests.small_recipe import noise_shelves
from training import data, windows, world
from training.mix import USUAL
from training.muon import Muon, orthogonalize
from training.noise import draw_rising_sigma
from training.run import Clock, Curve, Ema, learning_rate, load_checkpoint, save_checkpoint, step_seed


@pytest.fixture(scope="module")
def films() -> list[data.Film]:
    rng = np.random.default_rng(0)
    return [data.draw_film(rng, switching=bool(i % 2)) for i in range(40)]


# ---------------------------------------------------------------- optimiser, clock, files


def test_orthogonalize_keeps_directions_and_evens_out_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        matrix = torch.randn(shape, generator=generator) @ torch.diag(torch.logspace(0, -1, shape[1]))
        made = orthogonalize(matrix)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ made @ v.T
        assert (s.max() / s.min()) > 5
        assert inner.diag().min() > 0.5
        assert inner.diag().max() < 1.4
        assert (inner - inner.diag().diag()).abs().max() < 0.2


def test_muon_fits_a_badly_scaled_problem_and_its_step_has_the_size_of_its_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(6, 2, 3, 3))
    target = torch.randn(weight.shape, generator=generator)
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().sum()
        weight.grad = None
        loss.backward()
        before = weight.detach().clone()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    norm = torch.linalg.matrix_norm((weight.detach() - before).flatten(1), ord=2)
    assert 0.05 < float(norm) < 0.15


def test_clock_counts_steps_or_minutes_and_refuses_both() -> None:
    clock = Clock(steps=4)
    clock.step = 1
    assert clock.progress == 0.25
    assert Clock(minutes=1.0, seconds_before=30.0).progress == pytest.approx(0.5, abs=0.01)
    assert Clock(minutes=1.0, seconds_before=61.0).done
    with pytest.raises(ValueError, match="either steps or minutes"):
        Clock()
    with pytest.raises(ValueError, match="either steps or minutes"):
        Clock(steps=1, minutes=1.0)


def test_learning_rate_warms_up_and_then_falls() -> None:
    assert learning_rate(1.0, 0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate(1.0, 10, 0.0, 10) == pytest.approx(1.0)
    rates = [learning_rate(1.0, 100, p, 10) for p in np.linspace(0, 1, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02)


def test_steps_draw_the_same_again_and_differ_by_seed_step_and_purpose() -> None:
    draws = [step_seed(*key).random() for key in ((0, 1, "a"), (0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def test_average_forgets_the_beginning_and_follows_the_weights() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.0)
    average = Ema(module, 0.9)
    torch.nn.init.constant_(module.weight, 1.0)
    values = []
    for step in range(30):
        average.update(module, step)
        values.append(float(average.state_dict()["weight"]))
    assert values == sorted(values)
    assert 0.1 < values[0] < 1.0
    assert values[-1] > 0.9


def test_checkpoint_and_curve_survive(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "a.pt") is None
    save_checkpoint(tmp_path / "a.pt", {"step": 3, "model": {"w": torch.ones(2)}})
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded is not None
    assert loaded["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    for _ in range(2):
        Curve(tmp_path / "c.jsonl").add(step=1, loss=0.123456789)
    assert (tmp_path / "c.jsonl").read_text().splitlines() == ['{"step": 1, "loss": 0.123457}'] * 2


# ---------------------------------------------------------------- films and windows


def test_switches_of_films_lie_on_latent_borders_and_mostly_on_chunks(films: list[data.Film]) -> None:
    switches = [film.switch for film in films if film.switch is not None]
    assert len(switches) == 20
    assert all(3 <= s <= 18 for s in switches)
    assert 0.6 < np.mean([s % 3 == 0 for s in switches]) <= 1.0
    assert all((film.second is None) == (film.switch is None) for film in films)


def test_rendered_film_changes_at_its_switch_and_not_before(films: list[data.Film]) -> None:
    film = next(film for film in films if film.second is not None and film.second.scene != film.first.scene)
    assert film.switch is not None
    border = 4 * film.switch - 3
    alone = world.render([film.first], border + 16, size=48)[0]
    pixels = data.render_film(film, 48)
    assert pixels.shape == (81, 3, 48, 48)
    assert torch.equal(pixels[:border], alone[:border])
    assert (pixels[border + 15] - alone[border + 15]).abs().mean() > 0.02


def test_outlines_lie_on_the_object_before_and_after_a_switch(films: list[data.Film]) -> None:
    outlines = data.outlines(films, 24)
    assert outlines.shape == (len(films), data.FRAMES, 24, 24)
    assert outlines.max() == 2
    for film, outline in list(zip(films, outlines, strict=True))[:8]:
        pixels = data.render_film(film, 96)
        for frame in (0, 5, 20):
            switched = film.second is not None and film.switch is not None and frame >= film.switch
            spec = film.second if switched and film.second is not None else film.first
            x, y = world.positions(spec, 1, 4 * frame)[0]
            if 0.1 < x < 0.9 and 0.1 < y < 0.9 and spec.shape not in ("ring", "heart"):  # full at their middle
                assert outline[frame, int(24 * y), int(24 * x)]
            assert not outline[frame].all()
        if film.second is None and film.first.motion == "still":  # the object itself, not a disc around it
            bare = world.render([world.ClipSpec(**{**_as_dict(film.first), "x": 9.0, "y": 9.0})], 1, start=80, size=96)[
                0, 0
            ]
            changed = (pixels[80] - bare).abs().amax(0) > 0.08
            seen = torch.nn.functional.max_pool2d(changed[None].float(), 4)[0] > 0
            assert (seen & (outline[20] > 0)).sum() > 0.7 * (outline[20] > 0).sum()


def test_outlines_mark_both_objects_of_a_film_and_nothing_between_them() -> None:
    friend = world.Companion("blue", "square", "left")
    spec = world.ClipSpec("red", "ball", "small", "still", "sea", 0.3, 0.5, 0.2, 7, companion=friend)
    pair, alone = data.outlines([data.Film(spec), data.Film(replace(spec, companion=None))], 24)[:, 5]
    assert pair[12, 7] == pair[12, 16] == 2
    assert not pair[12, 11:13].any()
    assert torch.equal(pair[:, :12], alone[:, :12])
    assert not alone[:, 12:].any()


def test_courses_say_how_the_object_goes_on(films: list[data.Film]) -> None:
    courses = data.courses(films)
    assert courses.shape == (len(films), data.FRAMES, 4)
    seen = set()
    for film, course in zip(films, courses.numpy(), strict=True):
        motion, until = film.first.motion, film.switch or data.FRAMES
        seen.add(motion)
        way, growth = course[2:until, :2], course[2:until, 2:]  # settled
        across = {"left": (-0.875, 0), "right": (0.875, 0), "up": (0, -0.875), "down": (0, 0.875), "still": (0, 0)}
        if motion in across:
            np.testing.assert_allclose(way, np.tile(across[motion], (len(way), 1)), atol=1e-5)
        assert bool(growth.any()) == (motion in ("spin", "bounce"))
        assert np.abs(course).max() < 5
    assert seen == set(world.MOTIONS)


def _as_dict(spec: world.ClipSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__slots__}


@pytest.mark.parametrize("chunk", [1, 3])
def test_windows_count_only_frames_whose_history_and_prompt_match_the_engine(
    films: list[data.Film], chunk: int
) -> None:
    rng = np.random.default_rng(1)
    seen = {"beginning": 0, "sink": 0, "counted": 0, "switched": 0}
    for trial in range(600):
        number = trial % len(films)
        film = films[number]
        window = windows.draw_window(rng, number, film, chunk)
        frames, loss = window.frames, window.loss
        assert len(frames) == len(loss) == 12
        assert list(frames) == sorted(set(frames))
        assert frames[-1] < data.FRAMES
        late = list(np.diff(frames[3:]))
        assert late == [1] * 8
        owners = [int(film.switch is not None and f >= film.switch) for f in frames]
        counted = [owner for owner, counts in zip(owners, loss, strict=True) if counts]
        assert len(set(counted)) <= 1  # one prompt a window
        for start in range(0, 12, chunk):
            part, whole = owners[start : start + chunk], loss[start : start + chunk]
            assert len(set(whole)) == 1 or chunk == 1
            assert not any(whole) or len(set(part)) == 1  # no chunk shows both prompts
        if frames[3] == frames[2] + 1:
            seen["beginning"] += 1
        else:
            seen["sink"] += 1
            assert not any(loss[3 : 3 + max(chunk, 3)])  # a jump in time is nothing to learn
            assert not any(loss[:3]) or frames[0] == 0
        seen["counted"] += any(loss)
        seen["switched"] += len(set(owners)) == 2
    assert min(seen.values()) > 100
    assert seen["counted"] > 500


def test_pictures_alike_differ_in_shape_and_at_most_one_thing_more_and_none_is_held_out() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        specs = [film.first for film in data.draw_alike(rng)]
        assert len(specs) == len(set(specs)) == data.ALIKE
        looks = [{getattr(spec, name) for spec in specs} for name in ("shape", "pattern", "companion")]
        kinds.add(tuple(len(look) for look in looks))
        assert len({replace(spec, shape="ball", pattern="plain", companion=None) for spec in specs}) == 1
        assert not any(world.is_held_out(spec.color, spec.shape, spec.motion, spec.scene) for spec in specs)
    assert kinds == {(9, 1, 1), (3, 3, 1), (3, 1, 3)}


def test_turns_of_one_history_differ_in_a_look_or_in_all_else_and_none_is_held_out() -> None:
    rng = np.random.default_rng(0)
    looks = set()
    for _ in range(40):
        films = data.draw_turns(rng)
        assert len(films) == data.CORNERS
        assert {film.frames for film in films} == {data.TURN}
        assert [film.switch for film in films] == [None, *[data.TURN - 3] * 3]
        old, changed, kept, new = (film.second or film.first for film in films)
        assert {film.first for film in films} == {old}
        (look,) = [name for name in data.LOOK if getattr(changed, name) != getattr(old, name)]
        assert changed == replace(old, **{look: getattr(new, look)})
        assert kept == replace(new, **{look: getattr(old, look)})
        assert old.scene != new.scene
        looks.add(look)
        assert not any(world.is_held_out(s.color, s.shape, s.motion, s.scene) for s in (old, changed, kept, new))
    assert looks == set(data.LOOK)


def test_turns_are_encoded_as_the_films_that_they_are(small: None) -> None:
    torch.manual_seed(0)
    model = AutoencoderTAEHV(**small_recipe.SMALL_AE).eval()
    turns = data.draw_turns(np.random.default_rng(1))
    with torch.no_grad():
        together = data._encode(turns, model)
        alone = [model.encode(data.render_film(film)[None], pad="start") for film in turns]
    assert together.shape == (data.CORNERS, data.TURN, 8, 24, 24)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_turns_ask_behind_clean_history_and_how_far_a_look_has_gone(films: list[data.Film]) -> None:
    shelves = noise_shelves(films)
    turns = shelves[3]
    row = {tuple(latents.flatten().tolist()): number for number, latents in enumerate(turns.latents)}
    mix = replace(USUAL, pictures=(0.0, 0.0), turns=(1.0, 1.0), dropped=0.3)
    swaps = untold = told = 0
    for step in range(20):
        batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, mix=mix)
        assert len(batch.prompts) == windows.TURNS * 4
        assert batch.chunk == 3
        assert not batch.forced
        assert batch.under is not None
        assert batch.instead is not None
        assert batch.heard is not None
        assert torch.equal(batch.weight, (torch.arange(data.TURN) > 5).float().expand_as(batch.weight))
        assert torch.equal(batch.heard, batch.weight)
        assert torch.equal(batch.sigma > 0, batch.weight > 0)
        for clean, under, instead, sigma, prompt in zip(
            batch.latents, batch.under, batch.instead, batch.sigma[:, -1], batch.prompts, strict=True
        ):
            asked, shown, other = (row[tuple(one.flatten().tolist())] for one in (clean, under, instead))
            assert other == (asked ^ 1 if prompt else asked)
            assert shown in (asked, other)
            assert shown == asked or float(sigma) > windows.OTHER_NOISE
            told, untold, swaps = told + bool(prompt), untold + (not prompt), swaps + (shown != asked)
    assert min(told, untold, swaps) > 30
    levels = [1.0, 0.9, 0.75, 0.5]
    for step in range(5):
        batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, 1.0, levels, mix)
        assert batch.instead is None
        assert batch.ladder
        assert torch.equal(batch.under, batch.latents) if batch.under is not None else True
        assert {round(float(level), 6) for level in batch.sigma[:, -1]} <= set(levels)


def test_noise_may_lie_over_another_picture_than_what_is_asked_for(films: list[data.Film]) -> None:
    shelves = noise_shelves(films)
    pictures = shelves[2]
    row = {tuple(latents.flatten().tolist()): number for number, latents in enumerate(pictures.latents)}
    swaps, seen, pairs = 0, 0, set()
    mix = replace(USUAL, closest=0.0)
    for step in range(60):
        batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, progress=0.0, mix=mix)
        if batch.latents.shape[1] > 1:
            assert batch.under is None or batch.latents.shape[1] == data.TURN
            continue
        assert batch.under is not None
        assert batch.heard is not None  # who does not know where paints it everywhere
        assert torch.equal(batch.heard > 0, batch.sigma < windows.PLACE_NOISE)
        for clean, under, sigma, prompt in zip(batch.latents, batch.under, batch.sigma, batch.prompts, strict=True):
            asked, shown = row[tuple(clean.flatten().tolist())], row[tuple(under.flatten().tolist())]
            assert asked // 9 == shown // 9  # the same scene
            assert asked == shown or (prompt and float(sigma) > windows.OTHER_NOISE)
            swaps, seen, pairs = swaps + (asked != shown), seen + 1, pairs | {(asked % 9, shown % 9)}
    assert 0.2 < swaps / seen < 0.5
    assert len(pairs) == 81
    ladder = [1.0, 0.9, 0.75, 0.5]
    for step in range(30):
        batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, 0.0, ladder)
        assert batch.under is None or torch.equal(batch.under, batch.latents)


def test_the_closest_pairs_of_every_scene_stand_in_for_each_other(films: list[data.Film]) -> None:
    shelves = noise_shelves(films)
    pictures = shelves[2]
    row = {tuple(latents.flatten().tolist()): number for number, latents in enumerate(pictures.latents)}
    mix = replace(USUAL, closest=1.0, pictures=(1.0, 1.0), windows=(0.0, 0.0), dropped=0.0)
    swaps, drawn = 0, set()
    for step in range(20):
        batch = windows.draw_batch(step_seed(0, step, "x"), *shelves, 4, mix=mix)
        assert batch.under is not None
        asked = [row[tuple(clean.flatten().tolist())] for clean in batch.latents]
        shown = [row[tuple(under.flatten().tolist())] for under in batch.under]
        assert len(asked) == windows.PICTURES * 4
        for one, two in zip(range(0, len(asked), 2), range(1, len(asked), 2), strict=True):
            group = pictures.latents[asked[one] // 9 * 9 :][:9].flatten(1)
            apart = torch.pdist(group.float())
            mine = (group[asked[one] % 9] - group[asked[two] % 9]).float().norm()
            assert asked[one] // 9 == asked[two] // 9
            assert int((apart < mine - 1e-3).sum()) < windows.PAIRS
            assert shown[one] in (asked[one], asked[two])
            assert shown[two] in (asked[one], asked[two])
            drawn.add(int((apart < mine - 1e-3).sum()))
        swaps += sum(a != s for a, s in zip(asked, shown, strict=True))
    assert drawn == set(range(windows.PAIRS))
    assert 0.2 < swaps / (20 * windows.PICTURES * 4) < 0.5


def test_batches_are_of_six_kinds_and_repeat_from_their_seed(films: list[data.Film]) -> None:
    shelves = noise_shelves(films)
    kinds, own = set(), set()
    for step in range(80):
        batch, again = (windows.draw_batch(step_seed(0, step, "x"), *shelves, 4) for _ in range(2))
        assert torch.equal(batch.sigma, again.sigma)
        assert batch.prompts == again.prompts
        frames = batch.latents.shape[1]
        kinds.add("joint" if batch.joint else (frames, batch.forced))
        assert batch.sigma.shape == batch.weight.shape == (len(batch.prompts), frames)
        assert batch.sigma.min() >= 0
        assert batch.sigma.max() <= 1
        assert not batch.weight[batch.sigma == 0].any()
        assert float(batch.focus.mean()) == pytest.approx(1.0, abs=1e-5)
        own.add(batch.own)
        assert not batch.own or batch.forced
        low, high = windows.OWN_NOISE if batch.own else (0.0, 0.12)
        assert low <= batch.history_noise.min() <= batch.history_noise.max() <= high
        assert batch.rows(slice(1, 2)).own == batch.to("cpu").own == batch.own
        if batch.joint:
            history = frames - batch.joint
            assert not batch.sigma[:, :history].any()
            assert (batch.sigma[:, history:].diff() >= 0).all()
            assert batch.sigma[:, history:].min() > 0
            continue
        for start in range(0, frames, batch.chunk):  # one level a chunk
            part = batch.sigma[:, start : start + batch.chunk]
            assert torch.equal(part, part[:, :1].expand_as(part))
    assert kinds == {(1, False), (3, False), (9, False), (12, True), (12, False), "joint"}
    assert 0 in own
    assert len(own) > 1


def test_a_full_rolling_window_holds_the_published_levels_and_a_short_one_the_noisiest_of_them() -> None:
    published = np.array([555.6, 769.2, 882.4, 952.4, 1000.0]).repeat(3)  # Rolling Forcing, arXiv 2509.25161
    full = 1000 * draw_rising_sigma(np.random.default_rng(0), 200, 15, 15)
    short = 1000 * draw_rising_sigma(np.random.default_rng(0), 200, 6, 15)
    assert (np.abs(full - published).max(axis=1) < 0.1).sum() > 10
    assert (np.abs(short - published[-6:]).max(axis=1) < 0.1).sum() > 10
    assert len({tuple(row) for row in full.round(6)}) > 80  # and all the levels in between


def test_joint_windows_count_what_is_noisy_and_shows_the_prompt(films: list[data.Film]) -> None:
    rng = np.random.default_rng(2)
    cut_short = 0
    for trial in range(200):
        film, history = films[trial % len(films)], (0, 3, 6)[trial % 3]
        window = windows.draw_joint_window(rng, trial % len(films), film, history, 12)
        frames, loss = np.array(window.frames), np.array(window.loss)
        assert frames[-1] < data.FRAMES
        assert (np.diff(frames[3:] if history == 6 else frames) == 1).all()
        assert history == 3 or frames[0] == 0
        assert not loss[:history].any()
        owners = frames >= (film.switch if film.switch is not None else data.FRAMES)
        assert (loss[history:] == (owners == owners[-1])[history:]).all()
        cut_short += not loss[history:].all()
    assert cut_short > 20


def test_some_prompts_are_dropped_and_all_others_fit_the_encoder(films: list[data.Film]) -> None:
    shelves = noise_shelves(films)
    prompts = [p for step in range(12) for p in windows.draw_batch(step_seed(0, step, "p"), *shelves, 16).prompts]
    assert 0.04 < np.mean([prompt == "" for prompt in prompts]) < 0.2
    assert max(len(prompt.split()) for prompt in prompts) <= 32
    assert len(set(prompts)) > 100
