"""The text encoder of the released Wan models: UMT5 through transformers, behind the small encoder's `encode`.

transformers is an extra and takes seconds to import, so it is asked for only when a Wan model is loaded. Its own loader
fills what a checkpoint lacks with random numbers or zeros and goes on; here that is an error.

Dimension key: B prompts, L text tokens, D text width.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from logging import CRITICAL
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

INSTALL = "pip install -e '.[text]'"
SHARED_EMBEDDING = {"encoder.embed_tokens.weight": "shared.weight"}
"""The encoder reads its words through a second name of the embedding; a file may hold either, or both."""


def require_text_packages() -> None:
    """ValueError with the command to type if transformers or ftfy is not installed."""
    missing = [name for name in ("transformers", "ftfy") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"The text encoder of the Wan models (UMT5) needs {' and '.join(missing)}, not installed here; "
            f"run: {INSTALL}"
        )


def outline_umt5(**config: Any) -> nn.Module:
    """The encoder that a config.json describes, with weights that nobody filled; for comparing names and shapes."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**config))


outline_umt5.__name__ = "UMT5EncoderModel"  # what sentences call it


def clean_prompt(prompt: str) -> str:
    """What the Wan models were trained to read: mended Unicode, HTML entities resolved, single spaces.

    Mending straightens curly quotes too, which are other tokens; that is why ftfy is a must and not an option.
    """
    from ftfy import fix_text

    return re.sub(r"\s+", " ", html.unescape(html.unescape(fix_text(prompt)))).strip()


class UMT5TextEncoder(nn.Module):
    """Prompts to prompt_embeds (B, text_len, text_dim), rows past the prompt zeroed as the Wan models expect.

    The prompt is padded to `text_len`, encoded under its mask, and what stands in the padded rows is replaced by zeros,
    as in Wan 2.1 (Wan team 2025, arXiv 2503.20314).

    Args:
        model: transformers' UMT5EncoderModel.
        tokenizer: its tokenizer, with a padding token.
        text_len: rows of the output, and most tokens in a prompt, the closing one included.

    Raises:
        ValueError: the tokenizer does not belong to the model.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, text_len: int = 512) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.text_len = text_len
        config: Any = model.config
        self.text_dim: int = config.d_model
        if tokenizer.pad_token_id is None or len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"The tokenizer ({len(tokenizer)} tokens, padding token {tokenizer.pad_token!r}) does not belong to "
                f"this text encoder ({config.vocab_size} tokens); take both from one model."
            )
        self.eval()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """prompt_embeds (B, text_len, text_dim) of prompts, on the encoder's device and in its dtype.

        Raises:
            ValueError: a prompt has more than `text_len` tokens.
        """
        ids_BL = torch.full((len(prompts), self.text_len), self.tokenizer.pad_token_id, dtype=torch.int64)
        mask_BL = torch.zeros_like(ids_BL)
        for row, prompt in enumerate(prompts):
            tokens = self.tokenizer(clean_prompt(prompt), verbose=False).input_ids
            if len(tokens) > self.text_len:
                raise ValueError(
                    f"The prompt has {len(tokens)} tokens, the model reads at most {self.text_len}; shorten it."
                )
            ids_BL[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            mask_BL[row, : len(tokens)] = 1
        device = next(self.model.parameters()).device
        mask_BL = mask_BL.to(device)
        embeds_BLD = self.model(ids_BL.to(device), attention_mask=mask_BL).last_hidden_state
        return embeds_BLD.masked_fill(mask_BL[..., None] == 0, 0.0)

    @property
    def knows(self) -> dict[str, tuple[str, ...]]:
        """Empty: there is no list of what it knows."""
        return {}

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        """The prompt itself."""
        return prompt

    def unknown_words(self, prompt: str) -> dict[str, tuple[str, ...]]:
        """Always empty: pieces of words spell any word."""
        return {}

    @classmethod
    def from_folders(
        cls,
        encoder: str | Path,
        tokenizer: str | Path,
        *,
        text_len: int = 512,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load from local folders, exactly; nothing is downloaded and no code in them is run.

        Args:
            encoder: config.json and safetensors, as transformers saves them.
            tokenizer: tokenizer.json, or spiece.model where sentencepiece is installed.
            text_len: see the class.
            dtype: of the parameters; transformers keeps some in float32 where the rest is float16.
            device: where they go.

        Raises:
            FileNotFoundError: a folder, or what should be in it, is missing.
            ValueError: a package is missing, or the files are damaged or do not fit; the text says which.
        """
        require_text_packages()
        encoder, tokenizer = Path(encoder), Path(tokenizer)
        words = load_tokenizer(tokenizer)  # first: it is small, and its files are the ones that go missing
        model = _load_encoder(encoder, dtype)
        return cls(model.to(device), words, text_len=text_len)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; FileNotFoundError and ValueError as `UMT5TextEncoder.from_folders`."""
    fast, pieces = folder / "tokenizer.json", folder / "spiece.model"
    if not fast.is_file() and not pieces.is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json; fetch it again, or copy it there from the model's page."
        )
    if not fast.is_file() and not all(find_spec(name) for name in ("sentencepiece", "google", "google.protobuf")):
        raise ValueError(f"{pieces} needs sentencepiece and protobuf, not both installed here; run: {INSTALL}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files raise anything; every cause has the same cure
        raise ValueError(f"{folder} holds no tokenizer that can be read ({_reason(error)}); fetch it again.") from error


def _load_encoder(folder: Path, dtype: torch.dtype) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder of the text encoder, or fetch it again.")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} has no .safetensors file; fetch the weights or convert the .bin there.")
    from transformers import UMT5Config, UMT5EncoderModel

    try:
        config = UMT5Config.from_pretrained(str(folder), local_files_only=True)
        # The encoder reads its words through a second name of `shared`. The released Wan config says that the two are
        # not tied, and some versions of transformers then leave the second one zero.
        config.tie_word_embeddings = True
        with _quiet():
            loaded: Any = UMT5EncoderModel.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, with a name
                output_loading_info=True,
            )
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # as above
        raise ValueError(f"{folder} does not load as UMT5 ({_reason(error)}); fetch it again.") from error
    model, report = loaded
    wrong = [f"lacks {name}" for name in sorted(report["missing_keys"])]
    wrong += [f"has the unknown {name}" for name in sorted(report["unexpected_keys"])]
    wrong += [
        f"has {name} as {list(found)} where {list(wanted)} belongs"
        for name, found, wanted in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise ValueError(
            f"{folder} does not fit UMT5: it {wrong[0]}{f' and {len(wrong) - 1} more' if wrong[1:] else ''}. "
            "Check that its config.json belongs to these weights."
        )
    assert model.encoder.embed_tokens.weight is model.shared.weight
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and report: what is wrong becomes an exception, and the edge prints."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"{type(error).__name__}: {text}"
