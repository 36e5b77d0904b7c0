"""The causal Wan against diffusers' own: the same numbers, the same files, the same services.

diffusers is stock but for the time sinusoid (ours is float64, cast once) and, where two chunks are compared, a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from torch import Tensor, nn

from cache.buffers import Buffers
from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.rope import rotary_tables
from cache.types import Slot, SlotRange, Write
from models.wan import CausalWanTransformer3DModel, time_sinusoid
from tests.reference import block_mask, reference_forward
from tests.tiny import CHANNELS, CONFIG, HEIGHT, TEXT_DIM, TEXT_LEN, WIDTH, gap, tiny_transformer, widen
from weights.remap import to_original

ROWS, COLUMNS = HEIGHT // 2, WIDTH // 2
TOKENS, HEAD_DIM = ROWS * COLUMNS, CONFIG["attention_head_dim"]


def inputs(frames: int = 3, *, batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Latents [B, C, F, H, W] and a text [B, TEXT_LEN, TEXT_DIM]."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(batch, CHANNELS, frames, HEIGHT, WIDTH, generator=generator)
    return latents.to(dtype), torch.randn(batch, TEXT_LEN, TEXT_DIM, generator=generator).to(dtype)


def tables(frames: range | list[int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return rotary_tables(frames, ROWS, COLUMNS, HEAD_DIM, dtype=dtype)


@torch.no_grad()
def forward(model: CausalWanTransformer3DModel, level: float = 740.5, frames: int = 3, batch: int = 1) -> Tensor:
    """One chunk without memory."""
    latents, text = inputs(frames, batch=batch, dtype=model.patch_embedding.weight.dtype)
    table = torch.promote_types(latents.dtype, torch.float32)
    timestep = torch.full((batch, frames), level, dtype=torch.float64)
    return model(latents, timestep, model.text_keys(text), tables(range(frames), table))


def new_store(model: CausalWanTransformer3DModel, capacity: int = 6, own: int = 3) -> KVStore:
    heads = model.config["num_attention_heads"]
    shape = KVShape(len(model.blocks), 1, capacity, own, ROWS, COLUMNS, heads, HEAD_DIM)
    return KVStore(shape, Buffers.allocate(shape, dtype=model.patch_embedding.weight.dtype))


@torch.no_grad()
def two_chunks(model: CausalWanTransformer3DModel, latents: Tensor, text: Tensor, level: float) -> Tensor:
    """A clean chunk, remembered, then a noisy one that reads it: the flow of both."""
    store, table = new_store(model), torch.promote_types(latents.dtype, torch.float32)
    flows: list[Tensor] = []
    for start, t in ((0, 0.0), (3, level)):
        frames = list(range(start, start + 3))
        memory = store.read([SlotRange(0, start + 3)], list(range(start + 3)), 3)
        timestep = torch.full((1, 3), t, dtype=torch.float64)
        part = latents[:, :, start : start + 3]
        flows.append(model(part, timestep, model.text_keys(text), tables(frames, table), memory))
        store.stage([Slot(frame) for frame in frames])
        store.apply(Write(range(start, start + 3), range(start, start + 3)))
    return torch.cat(flows, dim=2)


class OurTime(nn.Module):
    """Stock's condition embedder, its time part computed on our [B, F] rows: GEMM results depend on the shape."""

    def __init__(self, stock: Any, timestep_BF: Tensor, tokens: int | None) -> None:
        super().__init__()
        self._stock, self._timestep, self._tokens = [stock], timestep_BF, tokens

    def forward(self, timestep: Tensor, text: Tensor, image: None = None, timestep_seq_len: int | None = None) -> Any:
        stock = self._stock[0]
        sinusoid = time_sinusoid(self._timestep, CONFIG["freq_dim"]).float()
        temb = stock.time_embedder(sinusoid).type_as(text)
        proj = stock.time_proj(stock.act_fn(temb))
        if self._tokens is None:
            temb, proj = temb[:, 0], proj[:, 0]
        else:
            temb, proj = (part.repeat_interleave(self._tokens, dim=1) for part in (temb, proj))
        return temb, proj, stock.text_embedder(text), None


class MaskedProcessor(WanAttnProcessor):
    """Stock attention with a mask between tokens in self-attention."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self._mask = mask

    def __call__(self, attn: Any, hidden: Tensor, text: Any = None, mask: Any = None, rotary: Any = None) -> Tensor:
        return super().__call__(attn, hidden, text, self._mask if text is None else mask, rotary)


def stock_model() -> WanTransformer3DModel:
    model = WanTransformer3DModel(**CONFIG)
    widen(model, 0)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_chunk_equals_stock_diffusers_bit_for_bit(batch: int) -> None:
    stock, ours = stock_model(), tiny_transformer()
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), ours.parameters(), strict=True))
    latents, text = inputs(batch=batch)
    embedder = stock.condition_embedder
    stock.condition_embedder = OurTime(embedder, torch.full((batch, 3), 740.5, dtype=torch.float64), None)
    expected = stock(latents, torch.full((batch,), 740.5), text, return_dict=False)[0]
    assert gap(forward(ours, batch=batch), expected) == 0.0
    assert gap(forward(ours, 500.0, batch=batch), expected) > 1e-2
    stock.condition_embedder = embedder
    float32_time = stock(latents, torch.full((batch,), 740.5), text, return_dict=False)[0]
    assert 0 < gap(float32_time, expected) < 1e-3, "only the sinusoid differs"


def test_two_chunks_through_the_memory_equal_stock_with_a_block_causal_mask() -> None:
    stock, ours = stock_model(), tiny_transformer()
    latents, text = inputs(6)
    timestep = torch.tensor([[0.0] * 3 + [740.5] * 3], dtype=torch.float64)
    stock.condition_embedder = OurTime(stock.condition_embedder, timestep, TOKENS)
    chunk_of = torch.arange(6 * TOKENS) // (3 * TOKENS)
    mask = chunk_of[None] <= chunk_of[:, None]

    def masked(allowed: Tensor) -> Tensor:
        for block in stock.blocks:
            block.attn1.set_processor(MaskedProcessor(allowed))
        ticks = timestep.repeat_interleave(TOKENS, dim=1).float()
        return stock(latents, ticks, text, return_dict=False)[0]

    expected = masked(mask)
    # Not 0.0: six masked frames at once are other GEMM and softmax shapes than three frames twice.
    assert gap(two_chunks(ours, latents, text, 740.5), expected) < 2e-5
    assert gap(masked(torch.ones_like(mask)), expected) > 1e-2, "the mask does nothing"


def test_the_training_forward_equals_the_cached_one_and_both_equal_the_reference() -> None:
    model = tiny_transformer(dtype=torch.float64)
    latents, text = inputs(6, dtype=torch.float64)
    timestep = torch.tensor([[0.0] * 3 + [740.5] * 3], dtype=torch.float64)
    by_frame = latents.transpose(1, 2)
    reference, _ = reference_forward(model, by_frame, timestep[0].tolist(), text, allowed=block_mask(6, 3))
    cached = two_chunks(model, latents, text, 740.5).transpose(1, 2)
    with torch.no_grad():
        trained = model.forward_train(by_frame, timestep, text, chunk=3)
    assert gap(cached, reference) < 1e-11
    assert gap(trained, reference) < 1e-11
    alone, _ = reference_forward(model, by_frame[:, 3:], [740.5] * 3, text, positions=range(3, 6))
    assert gap(alone, reference[:, 3:]) > 1e-2, "the memory does nothing"


def test_teacher_forcing_equals_a_clean_history_in_the_memory() -> None:
    model = tiny_transformer(dtype=torch.float64)
    latents, text = inputs(6, dtype=torch.float64)
    noisy = latents.transpose(1, 2) + 1
    timestep = torch.full((1, 6), 740.5, dtype=torch.float64)
    with torch.no_grad():
        forced = model.forward_train(noisy, timestep, text, chunk=3, clean=latents.transpose(1, 2))
    mixed = torch.cat([latents[:, :, :3], noisy[:, 3:].transpose(1, 2)], dim=2)
    assert gap(forced[:, 3:], two_chunks(model, mixed, text, 740.5).transpose(1, 2)[:, 3:]) < 1e-11
    with pytest.raises(ValueError, match="leave local at -1"):
        model.forward_train(noisy, timestep, text, chunk=3, local=3, clean=noisy)
    with pytest.raises(ValueError, match="joint at 0"):
        model.forward_train(noisy, timestep, text, chunk=3, joint=3, clean=noisy)


def test_a_joint_window_sees_itself_and_its_history_which_sees_nothing_of_it() -> None:
    model = tiny_transformer(dtype=torch.float64)
    latents, text = inputs(6, dtype=torch.float64)
    timestep = torch.tensor([[0.0, 0.0, 555.6, 555.6, 1000.0, 1000.0]], dtype=torch.float64)
    allowed = block_mask(6, 2)
    allowed[2:] = True
    with torch.no_grad():
        reference, _ = reference_forward(model, latents.transpose(1, 2), timestep[0].tolist(), text, allowed=allowed)
        joint = model.forward_train(latents.transpose(1, 2), timestep, text, chunk=2, joint=4)
        causal = model.forward_train(latents.transpose(1, 2), timestep, text, chunk=2)
    assert gap(joint, reference) < 1e-11
    assert gap(joint[:, 2:4], causal[:, 2:4]) > 1e-2, "the window is not joint"


def test_a_float64_model_computes_in_float64() -> None:
    model = tiny_transformer(dtype=torch.float64)
    latents, text = inputs(dtype=torch.float64)
    timestep = torch.full((1, 3), 740.5, dtype=torch.float64)

    def flow(x: Tensor, words: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x, timestep, model.text_keys(words), tables(range(3), torch.float64))

    plain = flow(latents, text)
    assert plain.dtype == torch.float64
    nudge = torch.zeros_like(latents)
    nudge[0, 0, 1, 0, 0] = 1e-12
    assert 1e-14 < gap(flow(latents + nudge, text), plain) < 1e-9
    assert 1e-14 < gap(flow(latents, text + 1e-12), plain) < 1e-9
    reference, _ = reference_forward(model, latents.transpose(1, 2), [740.5] * 3, text)
    assert gap(plain, reference.transpose(1, 2)) < 1e-12


def test_bfloat16_is_close_to_float32_and_keeps_its_modulation_in_float32(tmp_path: Path) -> None:
    full = tiny_transformer()
    expected = forward(full)
    rounded = forward(tiny_transformer(dtype=torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    full.save_pretrained(tmp_path)
    loaded = CausalWanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.blocks[0].scale_shift_table.dtype == torch.float32
    assert loaded.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    for half in (rounded, forward(loaded)):
        assert gap(half.float(), expected) < 0.1 * float(expected.std())
        assert gap(half.float(), expected) > 0


def test_text_rows_that_are_missing_are_zeros_and_too_many_are_refused() -> None:
    model = tiny_transformer()
    _, text = inputs()
    padded = torch.cat([text[:, :3], torch.zeros(1, TEXT_LEN - 3, TEXT_DIM)], dim=1)
    for (short_k, short_v), (long_k, long_v) in zip(model.text_keys(text[:, :3]), model.text_keys(padded), strict=True):
        assert short_k.shape == (1, TEXT_LEN, 2, HEAD_DIM)
        assert torch.equal(short_k, long_k)
        assert torch.equal(short_v, long_v)
    with pytest.raises(ValueError, match=f"has {TEXT_LEN + 1} rows, this model reads {TEXT_LEN}"):
        model.text_keys(torch.zeros(1, TEXT_LEN + 1, TEXT_DIM))
    with pytest.raises(ValueError, match="patches of 2 x 2"):
        model.grid(5, 6)


# ------------------------------------------------------------------ files


def test_the_state_dict_has_the_keys_of_diffusers() -> None:
    assert list(tiny_transformer().state_dict()) == list(stock_model().state_dict())


def test_saving_and_loading_gives_the_same_model(tmp_path: Path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = CausalWanTransformer3DModel.from_pretrained(tmp_path)
    assert loaded.config.text_len == TEXT_LEN
    assert loaded.config.num_layers == len(loaded.blocks) == 3
    assert torch.equal(forward(loaded), forward(model))
    stock = WanTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), model.parameters(), strict=True))


def test_a_single_file_with_the_original_names_loads(tmp_path: Path) -> None:
    model = tiny_transformer()
    model.save_config(tmp_path)
    original = to_original(model.state_dict())
    assert "blocks.0.self_attn.q.weight" in original
    loaded = CausalWanTransformer3DModel.from_single_file(dict(original), config=str(tmp_path))
    assert isinstance(loaded, CausalWanTransformer3DModel)
    assert torch.equal(forward(loaded), forward(model))


# ------------------------------------------------------------------ services of diffusers


def test_a_lora_loads_and_leaves_again() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'rivulet[lora]'")
    model = tiny_transformer()
    before = forward(model)
    generator = torch.Generator().manual_seed(1)
    width = 64
    lora = {
        f"blocks.{layer}.{attn}.{name}.lora_{side}.weight": torch.randn(
            (4, width) if side == "A" else (width, 4), generator=generator
        )
        / 8
        for layer in range(3)
        for attn in ("attn1", "attn2")
        for name in ("to_q", "to_k", "to_v", "to_out.0")
        for side in "AB"
    }
    model.load_lora_adapter(dict(lora), prefix=None, adapter_name="style")
    styled = forward(model)
    assert gap(styled, before) > 1e-2
    model.disable_adapters()
    assert torch.equal(forward(model), before)
    model.delete_adapters("style")

    merged = tiny_transformer()
    for name, weight in merged.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in lora:
            weight += lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
    assert gap(forward(merged), styled) < 1e-4


def test_layerwise_casting_stores_less_and_says_nearly_the_same() -> None:
    model = tiny_transformer()
    before = forward(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    cast = forward(model)
    assert 1e-4 < gap(cast, before) < 0.5 * float(before.std())


@contextmanager
def weights_really_gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Make a weight that is offloaded read as NaN; on one device it would only seem to be away."""
    events: list[str] = []
    kept: dict[int, Tensor] = {}

    def members(group: ModuleGroup) -> list[Tensor]:
        inside = [tensor for module in group.modules for tensor in (*module.parameters(), *module.buffers())]
        return [*inside, *group.parameters, *group.buffers]

    def away(group: ModuleGroup) -> None:
        events.append("away")
        for tensor in members(group):
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor.data
                tensor.data = torch.full_like(tensor.data, torch.nan)

    def back(group: ModuleGroup) -> None:
        events.append("back")
        for tensor in members(group):
            tensor.data = kept.pop(id(tensor), tensor.data)

    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", away)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", back)
    yield events


def test_leaf_level_offload_brings_every_weight_back_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_transformer()
    latents, text = inputs(6)
    before = two_chunks(model, latents, text, 740.5)
    cpu = torch.device("cpu")
    with weights_really_gone(monkeypatch) as events:
        model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
        assert model.blocks[0].ffn.net[2].weight.isnan().all()
        assert torch.equal(two_chunks(model, latents, text, 740.5), before)
    assert events.count("back") > 50


def test_an_attention_backend_is_chosen_for_one_model_alone() -> None:
    chosen, other = tiny_transformer(), tiny_transformer()
    before = forward(chosen)
    default = _AttentionBackendRegistry.get_active_backend()[0]
    chosen.set_attention_backend("_native_math")
    try:
        assert _AttentionBackendRegistry.get_active_backend()[0] == default, "every other model was changed too"
        assert chosen.blocks[0].attn1.processor._attention_backend == AttentionBackendName._NATIVE_MATH
        assert other.blocks[0].attn1.processor._attention_backend == AttentionBackendName.NATIVE
        assert gap(forward(chosen), before) < 1e-5
        assert torch.equal(forward(other), before)
    finally:
        _AttentionBackendRegistry.set_active_backend(default)


def test_fused_projections_give_the_same_numbers() -> None:
    model = tiny_transformer()
    before = forward(model)
    model.fuse_qkv_projections()
    assert hasattr(model.blocks[0].attn1, "to_qkv")
    assert hasattr(model.blocks[0].attn2, "to_kv")
    with torch.no_grad():
        model.blocks[0].attn1.to_k.weight.zero_()  # no longer read
        model.blocks[1].attn2.to_v.weight.zero_()
    assert gap(forward(model), before) < 1e-5
    model.unfuse_qkv_projections()
    assert gap(forward(model), before) > 1e-2


@pytest.mark.slow
def test_blocks_compile_whole_and_once_for_all_layers() -> None:
    model = tiny_transformer()
    latents, text = inputs(6)
    before = two_chunks(model, latents, text, 740.5)
    graphs: list[Callable[..., Any]] = []

    def backend(graph: torch.fx.GraphModule, _example: Any) -> Callable[..., Any]:
        graphs.append(graph.forward)
        return graph.forward

    torch._dynamo.reset()
    try:
        model.compile_repeated_blocks(backend=backend, fullgraph=True)
        assert gap(two_chunks(model, latents, text, 740.5), before) < 1e-6
    finally:
        torch._dynamo.reset()
    assert 0 < len(graphs) <= 4, "layers were compiled one by one"
