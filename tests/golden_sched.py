"""Replay of the scheduler traces: tables, conversions, roundings, sinusoid and rotary positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cache.rope import frequencies, rotary_tables, rotate
from models.wan import time_sinusoid
from pipelines.presets import PRESETS
from schedulers.changes import motion
from schedulers.flow_match import (
    FlowMatchSchedule,
    add_noise,
    euler_step,
    to_x0,
)
from schedulers.steps import STEPS
from tests.golden_trace import Ledger, NotSupportedError, Trace


def replay(trace: Trace, ledger: Ledger) -> None:
    about = trace.sidecar["scheduler"]
    if about["num_inference_steps"] != about["num_train_timesteps"]:
        raise NotSupportedError("lookups in a table that is not the training table")
    schedule = FlowMatchSchedule(
        shift=about["shift"],
        num_train_timesteps=about["num_train_timesteps"],
        sigma_min=about["sigma_min"],
        sigma_max=about["sigma_max"],
        extra_one_step=about["extra_one_step"],
    )
    _tables(trace, ledger, schedule)
    _conversions(trace, ledger, schedule)
    _row_steps(trace, ledger, schedule)
    sinusoid = time_sinusoid(trace["in.t"], trace["emb.sinusoidal64"].shape[-1])
    ledger.close("emb.sinusoidal64", sinusoid, atol=1e-12)
    _rotary(trace, ledger, trace.sidecar["rope"])
    for name in ("noise_controller_fp32", "noise_controller_bf16"):
        if name in trace.sidecar:
            _controller(trace["in.video"], trace.sidecar[name], ledger, half=name.endswith("bf16"))


def _tables(trace: Trace, ledger: Ledger, schedule: FlowMatchSchedule) -> None:
    ledger.exact("sched.sigmas", schedule.sigmas)
    ledger.exact("sched.timesteps", schedule.timesteps)
    sigmas, timesteps = schedule.table(len(trace["sched50.sigmas"]))
    ledger.exact("sched50.sigmas", sigmas)
    ledger.exact("sched50.timesteps", timesteps)
    default = FlowMatchSchedule(shift=3.0, sigma_min=0.003 / 1.002, extra_one_step=False)
    sigmas, timesteps = default.table(len(trace["sched_default.sigmas"]))
    ledger.exact("sched_default.sigmas", sigmas)
    ledger.exact("sched_default.timesteps", timesteps)

    scenario = trace.sidecar["scenario"]
    raw = [int(step) for step in scenario["steps"]]
    ledger.exact("sched.denoising_step_list_raw", torch.tensor(raw))
    listed = schedule.warp(raw) if scenario["warp"] else schedule.without_zero(raw)
    ledger.exact("sched.denoising_step_list", torch.tensor(listed))


def _conversions(trace: Trace, ledger: Ledger, schedule: FlowMatchSchedule) -> None:
    t, x0, noise, flow = (trace[f"in.{name}"] for name in ("t", "x0", "noise", "flow"))
    sigma = torch.tensor([schedule.sigma(each) for each in t.tolist()])
    ledger.exact("out.timestep_id", (schedule.sigmas == sigma[:, None]).float().argmax(dim=1))
    x = add_noise(x0, noise, sigma)
    ledger.close("out.add_noise", x)
    ledger.close("out.flow_to_x0", to_x0(x, flow, sigma))
    final = euler_step(x, flow, sigma, torch.zeros_like(sigma))
    ledger.close("out.step_to_final", final)
    following = _following(schedule, sigma)
    by_row = euler_step(x, flow, sigma, following)
    ledger.close("out.step_rows", by_row)
    # A quirk of the originals: one row at the end of the table takes the whole batch to sigma 0.
    ledger.close("out.step", final if bool((following == 0).any()) else by_row)

    ledger.no_use("sched.training_weights", "out.training_weight", "out.training_target", "out.x0_to_flow")

    half = torch.bfloat16
    ledger.bf16("out.add_noise_bf16", add_noise(x0.to(half), noise.to(half), sigma))
    ledger.bf16("out.flow_to_x0_bf16", to_x0(x.to(half), flow.to(half), sigma))
    units = max(ledger.bf16_ulps.values())
    ledger.notes.append("bf16 exact" if units == 0 else f"bf16 within {units} unit in the last place")


def _row_steps(trace: Trace, ledger: Ledger, schedule: FlowMatchSchedule) -> None:
    """The same numbers through the functions that the engine's loop calls, one row a frame."""
    x0, noise, flow = (trace[f"in.{name}"][None] for name in ("x0", "noise", "flow"))
    levels = trace["in.t"].tolist()
    here = [schedule.sigma(t) for t in levels]
    x = STEPS["renoise"](x0, flow, x0, [1.0] * len(here), here, noise)
    ledger.close("out.add_noise", x[0])
    below = _following(schedule, torch.tensor(here)).tolist()
    ledger.close("out.step_rows", STEPS["euler"](x, flow, x0, here, below)[0])
    ends = to_x0(x, flow, torch.tensor([here]))
    ledger.close("out.flow_to_x0", STEPS["none"](x, flow, ends, here, [None] * len(here))[0])


def _following(schedule: FlowMatchSchedule, sigma: Tensor) -> Tensor:
    """The entries of the table that come after these, 0 after the last."""
    return torch.cat([schedule.sigmas, torch.zeros(1)])[(schedule.sigmas == sigma[:, None]).float().argmax(dim=1) + 1]


def _controller(video: Tensor, record: list[dict[str, Any]], ledger: Ledger, *, half: bool) -> None:
    """The motion-aware noise of a video [1, 3, T, H, W]: shares of noise and levels, chunk by chunk."""
    share = None
    for number, entry in enumerate(record):
        controller = replace(PRESETS["streamdiffusion-v2"].video.noise, still=entry["init_noise_scale"])
        frames = video[0].transpose(0, 1)[entry["end_idx"] - entry["chunk_size"] - 1 : entry["end_idx"]]
        moved = _half_motion(frames, controller.full) if half else motion(frames.numpy())
        share = controller.share(share, moved)
        label = f"{'bf16' if half else 'fp32'} controller, chunk {number}"
        ledger.same(f"{label} level", controller.level(share), entry["current_step"])
        # The original measures motion in the video's own precision; ours does in float64.
        off = abs(share - entry["noise_scale"])
        ledger.same(f"{label} share of noise off by {off:.1e}", off <= (0.0 if half else 1e-7), True)


def _half_motion(frames: Tensor, full: float) -> float:
    """`motion` in bfloat16 to its last division, as the original computes it on a bfloat16 video."""
    changes = frames.to(torch.bfloat16).diff(dim=0)
    largest = changes.square().mean(dim=(1, 2, 3)).sqrt().max()
    return float((largest / full).clamp(0, 1)) * full


def _rotary(trace: Trace, ledger: Ledger, about: dict[str, Any]) -> None:
    frames, height, width = about["grid"]
    for dim in about["dims"]:
        recorded = f"rope.freqs{dim}.first64"
        positions = torch.arange(trace[recorded].shape[0], dtype=torch.float64)
        angles = torch.cat([torch.outer(positions, axis) for axis in frequencies(dim)], dim=1)
        ledger.close(recorded, torch.stack([angles.cos(), angles.sin()], dim=-1), atol=1e-12)
        for start, name in (
            (0, f"rope.out{dim}"),
            (about["start_frame"], f"rope.out{dim}.start{about['start_frame']}"),
        ):
            tables = rotary_tables(range(start, start + frames), height, width, dim)
            ledger.close(name, rotate(trace[f"rope.in{dim}"], *tables))
