"""One LoRA in every layout that trainers write: the same weights, by a reference written here, or a refusal by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.wan import CausalWanTransformer3DModel
from tests.tiny import widen
from weights.load import CheckpointError
from weights.lora import attach_lora, lora_tensors, merge_lora

RANK = 4
MODULES = {  # by diffusers' name: the original one, and rows x columns
    **{
        f"blocks.{block}.{ours}": (f"blocks.{block}.{original}", shape)
        for block in range(2)
        for ours, original, shape in (
            ("attn1.to_q", "self_attn.q", (32, 32)),
            ("attn1.to_out.0", "self_attn.o", (32, 32)),
            ("attn2.to_k", "cross_attn.k", (32, 32)),
            ("ffn.net.0.proj", "ffn.0", (64, 32)),
            ("ffn.net.2", "ffn.2", (32, 64)),
        )
    }
}
Tensors = dict[str, Tensor]
Texts = dict[str, str]


def small_wan() -> CausalWanTransformer3DModel:
    model = CausalWanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        text_len=8,
    )
    widen(model, 1)
    return model.eval().requires_grad_(False)


def factors(ranks: dict[str, int] | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """B and A of every module."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: (
            torch.randn(rows, (ranks or {}).get(name, RANK), generator=generator),
            torch.randn((ranks or {}).get(name, RANK), columns, generator=generator),
        )
        for name, (_, (rows, columns)) in MODULES.items()
    }


def spelled(
    stem: Callable[[str], str], down: str, up: str, alpha: float | None = None, ending: str = ".alpha"
) -> Tensors:
    tensors: Tensors = {}
    for name, (b, a) in factors().items():
        tensors |= {stem(name) + down: a, stem(name) + up: b}
        if alpha is not None:
            tensors[stem(name) + ending] = torch.tensor(alpha)
    return tensors


def original(prefix: str = "") -> Callable[[str], str]:
    return lambda name: prefix + MODULES[name][0]


def flat(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + MODULES[name][0].replace(".", "_")


def adapter(**config: Any) -> Texts:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}


A, B, DOWN, UP = ".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight"
LAYOUTS: dict[str, tuple[Tensors, Texts, float]] = {
    "kohya": (spelled(flat("lora_unet_"), DOWN, UP, 4.0), {}, 1.0),
    "kohya, half alpha": (spelled(flat("lora_unet_"), DOWN, UP, 2.0), {"ss_network_alpha": "16"}, 0.5),
    "kohya, alpha in the header": (spelled(flat("lora_unet_"), DOWN, UP), {"ss_network_alpha": "2"}, 0.5),
    "kohya, resized": (spelled(flat("lora_unet_"), DOWN, UP, 2.0), {"ss_network_alpha": "Dynamic"}, 0.5),
    "OneTrainer": (spelled(lambda name: f"lora_transformer_{name.replace('.', '_')}", DOWN, UP, 8.0), {}, 2.0),
    "diffusers, nothing said": (spelled(lambda name: f"transformer.{name}", A, B), {}, 1.0),
    "diffusers, alpha in the header": (
        spelled(lambda name: f"transformer.{name}", A, B),
        adapter(r=4, lora_alpha=8, target_modules=["to_q"]),
        2.0,
    ),
    "diffusers, rslora": (
        spelled(lambda name: f"transformer.{name}", A, B),
        adapter(r=4, lora_alpha=8, use_rslora=True),
        8 / math.sqrt(4),
    ),
    "ComfyUI": (spelled(original("diffusion_model."), DOWN, UP), {}, 1.0),
    "ComfyUI, PEFT's names": (spelled(original("diffusion_model."), A, B, 2.0), {}, 0.5),
    "ComfyUI, whole prefix": (spelled(original("model.diffusion_model."), DOWN, UP, 2.0), {}, 0.5),
    "PEFT": (spelled(original("base_model.model."), ".lora_A.default.weight", ".lora_B.default.weight"), {}, 1.0),
    "PEFT, wrapped": (
        spelled(
            lambda name: (
                "base_model.model.model."
                + MODULES[name][0].replace("blocks.0", "blocks.0._fsdp_wrapped_module._orig_mod")
            ),
            ".lora_A.style.weight",
            ".lora_B.style.weight",
        ),
        {"lora_alpha": "8"},
        2.0,
    ),
    "DiffSynth": (spelled(original("pipe.dit."), ".lora_A.default.weight", ".lora_B.default.weight"), {}, 1.0),
    "old diffusers": (spelled(lambda name: name, ".lora.down.weight", ".lora.up.weight", 8.0), {}, 2.0),
    "older diffusers": (
        spelled(lambda name: name, "_lora.down.weight", "_lora.up.weight", 8.0, ".network_alpha"),
        {},
        2.0,
    ),
    "network_alpha in the header": (spelled(original(), A, B), {"network_alpha": "6.0"}, 1.5),
    "half precision": (
        {key: value.to(torch.bfloat16) for key, value in spelled(original(), A, B).items()},
        {},
        1.0,
    ),
}


def write(tmp_path: Path, tensors: Tensors, texts: Texts | None = None, name: str = "lora.safetensors") -> Path:
    path = tmp_path / name
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, str(path), metadata=texts or None)
    return path


def expected(scales: dict[str, float], pairs: dict[str, tuple[Tensor, Tensor]]) -> Tensors:
    """W + scale B A, in float64."""
    weights = {key: value.double() for key, value in small_wan().state_dict().items()}
    for name, (b, a) in pairs.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + scales[name] * (b.double() @ a.double())
    return weights


def assert_merged(model: CausalWanTransformer3DModel, weights: Tensors) -> None:
    found = model.state_dict()
    assert found.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-7, atol=1e-6, msg=key)


def film_of(model: CausalWanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 2, 4, 4, 6, generator=generator)
    words = torch.randn(1, 3, 16, generator=generator)
    with torch.no_grad():
        return model.forward_train(latents, torch.tensor([[500.0, 300.0]]), words, chunk=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_merges_into_the_same_weights_and_a_live_adapter_agrees(tmp_path: Path, layout: str) -> None:
    tensors, texts, scale = LAYOUTS[layout]
    path = write(tmp_path, tensors, texts)
    pairs = factors()
    if layout == "half precision":
        pairs = {name: (b.to(torch.bfloat16), a.to(torch.bfloat16)) for name, (b, a) in pairs.items()}
    model = small_wan()
    assert merge_lora(model, path) == len(MODULES)
    assert_merged(model, expected(dict.fromkeys(MODULES, scale), pairs))
    pytest.importorskip("peft", reason="peft is not installed: pip install 'rivulet[lora]'")
    live, plain = small_wan(), small_wan()
    assert attach_lora(live, path, "style") == len(MODULES)
    assert (film_of(live) - film_of(plain)).abs().max() > 0.1
    torch.testing.assert_close(film_of(live), film_of(model), rtol=0, atol=2e-5)
    live.disable_adapters()
    assert torch.equal(film_of(live), film_of(plain))


def test_layers_may_have_their_own_rank_and_alpha(tmp_path: Path) -> None:
    ranks = {"blocks.0.ffn.net.2": 2, "blocks.1.attn1.to_q": 6, "blocks.1.ffn.net.2": 2}
    pairs = factors(ranks)
    tensors = {f"transformer.{name}{side}": value for name, (b, a) in pairs.items() for side, value in ((A, a), (B, b))}
    texts = adapter(
        r=4,
        lora_alpha=8,
        rank_pattern={"ffn.net.2": 2, "^blocks.1.attn1.to_q": 6},
        alpha_pattern={"blocks.0.ffn.net.2": 1, "to_q": 3, "net.0.proj": 2.0},
    )
    scales = {
        name: {"blocks.0.ffn.net.2": 1 / 2, "blocks.1.ffn.net.2": 8 / 2, "blocks.1.attn1.to_q": 3 / 6}.get(
            name, 3 / 4 if name.endswith("to_q") else 2 / 4 if name.endswith("proj") else 8 / 4
        )
        for name in MODULES
    }
    path = write(tmp_path, tensors, texts)
    model = small_wan()
    merge_lora(model, path, alpha=100.0)  # what the file says counts
    assert_merged(model, expected(scales, pairs))
    pytest.importorskip("peft", reason="peft is not installed: pip install 'rivulet[lora]'")
    live = small_wan()
    attach_lora(live, path, "style", weight=0.5)
    halved = small_wan()
    merge_lora(halved, path, weight=0.5)
    torch.testing.assert_close(film_of(live), film_of(halved), rtol=0, atol=2e-5)


def test_whole_differences_are_added_as_they_are_and_no_live_adapter_drops_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": ("blocks.0.attn1.to_q.bias", (32,)),
        "diffusion_model.blocks.1.norm3.diff": ("blocks.1.norm2.weight", (32,)),
        "diffusion_model.blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", (32,)),
        "diffusion_model.blocks.1.self_attn.norm_q.diff": ("blocks.1.attn1.norm_q.weight", (32,)),
        "diffusion_model.blocks.1.diff_m": ("blocks.1.scale_shift_table", (1, 6, 32)),
        "diffusion_model.head.diff_m": ("scale_shift_table", (1, 2, 32)),
        "diffusion_model.head.head.diff": ("proj_out.weight", (16, 32)),
    }
    values = {key: torch.randn(shape, generator=generator) for key, (_, shape) in whole.items()}
    path = write(tmp_path, spelled(original("diffusion_model."), DOWN, UP, 2.0) | values)
    model = small_wan()
    assert merge_lora(model, path, weight=0.5) == len(MODULES) + len(whole)
    weights = expected(dict.fromkeys(MODULES, 0.25), factors())
    for key, (name, _) in whole.items():
        weights[name] = weights[name] + 0.5 * values[key].double()
    assert_merged(model, weights)
    with pytest.raises(CheckpointError, match=r"whole differences for 7 parameters.*merge it instead"):
        attach_lora(small_wan(), path, "style")


def test_factors_of_a_convolution_and_biases_of_the_second_factor_are_merged(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(3, 4, 1, 2, 2, generator=generator), torch.randn(32, 3, 1, 1, 1, generator=generator)
    q = factors()["blocks.0.attn1.to_q"]
    bias = torch.randn(32, generator=generator)
    path = write(
        tmp_path,
        {
            f"patch_embedding{A}": a,
            f"patch_embedding{B}": b,
            f"blocks.0.attn1.to_q{A}": q[1],
            f"blocks.0.attn1.to_q{B}": q[0],
            "blocks.0.attn1.to_q.lora_B.bias": bias,
        },
        adapter(lora_alpha=6),
    )
    model = small_wan()
    assert merge_lora(model, path) == 3
    weights = expected({"blocks.0.attn1.to_q": 6 / 4}, {"blocks.0.attn1.to_q": q})
    weights["blocks.0.attn1.to_q.bias"] = weights["blocks.0.attn1.to_q.bias"] + 6 / 4 * bias.double()
    weights["patch_embedding.weight"] = weights["patch_embedding.weight"] + 6 / 3 * torch.einsum(
        "orxyz,rcthw->octhw", b.double(), a.double()
    )
    assert_merged(model, weights)


def test_pefts_settings_beside_its_file_count(tmp_path: Path) -> None:
    tensors = spelled(original("base_model.model."), A, B)
    path = write(tmp_path, tensors, name="adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 12}))
    model = small_wan()
    merge_lora(model, path)
    assert_merged(model, expected(dict.fromkeys(MODULES, 3.0), factors()))


def test_an_alpha_that_is_given_counts_where_the_file_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, spelled(original(), A, B))
    model = small_wan()
    merge_lora(model, path, alpha=2.0, weight=-1.0)
    assert_merged(model, expected(dict.fromkeys(MODULES, -0.5), factors()))


GOOD = spelled(original("diffusion_model."), DOWN, UP, 4.0)
Q = "diffusion_model.blocks.0.self_attn.q"
REFUSED: dict[str, tuple[Tensors, Texts, str]] = {
    "DoRA of kohya": (GOOD | {f"{Q}.dora_scale": torch.ones(32, 1)}, {}, r"holds DoRA .*1 tensors \(.*q\.dora_scale\)"),
    "DoRA of PEFT": (GOOD | {f"{Q}.lora_magnitude_vector": torch.ones(32)}, {}, "DoRA"),
    "DoRA in the header": (spelled(lambda n: n, A, B), adapter(r=4, lora_alpha=4, use_dora=True), "DoRA"),
    "LoKr": ({f"{Q}.lokr_w1": torch.ones(4, 4), f"{Q}.lokr_w2": torch.ones(8, 8)}, {}, "LoKr"),
    "LoHa": ({f"{Q}.hada_w1_a": torch.ones(4, 4)}, {}, "LoHa"),
    "OFT": ({f"{Q}.oft_blocks": torch.ones(4, 4)}, {}, "OFT"),
    "another method in the header": (spelled(lambda n: n, A, B), adapter(peft_type="LOHA"), "method LOHA"),
    "PiSSA": (spelled(lambda n: n, A, B), adapter(init_lora_weights="pissa"), "changes the base"),
    "a stranger": (GOOD | {f"{Q}.surprise": torch.ones(3)}, {}, r"surprise, more than plain .*1 of 31 tensors"),
    "text encoder": (
        GOOD | {f"lora_te_encoder_block_0{side}": torch.ones(4, 4) for side in (DOWN, UP)},
        {},
        r"adapts lora_te_encoder_block_0, which .* has not \(1 of 11 modules\); use its own",
    ),
    "an image model": (
        {f"blocks.0.cross_attn.k_img{side}": torch.ones(4, 4) for side in (DOWN, UP)},
        {},
        r"k_img, which .* has not \(1 of 1 modules\)",
    ),
    "a missing half": (
        {key: value for key, value in GOOD.items() if key != Q + UP},
        {},
        r"no lora_B for blocks\.0\.self_attn\.q: 1 of 10 modules",
    ),
    "alpha alone": (GOOD | {"diffusion_model.head.head.alpha": torch.tensor(4.0)}, {}, r"no lora_A for head\.head"),
    "another size": (
        {key: value.repeat(1, 2) if key.endswith(DOWN) else value for key, value in GOOD.items()},
        {},
        r"\[32, 32\] with \[32, 4\] x \[4, 64\].*10 of its 10 modules in another size",
    ),
    "ranks that differ": (GOOD | {Q + UP: torch.ones(32, 5)}, {}, r"1 of its 10 modules in another size"),
    "another rank than the header's": (spelled(lambda n: n, A, B), adapter(r=8, lora_alpha=8), "rank 8.*have 4"),
    "NaN": (GOOD | {Q + UP: torch.full((32, 4), math.nan)}, {}, r"NaN or infinite numbers in .*q\.lora_up"),
    "alpha NaN": (GOOD | {f"{Q}.alpha": torch.tensor(math.nan)}, {}, r"NaN or infinite numbers in .*q\.alpha"),
    "alpha zero": (GOOD | {f"{Q}.alpha": torch.tensor(0.0)}, {}, "alpha 0"),
    "alpha of a shape": (GOOD | {f"{Q}.alpha": torch.ones(4)}, {}, r"a shape of \[4\]"),
    "a word for alpha": (spelled(original(), A, B), {"lora_alpha": "strong"}, "'strong', no number"),
    "a header that is no JSON": (spelled(original(), A, B), {"lora_adapter_metadata": "{"}, "is not JSON"),
    "a text for alpha": (spelled(original(), A, B), adapter(lora_alpha="8"), r"lora_alpha should be a valid number"),
    "a pattern": (spelled(original(), A, B), adapter(alpha_pattern={"(a+)+b": 2.0}), "only names are read"),
    "rslora without alpha": (spelled(original(), A, B), adapter(r=4, use_rslora=True), "rslora and no alpha"),
    "two adapters": (
        spelled(original(), A, B)
        | {f"blocks.0.self_attn.q.lora_{s}.b.weight": torch.ones(4, 32) for s in "A"}
        | {f"blocks.0.self_attn.k.lora_{s}.c.weight": torch.ones(4, 32) for s in "A"},
        {},
        r"names .* twice|2 adapters \(b, c\)",
    ),
    "one module under two names": (
        GOOD
        | {
            f"blocks.0.attn1.to_q{side}": value
            for side, value in zip((A, B), factors()["blocks.0.attn1.to_q"][::-1], strict=True)
        },
        {},
        "same module under two names",
    ),
    "no LoRA": ({"blocks.0.self_attn.q.weight": torch.ones(32, 32)}, {}, "no lora_A, lora_B"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_whole_and_by_name(tmp_path: Path, what: str) -> None:
    tensors, texts, sentence = REFUSED[what]
    path = write(tmp_path, tensors, texts)
    model = small_wan()
    for refuse in (lambda: merge_lora(model, path), lambda: lora_tensors(path, model)):
        with pytest.raises(CheckpointError, match=sentence) as error:
            refuse()
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        assert str(error.value).endswith(".")
    untouched = small_wan().state_dict()
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
