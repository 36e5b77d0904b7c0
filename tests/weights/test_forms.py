"""Every form of a Wan transformer that people have: the same weights, or one sentence that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from models.configs import WanConfig
from models.wan import CausalWanTransformer3DModel
from tests.weights.forms import CONFIG, DAMAGED, FORMS, State, gguf, pickled, scaled, small_wan
from weights.catalog import WAN_1_3B, WAN_5B, WAN_14B
from weights.find import get_model
from weights.load import load_component, load_file, tensors_of
from weights.plain_files import CheckpointError
from weights.remap import to_original
from weights.shapes import wan_config

pytest.importorskip("gguf", reason="needs gguf: pip install -e '.[gguf]'")


@pytest.fixture(scope="module")
def state() -> State:
    return dict(small_wan().state_dict())


def load(path: Path, keys: tuple[str, ...] | None = None) -> CausalWanTransformer3DModel:
    """As the command line finds and loads it."""
    spec = get_model(str(path))
    file = Path(spec.transformer.file)
    if file.is_dir() and not spec.transformer.bare:
        return load_component(CausalWanTransformer3DModel, file, schema=WanConfig)
    more = {} if keys is None else {"keys": keys}
    shapes = {name: stored.shape for name, stored in tensors_of(file, *more.values()).items()}
    return load_file(CausalWanTransformer3DModel, file, wan_config(shapes, file), schema=WanConfig, **more)


def furthest(found: torch.nn.Module, expected: State) -> float:
    held = found.state_dict()
    assert held.keys() == expected.keys()
    return max(float((held[name] - value).abs().max()) for name, value in expected.items())


def test_there_are_many_forms_and_many_ways_to_damage_one() -> None:
    assert len(FORMS) >= 50
    assert len(DAMAGED) >= 50


@pytest.mark.parametrize("form", FORMS)
def test_a_form_loads_as_the_weights_it_was_written_from(form: str, state: State, tmp_path: Path) -> None:
    write, most = FORMS[form]
    path = write(state, tmp_path)
    model = load(path)
    told = {name: model.config[name] for name in CONFIG}
    assert told | {"patch_size": tuple(told["patch_size"])} == CONFIG
    assert furthest(model, state) <= most
    if most:
        assert furthest(model, state) > 0, "a form that rounds nothing needs no allowance"


def test_scales_and_blocks_are_undone_to_the_last_bit_of_float32(state: State, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, quants

    matrix = state["blocks.1.ffn.net.0.proj.weight"]
    model = load(gguf("Q4_1")(state, tmp_path))
    kind = GGMLQuantizationType.Q4_1
    expected = torch.from_numpy(quants.dequantize(quants.quantize(matrix.numpy(), kind), kind))
    assert (model.blocks[1].ffn.net[0].proj.weight - expected).abs().max() <= 1e-6
    model = load(scaled("weight_scale", rows=True)(state, tmp_path))
    scale = matrix.abs().amax(1, keepdim=True) / 448.0
    expected = (matrix / scale).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(model.blocks[1].ffn.net[0].proj.weight, expected)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_the_small_blocks_of_gguf_mean_what_ggml_says_they_mean(kind: str, tmp_path: Path) -> None:
    """The package gguf has the arithmetic of ggml in numpy; its blocks here are noise with sane scales."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

    from weights.stored import stored_gguf

    which = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[which]
    blocks = np.random.default_rng(0).integers(0, 256, (4, 512 // block * size), dtype=np.uint8)
    expected = quants.dequantize(blocks, which)
    bad = ~np.isfinite(expected)
    writer = GGUFWriter(tmp_path / "w.gguf", "wan")
    writer.add_tensor("x", blocks, raw_dtype=which)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = stored_gguf(tmp_path / "w.gguf")["x"]
    assert stored.shape == (4, 512)
    found = stored.read().numpy()
    assert (~bad).mean() > 0.5
    assert np.allclose(found[~bad], expected[~bad], rtol=1e-6, atol=1e-6)


def test_averaged_weights_or_the_others_by_choice(state: State, tmp_path: Path) -> None:
    zeros = {f"model.{name}": torch.zeros_like(value) for name, value in to_original(state).items()}
    path = pickled("generator_ema", generator=zeros)(state, tmp_path)
    assert furthest(load(path), state) == 0.0
    assert furthest(load(path, ("generator_ema",)), state) == 0.0
    assert furthest(load(path, ("generator",)), {name: torch.zeros_like(v) for name, v in state.items()}) == 0.0
    path = pickled("generator")(state, tmp_path)
    with pytest.raises(CheckpointError, match="no state dict under generator_ema"):
        load(path, ("generator_ema",))


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_or_foreign_file_is_one_sentence_and_runs_nothing(how: str, state: State, tmp_path: Path) -> None:
    write, says = DAMAGED[how]
    path = write(state, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(path)
    text = str(error.value)
    assert re.search(says, text), text
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind, or ran"


RELEASES = {
    "1.3B": (WAN_1_3B, 825, 1_418_996_800, 30),
    "5B": (WAN_5B, 825, 4_999_787_712, 30),
    "14B": (WAN_14B, 1095, 14_288_491_584, 40),
}


@pytest.mark.parametrize("size", RELEASES)
def test_keys_and_shapes_of_a_release_tell_its_config(size: str) -> None:
    """On no device: 27 tensors a block and 15 beside them, by their original names and back."""
    config, tensors, numbers, blocks = RELEASES[size]
    with torch.device("meta"):
        model = CausalWanTransformer3DModel(**config)
    original = to_original(model.state_dict())
    assert len(original) == tensors == 27 * blocks + 15
    assert sum(value.numel() for value in original.values()) == numbers
    width = config["num_attention_heads"] * 128
    assert original["blocks.0.modulation"].shape == (1, 6, width)
    assert original["head.modulation"].shape == (1, 2, width)
    assert original[f"blocks.{blocks - 1}.ffn.0.weight"].shape == (config["ffn_dim"], width)
    assert original["text_embedding.0.weight"].shape == (width, 4096)
    assert original["time_projection.1.weight"].shape == (6 * width, width)
    assert original["patch_embedding.weight"].shape == (width, config["in_channels"], 1, 2, 2)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    told = wan_config(shapes, Path("x"))
    assert told == {name: config[name] for name in told}
    assert config.keys() - told.keys() == {"eps"}
