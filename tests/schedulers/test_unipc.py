"""UniPC: equal to diffusers' scheduler on a fixed model, in the loop and for frames at levels of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from cache.kv import KVStore
from cache.types import Pass, Row
from pipelines.build import make_policies
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs
from schedulers.steps import euler, get_step
from schedulers.unipc import Past, UniPCSchedule, unipc
from tests.tiny import FOX, gap, tiny_engine, tiny_stream

SHAPE = (2, 3, 4, 5, 6)


def fixed_model(x: Tensor, timestep: float) -> Tensor:
    """A flow that bends in time and mixes channels."""
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(x.dtype)
    return torch.tanh(torch.einsum("bfchw,cd->bfdhw", x, mix)) * (0.5 + timestep / 1000)


def noise(dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def theirs(schedule: UniPCSchedule, dtype: torch.dtype) -> list[Tensor]:
    """The latents after each step of diffusers' solver over the same sigmas, kept in float64."""
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=schedule.shift)
    solver.set_timesteps(schedule.steps)
    solver.sigmas = torch.tensor([*schedule.sigmas, 0.0], dtype=torch.float64)
    solver.timesteps = torch.tensor([int(level) for level in schedule.levels])
    x, out = noise(dtype), []
    for level in schedule.levels:
        x = solver.step(fixed_model(x, level), torch.tensor(int(level)), x, return_dict=False)[0]
        out.append(x)
    return out


def ours(schedule: UniPCSchedule, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The latents after each step, and the clean estimates they were made from."""
    x, out, clean, past = noise(dtype), [], [], list[Past]()
    for level, to in pairwise((*schedule.levels, None)):
        assert level is not None
        sigma = schedule.sigma(level)
        flow = fixed_model(x, level)
        x0 = (x.double() - sigma * flow.double()).to(dtype)
        after = None if to is None else schedule.sigma(to)
        x = unipc(x, flow, x0, (sigma,) * SHAPE[1], (after,) * SHAPE[1], None, past)
        out.append(x)
        clean.append(x0)
    return out, clean


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 25])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)], ids=["f32", "f64"])
def test_every_step_equals_diffusers_solver(steps: int, dtype: torch.dtype, tolerance: float) -> None:
    schedule = UniPCSchedule(steps=steps)
    (after, clean), expected = ours(schedule, dtype), theirs(schedule, dtype)
    for mine, other in zip(after, expected, strict=True):
        assert mine.dtype == dtype
        assert gap(mine, other) < tolerance * float(other.abs().max())
    assert torch.equal(after[-1], clean[-1]), "the last step ends at x0"


def test_the_sigmas_and_timesteps_are_those_of_wan_and_longlive_2() -> None:
    four = UniPCSchedule(steps=4, shift=5.0)
    assert four.sigmas == pytest.approx([0.99980, 0.93727, 0.83306, 0.62469], abs=1e-5)
    assert four.levels == (999.0, 937.0, 833.0, 624.0)
    assert UniPCSchedule(steps=2).levels == (999.0, 833.0)
    assert four.sigma(937.0) == four.sigmas[1]
    assert four.sigma(0.0) == 0.0
    with pytest.raises(ValueError, match=r"750 is none of this schedule's: 999, 937, 833, 624"):
        four.sigma(750.0)


def test_memory_and_corrector_are_felt() -> None:
    """Without what it remembers it is Euler, which is another film."""
    schedule = UniPCSchedule(steps=4)
    x, straight = noise(torch.float64), noise(torch.float64)
    for level, to in pairwise(schedule.levels):
        sigma, after = (schedule.sigma(level),) * 3, (schedule.sigma(to),) * 3
        flow = fixed_model(x, level)
        x = unipc(x, flow, x - sigma[0] * flow, sigma, after)
        flow = fixed_model(straight, level)
        straight = euler(straight, flow, straight - sigma[0] * flow, sigma, after)
        assert gap(x, straight) < 1e-6  # Euler's sigmas are float32
    solved, _ = ours(schedule, torch.float64)
    assert gap(solved[-2], x) > 1e-2


def test_frames_at_levels_of_their_own_are_solved_as_if_alone() -> None:
    schedules = [UniPCSchedule(steps=4, shift=shift) for shift in (3.0, 5.0, 8.0)]
    tables: list[list[float]] = [list(schedule.sigmas) for schedule in schedules]
    together, past = noise(torch.float64), list[Past]()
    alone, pasts = [together[:, index : index + 1] for index in range(3)], [list[Past]() for _ in range(3)]
    for step in range(4):
        here = [table[step] for table in tables]
        to = [table[step + 1] if step < 3 else None for table in tables]
        flow = fixed_model(together, 500.0)
        sigma = torch.tensor(here, dtype=torch.float64).reshape(1, 3, 1, 1, 1)
        together = unipc(together, flow, together - sigma * flow, here, to, None, past)
        for index, x in enumerate(alone):
            flow = fixed_model(x, 500.0)
            x0 = x - here[index] * flow
            alone[index] = unipc(x, flow, x0, (here[index],), (to[index],), None, pasts[index])
            assert gap(alone[index], together[:, index : index + 1]) < 1e-12
    assert gap(alone[0], alone[1]) > 1e-2


def test_pure_noise_at_sigma_one_gives_numbers() -> None:
    past = list[Past]()
    x = noise(torch.float64)
    table: list[tuple[float, float | None]] = [(1.0, 0.8), (0.8, 0.5), (0.5, None)]
    for here, to in table:
        flow = fixed_model(x, 500.0)
        x = unipc(x, flow, x - here * flow, (here,) * 3, (to,) * 3, None, past)
        assert torch.isfinite(x).all()


def test_half_precision_is_mixed_in_float32() -> None:
    x = noise(torch.bfloat16)
    past = [Past((0.9,) * 3, x, x), Past((0.8,) * 3, 0.5 * x, x)]
    after = unipc(x, x, 0.25 * x, (0.5,) * 3, (0.25,) * 3, None, past)
    assert after.dtype == torch.bfloat16
    assert past[-1].x.dtype == torch.float32


def test_a_chunk_through_the_loop_equals_diffusers_solver_and_forgets_it_for_the_next() -> None:
    """Through make_policies: the model's own flows, replayed into diffusers' scheduler."""
    preset = replace(PRESETS["longlive"], schedule=replace(PRESETS["longlive"].schedule, step="unipc"))
    engine = tiny_engine(dtype=torch.float64)
    engine = replace(engine, policies=make_policies(preset))
    seen: list[tuple[Tensor, Tensor, float]] = []

    def note(work: Pass, row: Row, x: Tensor, flow: Tensor, _x0: Tensor | None, _store: KVStore) -> None:
        if work.kind == "denoise":
            seen.append((x.clone(), flow.clone(), row.levels[0]))

    stream = tiny_stream(engine, observer=note)
    schedule = UniPCSchedule(steps=4, shift=preset.schedule.shift)
    for _ in range(2):
        seen.clear()
        chunk = stream.next_chunk(FOX, decode=False)
        solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        solver.set_timesteps(4)
        solver.sigmas = torch.tensor([*schedule.sigmas, 0.0], dtype=torch.float64)
        solver.timesteps = torch.tensor([999, 937, 833, 624])
        expected = seen[0][0]
        for x, flow, level in seen:
            assert gap(x, expected) < 1e-6  # the loop's x0 comes from a float32 sigma
            expected = solver.step(flow, torch.tensor(int(level)), expected, return_dict=False)[0]
        assert gap(stream.state.latents.get(chunk.latent), expected) < 1e-6
    assert [level for _, _, level in seen] == [999.0, 937.0, 833.0, 624.0]


def test_a_preset_with_unipc_takes_a_number_of_steps_and_no_list_of_its_own() -> None:
    preset = PRESETS["longlive-2"]
    assert get_step(preset.schedule.step) is unipc
    six = make_policies(apply_knobs(preset, {"num_inference_steps": 6}))
    assert six.schedule == UniPCSchedule(steps=6, shift=5.0)
    assert getattr(six.plan, "levels", ()) == UniPCSchedule(steps=6, shift=5.0).levels
    with pytest.raises(ValueError, match=r"cannot take 1000, 600, 300: give num_inference_steps"):
        make_policies(apply_knobs(preset, {"denoising_step_list": [1000, 600, 300]}))
