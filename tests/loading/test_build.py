"""From a name or a folder to a model that streams: every layout of weights, and a sentence for all that is missing."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV
from models.text import VOCABULARY_FILE, TextEncoder
from models.umt5 import UMT5TextEncoder
from models.wan import CausalWanTransformer3DModel
from models.wan_vae import WanVAEStream
from pipelines import components as components_module
from pipelines.build import build_engine, build_stream
from pipelines.components import Components, load_components
from pipelines.presets import PRESETS, get_preset
from pipelines.types import Controls, Transition
from tests.models.test_umt5 import save_tiny
from tests.tiny import tiny_autoencoder, widen
from weights.catalog import MODELS, ModelSpec, WeightSpec
from weights.load import CheckpointError
from weights.remap import to_original

WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
VAE: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}
RANK, ALPHA = 2, 6.0
NAME, REPO, LORA_REPO = "tiny-1.3b", "tiny/Tiny-Diffusers", "tiny/Causal"
CARD = {"name": "small", "sizes": [[32, 48]], "plans": ["serial-clean"], "fps": 16}


def tiny_wan(seed: int = 0, **config: Any) -> CausalWanTransformer3DModel:
    model = CausalWanTransformer3DModel(**{**WAN, **config})
    widen(model, seed)
    return model.eval()


def released(model: nn.Module) -> dict[str, Tensor]:
    """Original names below the wrappers of FSDP and activation checkpointing, as released EMA weights have them."""
    return {
        "model." + key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."): value.clone()
        for key, value in to_original(model.state_dict()).items()
    }


def lora_factors(model: CausalWanTransformer3DModel) -> dict[str, tuple[Tensor, Tensor]]:
    """B and A of every matrix in the blocks, by diffusers' name."""
    generator = torch.Generator().manual_seed(8)
    return {
        name: (
            torch.randn(module.out_features, RANK, generator=generator) * 0.1,
            torch.randn(RANK, module.in_features, generator=generator) * 0.1,
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }


def lora_file(model: CausalWanTransformer3DModel) -> dict[str, dict[str, Tensor]]:
    """PEFT's state dict over original names, nested as LongLive ships it."""
    tensors: dict[str, Tensor] = {}
    for name, (b, a) in lora_factors(model).items():
        (original,) = to_original({f"{name}.weight": a})
        stem = "base_model.model.model." + original.removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.default.weight": a, f"{stem}.lora_B.default.weight": b}
    return {"generator_lora": tensors}


def save_vae(folder: Path, **config: Any) -> AutoencoderKLWan:
    torch.manual_seed(2)
    vae = AutoencoderKLWan(**{**VAE, **config})
    vae.save_pretrained(folder)
    return vae


def save_causal(root: Path) -> None:
    """A hub in miniature under a download folder: base repository with VAE and UMT5, and a .pt with its LoRA."""
    save_vae(root / REPO / "vae")
    save_tiny(root / REPO)
    folder = root / LORA_REPO / "models"
    folder.mkdir(parents=True)
    wrong = {key: torch.zeros_like(value) for key, value in released(tiny_wan()).items()}
    torch.save({"generator": wrong, "generator_ema": released(tiny_wan()), "step": 700}, folder / "base.pt")
    torch.save(lora_file(tiny_wan()), folder / "lora.pt")


def save_stock(root: Path) -> None:
    """A folder in the layout of Wan-AI/Wan2.1-T2V-1.3B-Diffusers; its transformer's config has no text_len."""
    tiny_wan().save_pretrained(root / "transformer")
    config = root / "transformer" / "config.json"
    about = json.loads(config.read_text())
    del about["text_len"]
    config.write_text(json.dumps(about))
    save_vae(root / "vae")
    save_tiny(root)
    (root / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))


def save_own(root: Path) -> None:
    """A folder laid out like weights/embedded."""
    tiny_wan(text_len=8).save_pretrained(root / "transformer")
    tiny_autoencoder().save_pretrained(root / "autoencoder")
    TextEncoder.from_words(["a", "red", "fox"], text_len=8, text_dim=16).save_pretrained(root / "text_encoder")
    (root / "card.json").write_text(json.dumps(CARD))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three layouts; tests read them, or copy what they damage."""
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[text]'")
    pytest.importorskip("ftfy", reason="needs ftfy: pip install -e '.[text]'")
    root = tmp_path_factory.mktemp("models")
    save_causal(root / "hub")
    save_stock(root / "stock")
    save_own(root / "own")
    return root


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "models"))


@pytest.fixture
def causal(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A catalogue entry like those of the released 1.3B models."""
    spec = ModelSpec(
        NAME,
        "for tests",
        WeightSpec("base", "transformer", "models/base.pt", "free", repo=LORA_REPO, key=("generator_ema",)),
        WeightSpec("vae", "autoencoder", "vae", "free", repo=REPO),
        WeightSpec("text", "text_encoder", "text_encoder", "free", repo=REPO),
        WeightSpec("words", "tokenizer", "tokenizer", "free", repo=REPO),
        lora=WeightSpec("lora", "lora", "models/lora.pt", "free", repo=LORA_REPO, licence_tick=True),
        lora_alpha=ALPHA,
        config=WAN,
    )
    monkeypatch.setitem(MODELS, NAME, spec)
    return spec


def merged(dtype: torch.dtype) -> dict[str, Tensor]:
    """What the transformer must be: W + alpha / rank * B A, rounded once."""
    model = tiny_wan()
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    for name, (b, a) in lora_factors(model).items():
        exact = expected[f"{name}.weight"].double() + ALPHA / RANK * (b.double() @ a.double())
        expected[f"{name}.weight"] = exact.float()
    kept = set(CausalWanTransformer3DModel._keep_in_fp32_modules or ())
    return {key: value if kept & set(key.split(".")) else value.to(dtype) for key, value in expected.items()}


def wan_vae(components: Components) -> WanVAEStream:
    assert isinstance(components.autoencoder, WanVAEStream)
    return components.autoencoder


# ---------------------------------------------------------------------- models of the catalogue


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_released_model_is_put_together_from_its_parts(saved: Path, causal: ModelSpec, dtype: torch.dtype) -> None:
    components = load_components(NAME, models_dir=saved / "hub", offline=True, dtype=dtype)
    found = components.transformer.state_dict()
    expected = merged(dtype)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.allclose(found[key].float(), value.float(), rtol=2e-7 if dtype == torch.float32 else 8e-3), key
    unmerged = tiny_wan().state_dict()["blocks.1.ffn.net.2.weight"]
    assert (found["blocks.1.ffn.net.2.weight"].float() - unmerged).abs().max() > 0.05
    stock = AutoencoderKLWan.from_pretrained(saved / "hub" / REPO / "vae").state_dict()
    ours = wan_vae(components).vae.state_dict()
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[key], stock[key].to(dtype)) for key in stock)
    assert isinstance(components.text_encoder, UMT5TextEncoder)
    assert components.text_encoder.encode(["a red ball"]).shape == (1, 512, 16)
    assert components.text_encoder.encode(["a red ball"]).dtype == dtype
    networks = (components.transformer, wan_vae(components), components.text_encoder)
    assert not any(module.training for network in networks for module in network.modules())
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())
    assert {path.name for path in components.sources} == {"base.pt", "lora.pt", "vae", "text_encoder", "tokenizer"}
    assert all(path.exists() for path in components.sources)


def test_a_lora_is_added_before_it_is_rounded(saved: Path, causal: ModelSpec) -> None:
    components = load_components(NAME, models_dir=saved / "hub", offline=True, dtype=torch.bfloat16)
    name = "blocks.0.attn1.to_q"
    weight, (b, a) = tiny_wan().get_submodule(name).weight, lora_factors(tiny_wan())[name]
    once = (weight.double() + ALPHA / RANK * (b.double() @ a.double())).float().to(torch.bfloat16)
    twice = (weight.to(torch.bfloat16).float() + ALPHA / RANK * (b @ a)).to(torch.bfloat16)
    assert not torch.equal(once, twice)
    assert torch.equal(components.transformer.get_submodule(name).weight, once)


def test_released_weights_get_a_card_from_the_presets_named_after_them(
    saved: Path, causal: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(get_preset("longlive"), name="own", model=NAME)
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS, "own", own)
        components = load_components(NAME, models_dir=saved / "hub", offline=True)
    assert components.card == {"name": NAME, "sizes": [[480, 832]], "plans": [own.plan], "fps": 16}
    assert build_engine(own, components).fps == 16
    bidirectional = load_components(NAME, models_dir=saved / "hub", offline=True)
    with pytest.raises(ValueError, match=r"was not trained for preset 'own'.*it knows bidirectional"):
        build_engine(own, bidirectional)


def test_every_model_of_the_catalogue_that_a_preset_names_can_be_streamed_by_it() -> None:
    for name, preset in PRESETS.items():
        if preset.model in MODELS and MODELS[preset.model].tokenizer is not None:
            card = components_module._card(MODELS[preset.model], Path())
            assert preset.plan in card["plans"], name


def test_a_wan_model_streams_and_goes_on_from_a_snapshot_bit_for_bit(saved: Path, causal: ModelSpec) -> None:
    components = load_components(NAME, models_dir=saved / "hub", offline=True)
    preset = get_preset("longlive-infinity")
    film = build_stream(preset, components, height=32, width=48, seed=3, untrained=True)
    first = film.next_chunk(Controls("a red ball"))
    assert first.pixels is not None
    assert first.pixels.shape == (9, 32, 48, 3)
    assert first.pixels.std() > 5
    snapshot = film.snapshot()
    second = film.next_chunk(Controls("a red ball"))
    assert second.pixels is not None
    assert second.pixels.shape == (12, 32, 48, 3)
    film.restore(snapshot)
    assert film.next_chunk(Controls("a red ball")).sha256 == second.sha256
    cut = film.next_chunk(Controls("the blue star drifts", Transition("cut")))
    assert cut.pixels is not None
    assert cut.pixels.shape == (12, 32, 48, 3)


def test_a_size_that_released_weights_were_not_made_for_has_to_be_asked_for(saved: Path, causal: ModelSpec) -> None:
    components = load_components(NAME, models_dir=saved / "hub", offline=True)
    preset = replace(get_preset("longlive"), plan="bidirectional")
    with pytest.raises(ValueError, match="makes 832x480, not 48x32"):
        build_stream(preset, components, height=32, width=48)
    with pytest.raises(ValueError, match="multiples of 8"):
        build_stream(preset, components, height=36, width=48, untrained=True)


# ---------------------------------------------------------------------- local folders


def test_a_folder_in_the_stock_layout_loads(saved: Path) -> None:
    components = load_components(str(saved / "stock"))
    assert components.name == "stock"
    assert components.card["plans"] == ["bidirectional"]
    assert components.transformer.config.text_len == 512
    expected = tiny_wan().state_dict()
    found = components.transformer.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert wan_vae(components).spatial_scale == 8
    assert components.text_encoder.encode(["a red ball"]).shape == (1, 512, 16)
    film = build_stream(get_preset("longlive"), components, height=32, width=32, untrained=True)
    assert film.next_chunk(Controls("a red ball")).pixels is not None


def test_a_card_in_a_stock_folder_says_what_its_weights_were_trained_for(damaged: Path) -> None:
    (damaged / "stock" / "card.json").write_text(json.dumps({**CARD, "fps": 24}))
    components = load_components(str(damaged / "stock"))
    assert components.card["plans"] == ["serial-clean"]
    assert build_engine(get_preset("longlive"), components).fps == 24


def test_a_folder_laid_out_like_the_embedded_model_loads_with_its_vocabulary(saved: Path) -> None:
    components = load_components(str(saved / "own"), dtype=torch.float64)
    assert isinstance(components.autoencoder, AutoencoderTAEHV)
    assert isinstance(components.text_encoder, TextEncoder)
    assert components.card == CARD
    assert components.text_encoder.unknown_words("a red wolf").keys() == {"wolf"}
    assert components.text_encoder.encode(["a red fox"]).dtype == torch.float64
    film = build_stream(get_preset("longlive"), components)
    chunk = film.next_chunk(Controls("a red fox"))
    assert chunk.pixels is not None
    assert chunk.pixels.shape == (9, 32, 48, 3)


# ---------------------------------------------------------------------- what can be missing or wrong


def test_an_unknown_name_lists_the_models() -> None:
    with pytest.raises(ValueError, match=r"embedded, wan-1.3b.*did you mean 'longlive-1.3b'"):
        load_components("longlive-1.3")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (f"{LORA_REPO}/models/base.pt", "base"),
        (f"{LORA_REPO}/models/lora.pt", "lora"),
        (f"{REPO}/vae/diffusion_pytorch_model.safetensors", "vae"),
        (f"{REPO}/text_encoder/config.json", "text"),
        (f"{REPO}/tokenizer/tokenizer_config.json", "words"),
    ],
)
def test_a_part_that_is_not_here_is_named_with_what_to_do(
    damaged: Path, causal: ModelSpec, part: str, name: str
) -> None:
    (damaged / "hub" / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{name} is not on this machine.*models pull .* or copy") as caught:
        load_components(NAME, models_dir=damaged / "hub", offline=True)
    assert "\n" not in str(caught.value)


def test_a_licence_is_asked_for_before_a_download(damaged: Path, causal: ModelSpec) -> None:
    (damaged / "hub" / LORA_REPO / "models" / "lora.pt").unlink()
    with pytest.raises(PermissionError, match=r"lora asks for your consent.*free"):
        load_components(NAME, models_dir=damaged / "hub")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(FileNotFoundError, match=r"could not be fetched from https://huggingface.co/tiny/Causal"):
        load_components(NAME, models_dir=damaged / "hub", licence_accepted=True)
    with pytest.raises(PermissionError, match=r"add --accept_licence \S*lora, or .*models pull"):
        load_components(NAME, models_dir=damaged / "hub", licence_accepted={"another-model"})
    for accepted in (NAME, "lora"):
        with pytest.raises(FileNotFoundError, match="could not be fetched"):
            load_components(NAME, models_dir=damaged / "hub", licence_accepted={accepted})


def test_missing_packages_are_told_before_anything_is_fetched(
    causal: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("models.umt5.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs transformers and ftfy.*run: pip install -e '\.\[text\]'"):
        load_components(NAME, models_dir=tmp_path, offline=True)


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pickle-was-run",)


def damage(root: Path, what: str) -> None:
    base, lora = (root / LORA_REPO / "models" / name for name in ("base.pt", "lora.pt"))
    vae = root / REPO / "vae" / "diffusion_pytorch_model.safetensors"
    if what == "truncated base":
        base.write_bytes(base.read_bytes()[:-2000])
    elif what == "pickle":
        torch.save({"generator_ema": released(tiny_wan()), "extra": Runs()}, base)
    elif what == "no generator":
        torch.save({"critic": released(tiny_wan())}, base)
    elif what == "other size":
        torch.save({"generator_ema": released(tiny_wan(ffn_dim=48))}, base)
    elif what == "short":
        torch.save({"generator_ema": released(tiny_wan(num_layers=1))}, base)
    elif what == "truncated lora":
        lora.write_bytes(lora.read_bytes()[:-2000])
    elif what == "foreign lora":
        torch.save(lora_file(tiny_wan(num_layers=3)), lora)
    elif what == "truncated vae":
        vae.write_bytes(vae.read_bytes()[:-10])
    elif what == "other vae":
        save_vae(root / REPO / "vae", z_dim=5, latents_mean=[0.0] * 5, latents_std=[1.0] * 5)
    elif what == "vae of another shape":
        other = AutoencoderKLWan(**{**VAE, "base_dim": 12}).state_dict()
        save_file({key: value.contiguous() for key, value in other.items()}, str(vae))
    else:
        assert what == "truncated text"
        text = root / REPO / "text_encoder" / "model.safetensors"
        text.write_bytes(text.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("truncated base", r"base\.pt is damaged.*fetch it again"),
        ("pickle", r"base\.pt is damaged or holds more than tensors.*was not run"),
        ("no generator", r"base\.pt holds critic and no state dict under generator_ema; name the entry"),
        (
            "other size",
            r"base\.pt does not fit CausalWan.*ffn\.net\.0\.proj.*float32\[48, 24\] where float32\[32, 24\]",
        ),
        ("short", r"base\.pt does not fit CausalWan.*lacks blocks\.1"),
        ("truncated lora", r"lora\.pt is damaged.*fetch it again"),
        ("foreign lora", r"lora\.pt adapts blocks\.2.*use its own LoRA"),
        ("truncated vae", r"is no complete safetensors file.*fetch it again"),
        ("other vae", r"do not belong together: .* reads 4 latent channels.*makes 5.*take all parts from one model"),
        ("vae of another shape", r"does not fit AutoencoderKLWan.*Check that its config\.json belongs"),
        ("truncated text", r"is no complete safetensors file.*fetch it again"),
    ],
)
def test_damaged_and_foreign_weights_are_one_sentence(
    damaged: Path, causal: ModelSpec, monkeypatch: pytest.MonkeyPatch, what: str, sentence: str
) -> None:
    monkeypatch.chdir(damaged)
    damage(damaged / "hub", what)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_components(NAME, models_dir=damaged / "hub", offline=True)
    assert "\n" not in str(caught.value)
    assert not (damaged / "pickle-was-run").exists()


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("own/card.json", r"card\.json is missing"),
        (f"own/text_encoder/{VOCABULARY_FILE}", r"vocabulary\.json is missing.*restore it"),
        ("own/autoencoder", "autoencoder should be at"),
        ("stock/vae", "vae should be at .*/stock/vae"),
        ("stock/tokenizer/tokenizer.json", r"no tokenizer\.json"),
    ],
)
def test_a_local_folder_without_one_of_its_parts_names_it(damaged: Path, gone: str, sentence: str) -> None:
    path = damaged / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=sentence):
        load_components(str(damaged / gone.split("/")[0]))


def test_a_vocabulary_of_another_encoder_is_refused(damaged: Path) -> None:
    (damaged / "own" / "text_encoder" / VOCABULARY_FILE).write_text('["<pad>", "<unk>", "owl"]')
    with pytest.raises(CheckpointError, match="not this encoder's vocabulary"):
        load_components(str(damaged / "own"))
