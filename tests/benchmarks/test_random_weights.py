"""Released architectures with random weights: every line that needs no GPU runs here, at a size of a few kilobytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli.main import main
from benchmarks.speed import random_model as random_weights
from benchmarks.speed.random_model import HOPS, SMALL, Deadline, OutOfTimeError, Scale, measure, table
from pipelines.cost import chunk_flops, steady
from pipelines.peak import matmul_peak
from pipelines.presets import PRESETS
from weights.catalog import WAN_1_3B

TINY = Scale((16, 32), 1, 4, "tiny")
CONFIG: dict[str, Any] = {
    **WAN_1_3B,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 32,
    "text_dim": 8,
    "freq_dim": 16,
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture of two heads, a small matrix product, and the size of TINY."""
    monkeypatch.setattr(random_weights, "architecture", lambda model: CONFIG)
    monkeypatch.setattr(random_weights, "SMALL", TINY)
    monkeypatch.setattr(random_weights, "matmul_peak", lambda device, dtype: 1e10)


def some(*names: str) -> dict[str, Any]:
    return {name: PRESETS[name] for name in names}


def test_times_operations_and_the_share_of_the_peak_hang_together(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(11)
    result = measure(some("longlive", "deep-forcing", "rolling-forcing"), device="cpu", modes=("eager",))
    assert torch.initial_seed() == 11
    assert (result["scaled_down"], result["size"], result["layers"]) == ("tiny", [16, 32], 1)
    config = {**CONFIG, "num_layers": 1, "text_len": 512}
    for row in result["presets"]:
        hops = row["hops_s"]
        assert set(hops) == set(HOPS)
        assert 0 < row["model_s"] < hops["denoise"] + hops["remember"]
        assert row["flops"] == chunk_flops(config, 2, steady(PRESETS[row["preset"]]))
        assert row["share_of_peak"] == pytest.approx(row["flops"] / row["model_s"] / 1e10)
        assert row["fps_end_to_end"] == pytest.approx(12 / row["chunk_s"])
        assert row["fps_denoise"] > 12 / (sum(hops.values()))
        assert row["decoded"]
        assert hops["decode"] > 0
        assert row["peak_bytes"] > 2**26
    assert capsys.readouterr().out.splitlines() == [
        f"{name}, eager" for name in ("longlive", "deep-forcing", "rolling-forcing")
    ]
    text = str(table(result).title)
    assert "TINY" in text
    assert "random weights" in text


@pytest.mark.slow
def test_compiled_blocks_are_measured_after_the_eager_ones() -> None:
    result = measure(some("streamdit"), device="cpu", backend="eager", report=str)
    assert [(row["mode"], "left_out" in row) for row in result["presets"]] == [("eager", False), ("compiled", False)]


def test_a_spent_budget_leaves_the_rest_out_and_names_it() -> None:
    result = measure(some("longlive", "streamdit"), device="cpu", budget=0, modes=("eager",), report=str)
    assert [row["left_out"] for row in result["presets"]] == ["the time budget was spent"] * 2
    assert "streamdit, eager: left out" in str(table(result).caption)
    with pytest.raises(OutOfTimeError):
        Deadline(0).check()
    Deadline(None).check()


def test_a_preset_that_does_not_fit_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = random_weights._run

    def full(engine: Any, cost: Any, *rest: Any) -> dict[str, Any]:
        if cost.slots:
            raise torch.OutOfMemoryError
        return run(engine, cost, *rest)

    monkeypatch.setattr(random_weights, "_run", full)
    rows = measure(some("longlive", "streamdit"), device="cpu", modes=("eager",), report=str)["presets"]
    assert [row.get("left_out") for row in rows] == ["the device is out of memory", None]


def test_another_autoencoder_is_left_out_and_the_chunk_ends_at_its_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {**CONFIG, "in_channels": 48, "out_channels": 48}
    monkeypatch.setattr(random_weights, "architecture", lambda model: wide)
    monkeypatch.setattr(random_weights, "SMALL", Scale((32, 64), 1, 4, "tiny"))
    row = measure(some("streamdit"), device="cpu", modes=("eager",), report=str)["presets"][0]
    assert not row["decoded"]
    assert row["hops_s"]["decode"] < row["hops_s"]["denoise"]


def test_weights_come_in_the_precision_of_real_ones() -> None:
    model = random_weights._transformer({**CONFIG, "num_layers": 1}, "cpu", torch.bfloat16)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.scale_shift_table.dtype == torch.float32


def test_the_peak_is_what_a_large_product_reaches() -> None:
    assert matmul_peak("cpu", torch.float32, size=64, repeats=3) > 1e6


def test_the_size_on_a_cpu_says_that_it_is_none() -> None:
    assert SMALL.label is not None
    assert "no figure of the real model" in SMALL.label


def test_the_command_runs_one_preset_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[tuple[str, ...], float | None]] = []

    def noted(presets: dict[str, Any], **settings: Any) -> dict[str, Any]:
        asked.append((tuple(presets), settings["budget"]))
        return measure(some("streamdit"), **{**settings, "modes": ("eager",)})

    monkeypatch.setattr(random_weights, "measure", noted)
    file = tmp_path / "x.json"
    one = ["bench", "random_weights", "--model", "wan-1.3b", "--preset", "longlive", "--json", str(file)]
    assert main(one) == 0
    assert main(["bench", "random_weights", "--budget", "8m", "--device", "cpu", "--json", str(file)]) == 0
    assert asked == [(("longlive",), None), (tuple(PRESETS), 480.0)]
    assert json.loads(file.read_text())["scaled_down"] == "tiny"
    assert "TINY" in capsys.readouterr().out


def test_the_count_alone_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    assert main(["bench", "cost", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert [row["preset"] for row in result["presets"]] == list(PRESETS)
    assert "counted, not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stream", "--budget", "8m"], "rivulet bench stream has no flag --budget"),
        (["random_weights", "--budget", "320f"], "--budget is a time"),
        (["cost", "--model", "embedded"], "rivulet bench stream --model embedded"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_the_real_size_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    result = measure(some("longlive"), budget=480, report=str)
    assert result["scaled_down"] is None
    assert (result["size"], result["layers"], result["dtype"]) == ([480, 832], 30, "bfloat16")
    eager, compiled = result["presets"]
    assert 0.01 < eager["share_of_peak"] < 1
    assert eager["peak_bytes"] > 2 * 1.4e9
    assert compiled["model_s"] < 1.2 * eager["model_s"]
