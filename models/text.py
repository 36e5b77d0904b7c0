"""Small word-level text encoder of the embedded model.

Its vocabulary is a plain file beside the weights, so that a person can read what the model understands; a glossary
beside it answers a word that it does not know with one that means the same, instead of with silence.

Dimension key: B prompts, L text tokens, D text width, N heads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from models.glossary import GLOSSARY_FILE, Glossary

PAD, UNKNOWN = "<pad>", "<unk>"
VOCABULARY_FILE = "vocabulary.json"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def words_of(prompt: str) -> list[str]:
    """Split a prompt into lower-case words; punctuation and hyphens only separate."""
    return _WORD.findall(prompt.lower().replace("\u2019", "'"))


class TextBlock(nn.Module):
    """Pre-norm transformer layer whose tokens all see each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix tokens x (B, L, D) where mask (B, 1, 1, L) is true."""
        q_BNLd, k_BNLd, v_BNLd = (
            self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q_BNLd, k_BNLd, v_BNLd, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.ffn(self.ffn_norm(x))


class TextEncoder(ModelMixin, ConfigMixin):
    """Prompts to prompt_embeds (B, text_len, text_dim), rows past the prompt zeroed as Wan's padding is.

    An empty prompt gives zeros only, which is what the transformer learned as "no prompt".

    Args:
        vocabulary_size: words known, `<pad>` and `<unk>` included.
        text_len: most words in a prompt.
        text_dim: width of the output.
        num_layers: transformer layers.
        num_heads: attention heads in each.
    """

    @register_to_config
    def __init__(
        self, vocabulary_size: int, text_len: int = 32, text_dim: int = 128, num_layers: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__()
        if text_dim % num_heads:
            raise ValueError(f"text_dim {text_dim} must be a multiple of num_heads {num_heads}.")
        self.words: tuple[str, ...] = ()
        self.glossary = Glossary()
        self._index: dict[str, int] = {}
        self.embedding = nn.Embedding(vocabulary_size, text_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(text_len, text_dim))
        self.blocks = nn.ModuleList(TextBlock(text_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(text_dim)

    @classmethod
    def from_words(cls, words: Sequence[str], **config: Any) -> Self:
        """A new encoder that knows these words (without `<pad>` and `<unk>`, which come first by themselves)."""
        vocabulary = (PAD, UNKNOWN, *sorted(set(words)))
        encoder = cls(vocabulary_size=len(vocabulary), **config)
        encoder.set_words(vocabulary)
        return encoder

    def set_words(self, words: Sequence[str]) -> None:
        """Name the rows of the embedding; the first two must be `<pad>` and `<unk>`."""
        size = self.config["vocabulary_size"]
        if len(words) != size or len(set(words)) != size or tuple(words[:2]) != (PAD, UNKNOWN):
            raise ValueError(
                f"The vocabulary must hold {size} different words and begin with {PAD} and {UNKNOWN}; it has"
                f" {len(words)}. Use the {VOCABULARY_FILE} that was saved with these weights."
            )
        self.words = tuple(words)
        self._index = {word: i for i, word in enumerate(self.words)}

    # ------------------------------------------------------------------ prompts

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Word numbers (B, text_len) int64, padded with 0.

        Raises:
            ValueError: a prompt has more than `text_len` words, or no vocabulary is loaded.
        """
        if not self.words:
            raise ValueError(f"This text encoder has no vocabulary; load it from a folder with {VOCABULARY_FILE}.")
        limit = self.config["text_len"]
        tokens = torch.zeros(len(prompts), limit, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            found = words_of(prompt)
            if len(found) > limit:
                raise ValueError(f"The prompt has {len(found)} words, the model reads at most {limit}; shorten it.")
            numbers = [self._index.get(word, 1) for word in found]
            tokens[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
        return tokens

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """prompt_embeds (B, text_len, text_dim) of prompts, on the module's device and in its dtype."""
        return self(self.tokenize(prompts).to(self.device))

    def unknown_words(self, prompt: str) -> dict[str, tuple[str, ...]]:
        """Words of a prompt that the model does not know, each with up to three that it knows and that mean the same.

        A word that nothing comes near has none; words that say nothing of a picture are left out.
        """
        return self.glossary.unknown(prompt, self._index)

    @property
    def knows(self) -> dict[str, tuple[str, ...]]:
        """What the model knows, for people: words of each category, and all `words`; empty without a glossary."""
        if not self.glossary.categories:
            return {}
        categories = {name: tuple(words) for name, words in self.glossary.categories.items()}
        return categories | {"words": self.words[2:]}

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        """The prompt in words that the model knows, as far as they mean the same; `unknown` is of `unknown_words`."""
        return self.glossary.instead(prompt, self._index, unknown)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode word numbers (B, L) with L <= text_len, 0 = padding, into (B, L, text_dim)."""
        real_BL = tokens != 0
        mask = real_BL.clone()
        mask[:, 0] = True  # an empty prompt must attend to something; its rows are zeroed below
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return self.norm(x) * real_BL[..., None]

    # ------------------------------------------------------------------ files

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write config and weights as diffusers does, and the vocabulary beside them."""
        super().save_pretrained(save_directory, *args, **kwargs)
        text = json.dumps(list(self.words), ensure_ascii=False, indent=0)
        (Path(save_directory) / VOCABULARY_FILE).write_text(text + "\n", encoding="utf-8")
        if self.glossary.meanings:
            self.glossary.write(Path(save_directory) / GLOSSARY_FILE)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  # the parent is decorated
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self:
        """Load from a local folder written by `save_pretrained`; a glossary there may be missing."""
        encoder = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        path = Path(pretrained_model_name_or_path) / kwargs.get("subfolder", "") / VOCABULARY_FILE
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; it is saved beside the text encoder's weights.")
        encoder.set_words(json.loads(path.read_text(encoding="utf-8")))
        if (path.parent / GLOSSARY_FILE).exists():
            encoder.glossary = Glossary.read(path.parent / GLOSSARY_FILE)
        return encoder
