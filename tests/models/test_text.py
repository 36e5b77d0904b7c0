"""The text encoder: shapes, zeroed padding, determinism, unknown words and files."""

from pathlib import Path

import pytest
import torch

from models.text import PAD, UNKNOWN, VOCABULARY_FILE, TextEncoder, words_of

WORDS = ("a", "ball", "big", "crimson", "drifts", "left", "red", "sea", "star", "the", "to", "over")


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder.from_words(WORDS, text_len=8, text_dim=16, num_layers=2, num_heads=2).eval().double()


def test_words_are_lower_case_and_punctuation_only_separates() -> None:
    assert words_of("A big, RED ball -- left-hand; it's here!") == [
        "a", "big", "red", "ball", "left", "hand", "it's", "here",
    ]  # fmt: skip
    assert words_of("  \n,. ") == []


def test_rows_past_the_prompt_are_exactly_zero_and_the_others_are_not(encoder: TextEncoder) -> None:
    embeds = encoder.encode(["a red ball", "the star drifts over the sea"])
    assert embeds.shape == (2, 8, 16)
    assert torch.equal(embeds[0, 3:], torch.zeros(5, 16, dtype=torch.float64))
    assert embeds[0, :3].abs().sum(-1).min() > 0
    assert embeds[1, :6].abs().sum(-1).min() > 0


def test_an_empty_prompt_gives_zeros_only(encoder: TextEncoder) -> None:
    assert not encoder.encode(["", " ,."]).any()


def test_padding_and_neighbours_in_the_batch_never_change_a_prompt(encoder: TextEncoder) -> None:
    alone = encoder.encode(["a red ball"])
    together = encoder.encode(["the star drifts over the sea", "a red ball", ""])[1:2]
    short = encoder(encoder.tokenize(["a red ball"])[:, :3])
    assert torch.allclose(alone, together, atol=1e-12)
    assert torch.allclose(alone[:, :3], short, atol=1e-12)


def test_word_order_and_every_word_matter(encoder: TextEncoder) -> None:
    one, other, third = encoder.encode(["red ball left star", "left ball red star", "red ball left sea"])
    assert (one - other).abs().max() > 1e-3
    assert (one[0] - third[0]).abs().max() > 1e-6  # the first word sees the last one


def test_gradients_reach_words_used_and_no_others(encoder: TextEncoder) -> None:
    encoder.encode(["red ball", ""]).square().sum().backward()
    touched = encoder.embedding.weight.grad.abs().sum(-1) > 0  # type: ignore[union-attr]  # backward filled it
    assert {encoder.words[i] for i in touched.nonzero().flatten().tolist()} == {"red", "ball"}


def test_a_prompt_that_is_too_long_names_the_limit(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"9 words.*at most 8"):
        encoder.encode(["red " * 9])


def test_unknown_words_come_with_the_nearest_known_ones(encoder: TextEncoder) -> None:
    unknown = encoder.unknown_words("a crimsn ball over xyzzy")
    assert unknown == {"crimsn": ("crimson",), "xyzzy": ()}
    assert encoder.unknown_words("the big red star") == {}
    same = encoder.encode(["a xyzzy ball", "a plugh ball", "a red ball"])
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_saved_encoder_loads_with_its_vocabulary(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    loaded = TextEncoder.from_pretrained(tmp_path, torch_dtype=torch.float64)
    assert loaded.words == (PAD, UNKNOWN, *sorted(WORDS))
    assert torch.equal(loaded.encode(["a red ball"]), encoder.encode(["a red ball"]))
    (tmp_path / VOCABULARY_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=VOCABULARY_FILE):
        TextEncoder.from_pretrained(tmp_path)


def test_a_vocabulary_of_another_model_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="14 different words"):
        encoder.set_words((PAD, UNKNOWN, "red"))


def test_an_encoder_without_vocabulary_says_so() -> None:
    with pytest.raises(ValueError, match="no vocabulary"):
        TextEncoder(vocabulary_size=4, text_len=4, text_dim=8, num_heads=2).encode(["red"])
