"""Tables, steps and addressed noise; test_golden.py holds them to recordings of the released systems."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulers.flow_match import (
    FlowMatchSchedule,
    add_noise,
    to_x0,
)
from schedulers.noise import Address, AddressedNoise, RecordedNoise
from schedulers.steps import STEPS, get_step, sigma_row

FRAME = (1, 4, 6, 6)
HERE = Address(seed=7, stream=0, frame=3, level=937.5, purpose="renoise")
KEY_OF_HERE = 126350410425685874928711777846765738864


def latents(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape or (2, 3, 4, 6, 6))).to(dtype)


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_the_table_is_the_shifted_line(shift: float):
    schedule = FlowMatchSchedule(shift=shift)
    base = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    expected = shift * base / (1 + (shift - 1) * base)
    assert schedule.sigmas.dtype == torch.float32
    torch.testing.assert_close(schedule.sigmas.double(), expected, atol=1e-6, rtol=0)
    assert bool((schedule.sigmas.diff() < 0).all())
    assert torch.equal(schedule.timesteps, schedule.sigmas * 1000)
    if shift != 1.0:
        assert (schedule.sigmas - FlowMatchSchedule(shift=1.0).sigmas).abs().max() > 0.1


def test_warped_lists_are_those_of_the_released_systems():
    schedule = FlowMatchSchedule(shift=5.0)
    assert schedule.warp([1000, 750, 500, 250]) == pytest.approx([1000, 937.5, 833.3333, 625.0], abs=1e-4)
    assert schedule.warp([1000, 800, 600, 400, 200]) == pytest.approx(
        [1000, 952.3810, 882.3529, 769.2308, 555.5556], abs=1e-4
    )
    assert all(type(t) is float for t in schedule.warp([1000, 500]))


def test_a_final_zero_is_the_end_and_not_a_step():
    schedule = FlowMatchSchedule()
    assert schedule.warp([1000, 500, 0]) == schedule.warp([1000, 500])
    assert FlowMatchSchedule.without_zero([700, 400, 0]) == [700, 400]


def test_timestep_zero_has_the_last_sigma_which_is_not_zero():
    assert FlowMatchSchedule(shift=5.0).sigma(0.0) == pytest.approx(0.00498, abs=1e-5)
    assert FlowMatchSchedule(shift=8.0).sigma(0.0) == pytest.approx(0.00794, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1000), st.sampled_from([1.0, 3.0, 5.0, 8.0]))
def test_a_lookup_gives_the_nearest_entry(timestep: float, shift: float):
    schedule = FlowMatchSchedule(shift=shift)
    t = torch.tensor(timestep, dtype=torch.float32).item()
    sigma = schedule.sigma(t)
    assert type(sigma) is float
    assert sigma in schedule.sigmas.tolist()
    assert abs(sigma - t / 1000) <= (schedule.sigmas - t / 1000).abs().min() + 1e-7


def test_every_table_entry_is_found_by_its_own_timestep():
    schedule = FlowMatchSchedule()
    assert [schedule.sigma(t) for t in schedule.timesteps.tolist()] == schedule.sigmas.tolist()


@pytest.mark.parametrize("change", [{"shift": 0.0}, {"sigma_min": 1.0}, {"sigma_max": 1.5}, {"num_train_timesteps": 1}])
def test_impossible_tables_are_refused(change: dict):
    with pytest.raises(ValueError, match="must"):
        replace(FlowMatchSchedule(), **change)


@pytest.mark.parametrize("listed", [[1001], [-1], [999.5]])
def test_step_numbers_outside_the_table_are_refused(listed: list):
    with pytest.raises(ValueError, match="whole number"):
        FlowMatchSchedule().warp(listed)


@pytest.mark.parametrize("timestep", [-0.1, 1000.5, float("nan")])
def test_timesteps_outside_the_table_are_refused(timestep: float):
    with pytest.raises(ValueError, match="outside"):
        FlowMatchSchedule().sigma(timestep)


# ---------------------------------------------------------------------- conversions


def test_noising_and_the_true_flow_lead_back_to_the_clean_frames():
    x0, noise = latents(0, dtype=torch.float64), latents(1, dtype=torch.float64)
    sigma = torch.tensor([[1.0, 0.6, 0.01], [0.3, 0.9, 0.5]], dtype=torch.float64)
    x = add_noise(x0, noise, sigma)
    assert (x - x0).abs().amax(dim=(2, 3, 4)).min() > 1e-2, "every frame must have been moved"
    torch.testing.assert_close(to_x0(x, noise - x0, sigma), x0, atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True), st.floats(1.0, 12.0))
def test_euler_with_the_true_flow_lands_on_the_clean_frames_at_any_shift(steps: list[int], shift: float):
    schedule = FlowMatchSchedule(shift=shift)
    x0, noise = latents(2, dtype=torch.float64), latents(3, dtype=torch.float64)
    path = [*(schedule.sigma(t) for t in schedule.warp([1000, *sorted(steps, reverse=True)])), 0.0]
    x = torch.lerp(x0, noise, path[0])  # at some shifts the float32 table begins a rounding below 1
    for here, there in itertools.pairwise(path):
        x = STEPS["euler"](x, noise - x0, x0 * 0, [here] * 3, [there] * 3)
    torch.testing.assert_close(x, x0, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shift", [1.18, 2.18, 3.0, 5.0, 8.0, 11.7])
def test_no_table_begins_above_pure_noise(shift: float):
    schedule = FlowMatchSchedule(shift=shift)
    (first,) = schedule.warp([1000])
    assert schedule.sigma(first) == pytest.approx(1.0, abs=1e-6)
    assert schedule.sigmas.max() <= 1


def test_bfloat16_latents_are_noised_in_float32_and_rounded_once():
    x0, noise, sigma = latents(4), latents(5), torch.full((1, 3), 0.0321)
    half = add_noise(x0.bfloat16(), noise.bfloat16(), sigma)
    exact = add_noise(x0.bfloat16().float(), noise.bfloat16().float(), sigma)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())
    s = sigma.bfloat16()[..., None, None, None]
    assert not torch.equal(half, (1 - s) * x0.bfloat16() + s * noise.bfloat16()), "the careless way must differ"


def test_clean_frames_are_computed_in_float64():
    x, flow, sigma = latents(6).bfloat16(), latents(7).bfloat16(), torch.full((1, 3), 0.7)
    expected = (x.double() - sigma.double()[..., None, None, None] * flow.double()).bfloat16()
    assert torch.equal(to_x0(x, flow, sigma), expected)


# ---------------------------------------------------------------------- steps


def test_each_frame_of_a_row_goes_to_its_own_level():
    x, flow, x0, noise = (latents(seed) for seed in (8, 9, 10, 11))
    here, there = [0.9, 0.5, 0.2], [0.7, 0.1, 0.05]
    together = {name: STEPS[name](x, flow, x0, here, there, noise) for name in ("renoise", "euler")}
    for name, moved in together.items():
        for f in range(3):
            alone = STEPS[name](
                x[:, f : f + 1], flow[:, f : f + 1], x0[:, f : f + 1], here[f : f + 1], there[f : f + 1],
                noise[:, f : f + 1],
            )  # fmt: skip
            assert torch.equal(moved[:, f : f + 1], alone)
    assert (together["renoise"] - together["euler"]).abs().amax(dim=(0, 2, 3, 4)).min() > 0.1


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_frame_that_ends_becomes_its_clean_estimate(name: str):
    x, flow, x0, noise = (latents(seed) for seed in (12, 13, 14, 15))
    assert torch.equal(STEPS[name](x, flow, x0, [0.5] * 3, [None] * 3, None), x0)
    mixed = STEPS[name](x, flow, x0, [0.5] * 3, [0.3, None, 0.3], noise)
    assert torch.equal(mixed[:, 1], x0[:, 1])
    assert not torch.equal(mixed[:, 0], x0[:, 0])


def test_renoise_uses_fresh_noise_and_euler_none():
    x, flow, x0, noise = (latents(seed) for seed in (16, 17, 18, 19))
    here, there = [0.9] * 3, [0.6] * 3
    moved = STEPS["renoise"](x, flow, x0, here, there, noise)
    assert torch.equal(moved, add_noise(x0, noise, torch.tensor([there])))
    assert torch.equal(STEPS["euler"](x, flow, x0, here, there, noise), STEPS["euler"](x, flow, x0, here, there))
    with pytest.raises(ValueError, match="needs noise"):
        STEPS["renoise"](x, flow, x0, here, there)
    with pytest.raises(ValueError, match="needs noise"):
        STEPS["renoise"](x, flow, x0, here, there, noise[:, :1])


@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_steps_keep_the_dtype_of_the_latents(name: str, dtype: torch.dtype):
    x, flow, x0 = (latents(seed, dtype=dtype) for seed in (20, 21, 22))
    moved = STEPS[name](x, flow, x0, [0.9] * 3, [0.5] * 3, latents(23))
    assert moved.dtype == dtype
    assert torch.equal(moved, x) == (name == "none")


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_row_needs_a_sigma_for_each_of_its_frames(name: str):
    with pytest.raises(ValueError, match="3 frames"):
        STEPS[name](latents(0), latents(1), latents(2), [0.9], [0.5], latents(3))


def test_sigmas_of_a_row_are_made_once_and_serve_training_as_well():
    with torch.inference_mode():
        kept = sigma_row((0.125, 0.25), torch.device("cpu"))
    assert sigma_row((0.125, 0.25), torch.device("cpu")) is kept
    flow = latents(0, 1, 2, 4, 6, 6).requires_grad_()
    STEPS["euler"](flow.detach(), flow, flow, [0.25, 0.25], [0.125, None]).sum().backward()
    assert flow.grad is not None
    assert flow.grad.abs().min() > 0


def test_an_unknown_step_names_the_nearest():
    assert get_step("euler") is STEPS["euler"]
    with pytest.raises(ValueError, match=r"renoise, euler, unipc, none \(nearest: renoise\)"):
        get_step("re-noise")


# ---------------------------------------------------------------------- noise


def neighbours() -> list[Address]:
    """Addresses that differ from HERE in one field each."""
    changes = [
        {"seed": 8},
        {"stream": 1},
        {"frame": 4},
        {"level": 937.4},
        {"purpose": "initial"},
        {"seed": -7},
    ]
    return [HERE, *(replace(HERE, **change) for change in changes)]


def test_the_order_of_draws_does_not_change_the_noise():
    addresses = [
        Address(seed, stream, frame, level, purpose)
        for seed, stream, frame in itertools.product((0, 7), (0, 1), range(4))
        for level, purpose in ((1000.0, "initial"), (625.0, "renoise"))
    ]
    source = AddressedNoise()
    first = {address: source.normal(address, FRAME) for address in addresses}
    for seed in range(4):
        order = random.Random(seed).sample(addresses, len(addresses))
        assert order != addresses
        again = {address: source.normal(address, FRAME) for address in order}
        assert all(torch.equal(first[address], again[address]) for address in addresses)
    assert len({tensor.numpy().tobytes() for tensor in first.values()}) == len(addresses)


def test_noise_at_different_addresses_is_different_and_uncorrelated():
    draws = torch.stack([AddressedNoise().normal(address, (20000,)) for address in neighbours()]).double()
    correlation = torch.corrcoef(draws)
    off = correlation[~torch.eye(len(draws), dtype=torch.bool)]
    assert off.abs().max() < 5 / 20000**0.5
    itself = torch.corrcoef(torch.stack([draws[0], AddressedNoise().normal(HERE, (20000,)).double()]))
    assert itself[0, 1] > 0.999, "the measure must see equal draws"


def test_noise_is_standard_normal():
    x = torch.cat([AddressedNoise().normal(replace(HERE, frame=f), FRAME).flatten() for f in range(400)]).double()
    n = len(x)
    assert x.mean().abs() < 5 / n**0.5
    assert (x.var() - 1).abs() < 5 * (2 / n) ** 0.5
    assert (x**3).mean().abs() < 5 * (15 / n) ** 0.5
    assert ((x**4).mean() - 3).abs() < 5 * (96 / n) ** 0.5


def test_another_process_with_another_hash_seed_draws_the_same_noise():
    code = (
        "import hashlib; from schedulers.noise import Address, AddressedNoise as A;"
        "d = A().normal(Address(7, 0, 3, 937.5, 'renoise'), (1, 4, 6, 6)).numpy().tobytes();"
        "print(hashlib.sha256(d).hexdigest(), hash('rivulet'))"
    )
    root = str(Path(__file__).resolve().parents[2])
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there, hash_there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    ).stdout.split()
    assert int(hash_there) != hash("rivulet"), "the two processes must really hash differently"
    assert there == hashlib.sha256(AddressedNoise().normal(HERE, FRAME).numpy().tobytes()).hexdigest()


def test_the_key_of_an_address_is_written_in_stone():
    """Saved sessions name addresses: a changed key would change every film."""
    assert HERE.key() == KEY_OF_HERE
    assert replace(HERE, level=0).key() == replace(HERE, level=0.0).key() == replace(HERE, level=-0.0).key()
    assert len({address.key() for address in neighbours()}) == len(neighbours())


def test_numbers_that_fit_no_address_are_refused():
    with pytest.raises(ValueError, match="64-bit"):
        replace(HERE, seed=2**63).key()


def test_films_of_a_batch_count_on_from_the_stream_number():
    source = AddressedNoise()
    addresses = [replace(HERE, frame=frame) for frame in range(3)]
    batch = source.frames(addresses, (2, 4, 6, 6))
    assert batch.shape == (2, 3, 4, 6, 6)
    assert batch.dtype == torch.float32
    for film in range(2):
        alone = source.frames([replace(a, stream=film) for a in addresses], FRAME)
        assert torch.equal(batch[film : film + 1], alone)
    assert not torch.equal(batch[0], batch[1])


def test_recorded_noise_comes_in_order_and_in_its_shape():
    draws = [latents(seed, 4, 4, 6, 6) for seed in (0, 1)]
    source = RecordedNoise(draws)
    first = source.frames([HERE, replace(HERE, frame=4)], (2, 4, 6, 6))
    assert torch.equal(first.flatten(0, 1), draws[0])
    assert source.left == 1
    with pytest.raises(ValueError, match="shape"):
        source.frames([HERE], (2, 4, 6, 6))
    second = source.frames([HERE, replace(HERE, frame=4)], (2, 4, 6, 6))
    assert torch.equal(second.flatten(0, 1), draws[1])
    with pytest.raises(ValueError, match="all 2 recorded draws are used"):
        source.frames([HERE, replace(HERE, frame=4)], (2, 4, 6, 6))


def test_recorded_first_noise_is_found_by_the_number_of_the_frame():
    initial = latents(0, 1, 6, 4, 6, 6)
    source = RecordedNoise([], initial=initial, first_frame=3)
    wanted = [replace(HERE, frame=frame, purpose="initial") for frame in (6, 7)]
    assert torch.equal(source.frames(wanted, FRAME), initial[:, 3:5])
    for frame in (2, 9):
        with pytest.raises(ValueError, match="recorded for 6 frames from 3"):
            source.frames([replace(HERE, frame=frame, purpose="initial")], FRAME)
    with pytest.raises(ValueError, match="frames of"):
        source.frames(wanted, (1, 4, 6, 8))
