"""Lead-in of a reference picture: frames that lie between it and the film, made at rising noise levels and not shown.

TIC-FT (Kim et al. 2025, arXiv 2506.00996): condition frames stay clean, buffer frames stand at levels that rise from
the condition's to the film's, and a buffer frame waits at its own level until the film's has come down to it. In a film
that is made chunk by chunk the condition is what memory holds of the picture, and the first chunk behind it is the
buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cache.types import Pass, Row, View, clean_row
from pipelines.engine import Engine
from pipelines.passes import PURE_NOISE, Passes
from pipelines.state import StreamState
from schedulers import Serial
from schedulers.noise import Address


def ramp(count: int) -> tuple[float, ...]:
    """Levels (0..1000) of `count` buffer frames, evenly between clean and pure noise."""
    return tuple(PURE_NOISE * (index + 1) / (count + 1) for index in range(count))


def check_leads_in(engine: Engine) -> Serial:
    """The plan of an engine that takes a reference.

    Raises:
        ValueError: it makes several chunks together, or its steps look back at other steps.
    """
    plan = engine.policies.plan
    if not isinstance(plan, Serial) or plan.memory != "clean" or plan.step == "unipc":
        raise ValueError(
            "a reference lies clean in the memory of one chunk after the other: choose a preset with a serial plan, "
            "such as longlive"
        )
    return plan


def lead_in(engine: Engine, state: StreamState, passes: Passes, latents: Tensor) -> Tensor:
    """Make the buffer frames, which memory keeps, and return them as clean latents [B, F, C, h, w].

    Args:
        engine: whose plan `check_leads_in` takes.
        state: behind the reference, with nothing in flight.
        passes: of the stream.
        latents: what each buffer frame is made of before its noise, of the plan's next chunk.
    """
    plan, schedule = check_leads_in(engine), engine.policies.schedule
    frames = plan.entering(View(state.cur, state.text.version))
    own = ramp(len(frames))
    addresses = [Address(state.seed, state.stream, frame, PURE_NOISE, "initial") for frame in frames]
    device, dtype = state.latents.ring.device, state.latents.ring.dtype
    noise = passes.noise.frames(addresses, tuple(state.latents.ring.shape[:1] + state.latents.ring.shape[2:])).to(
        device, dtype
    )
    sigmas = torch.tensor([schedule.sigma(level) for level in own], dtype=dtype, device=device)[:, None, None, None]
    state.flight.put(frames, noise * sigmas + latents.to(device, dtype) * (1 - sigmas))
    state.levels = own
    passes.begin_chunk(None)
    for level, to in zip(plan.levels, (*plan.levels[1:], None), strict=True):
        at = tuple(min(mine, level) for mine in own)
        after = tuple(None if to is None else min(mine, to) for mine in own)
        waits = [number for number, (now, then) in enumerate(zip(at, after, strict=True)) if now == then]
        if len(waits) == len(frames):
            continue
        row = Row(
            lane=0,
            frames=frames,
            levels=at,
            to=after,
            step="none" if to is None else plan.step,
            source="noisy",
            text=state.text.version,
            emit=frames if to is None else range(0),
        )
        before = state.flight.get(frames).clone()
        passes.run_rows(Pass("denoise", (row,)), [(row, before)])
        for number in waits:
            state.flight.put(range(frames[number], frames[number] + 1), before[:, [number]])
    passes.run(Pass("clean", (clean_row(frames, plan.clean_level, "x0", state.text.version),)))
    state.levels = ()
    return state.latents.get(frames)
