"""The benchmarks run, mean what they say, and keep their numbers; nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from app.cli.main import main
from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from benchmarks import numbers
from benchmarks.speed import long_film, startup, stream
from benchmarks.speed.limit import Recorded, Shaped
from pipelines.presets import PRESETS
from tests.app_doubles import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of a few kilobytes, with random weights."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_the_stream_benchmark_accounts_for_the_whole_chunk(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stream.json"
    command = ["bench", "stream", "--model", str(tiny), "--seconds", "4", "--json", str(file)]
    assert main(command) == 0
    result = json.loads(file.read_text())
    assert (result["preset"], result["chunks_warm_up"]) == ("embedded", 6)
    assert result["chunks_measured"] >= 4
    assert result["chunk_with_switch_s"] is not None
    hops = result["hops_s"]
    # Medians do not add up exactly; the hops must be the chunk all the same, give or take a loaded machine.
    assert sum(hops[hop] for hop in stream.HOPS) == pytest.approx(result["chunk_s"], rel=0.3)
    assert 0 < hops["model"] < hops["denoise"] + hops["remember"]
    assert result["fps_end_to_end"] == pytest.approx(12 / result["chunk_s"])
    assert result["fps_generate"] > result["fps_end_to_end"]
    assert 0 < result["overhead"] < 1
    assert result["peak_rss_bytes"] >= result["rss_bytes"] > 2**26
    assert {"versions", "machine"} <= result.keys()
    printed = capsys.readouterr().out
    assert all(hop in printed for hop in stream.HOPS)
    assert result["ratio_to_limit"] > 0
    assert f"{result['ratio_to_limit']:.2f}x" in printed


def test_the_memory_benchmark_compares_two_late_moments(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "memory.json"
    command = ["bench", "memory", "--model", str(tiny), "--frames", "90", "--no-decode", "--json", str(file)]
    assert main(command) == 0
    result = json.loads(file.read_text())
    assert (result["latent_frames"], result["baseline_frame"], result["decode"]) == (90, 45, False)
    assert result["rss_end_bytes"] / result["rss_baseline_bytes"] - 1 == pytest.approx(result["growth"])
    assert [at for at, _ in result["curve"]] == list(range(3, 91, 3))
    assert "--no_decode" in capsys.readouterr().out


def test_the_film_benchmark_compares_what_was_predicted_with_what_came(tiny: Path) -> None:
    result = long_film.measure(EngineRequest(PRESETS["embedded"], str(tiny), threads=None), seconds=45)
    assert (result["film_seconds"], result["shots"], result["frames"]) == (45, 2, 720)
    assert result["chunks"] == 61
    assert result["was"]["film_bytes"] == pytest.approx(result["predicted"]["film_bytes"], rel=0.2)
    assert result["was"]["disk_bytes"] > result["was"]["film_bytes"] > 50_000
    for name in ("memory", "chunk_cpu_s", "chunk_wall_s"):
        row = result[name]
        assert row["late"] / row["early"] - 1 == pytest.approx(row["growth"])
    assert [row[0] for row in result["curve"]] == list(range(60))  # what the last chunk takes has no end to measure
    assert isinstance(result["passed"], bool)
    assert "disk at most, MB" in list(long_film.table(result).columns[0].cells)


def test_the_film_benchmark_sees_what_grows() -> None:
    flat, grown = [5.0] * 100, [float(value) for value in range(100)]
    assert long_film._compare(flat)["growth"] == 0  # pyright: ignore[reportPrivateUsage]
    assert long_film._compare(grown)["growth"] > 4  # pyright: ignore[reportPrivateUsage]


def test_the_startup_benchmark_runs_real_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "COMMANDS", {"rivulet --help": ("--help",)})
    result = startup.measure(repeats=1)
    assert result["seconds"]["rivulet --help"] > 0
    assert "rivulet --help" in list(startup.table(result).columns[0].cells)


def test_numbers_go_where_they_were_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers.result_file("stream", tmp_path / "x.json") == tmp_path / "x.json"
    with pytest.raises(UsageMistake, match="is a folder"):
        numbers.result_file("stream", tmp_path)
    monkeypatch.setattr(numbers, "CHECKOUT", tmp_path)
    assert numbers.result_file("stream", None) is None  # installed, not a checkout
    (tmp_path / ".git").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert numbers.result_file("stream", None) == tmp_path / "benchmarks" / "results" / "stream.json"


def test_the_limit_is_what_the_heavy_operations_take_alone() -> None:
    layer, conv = torch.nn.Linear(8, 4), torch.nn.Conv2d(3, 2, 3)
    with torch.inference_mode(), Recorded() as recorded:
        for _ in range(2):
            layer(torch.ones(5, 8)).add_(1).relu()
        conv(torch.ones(1, 3, 6, 6).contiguous(memory_format=torch.channels_last))
    counts = {func.overloadpacket.__name__: count for (func, _), count in recorded.calls.items()}
    assert sorted(counts.values()) == [1, 2], counts
    ticks = iter(range(1000))
    seconds = recorded.seconds(clock=lambda: next(ticks) * 0.5, times=2)
    assert seconds == 3 * 0.5, "each run is a tick: two products and a convolution"
    like = Shaped.of(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    assert Shaped.filled(like).stride() == like.stride
