"""Checkpoints: what fits loads bit for bit, what does not is one sentence, and nothing of it is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from weights.catalog import WAN_1_3B
from weights.load import CheckpointError, load_component, load_file, tensors_of
from weights.lora import lora_tensors
from weights.remap import is_original, to_diffusers, to_original


class Small(nn.Module):
    """One matrix, one buffer, one integer: enough to be wrong in every way."""

    _keep_in_fp32_modules = ("norm",)

    def __init__(self, width: int, depth: int = 3) -> None:
        super().__init__()
        self.proj = nn.Linear(width, depth)
        self.norm = nn.LayerNorm(depth)
        self.register_buffer("scale", torch.ones(depth))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(4.0), persistent=False)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    folder = tmp_path / "component"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "Small", "width": 2}))
    save_file(Small(2).state_dict(), str(folder / "model.safetensors"))
    return folder


def released(model: nn.Module) -> dict[str, Tensor]:
    """The layout of a released EMA checkpoint: original names under two wrappers."""
    return {
        "model." + key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for key, value in to_original(model.state_dict()).items()
    }


def assert_equal_weights(found: nn.Module, expected: nn.Module) -> None:
    a, b = found.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_the_1_3b_config_of_the_catalogue_has_825_tensors_and_1_42e9_parameters() -> None:
    with torch.device("meta"):
        model = WanTransformer3DModel(**WAN_1_3B)
    original = to_original(model.state_dict())
    assert len(original) == 825
    assert sum(value.numel() for value in original.values()) == 1_418_996_800
    assert sum(key.startswith("blocks.7.") for key in original) == 27


def test_renaming_to_original_and_back_is_the_identity_and_agrees_with_diffusers(
    stock_wan: WanTransformer3DModel,
) -> None:
    ours = dict(stock_wan.state_dict())
    original = to_original(ours)
    assert is_original(original)
    assert not is_original(ours)
    for key in (
        "time_embedding.0.weight",
        "time_projection.1.bias",
        "text_embedding.2.weight",
        "blocks.1.modulation",
        "blocks.1.self_attn.norm_q.weight",
        "blocks.1.cross_attn.o.bias",
        "blocks.1.norm3.weight",
        "blocks.1.ffn.0.weight",
        "head.modulation",
        "head.head.weight",
        "patch_embedding.weight",
    ):
        assert key in original
    assert not any("norm2" in key for key in original)
    assert convert_wan_transformer_to_diffusers(dict(original)).keys() == ours.keys()
    back = to_diffusers(original)
    assert all(back[key] is value for key, value in ours.items())
    assert to_original(original) == original
    assert to_diffusers(ours).keys() == ours.keys(), "names that diffusers has already must not be renamed again"


def test_a_released_generator_loads_bit_for_bit_from_under_its_wrappers(
    stock_wan: WanTransformer3DModel, tiny_wan_config: dict[str, Any], tmp_path: Path
) -> None:
    other = {key: torch.zeros_like(value) for key, value in released(stock_wan).items()}
    torch.save(
        {"generator": other, "generator_ema": released(stock_wan), "step": 700}, tmp_path / "self_forcing_dmd.pt"
    )
    model = load_file(WanTransformer3DModel, tmp_path / "self_forcing_dmd.pt", tiny_wan_config)
    assert_equal_weights(model, stock_wan)
    assert not model.training
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    chosen = load_file(WanTransformer3DModel, tmp_path / "self_forcing_dmd.pt", tiny_wan_config, keys=("generator",))
    assert not torch.equal(chosen.proj_out.weight, stock_wan.proj_out.weight), "keys= picks the entry"


def test_flat_and_safetensors_generators_load_in_either_spelling(
    stock_wan: WanTransformer3DModel, tiny_wan_config: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(released(stock_wan), tmp_path / "flat.pt")
    torch.save(released(stock_wan), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(to_original(stock_wan.state_dict()), str(tmp_path / "original.safetensors"))
    save_file(dict(stock_wan.state_dict()), str(tmp_path / "diffusers.safetensors"))
    for name in ("flat.pt", "legacy.pt", "original.safetensors", "diffusers.safetensors"):
        assert_equal_weights(load_file(WanTransformer3DModel, tmp_path / name, tiny_wan_config), stock_wan)


def test_a_saved_diffusers_folder_loads_whole_and_in_shards(stock_wan: WanTransformer3DModel, tmp_path: Path) -> None:
    stock_wan.save_pretrained(tmp_path / "whole")
    stock_wan.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("whole", "shards"):
        assert_equal_weights(load_component(WanTransformer3DModel, tmp_path / name), stock_wan)


def test_a_loaded_module_computes_what_the_saved_one_computes(stock_wan: WanTransformer3DModel, tmp_path: Path) -> None:
    stock_wan.save_pretrained(tmp_path / "wan")
    model = load_component(WanTransformer3DModel, tmp_path / "wan")
    torch.manual_seed(0)
    inputs = (torch.randn(1, 4, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 3, 16))
    with torch.no_grad():
        found, expected = model(*inputs, return_dict=False)[0], stock_wan(*inputs, return_dict=False)[0]
    assert expected.abs().max() > 1e-3
    assert torch.equal(found, expected)


def test_half_precision_keeps_the_modules_that_need_float32(small_folder: Path) -> None:
    model = load_component(Small, small_folder, dtype=torch.bfloat16)
    assert model.proj.weight.dtype == torch.bfloat16
    assert model.norm.weight.dtype == torch.float32
    assert model.count.dtype == torch.int64
    assert torch.equal(model.get_buffer("table"), torch.arange(4.0)), (
        "buffers outside the file keep what the class computed"
    )


def test_a_loaded_module_does_not_change_when_its_file_is_overwritten(small_folder: Path) -> None:
    model = load_component(Small, small_folder)
    before = model.proj.weight.clone()
    file = small_folder / "model.safetensors"
    with file.open("r+b") as stream:  # in place: a mapped file would show through
        stream.write(b"\xff" * file.stat().st_size)
    assert torch.equal(model.proj.weight, before)


def test_arguments_complete_and_override_the_config(small_folder: Path) -> None:
    assert load_component(Small, small_folder, depth=3).proj.out_features == 3
    with pytest.raises(CheckpointError, match=r"proj\.weight as float32\[3, 2\] where float32\[4, 2\] belongs"):
        load_component(Small, small_folder, depth=4)


def sentence(error: pytest.ExceptionInfo[BaseException], path: Path) -> str:
    """The message, after checking that it is one line that names the file."""
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_missing_unexpected_and_misshapen_tensors_are_named_together(small_folder: Path) -> None:
    file = small_folder / "model.safetensors"
    tensors = Small(2).state_dict()
    del tensors["norm.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["proj.bias"] = torch.zeros(7)
    save_file(tensors, str(file))
    with pytest.raises(CheckpointError) as error:
        load_component(Small, small_folder)
    text = sentence(error, file)
    for part in (
        "lacks norm.bias",
        "unknown extra.weight",
        "proj.bias as float32[7] where float32[3] belongs",
    ):
        assert part in text


def test_an_integer_tensor_in_place_of_a_weight_is_refused(small_folder: Path) -> None:
    tensors = Small(2).state_dict() | {"proj.weight": torch.zeros(3, 2, dtype=torch.int8)}
    save_file(tensors, str(small_folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"int8\[3, 2\] where float32\[3, 2\]"):
        load_component(Small, small_folder)


@pytest.mark.parametrize("kept", [0, 5, 60, -8])
def test_a_truncated_safetensors_file_is_one_sentence(small_folder: Path, kept: int) -> None:
    file = small_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="complete safetensors") as error:
        load_component(Small, small_folder)
    sentence(error, file)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "zip", "number"])
def test_a_damaged_pt_file_is_one_sentence(
    stock_wan: WanTransformer3DModel, tiny_wan_config: dict[str, Any], tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "generator.pt"
    torch.save({"generator": released(stock_wan)}, file)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"<html>Access denied</html>",
            "zip": b"PK\x05\x06" + bytes(18),
            "number": pickle.dumps(3),
        }[damage]
    )
    with pytest.raises(CheckpointError) as error:
        load_file(WanTransformer3DModel, file, tiny_wan_config)
    sentence(error, file)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("wrap", [True, False])
def test_a_pickle_with_code_is_refused_and_the_code_never_runs(
    tiny_wan_config: dict[str, Any], tmp_path: Path, wrap: bool
) -> None:
    mark = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Bomb(mark)))  # the bomb works
    assert mark.exists()
    mark.unlink()
    file = tmp_path / "generator.pt"
    if wrap:
        torch.save({"generator": {"model.x": Bomb(mark)}}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(mark)))
    for load in (
        lambda: load_file(WanTransformer3DModel, file, tiny_wan_config),
        lambda: lora_tensors(file, nn.Identity()),
    ):
        with pytest.raises(CheckpointError, match="was not run") as error:
            load()
        sentence(error, file)
    assert not mark.exists()


def test_a_pickle_that_calls_itself_safetensors_is_refused(small_folder: Path) -> None:
    torch.save(Small(2).state_dict(), small_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no complete safetensors"):
        load_component(Small, small_folder)


def test_an_entry_without_tensors_lists_what_the_file_holds(tmp_path: Path) -> None:
    torch.save({"critic": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "critic.pt")
    with pytest.raises(CheckpointError, match="critic, step") as error:
        tensors_of(tmp_path / "critic.pt")
    assert "generator_ema" in sentence(error, tmp_path / "critic.pt")


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    torch.save({"model.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "twice.pt")
    with pytest.raises(CheckpointError, match="twice"):
        tensors_of(tmp_path / "twice.pt")


def test_configs_that_a_class_does_not_know_are_refused(small_folder: Path) -> None:
    config = small_folder / "config.json"
    for text, expected in (
        ('{"width": 2, "heads": 4}', "heads"),
        ("{}", "width"),
        ('{"width": 2', "not JSON"),
        ("[2]", "no JSON object"),
    ):
        config.write_text(text)
        with pytest.raises(CheckpointError, match=expected) as error:
            load_component(Small, small_folder)
        sentence(error, config)


def test_absent_folders_and_files_are_file_not_found_errors(small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No folder"):
        load_component(Small, tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="is missing; check the path"):
        load_file(Small, tmp_path / "nothing.pt", {"width": 2})
    (small_folder / "model.safetensors").rename(small_folder / "a.safetensors")
    load_component(Small, small_folder)
    save_file({"x": torch.zeros(1)}, str(small_folder / "b.safetensors"))
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors and no index"):
        load_component(Small, small_folder)
    for name in ("a", "b"):
        (small_folder / f"{name}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors"):
        load_component(Small, small_folder)
