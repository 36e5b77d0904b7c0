"""docs/presets.md says what the presets are, and nothing that is no longer so."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import presets as preset_page
from benchmarks.pages.presets import FILMS, GOLDEN, PAGE, page, traces_of, trained_models
from pipelines.presets import PRESETS
from tests import golden_replay
from tests.golden_trace import ATOL


def golden() -> list[dict[str, Any]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_page_is_what_its_sources_say() -> None:
    films = json.loads(FILMS.read_text(encoding="utf-8")) if FILMS.is_file() else None
    assert PAGE.read_text(encoding="utf-8") == page(golden(), films), "run: python -m benchmarks.pages.presets"


def test_a_change_anywhere_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    before = page(golden())
    worse = golden()
    worse[-1]["error"] = 0.5
    assert page(worse) != before
    preset = PRESETS["longlive"]
    for changed in (
        replace(preset, title="Another"),
        replace(preset, fixes=()),
        replace(preset, licence="MIT"),
        replace(preset, schedule=replace(preset.schedule, denoising_step_list=(1000, 500))),
        replace(preset, chunk=1),
    ):
        monkeypatch.setitem(PRESETS, "longlive", changed)
        assert page(golden()) != before


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_section_with_licences_cost_and_models(name: str) -> None:
    section = page(golden()).split(f"\n## {name}\n")[1].split("\n## ")[0]
    for part in ("**Paper**", "**Licences**", "**Models** trained for", "**As data**", "TFLOP a chunk"):
        assert section.count(part) == 1, part


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.traces])
def test_a_preset_that_names_traces_has_recorded_ones_that_pass(name: str) -> None:
    results = traces_of(PRESETS[name], golden())
    assert all(any(str(r["name"]).startswith(prefix) for r in results) for prefix in PRESETS[name].traces)
    assert all(r["status"] == "ok" and r["error"] < ATOL for r in results), results


def test_a_recording_belongs_to_one_preset_at_most() -> None:
    """A preset made from another with `replace` must not claim its traces."""
    for result in golden():
        owners = [name for name, preset in PRESETS.items() if traces_of(preset, [result])]
        assert len(owners) <= 1, (result["name"], owners)


def test_every_recording_has_passed_and_those_in_the_repository_are_among_them() -> None:
    results = {result["name"]: result for result in golden()}
    assert {path.stem for path in golden_replay.find(golden_replay.HERE)} <= results.keys()
    assert [name for name, result in results.items() if result["status"] != "ok"] == []


def test_models_are_listed_by_what_they_were_trained_for() -> None:
    assert trained_models("serial-clean")[0] == "embedded"
    assert "longlive-1.3b" in trained_models("serial-clean")
    assert "longlive-1.3b" not in trained_models("rolling-window")
    assert trained_models("no such plan") == []


def test_the_replayer_writes_what_the_page_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(golden_replay.HERE / f"sched_sf.{suffix}", tmp_path)
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setenv("RIVULET_GOLDEN", str(tmp_path))
    assert golden_replay.main(["--json", str(tmp_path / "results")]) == 1
    broken, sched = json.loads((tmp_path / "results").read_text(encoding="utf-8"))
    assert (broken["status"], broken["error"], broken["tensors"]) == ("FAIL", None, 0)
    assert (sched["status"], sched["source"]) == ("ok", "Self-Forcing 33593df")
    assert 0 < sched["error"] < ATOL
    assert sched["tensors"] > 25
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed, 0 not supported"


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preset_page, "PAGE", tmp_path / "presets.md")
    preset_page.main()
    assert (tmp_path / "presets.md").read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert "presets.md is up to date" in capsys.readouterr().out


def test_the_median_preset_file_stays_under_60_lines() -> None:
    folder = Path(preset_page.ROOT) / "pipelines" / "presets"
    lengths = sorted(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in folder.glob("*.py")
        if re.search(r"= Preset\(|replace\(\n", path.read_text(encoding="utf-8")) and path.stem != "knobs"
    )
    assert len(lengths) >= len(PRESETS) // 2
    assert lengths[len(lengths) // 2] < 60, lengths
