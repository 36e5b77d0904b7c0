"""Parts that are chosen beside a model: LoRAs with strengths, autoencoders, and original files around a transformer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save_file

from models.taehv import AutoencoderTAEHV
from models.wan_vae import WanVAEStream
from pipelines.components import load_components
from tests.loading.test_build import save_own, tiny_wan
from tests.models.test_umt5 import save_tiny
from tests.tiny import widen
from tests.weights.forms import State, original_folder, safetensors, small_wan
from weights.catalog import MODELS
from weights.find import get_model
from weights.local import part_in
from weights.plain_files import CheckpointError
from weights.shapes import WAN_22_MEAN, kind_of, taehv_config, umt5_config, wan_vae_config
from weights.spellings import umt5_to_transformers, vae_to_diffusers


def original_vae(state: State) -> State:
    """diffusers' names of Wan's autoencoder, 2.1 or 2.2, as the original file has them: the way back, written here."""
    out: State = {}
    residual = any(".downsampler." in name for name in state)
    for name, value in state.items():
        for ours, theirs in (
            ("norm1.gamma", "residual.0.gamma"),
            ("conv1.", "residual.2."),
            ("norm2.gamma", "residual.3.gamma"),
            ("conv2.", "residual.6."),
            ("conv_shortcut.", "shortcut."),
        ):
            name = name.replace(f".{ours}", f".{theirs}")
        if name.startswith(("quant_conv", "post_quant_conv")):
            name = name.replace("post_quant_conv", "conv2").replace("quant_conv", "conv1")
        for half in ("encoder", "decoder"):
            for ours, theirs in (
                ("conv_in", "conv1"),
                ("norm_out", "head.0"),
                ("conv_out", "head.2"),
                ("mid_block.resnets.0", "middle.0"),
                ("mid_block.attentions.0", "middle.1"),
                ("mid_block.resnets.1", "middle.2"),
            ):
                name = name.replace(f"{half}.{ours}.", f"{half}.{theirs}.")
        parts = name.split(".")
        if parts[:2] == ["encoder", "down_blocks"]:
            inner = {"resnets": parts[4:5], "downsampler": ["2"]}.get(parts[3]) if residual else None
            rest = parts[5:] if residual and parts[3] == "resnets" else parts[4:]
            name = ".".join(
                ["encoder", "downsamples", parts[2], "downsamples", *inner, *rest]
                if inner is not None
                else ["encoder", "downsamples", *parts[2:]]
            )
        elif parts[:2] == ["decoder", "up_blocks"]:
            last = parts[3] in ("upsampler", "upsamplers")
            index = "3" if last else parts[4]
            rest = parts[4:] if parts[3] == "upsampler" else parts[5:]
            if residual:
                name = ".".join(["decoder", "upsamples", parts[2], "upsamples", index, *rest])
            else:
                name = ".".join(["decoder", "upsamples", str(4 * int(parts[2]) + int(index)), *rest])
        out[name] = value
    return out


WAN_22 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": WAN_22_MEAN,
    "latents_std": WAN_22_MEAN,
}


@pytest.mark.parametrize(("config", "numbers"), [({}, 126_892_531), (WAN_22, 704_688_668)], ids=["2.1", "2.2"])
def test_original_names_of_the_released_autoencoders_become_those_of_diffusers(
    config: dict[str, object], numbers: int
) -> None:
    with torch.device("meta"):
        state = AutoencoderKLWan(**config).state_dict()
    assert sum(value.numel() for value in state.values()) == numbers
    original = original_vae(state)
    assert {"conv1.weight", "decoder.head.2.weight", "encoder.middle.1.to_qkv.weight"} <= original.keys()
    assert kind_of(original) == kind_of(state) == "autoencoder"
    assert vae_to_diffusers(original).keys() == state.keys()
    assert vae_to_diffusers(state) == state
    shapes = {name: tuple(value.shape) for name, value in vae_to_diffusers(original).items()}
    told = wan_vae_config(shapes, Path("x"))
    assert {name: told[name] for name in told.keys() & config.keys() - {"latents_std"}} == {
        name: value for name, value in config.items() if name != "latents_std"
    }
    with torch.device("meta"):
        again = AutoencoderKLWan(**told).state_dict()
    assert {name: tuple(value.shape) for name, value in again.items()} == shapes


@pytest.mark.parametrize("spelling", ["original", "llama.cpp"])
def test_names_of_umt5_become_those_of_transformers(spelling: str) -> None:
    pytest.importorskip("transformers")
    from models.umt5 import outline_umt5

    config = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 96}
    with torch.device("meta"):
        state = outline_umt5(**config, feed_forward_proj="gated-gelu").state_dict()
    state.pop("encoder.embed_tokens.weight", None)
    attention = "norm1 attn.q attn.k attn.v attn.o pos_embedding.embedding norm2 ffn.gate.0 ffn.fc1 ffn.fc2"
    llama = "attn_norm attn_q attn_k attn_v attn_o attn_rel_b ffn_norm ffn_gate ffn_up ffn_down"
    table = {
        "original": ("token_embedding", "norm", "blocks.{n}.", attention),
        "llama.cpp": ("token_embd", "enc.output_norm", "enc.blk.{n}.", llama),
    }
    words, last, block, names = table[spelling]
    ours = (
        "0.layer_norm 0.SelfAttention.q 0.SelfAttention.k 0.SelfAttention.v 0.SelfAttention.o"
        " 0.SelfAttention.relative_attention_bias 1.layer_norm 1.DenseReluDense.wi_0 1.DenseReluDense.wi_1"
        " 1.DenseReluDense.wo"
    )
    spelled = {f"{words}.weight": "shared.weight", f"{last}.weight": "encoder.final_layer_norm.weight"}
    for n in range(2):
        for theirs, place in zip(names.split(), ours.split(), strict=True):
            spelled[f"{block.format(n=n)}{theirs}.weight"] = f"encoder.block.{n}.layer.{place}.weight"
    original = {theirs: state[name] for theirs, name in spelled.items()}
    assert kind_of(original) == "text_encoder"
    found = umt5_to_transformers({**original, "spiece_model": torch.zeros(3)})
    assert found.keys() == state.keys()
    assert all(found[name] is state[name] for name in state)
    told = umt5_config({name: tuple(value.shape) for name, value in found.items()}, Path("x"))
    assert {name: told[name] for name in config} == config


@pytest.mark.parametrize(("latents", "patch"), [(16, 1), (48, 2)], ids=["taew2_1", "taew2_2"])
def test_a_tiny_autoencoder_in_its_released_layout_streams_exactly(latents: int, patch: int, tmp_path: Path) -> None:
    small = {"encoder_widths": (8, 8, 8, 8), "decoder_widths": (16, 8, 8, 8)}
    model = AutoencoderTAEHV(latent_channels=latents, patch_size=patch, **small)
    widen(model, 3, gain=1.0)
    assert "decoder.7.conv.weight" in model.state_dict()
    told = taehv_config({name: tuple(value.shape) for name, value in model.state_dict().items()}, Path("x"))
    assert (told["latent_channels"], told["patch_size"]) == (latents, patch)
    save_own(tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "transformer")
    tiny_wan(text_len=8, in_channels=latents, out_channels=latents).save_pretrained(tmp_path / "own" / "transformer")
    file = tmp_path / "taew.pth"
    torch.save(model.state_dict(), file)
    loaded = load_components(str(tmp_path / "own"), vae=str(file)).autoencoder
    assert isinstance(loaded, AutoencoderTAEHV)
    assert loaded.spatial_scale == 8 * patch
    z = torch.randn(1, 5, latents, 2, 3, generator=torch.Generator().manual_seed(0))
    whole, state, parts = model.decode(z), loaded.init_decode_state(1, 2, 3), []
    for part in z.split([1, 3, 1], dim=1):
        pixels, state = loaded.decode_stream(part, state)
        parts.append(pixels)
    assert whole.std() > 1e-3
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-6


def test_an_autoencoder_of_another_model_is_refused(tmp_path: Path) -> None:
    save_own(tmp_path / "own")
    torch.save(AutoencoderTAEHV(latent_channels=16).state_dict(), tmp_path / "taew.pth")
    with pytest.raises(CheckpointError, match=r"reads 4 latent channels.*autoencoder makes 16"):
        load_components(str(tmp_path / "own"), vae=str(tmp_path / "taew.pth"))
    with pytest.raises(ValueError, match=r"no autoencoder 'nothing\.pth': choose auto, full or tiny"):
        load_components(str(tmp_path / "own"), vae="nothing.pth")


def test_loras_add_up_at_their_strengths(tmp_path: Path) -> None:
    save_own(tmp_path / "own")
    generator = torch.Generator().manual_seed(2)
    factors = []
    for name in ("a", "b"):
        up, down = torch.randn(24, 2, generator=generator), torch.randn(2, 24, generator=generator)
        stem = "diffusion_model.blocks.1.self_attn.q"
        save_file(
            {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, str(tmp_path / f"{name}.safetensors")
        )
        factors.append((up, down))
    loras = [(str(tmp_path / "a.safetensors"), 0.8), (str(tmp_path / "b.safetensors"), -0.5)]
    bare, loaded = load_components(str(tmp_path / "own")), load_components(str(tmp_path / "own"), loras=loras)
    expected = bare.transformer.state_dict()
    for (up, down), (_, strength) in zip(factors, loras, strict=True):
        expected["blocks.1.attn1.to_q.weight"] = expected["blocks.1.attn1.to_q.weight"] + strength * (up @ down)
    found = loaded.transformer.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in expected.items())
    assert loaded.sources[-2:] == (tmp_path / "a.safetensors", tmp_path / "b.safetensors"), "a replay hashes them too"
    with pytest.raises(FileNotFoundError, match="check the path of the LoRA"):
        load_components(str(tmp_path / "own"), loras=[(str(tmp_path / "c.safetensors"), 1.0)])


def test_an_original_folder_brings_its_autoencoder_text_encoder_and_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    state = dict(small_wan(text_dim=16).state_dict())
    root = original_folder(shards=True)(state, tmp_path)
    save_tiny(tmp_path / "stock")
    (root / "google").mkdir()
    (tmp_path / "stock" / "tokenizer").rename(root / "google" / "umt5-xxl")
    encoder = read_safetensors(str(next((tmp_path / "stock" / "text_encoder").glob("*.safetensors"))))
    torch.save(encoder, root / "models_t5.pth")
    torch.manual_seed(2)
    vae = AutoencoderKLWan(base_dim=8)
    torch.save(original_vae(vae.state_dict()), root / "Wan2.1_VAE.pth")
    components = load_components(str(root))
    assert components.name == "Wan2.1-T2V"
    assert "plans" not in components.card
    assert isinstance(components.autoencoder, WanVAEStream)
    assert all(
        torch.equal(value, vae.state_dict()[name]) for name, value in components.autoencoder.vae.state_dict().items()
    )
    assert torch.equal(components.transformer.proj_out.weight, state["proj_out.weight"])
    assert components.text_encoder.encode(["a fox"]).shape == (1, 512, 16)


def test_a_file_in_comfyuis_folders_finds_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("diffusion_models", "vae", "text_encoders"):
        (tmp_path / name).mkdir()
    path = safetensors(prefix="model.diffusion_model.")(dict(small_wan().state_dict()), tmp_path / "diffusion_models")
    save_file(
        {"decoder.middle.0.x": torch.ones(1), "conv2.bias": torch.ones(16)}, str(tmp_path / "vae" / "a.safetensors")
    )
    save_file(
        {"decoder.middle.0.x": torch.ones(1), "conv2.bias": torch.ones(48)}, str(tmp_path / "vae" / "b.safetensors")
    )
    (tmp_path / "vae" / "broken.safetensors").write_bytes(b"no")
    save_file({"shared.weight": torch.ones(1)}, str(tmp_path / "text_encoders" / "t.safetensors"))
    spec = get_model(str(path))
    assert spec.autoencoder.file == str(tmp_path / "vae" / "a.safetensors")
    assert spec.text_encoder.file == str(tmp_path / "text_encoders" / "t.safetensors")
    assert spec.tokenizer == MODELS["wan-1.3b"].tokenizer
    assert part_in(tmp_path / "vae", "autoencoder") is None, "several fit, so none is taken"
    assert part_in(tmp_path / "nothing", "autoencoder") is None
