"""A frame of a joint window sees its neighbours, spread frames and the memory, each once, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch

from cache.dual_scope import DualScope
from cache.layer import LayerMemory
from models.attention import CausalAttnProcessor, SelfContext, attend
from pipelines.build import make_policies
from pipelines.presets import PRESETS
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values
from tests.parallel import films
from tests.tiny import FOX, gap, tiny_stream


@pytest.mark.parametrize(("halo", "spread", "frames"), [(0, 0, 5), (1, 2, 12), (2, 3, 7), (9, 4, 6), (0, 9, 4)])
def test_neighbours_are_there_or_not_and_spread_frames_are_counted_once(halo: int, spread: int, frames: int) -> None:
    others = sorted({number * frames // min(spread, frames) for number in range(min(spread, frames))}) if spread else []
    seen = DualScope(halo, spread).seen(frames)
    assert [*map(list, seen)] == [
        [other for other in range(frames) if abs(other - frame) <= halo or other in others] for frame in range(frames)
    ]


@pytest.mark.parametrize("biased", [False, True])
def test_attention_in_a_scope_is_that_of_an_explicit_mask(biased: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    frames, tokens, past, heads, size = 5, 3, 4, 2, 8

    def draw(count: int) -> torch.Tensor:
        return torch.randn(1, count, heads, size, generator=generator, dtype=torch.float64)

    query, key, value = (draw(frames * tokens) for _ in range(3))
    keys, values = torch.cat([draw(past), key], 1), torch.cat([draw(past), value], 1)
    bias = torch.randn(past + frames * tokens, generator=generator, dtype=torch.float64) if biased else None
    seen = DualScope(1, 2).seen(frames)
    memory = LayerMemory(keys.clone(), values.clone(), None, None, past, bias=bias, scope=seen)
    none = torch.empty(0)
    out = attend(CausalAttnProcessor(), SelfContext(none, none, memory), query, key, key, value)
    mask = torch.full((frames * tokens, past + frames * tokens), -torch.inf, dtype=torch.float64)
    mask[:, :past] = 0
    for frame, others in enumerate(seen):
        for other in others:
            mask[frame * tokens :, past + other * tokens :][:tokens, :tokens] = 0
    logits = torch.einsum("bqnd,bknd->bnqk", query, keys) / sqrt(size) + mask + (0 if bias is None else bias)
    dense = torch.einsum("bnqk,bknd->bqnd", logits.softmax(-1), values)
    assert out is not None
    assert gap(out, dense) < 1e-12
    open_out = attend(
        CausalAttnProcessor(), SelfContext(none, none, memory._replace(scope=None)), query, key, key, value
    )
    assert open_out is not None
    assert gap(out, open_out) > 1e-2


def test_a_scope_of_the_whole_window_changes_nothing_and_a_narrow_one_the_film() -> None:
    whole = films.joint()
    narrow, wide = (
        replace(whole, policies=replace(whole.policies, scope=scope)) for scope in (DualScope(1), DualScope(11))
    )

    def last(engine: object) -> torch.Tensor:
        stream = tiny_stream(engine, seed=3)  # pyright: ignore[reportArgumentType]
        return [stream.state.latents.get(stream.next_chunk(FOX, decode=False).latent) for _ in range(6)][-1]

    film = last(whole)
    assert gap(film, last(wide)) < 1e-12
    assert gap(film, last(narrow)) > 1e-3


def test_a_preset_takes_a_scope_where_it_has_a_joint_window() -> None:
    preset = apply_knobs(PRESETS["rolling-forcing"], {"dual_scope": "4+2"})
    assert preset.dual_scope == make_policies(preset).scope == DualScope(4, 2)
    assert knob_values(preset)["dual_scope"] == "4+2"
    assert apply_knobs(preset, {"dual_scope": "none"}) == PRESETS["rolling-forcing"]
    for name, wanted in (("longlive", "4"), ("streamdit", "four"), ("streamdit", "4+")):
        with pytest.raises(KnobError, match=r"no joint window|no scope"):
            apply_knobs(PRESETS[name], {"dual_scope": wanted})
    with pytest.raises(ValueError, match="no joint window"):
        make_policies(replace(PRESETS["longlive"], dual_scope=DualScope(4)))
