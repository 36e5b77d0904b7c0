"""LoRA files: merged where they fit, rounded once, and refused whole where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from weights.load import CheckpointError, load_component
from weights.lora import merge_lora
from weights.remap import to_original

TARGETS = [f"{kind}_attn.{name}" for kind in ("self", "cross") for name in "qkvo"] + ["ffn.0", "ffn.2"]


def longlive_lora(model: nn.Module, rank: int = 4) -> dict[str, Tensor]:
    """A LoRA as LongLive ships it: PEFT names over the original ones, every Linear of every block."""
    original = to_original(model.state_dict())
    generator = torch.Generator().manual_seed(11)
    lora: dict[str, Tensor] = {}
    for block in range(2):
        for target in TARGETS:
            name = f"blocks.{block}.{target}"
            rows, columns = original[f"{name}.weight"].shape
            prefix = f"base_model.model.model.{name.replace('.self', '._fsdp_wrapped_module.self')}"
            lora[f"{prefix}.lora_A.default.weight"] = torch.randn(rank, columns, generator=generator) / 8
            lora[f"{prefix}.lora_B.default.weight"] = torch.randn(rows, rank, generator=generator) / 8
    return lora


@pytest.mark.parametrize("nested", [True, False])
def test_a_longlive_lora_merges_into_every_linear_of_the_blocks(
    stock_wan: WanTransformer3DModel, tmp_path: Path, nested: bool
) -> None:
    lora = longlive_lora(stock_wan)
    torch.save({"generator_lora": lora} if nested else lora, tmp_path / "lora.pt")
    stock_wan.save_pretrained(tmp_path / "wan")
    model = load_component(WanTransformer3DModel, tmp_path / "wan")
    assert merge_lora(model, tmp_path / "lora.pt", alpha=8.0) == 2 * len(TARGETS)
    before, after = to_original(stock_wan.state_dict()), to_original(model.state_dict())
    changed = 0
    for key, value in before.items():
        side = "base_model.model.model." + key.removesuffix("weight").replace(".self", "._fsdp_wrapped_module.self")
        if side + "lora_A.default.weight" in lora:
            delta = lora[side + "lora_B.default.weight"].double() @ lora[side + "lora_A.default.weight"].double()
            assert delta.abs().max() > 1e-3
            torch.testing.assert_close(after[key].double(), value.double() + 8.0 / 4 * delta, rtol=0, atol=1e-6)
            changed += 1
        else:
            assert torch.equal(after[key], value), key
    assert changed == 2 * len(TARGETS)


def test_a_merge_into_bfloat16_adds_before_it_rounds(stock_wan: WanTransformer3DModel, tmp_path: Path) -> None:
    torch.save(longlive_lora(stock_wan), tmp_path / "lora.pt")
    stock_wan.save_pretrained(tmp_path / "wan")
    model = load_component(WanTransformer3DModel, tmp_path / "wan", dtype=torch.bfloat16)
    whole = load_component(WanTransformer3DModel, tmp_path / "wan")
    half = model.get_parameter("blocks.0.ffn.net.2.weight").float()
    merge_lora(whole, tmp_path / "lora.pt")
    merge_lora(model, tmp_path / "lora.pt")
    delta = whole.get_parameter("blocks.0.ffn.net.2.weight") - stock_wan.get_parameter("blocks.0.ffn.net.2.weight")
    expected = (half + delta).to(torch.bfloat16)
    merged = model.get_parameter("blocks.0.ffn.net.2.weight")
    assert merged.dtype == torch.bfloat16
    # one rounding to bfloat16 of a float32 sum; delta itself is recovered to 1e-7, which may flip a last bit
    assert (merged != expected).float().mean() < 0.01
    assert not torch.equal(merged.float(), half)


def test_stored_alphas_scale_a_lora_and_half_its_weight_halves_it(
    stock_wan: WanTransformer3DModel, tmp_path: Path
) -> None:
    a, b = torch.randn(4, 24), torch.randn(24, 4)
    name = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b, f"{name}.alpha": torch.tensor(2.0)},
        str(tmp_path / "lora.safetensors"),
    )
    stock_wan.save_pretrained(tmp_path / "wan")
    model = load_component(WanTransformer3DModel, tmp_path / "wan")
    assert merge_lora(model, tmp_path / "lora.safetensors", weight=0.5) == 1
    expected = stock_wan.get_parameter("blocks.0.attn1.to_q.weight") + 0.5 * (2.0 / 4) * (b @ a)
    torch.testing.assert_close(model.get_parameter("blocks.0.attn1.to_q.weight"), expected)


def test_a_lora_of_another_model_changes_nothing(stock_wan: WanTransformer3DModel, tmp_path: Path) -> None:
    stock_wan.save_pretrained(tmp_path / "wan")
    model = load_component(WanTransformer3DModel, tmp_path / "wan")
    good = longlive_lora(stock_wan)
    last = sorted(good)[-1]
    wrong_shape = good | {last: torch.zeros(5, 5)}
    deeper = good | {key.replace("blocks.1.", "blocks.9."): value for key, value in good.items()}
    half = {key: value for key, value in good.items() if key != last}
    for lora, expected in (
        (wrong_shape, r"adapts blocks\.1.*1 of its 20 modules in another size"),
        (deeper, r"which WanTransformer3DModel has not \(10 of 30 modules\); use its own LoRA"),
        (half, "has no lora_B for blocks.1.*: 1 of 20 modules"),
        ({"model.a": torch.zeros(1)}, "lora_A"),
        ({"generator_lora": {"a": 1}}, "state dict"),
        (
            good | {"base_model.model.model.blocks.0.self_attn.q.lora_magnitude_vector": torch.zeros(4)},
            "DoRA",
        ),
    ):
        torch.save(lora, tmp_path / "lora.pt")
        with pytest.raises(CheckpointError, match=expected) as error:
            merge_lora(model, tmp_path / "lora.pt")
        assert str(tmp_path / "lora.pt") in str(error.value)
        assert "\n" not in str(error.value)
    before, after = stock_wan.state_dict(), model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
