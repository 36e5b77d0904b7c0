"""The benchmark of a card, on a processor at a size of a few kilobytes: parts, what is kept of them, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.cli.main import main
from benchmarks.speed import graphics_card, random_model
from benchmarks.speed.graphics_card import PUBLISHED, Part, parts
from benchmarks.speed.random_model import Scale
from pipelines.presets import PRESETS
from weights.catalog import WAN_1_3B

SOME = (
    Part("longlive"),
    Part("self-forcing", decoder="tiny"),
    Part("self-forcing", weights="fp8"),
    Part("longlive", window=21),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads, four parts, and a matrix product that takes no time."""
    config: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "text_dim": 8}
    monkeypatch.setattr(random_model, "architecture", lambda model: {**WAN_1_3B, **config, "freq_dim": 16})
    monkeypatch.setattr(random_model, "SMALL", Scale((16, 32), 1, 4, "tiny"))
    monkeypatch.setattr(random_model, "matmul_peak", lambda device, dtype: 1e10)
    monkeypatch.setattr(graphics_card, "parts", lambda: iter(SOME))


def test_every_call_measures_what_is_left_and_keeps_each_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    words = ["bench", "gpu", "--device", "cpu", "--json", str(file)]
    assert main([*words, "--budget", "0.01s"]) == 0  # one part is always begun
    out = capsys.readouterr().out
    assert "3 parts are left" in out
    assert "TINY" in out
    first = json.loads(file.read_text())["cards"]["cpu"]["parts"]
    assert list(first) == ["longlive, eager"]
    assert main(words) == 0
    assert "as published" in capsys.readouterr().out
    found = json.loads(file.read_text())["cards"]["cpu"]["parts"]
    assert list(found) == [part.name for part in SOME]
    assert found["longlive, eager"] == first["longlive, eager"], "what was known was measured again"
    for row in found.values():
        assert row["fps_end_to_end"] > 0
        assert row["decoded"]
    seen = [found[f"longlive, eager{more}"]["flops"] for more in ("", ", window 21")]
    assert seen[0] < seen[1], "the window is not that of the part"


def test_another_build_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    old = {"about": {"torch": "1.0", "model": "wan-1.3b"}, "parts": {SOME[0].name: {"left_out": "old"}}}
    other = {"about": {}, "parts": {}}
    file.write_text(json.dumps({"cards": {"cpu": old, "another card": other}}))
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(file), "--budget", "0.01s"]) == 0
    kept = json.loads(file.read_text())["cards"]
    assert "left_out" not in kept["cpu"]["parts"][SOME[0].name]
    assert kept["another card"] == other


def test_without_a_card_it_says_so_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 2
    assert "There is no CUDA card here." in capsys.readouterr().err


def test_the_parts_are_every_preset_both_ways_both_decoders_fp8_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list(parts())
    assert len({part.name for part in listed}) == len(listed)
    for name, preset in PRESETS.items():
        if preset.model != "embedded":
            assert {part.mode for part in listed if part.preset == name} == {"eager", "compiled"}
    assert {part.decoder for part in listed} == {"full", "tiny"}
    assert {part.weights for part in listed} == {"full", "fp8"}
    assert {part.window for part in listed} == {None, 12, 21}
    assert set(PUBLISHED) <= {part.preset for part in listed}
