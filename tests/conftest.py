"""What every test may rely on: no network, the same examples on every run, and a tiny stock model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

# huggingface_hub reads it once, at its import, which comes later: a test that asks the hub fails.
os.environ["HF_HUB_OFFLINE"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:  # files run side by side: a second thread each would only be in the way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("rivulet", deadline=None, derandomize=True, database=None)
settings.load_profile("rivulet")


@pytest.fixture(scope="session")
def tiny_wan_config() -> dict[str, Any]:
    """A Wan transformer of two layers and 24 channels, as constructor arguments."""
    return {
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
        "rope_max_seq_len": 32,
    }


@pytest.fixture(scope="session")
def stock_wan(tiny_wan_config: dict[str, Any]) -> WanTransformer3DModel:
    """diffusers' own model of that size with seeded random weights; tests must not change it."""
    import torch
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return WanTransformer3DModel(**tiny_wan_config).eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training recipe at the size of tests.small_recipe."""
    from tests.small_recipe import SMALL_AE, SMALL_DIT, SMALL_TEXT
    from training import autoencoder, dit

    monkeypatch.setattr(dit, "TRANSFORMER", SMALL_DIT)
    monkeypatch.setattr(dit, "READ_BLOCK", 0)
    monkeypatch.setattr(dit, "TEXT", SMALL_TEXT)
    monkeypatch.setattr(autoencoder, "CONFIG", SMALL_AE)
