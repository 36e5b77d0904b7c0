"""The memory that a plan says it needs is the memory that tensors take, and the smaller plans really are smaller."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from cache.rope import rotary_tables
from models.attention import SelfContext
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines import fit
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.cost import kv_bytes, steady, token_grid
from pipelines.engine import Engine
from pipelines.fit import TOKENS_AT_ONCE, Film, choose_plan, hold, need, verdict
from pipelines.memory_plan import PLANS, MemoryPlan
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from pipelines.types import Controls
from tests.tiny import FOX, tiny_autoencoder, tiny_engine, tiny_stream, tiny_transformer
from tests.tracked_memory import TrackedMemory
from weights.catalog import WAN_1_3B

CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 512,
    "num_layers": 2,
    "text_len": 32,
}
TINY = {"encoder_widths": (8, 8, 8, 8), "decoder_widths": (32, 16, 16, 16)}
FULL = {"base_dim": 8}


class Words:
    """Any text as random numbers, on the CPU as an encoder that was put aside."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), CONFIG["text_len"], CONFIG["text_dim"])


def film_of(preset: str, config: dict[str, Any], latent: tuple[int, int], dtype: torch.dtype) -> Film:
    cost, chosen = steady(PRESETS[preset]), PRESETS[preset]
    forwards = [forward for chunk in cost.cycle for forward in chunk]
    capacity, queries = cost.slots // cost.lanes, max(forward.queries for forward in forwards)
    return Film(
        latent,
        kv_bytes(config, token_grid(config, latent), cost, dtype.itemsize),
        queries,
        max(forward.keys for forward in forwards),
        max(capacity, queries) + queries * cost.lanes,
        chosen.chunk,
    )


def measured(preset: str, config: dict[str, Any], latent: tuple[int, int], plan: MemoryPlan, dtype: torch.dtype) -> int:
    """Bytes of all tensors at most while chunks are made and decoded, in the steady state."""
    torch.manual_seed(0)
    model = CausalWanTransformer3DModel(**config).eval().requires_grad_(False)
    kept = set(CausalWanTransformer3DModel._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")) or dtype.itemsize >= 4:
            parameter.data = parameter.data.to(dtype)
    vae = AutoencoderTAEHV(**TINY) if plan.decoder == "tiny" else WanVAEStream(AutoencoderKLWan(**FULL))
    vae = vae.requires_grad_(False).eval()
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    hold(model, plan, "cpu", dtype)
    if isinstance(vae, AutoencoderTAEHV):
        vae.latents_at_once = int(plan.work == "sliced")
    tracked = TrackedMemory()
    tracked.add(*model.parameters(), *model.buffers(), *vae.parameters(), *vae.buffers())
    engine = Engine(model, Conditioner(Words()), make_policies(PRESETS[preset]), vae)
    with tracked:
        stream = Stream(engine, height=latent[0], width=latent[1], seed=0)
        for _ in range(2):
            stream.next_chunk(Controls("a fox"))
        gc.collect()
        tracked.reset()
        stream.next_chunk(Controls("a fox"))
    return tracked.peak


CASES = {
    "keys and values": ("longlive", {}, (16, 24), MemoryPlan(decoder="tiny"), torch.float32),
    "a longer window": ("self-forcing", {}, (16, 16), MemoryPlan(decoder="tiny"), torch.float32),
    "feed-forward": ("longlive", {"ffn_dim": 4096}, (16, 16), MemoryPlan(decoder="tiny"), torch.float32),
    "more layers": ("longlive", {"num_layers": 6}, (8, 8), MemoryPlan(decoder="tiny"), torch.float32),
    "wide layers in fp8": (
        "longlive",
        {"num_attention_heads": 3, "ffn_dim": 2048, "num_layers": 4},
        (8, 8),
        MemoryPlan("fp8", text="aside", decoder="tiny"),
        torch.float32,
    ),
    "sliced feed-forward": (
        "longlive",
        {"ffn_dim": 4096},
        (16, 16),
        MemoryPlan(decoder="tiny", work="sliced"),
        torch.float32,
    ),
    "Wan's autoencoder": ("longlive", {}, (16, 16), MemoryPlan(), torch.float32),
}


@pytest.mark.parametrize("case", CASES)
def test_the_predicted_peak_is_within_a_tenth_of_the_measured_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "TOKENS_AT_ONCE", 64)  # a frame of these films
    preset, changes, latent, plan, dtype = CASES[case]
    config = CONFIG | changes
    vae = TINY if plan.decoder == "tiny" else FULL
    film = film_of(preset, config, latent, dtype)
    told = need(config, vae, film, plan, text_encoder=0, dtype=dtype)
    found = measured(preset, config, latent, plan, dtype)
    assert abs(told.peak / found - 1) < 0.1, (told, found, told.peak / found)


def test_plans_go_from_the_largest_need_to_the_smallest_and_say_what_they_trade() -> None:
    config = CONFIG | {"num_layers": 6}
    film = film_of("longlive", config, (16, 24), torch.bfloat16)
    needs = [
        (plan, need(config, TINY if plan.decoder == "tiny" else FULL, film, plan, text_encoder=10**8)) for plan in PLANS
    ]
    byplan = {plan.written.removesuffix("+slices"): each for plan, each in needs}
    first, sliced, aside, tiny, small, streamed = (
        byplan[name] for name in ("full", "slices", "text", "text+tiny", "text+tiny+fp8", "text+tiny+streamed")
    )
    assert sliced.work <= first.work
    assert sliced.peak - aside.peak == first.text == aside.host == 2 * 10**8
    assert tiny.decoder + tiny.work < aside.decoder + aside.work
    assert small.transformer < tiny.transformer
    assert streamed.transformer < tiny.transformer
    assert streamed.host > aside.host
    guard = 2**29
    assert choose_plan(needs, first.peak + guard) == needs[0]
    assert choose_plan(needs, sliced.peak + guard - 1) == needs[2]
    assert choose_plan(needs, guard) is None
    assert verdict("it", needs, 10**12).startswith("it fits: ")
    assert "with the text encoder on the CPU" in verdict("it", needs, sliced.peak + guard - 1)
    least = min(each.peak for _, each in needs) + guard
    assert verdict("it", needs, 10**6).startswith(f"it does not fit: it needs {least / 1e9:.1f} GB")


@pytest.mark.parametrize("plan", [MemoryPlan("fp8"), MemoryPlan(layers="streamed")], ids=["fp8", "streamed"])
def test_a_model_that_is_held_in_less_computes_the_same_but_for_the_rounding(plan: MemoryPlan) -> None:
    def chunk(plan: MemoryPlan) -> Tensor:
        model = tiny_transformer()
        hold(model, plan, "cpu", torch.float32)
        if plan.weights == "fp8":
            assert model.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn
            assert model.blocks[0].attn1.norm_q.weight.dtype == torch.float32
        assert model.expects == (torch.device("cpu"), torch.float32)
        stream = tiny_stream(tiny_engine(model))
        for _ in range(2):
            stream.next_chunk(FOX, decode=False)
        return stream.state.latents.ring.clone()

    exact, found = chunk(MemoryPlan()), chunk(plan)
    if plan.layers == "streamed":
        assert torch.equal(exact, found)
    else:
        assert 0 < (exact - found).abs().mean() < 0.2 * exact.abs().mean()


def block_peak(at_once: int) -> int:
    """Bytes that a layer of Wan 1.3B holds at most, of 21 frames of 480x832 in bfloat16, input and output included."""
    frames, rows, columns = 21, 30, 52
    with torch.device("meta"):
        model = CausalWanTransformer3DModel(**{**WAN_1_3B, "num_layers": 1}).requires_grad_(False)
        hidden = torch.empty(1, frames * rows * columns, 1536, dtype=torch.bfloat16)
        temb = torch.empty(1, frames, 6, 1536, dtype=torch.bfloat16)
        text = tuple(torch.empty(1, 512, 12, 128, dtype=torch.bfloat16) for _ in range(2))
    kept = set(CausalWanTransformer3DModel._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    model.slice_work(at_once)
    cos, sin = (each.to("meta") for each in rotary_tables(range(frames), rows, columns, 128))
    tracked = TrackedMemory("meta")
    tracked.add(hidden)
    with torch.inference_mode(), tracked:
        model.blocks[0](hidden, text, temb, SelfContext(cos, sin))
    return tracked.peak


def test_a_layer_of_many_frames_takes_half_the_memory_where_its_work_is_sliced() -> None:
    assert block_peak(TOKENS_AT_ONCE) <= 0.6 * block_peak(0)


def test_sliced_work_makes_the_same_film_but_for_the_rounding() -> None:
    def film(tokens: int, latents: int) -> tuple[Tensor, Tensor]:
        model, vae = tiny_transformer(), tiny_autoencoder()
        model.slice_work(tokens)
        vae.latents_at_once = latents
        stream = tiny_stream(tiny_engine(model, autoencoder=vae))
        pixels = [torch.from_numpy(stream.next_chunk(FOX).pixels).short() for _ in range(3)]
        return torch.cat(pixels), stream.state.latents.ring.clone()

    (shown, latents), (shown_sliced, latents_sliced) = film(0, 0), film(1, 1)
    assert (latents - latents_sliced).abs().max() <= 1e-5 * latents.abs().max()
    assert (shown - shown_sliced).abs().max() <= 1
    assert ((shown - shown_sliced) != 0).float().mean() < 1e-3
