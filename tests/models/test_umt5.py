"""UMT5 behind our `encode`: equal to what diffusers' Wan pipeline feeds its transformer, and strict about its files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import umt5
from models.umt5 import UMT5TextEncoder, clean_prompt, require_text_packages

for package in ("transformers", "tokenizers", "ftfy"):
    pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[text]'")

WORDS = ["a", "red", "ball", "blue", "star", "drifts", "over", "the", "sea", "it's", "&", "slowly"]
PROMPTS = ["a red ball", "the  blue\n star &amp;amp; it\u2019s zebra", ""]
CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,  # as the released Wan config says
}


def tiny_tokenizer() -> Any:
    """Whole words, letters for the others, and a closing token, as the real one has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in WORDS] + [(c, -9.0) for c in "\u2581bcdefghijklmnopqrstuvwxyz'"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_tiny(root: Path) -> Any:
    """text_encoder/ and tokenizer/ as a diffusers repository of Wan has them; the model that was saved."""
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(4)
    model = UMT5EncoderModel(UMT5Config(**CONFIG)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.3)
    model.encoder.embed_tokens = model.shared
    # Saved by hand: transformers writes an untied embedding twice, the released file has it once.
    tensors = {key: value.contiguous() for key, value in model.state_dict().items() if "embed_tokens" not in key}
    (root / "text_encoder").mkdir(parents=True)
    save_file(tensors, str(root / "text_encoder" / "model.safetensors"), metadata={"format": "pt"})
    (root / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "umt5", **CONFIG}))
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("wan")
    return root, save_tiny(root)


@pytest.fixture
def folder(saved: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved[0], tmp_path / "model"))


def load(root: Path, **options: Any) -> UMT5TextEncoder:
    return UMT5TextEncoder.from_folders(root / "text_encoder", root / "tokenizer", **options)


def test_embeddings_are_those_of_the_stock_wan_pipeline(saved: tuple[Path, Any]) -> None:
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    root, model = saved
    parts: dict[str, Any] = {"vae": None, "scheduler": None, "transformer": None}
    stock = WanPipeline(tokenizer=tiny_tokenizer(), text_encoder=model, **parts)
    with torch.no_grad():
        expected = stock._get_t5_prompt_embeds(PROMPTS, max_sequence_length=512)
    found = load(root).encode(PROMPTS)
    assert found.shape == (3, 512, 16)
    assert expected[0].abs().max() > 0.1
    assert torch.equal(found, expected)


def test_rows_past_the_prompt_are_exactly_zero_and_the_others_are_not(saved: tuple[Path, Any]) -> None:
    found = load(saved[0], text_len=12).encode(["a red ball", "the sea", ""])
    assert found.shape == (3, 12, 16)
    assert [int((row.abs().sum(-1) > 0).sum()) for row in found] == [4, 3, 1]  # the closing token counts
    assert not found[0, 4:].any()


def test_neighbours_in_the_batch_do_not_change_a_prompt_and_its_words_do(saved: tuple[Path, Any]) -> None:
    encoder = load(saved[0], text_len=16)
    alone, together = encoder.encode(["a red ball"]), encoder.encode(["the blue star drifts", "a red ball"])
    assert torch.allclose(alone[0], together[1], atol=1e-6)
    assert (alone - encoder.encode(["a blue ball"])).abs().max() > 1e-2


def test_prompts_are_cleaned_as_the_models_were_taught() -> None:
    assert clean_prompt("  a\n\tred   ball ") == "a red ball"
    assert clean_prompt("it\u2019s &amp;lt; 3") == "it's < 3"
    assert clean_prompt(" \n ") == ""


def test_a_prompt_past_the_limit_is_refused_and_not_cut(saved: tuple[Path, Any]) -> None:
    encoder = load(saved[0], text_len=6)
    assert encoder.encode(["the red ball drifts slowly"]).shape == (1, 6, 16)
    with pytest.raises(ValueError, match="7 tokens, the model reads at most 6; shorten it"):
        encoder.encode(["the red ball drifts over sea"])


def test_no_word_is_unknown_to_pieces_of_words(saved: tuple[Path, Any]) -> None:
    assert load(saved[0]).unknown_words("zebra") == {}


def test_the_embedding_is_found_under_either_of_its_names(folder: Path, saved: tuple[Path, Any]) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    expected = load(saved[0]).encode(PROMPTS)
    tensors = load_file(str(file))
    for names in (
        ("shared.weight",),
        ("encoder.embed_tokens.weight",),
        ("shared.weight", "encoder.embed_tokens.weight"),
    ):
        renamed = {key: value for key, value in tensors.items() if key != "shared.weight"}
        renamed |= {name: tensors["shared.weight"].clone() for name in names}
        save_file(renamed, str(file), metadata={"format": "pt"})
        assert torch.equal(load(folder).encode(PROMPTS), expected), names


def test_half_precision_is_kept_and_no_parameter_wants_a_gradient(saved: tuple[Path, Any]) -> None:
    encoder = load(saved[0], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training
    out = encoder.encode(["a red ball"])
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("truncated", "does not load as UMT5 .*fetch it again"),
        ("lacking", r"it lacks encoder\.block\.1\.layer\.0\.SelfAttention\.q\.weight\. Check"),
        ("foreign", r"has the unknown decoder\.x"),
        ("shape", r"has encoder\.final_layer_norm\.weight as \[3\] where \[16\] belongs\. Check"),
        ("no embedding", r"lacks .*(embed_tokens|shared)\.weight"),
        ("config", "does not load as UMT5 .*fetch it again"),
        ("tokenizer", "no tokenizer that can be read.*fetch it again"),
        ("other tokenizer", "does not belong to this text encoder .*take both from one model"),
    ],
)
def test_damaged_or_foreign_files_are_one_sentence(folder: Path, damage: str, sentence: str) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(str(file))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-64])
    elif damage == "config":
        (folder / "text_encoder" / "config.json").write_text("{")
    elif damage == "tokenizer":
        (folder / "tokenizer" / "tokenizer.json").write_text("{")
    else:
        if damage == "lacking":
            del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
        elif damage == "foreign":
            tensors["decoder.x"] = torch.zeros(2)
        elif damage == "shape":
            tensors["encoder.final_layer_norm.weight"] = torch.ones(3)
        elif damage == "no embedding":
            del tensors["shared.weight"]
        else:
            config = {**CONFIG, "vocab_size": 20}
            (folder / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "umt5", **config}))
            tensors["shared.weight"] = tensors["shared.weight"][:20].clone()
        save_file(tensors, str(file), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=sentence) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer has no tokenizer\.json; fetch it again"):
        load(folder)
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file.*convert the \.bin"):
        load(folder)
    (folder / "text_encoder" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load(folder)


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    require_text_packages()
    absent = {"ftfy"}
    monkeypatch.setattr(umt5, "find_spec", lambda name: None if name in absent else importlib.util.find_spec(name))
    with pytest.raises(ValueError, match=r"needs ftfy, not installed here; run: pip install -e '\.\[text\]'"):
        load(folder)
    absent.add("transformers")
    with pytest.raises(ValueError, match="needs transformers and ftfy"):
        require_text_packages()
    absent = {"sentencepiece"}
    (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "spiece.model")
    with pytest.raises(ValueError, match=r"spiece\.model needs sentencepiece.*pip install -e '\.\[text\]'"):
        load(folder)
