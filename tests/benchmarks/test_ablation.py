"""The ablation of the memory: settings a user could set, rows that are kept, and claims that follow from figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.loading.engine_request import EngineRequest
from benchmarks.quality import ablation
from benchmarks.quality.ablation import SETTINGS, Counts, Setting, claims
from benchmarks.quality.intervals import share
from cache.positions import Absolute, SlotIndex
from pipelines.presets import PRESETS
from pipelines.presets.knobs import knob_values
from tests.app_doubles import save_tiny_model

AMOUNT = Counts(films=2, minutes=0.14, pairs=1, before=1.0, after=2.5)
PAIR = (Setting(3, 12), Setting(0, 12))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), text_len=64)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_is_what_a_user_could_set(setting: Setting) -> None:
    base = PRESETS["embedded"]
    preset = setting.preset(base)
    values = knob_values(preset)
    assert (values["sink_size"], values["local_attn_size"]) == (setting.sink, setting.window)
    assert values["recache_on_switch"]
    assert not values["global_sink"]
    assert preset.schedule == base.schedule
    assert isinstance(preset.position, Absolute if setting.positions == "absolute" else SlotIndex)


def test_the_first_setting_is_the_presets_own() -> None:
    base = PRESETS["embedded"]
    assert SETTINGS[0].preset(base) == base


def test_rows_are_kept_and_measured_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu", threads=1)
    kept: list[list[str]] = []
    told: list[str] = []

    def run(settings: tuple[Setting, ...], known: Any = None, amount: Counts = AMOUNT) -> dict[str, Any]:
        return ablation.measure(
            request,
            amount,
            settings=settings,
            known=known,
            keep=lambda result: kept.append([row["name"] for row in result["rows"]]),
            report=told.append,
        )

    first = json.loads(json.dumps(run(PAIR[:1])))
    second = run(PAIR, known=first)
    assert kept == [[PAIR[0].name], [PAIR[0].name, PAIR[1].name]]
    assert second["rows"][0] == first["rows"][0]
    assert any("measured before" in line for line in told)
    assert all(len(row["of_films"]) == 2 and row["fps"] > 0 for row in second["rows"])
    assert ablation.table(second).row_count == 2
    monkeypatch.setattr(ablation, "_row", lambda studio, setting, amount: {"name": setting.name})
    assert run(PAIR, known=second)["rows"] == second["rows"]
    for known, amount in ((first | {"weights": "others"}, AMOUNT), (second, replace(AMOUNT, films=1))):
        assert run(PAIR[:1], known=known, amount=amount)["rows"] == [{"name": PAIR[0].name}]


def row(setting: Setting, ends: list[float], fps: float) -> dict[str, Any]:
    return {"name": setting.name, "of_films": [{"first": 1.0, "last": end} for end in ends], "fps": fps}


def verdicts(sink: list[float], bare: list[float], long: list[float], fps: float = 20.0) -> list[str]:
    rows = [row(Setting(3, 12), sink, 24.0), row(Setting(0, 12), bare, 24.0), row(Setting(0, 21), long, fps)]
    return [claim.verdict for claim in claims({"rows": rows}, {})]


def test_a_claim_is_shown_only_where_the_figures_show_it() -> None:
    good, bad, mixed = [0.95, 1.0, 0.95, 1.0], [0.5, 0.55, 0.5, 0.6], [0.5, 1.0, 1.0, 0.95]
    assert verdicts(good, bad, good) == ["shown", "shown"]
    assert verdicts(good, good, good) == ["not shown", "shown"]
    assert verdicts(bad, good, good) == ["the opposite", "the opposite"]
    assert verdicts(good, mixed, mixed) == ["not shown", "not shown"]
    assert verdicts(good, bad, good, fps=30.0)[1] == "not shown"  # as good, but not faster
    assert claims({}, {}) == []
    assert claims({"rows": [row(Setting(3, 12), [1.0], 24.0), row(Setting(0, 12), [0.0], 24.0)]}, {}) == []


def test_claims_of_switches_come_from_the_quality_benchmark() -> None:
    def kind(right: int, jump: float) -> dict[str, Any]:
        return {"reached": share(right, 60), "all": {"median": 1.0}, "jump": jump}

    def found(again: int, keep: int, jump: float) -> list[str]:
        part = {"recache": kind(again, jump), "keep": kind(keep, 1.0), "cut": kind(60, 20.0)}
        return [claim.verdict for claim in claims({}, {"switch": part})]

    assert found(58, 30, 2.0) == ["shown", "shown"]
    assert found(58, 57, 15.0) == ["not shown", "not shown"]
    assert found(30, 58, 2.0) == ["the opposite", "shown"]
