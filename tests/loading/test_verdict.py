"""What a machine can do with a model is told in words and figures, before anything is fetched or loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from app.loading import verdict
from app.loading.verdict import missing_bytes, verdict_on
from pipelines import components
from pipelines.memory_plan import PLANS
from weights.catalog import MODELS

GB = 10**9


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of bfloat16, 64 GB of memory and 100 GB of disk, and a product that nobody has to wait for."""
    monkeypatch.setattr(components, "choose_device", lambda device: ("cuda", torch.bfloat16))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB, total=64 * GB))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * GB))
    monkeypatch.setattr(verdict, "_product", lambda device, dtype: 690e12)


def test_the_first_plan_that_fits_is_told_with_what_it_trades_and_every_need(tmp_path: Path) -> None:
    words: list[str] = []
    for card in (80, 24, 12, 8, 2):
        told = verdict_on(MODELS["longlive-1.3b"], card=card * GB, models_dir=tmp_path)
        assert told is not None
        words.append(told.word)
        assert told.fits == (told.plan in PLANS)
        assert (told.fps is not None) == (told.plan is not None)
    assert words == [
        "fits",
        *(f"fits with {each}+slices" for each in ("text", "text+tiny", "text+tiny")),
        "does not fit",
    ]
    whole = verdict_on(MODELS["longlive-1.3b"], card=80 * GB, models_dir=tmp_path)
    assert whole is not None
    assert whole.fps == pytest.approx(20.7, rel=0.02)  # what its authors tell of such a card
    assert "of 80.0 GB of the card" in whole.told
    assert whole.told.endswith("pictures a second, computed")
    assert whole.as_data()["plan"] == "full"


def test_memory_and_disk_that_do_not_suffice_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = MODELS["longlive-1.3b"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GB, total=8 * GB))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * GB))
    told = verdict_on(model, card=24 * GB, models_dir=tmp_path)
    assert told is not None
    assert told.word == "does not fit"
    assert "needs 13.4 GB of memory, has 8.0" in told.told
    assert f"needs {missing_bytes(model, tmp_path) / 1e9:.1f} GB of the disk, has 3.0" in told.told


def test_a_small_model_gets_no_verdict_and_what_is_here_needs_no_disk(tmp_path: Path) -> None:
    assert verdict_on(MODELS["embedded"]) is None
    model = MODELS["wan-1.3b"]
    before = missing_bytes(model, tmp_path)
    place = tmp_path / model.transformer.repo / model.transformer.file
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_text("x")
    assert before - missing_bytes(model, tmp_path) == 2 * 1_418_996_800
