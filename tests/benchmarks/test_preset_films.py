"""`rivulet bench presets` on a model of a few kilobytes: what it measures is what it says; nothing here is timed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from app.cli.main import main
from app.loading.engine_request import EngineRequest
from benchmarks import numbers
from benchmarks.pages import presets as preset_page
from benchmarks.quality import preset_films as films
from benchmarks.quality.preset_films import (
    ALLOWED,
    MOMENTS,
    cells,
    measure,
    strangers,
    table,
    tensor_bytes,
    with_sampler,
)
from pipelines.presets import PRESETS
from tests.app_doubles import save_tiny_model

CARD = {"plans": ["serial-clean"], "chunk": [1, 3], "window": 12}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def measured(tiny: Path) -> dict[str, Any]:
    sheet = tiny / "sheet.png"
    names = ("longlive", "deep-forcing", "streamdit")
    request = EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu")
    return measure(
        request,
        {name: PRESETS[name] for name in names},
        seconds=2,
        scripts=2,
        untrained=True,
        sheet=sheet,
        report=str,
    ) | {"sheet": sheet}


def test_a_row_has_every_number(measured: dict[str, Any]) -> None:
    rows = {row["preset"]: row for row in measured["presets"]}
    assert list(rows) == ["longlive", "deep-forcing", "streamdit"]
    for row in rows.values():
        assert all(0 <= row["adherence"][name] <= 1 for name in ("color", "shape", "motion", "scene"))
        assert row["switch_seconds"] is None or 0 <= row["switch_seconds"] <= 2
        assert row["fps_denoise"] > row["fps_end_to_end"] > 0
        assert 0 < row["overhead"] < 1
        assert row["chunks_measured"] >= 1
    assert (rows["longlive"]["keys"], rows["deep-forcing"]["keys"], rows["streamdit"]["keys"]) == (12, 17.5, 16)
    assert rows["deep-forcing"]["state_bytes"] > rows["longlive"]["state_bytes"] > rows["streamdit"]["state_bytes"]
    assert rows["streamdit"]["not_trained_for"] == ["plan moving-buffer"]
    over = max(row["overhead_over_base"] for row in rows.values())
    assert measured["passed"] == (over <= ALLOWED)


def test_the_same_films_come_out_again(measured: dict[str, Any], tiny: Path) -> None:
    again = measure(
        EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu"),
        {"longlive": PRESETS["longlive"]},
        seconds=2,
        scripts=2,
        report=str,
    )
    for name in ("adherence", "switch_seconds", "state_bytes"):
        first, second = measured["presets"][0][name], again["presets"][0][name]
        assert json.dumps(first) == json.dumps(second)


def test_the_sheet_has_a_row_a_preset_and_a_column_a_moment(measured: dict[str, Any]) -> None:
    with Image.open(measured["sheet"]) as sheet:
        assert sheet.size == (2 * len(MOMENTS) * 82 + 10, 3 * 98)
        assert len(sheet.convert("RGB").getcolors(10**6) or []) > 10


def test_what_a_model_was_not_trained_for_is_left_out_unless_asked_for(tiny: Path) -> None:
    result = measure(
        EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu"),
        {"streamdit": PRESETS["streamdit"]},
        seconds=2,
        scripts=1,
        report=str,
    )
    assert "--untrained" in result["presets"][0]["left_out"]
    assert "left out" in preset_page._films(result)
    assert result["passed"]


def test_an_engine_that_takes_too_much_fails_the_benchmark(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "_time", lambda made: {"engine_s": next(engines), "chunk_s": 2.0})
    request = EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu")
    pair = {name: PRESETS[name] for name in ("longlive", "self-forcing")}
    monkeypatch.setattr(films._Base, "engine_seconds", lambda self, chunks=5: 0.2)
    for second, passed in ((0.29, True), (0.31, False)):  # 0.1 s is 5 % of a chunk
        engines = iter((0.2, second))
        assert measure(request, pair, seconds=2, scripts=1, report=str)["passed"] is passed


def test_strangers_are_the_plan_the_chunk_and_the_window() -> None:
    assert strangers(PRESETS["longlive"], CARD) == []
    assert strangers(PRESETS["self-forcing"], CARD) == ["21 keys"]
    assert strangers(PRESETS["longlive-2"], CARD) == ["chunks of 8", "32 keys"]
    assert strangers(PRESETS["rolling-forcing"], CARD) == ["plan rolling-window", "21 keys"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_sampler_is_the_models_and_the_rest_the_presets(name: str) -> None:
    preset, own = PRESETS[name], PRESETS["embedded"].schedule
    changed = with_sampler(preset)
    assert replace(changed, schedule=preset.schedule) == preset
    assert (changed.schedule.shift, changed.schedule.guidance_scale) == (own.shift, own.guidance_scale)
    assert changed.schedule.plan == preset.schedule.plan
    if preset.schedule.plan != "serial":  # a chunk or row a level: their number is the plan's shape
        assert len(changed.schedule.denoising_step_list) == len(preset.schedule.denoising_step_list)


def test_choosing_tokens_counts_as_the_engines_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from cache.selection import Selection

    monkeypatch.setattr(Selection, "observe", lambda *arguments: None)
    before = Selection.observe
    with films._selection_time() as spent:
        Selection.observe(None, 0, None, None, None)  # type: ignore[arg-type]
    assert len(spent) == 1
    assert Selection.observe is before


def test_all_tensors_of_a_snapshot_are_counted() -> None:
    held = {"a": torch.zeros(3), "b": (torch.zeros(2, dtype=torch.float64), "text"), "c": None}
    assert tensor_bytes(held) == 3 * 4 + 2 * 8


def test_the_tables_show_every_preset(measured: dict[str, Any]) -> None:
    assert list(table(measured).columns[0].cells) == ["longlive", "deep-forcing", "streamdit *"]
    page = preset_page._films(measured)
    assert all(f"(#{row['preset']}) | {cells(row)[0]} |" in page for row in measured["presets"])
    never = measured["presets"][0] | {"switch_seconds": None, "drift": None}
    assert cells(never)[1:3] == ("never", "-")


def test_the_command_is_quick_and_keeps_its_numbers(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "presets.json"
    command = ["bench", "presets", "--quick", "--preset", "longlive", "--model", str(tiny), "--json", str(file)]
    assert main(command) in (0, 1)  # of a model this small the engine may take any share
    result = json.loads(file.read_text())
    assert (result["seconds_a_film"], len(result["scripts"]), len(result["presets"])) == (3.0, 1, 1)
    assert not math.isnan(result["presets"][0]["adherence"]["color"])


def test_a_part_of_the_table_does_not_replace_the_committed_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(numbers, "CHECKOUT", tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert main(["bench", "presets", "--quick", "--preset", "longlive", "--model", str(tiny)]) in (0, 1)
    assert list((tmp_path / "benchmarks" / "results").iterdir()) == []
    assert main(["bench", "cost"]) == 0
    assert [path.name for path in (tmp_path / "benchmarks" / "results").iterdir()] == ["cost.json"]
    assert "cost.json" in capsys.readouterr().out.replace("\n", "")


def test_what_was_seen_is_said_of_presets_there_are() -> None:
    assert set(preset_page.LOOKS) <= set(PRESETS)
