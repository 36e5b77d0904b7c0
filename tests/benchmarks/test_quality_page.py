"""docs/quality.md, its plots and the card's figures say what the results say, and nothing that is no longer so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.pages import quality as quality_page
from benchmarks.pages.figure_file import digest, drawn_from
from benchmarks.pages.quality import MARKS, MODEL_PAGE, PAGE, PICTURES, load, model_page, page, pictures_of
from benchmarks.quality.intervals import share
from benchmarks.quality.switching import KINDS
from training.card import TEMPLATE

BUDGET = 400_000
OF = {"version": "9", "weights": "abc", "preset": "embedded", "width": 96, "height": 96, "device": "cpu", "threads": 2}


def shares(right: int = 9) -> dict[str, Any]:
    found: dict[str, Any] = {name: share(right, 10) for name in ("color", "shape", "size", "motion", "scene", "all")}
    return found | {"speed": {"median": 0.97, "quartiles": [0.9, 1.0], "within": share(9, 9)}, "right": right / 10}


def results() -> dict[str, Any]:
    """Every part, with figures that nobody measured."""
    wait = {"median": 0.5, "p90": None, "waits": [0.25, 0.5, 1.0, None]}
    way = {"reached": share(3, 4), "all": wait, "looks": wait, "motion": wait, "jump": 2.0, "adherence": shares()}
    curve = [{"minute": minute, "right": 0.9, "change": 0.3, "frozen": 0.0, "all": 0.7} for minute in (0.5, 1.5)]
    long = {
        "seconds_compared": 60.0,
        "first": shares(),
        "last": shares(),
        "change": 0.4,
        "freezes": 0,
        "frozen": 0.0,
        "of_films": [{"first": 0.9, "last": 0.8}] * 2,
        "curve": curve,
        "fps": 25.0,
    }
    seen = {"color": {"red": {"red": 9, "blue": 1}}, "shape": {"ball": {"ball": 10}}}
    seen |= {"motion": {"left": {"left": 8, "unseen": 2}}, "scene": {"sea": {"sea": 10}}}
    rain = share(1, 4)
    worst = [{"prompt": "a red ball", "seed": 3, "asked": {"color": "red"}, "seen": {"color": "blue"}}]
    chance = {name: {"share": 0.13, "chance": 0.125} for name in ("color", "shape", "motion", "scene")}
    parts: dict[str, Any] = {
        "speed": {"width": 96, "height": 96, "threads": 2, "fps_end_to_end": 25.0, "first_frame_s": 0.4, "load_s": 3.0},
        "memory": {"baseline_frame": 500, "latent_frames": 10_000, "decode": False, "growth": 0.001},
        "size": {"bytes": 16_000_000, "parameters": {"transformer": 5_000_000}},
        "scorer": {
            **shares(10),
            "clips": 10,
            "rich": {**shares(10), "clips": 5, "conditions": {"weather": {"rain": {"own": rain, "all": rain}}}},
            "shuffled": chance,
            "frozen_called_frozen": share(9, 9),
            "switch_error": {what: {"median": 0.0, "p90": 0.1} for what in ("looks", "motion")},
        },
        "reconstruction": {"psnr_db": 33.0, **shares(), "rich": shares(7)},
        "adherence": {
            **shares(),
            "prompts": 10,
            "seconds_a_film": 4.0,
            "confusion": seen,
            "rich": {
                **shares(7),
                "prompts": 5,
                "conditions": {"weather": {"rain": {"own": rain, "all": rain}}},
            },
            "worst": worst,
        },
        "switch": {"pairs": 4, "seconds_before": 4.0, "seconds_after": 6.0, **dict.fromkeys(KINDS, way)},
        "steps": {
            "prompts": 10,
            "seconds_a_film": 4.0,
            "own": 4,
            "rows": [
                {"steps": 1, **shares(5), "fps": 40.0},
                {"steps": 4, **shares(), "fps": 25.0},
                {"steps": 32, "impossible": "no such steps"},
            ],
        },
        "plans": {
            "prompts": 10,
            "seconds_a_film": 4.0,
            "rows": [
                {"name": "embedded", "plan": "serial-clean", "not_trained_for": [], **shares(), "fps": 25.0},
                {"name": "other", "plan": "rolling", "not_trained_for": ["plan rolling"], **shares(4), "fps": 9.0},
            ],
        },
        "video": {
            "prompts": 10,
            "seconds_a_film": 4.0,
            "rows": [{"noise": noise, "apart": 0.1, "follows": share(4, 10), **shares()} for noise in (1.0, 0.75)],
        },
        "drift": {"films": 2, "minutes": 10.0, "sink": long, "no sink": long},
    }
    for part in parts.values():
        part |= {"of": OF, "quick": False}
    memory = {"name": "sink 3, window 12", "sink": 3, "window": 12, "not_trained_for": [], "switch": way, **long}
    bare = {**memory, "name": "sink 0, window 12", "not_trained_for": ["12 keys"]}
    amount = {"films": 2, "minutes": 3.0, "pairs": 4}
    ablation = {"rows": [memory, bare], "amount": amount, "preset": "embedded", "version": "9"}
    return {"quality": {"parts": parts}, "ablation": ablation, "card": {"version": "9"}}


def test_the_page_is_what_its_sources_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(*load()), "run: python -m benchmarks.pages.quality"


def test_the_figures_in_the_models_card_are_those_that_were_measured() -> None:
    text = MODEL_PAGE.read_text(encoding="utf-8")
    assert text == model_page(text, load()[0]), "run: python -m benchmarks.pages.quality"
    assert all(text.count(mark) == TEMPLATE.count(mark) == 1 for mark in MARKS), "a card has a place for them"


def test_every_picture_was_drawn_from_the_results_and_all_are_small() -> None:
    quality, ablation, _ = load()
    wanted = pictures_of(quality.get("parts", {}), ablation)
    there = {file.stem: file for file in PICTURES.glob("*.png")}
    assert there.keys() == wanted.keys(), "run: python -m benchmarks.pages.quality"
    for name, data in wanted.items():
        assert drawn_from(there[name]) == digest(data), f"{name}.png is stale: run python -m benchmarks.pages.quality"
    assert sum(file.stat().st_size for file in there.values()) <= BUDGET


def test_a_change_of_any_figure_changes_the_page() -> None:
    before = page(**results())
    for path, value in (
        (("quality", "parts", "speed", "fps_end_to_end"), 11.0),
        (("quality", "parts", "adherence", "shape", "share"), 0.2),
        (("quality", "parts", "adherence", "rich", "conditions", "weather", "rain", "own"), share(4, 4)),
        (("quality", "parts", "switch", "pairs"), 7),
        (("quality", "parts", "drift", "quick"), True),
        (("quality", "parts", "plans", "prompts"), 3),
        (("quality", "parts", "video", "rows"), []),
        (("quality", "parts", "drift", "of"), OF | {"version": "8"}),
        (("quality", "parts", "scorer", "switch_error", "motion"), {"median": 0.7, "p90": None}),
        (("ablation", "rows"), []),
        (("card", "version"), "10"),
    ):
        changed = copy.deepcopy(results())
        node: Any = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        assert page(**changed) != before, path


def test_what_falls_short_or_was_not_measured_is_said() -> None:
    found = results()
    assert "**Falls short**" not in page(**found)
    found["quality"]["parts"]["speed"]["fps_end_to_end"] = 20.0
    assert "- real time, 96x96, 2 threads: 20.0 fps (>= 24 fps)" in page(**found)
    del found["quality"]["parts"]["memory"]
    assert "**Not measured**: memory." in page(**found)
    found["quality"]["parts"]["speed"]["load_before"] = 9.2
    assert "**On a busy machine** (load average when a part began: speed 9)" in page(**found)
    empty = page({}, {}, {})
    assert "not measured" in empty
    assert "](quality/" not in empty


def test_pictures_are_linked_only_where_there_are_any() -> None:
    text = page(**results())
    wanted = pictures_of(results()["quality"]["parts"], results()["ablation"])
    assert set(wanted) == {"adherence", "switch", "steps", "drift", "ablation", "worst"}
    assert all(text.count(f"](quality/{name}.png)") == 1 for name in wanted)


def test_the_command_writes_page_plots_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results()
    monkeypatch.setattr(quality_page, "load", lambda: (found["quality"], found["ablation"], found["card"]))
    for name, path in (("PAGE", "quality.md"), ("PICTURES", "quality"), ("MODEL_PAGE", "README.md")):
        monkeypatch.setattr(quality_page, name, tmp_path / path)
    (tmp_path / "README.md").write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    quality_page.main()
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("before\n")
    assert card.endswith("\nafter\n")
    assert "old" not in card
    assert "| colour | 90 % (60 to 98) of 10 | >= 90% | reached |" in card
    for name in ("adherence", "switch", "steps", "drift", "ablation"):
        with Image.open(tmp_path / "quality" / f"{name}.png") as drawn:
            assert drawn.width == 800
            assert drawn.getpixel((0, 0)) is not None
    before = (tmp_path / "quality" / "drift.png").stat().st_mtime_ns
    del found["ablation"]["rows"]
    quality_page.main()
    assert not (tmp_path / "quality" / "ablation.png").exists()
    assert (tmp_path / "quality" / "drift.png").stat().st_mtime_ns == before, "the same data is not drawn again"
    assert capsys.readouterr().out.count("up to date") == 2
