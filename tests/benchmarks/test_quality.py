"""The figures of `rivulet bench quality` on films whose truth is known: painted switches, stops, speeds and drifts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app.cli.main import main
from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from benchmarks import numbers
from benchmarks.pages.figure_file import digest, drawn_from
from benchmarks.quality import adherence, drift, painted, quality, switching, targets, video_to_video
from benchmarks.quality.adherence import JUDGED, Judgement
from benchmarks.quality.intervals import paired, share
from benchmarks.quality.studio import Progress
from pipelines.presets import PRESETS
from tests.app_doubles import save_tiny_model
from training.scorer import Scorer, Verdict
from training.world import FPS, MOTIONS, SIZES, ClipSpec, Switch, positions, render_switch, sample_spec

SIDE = 96
LEFT = ClipSpec("red", "ball", next(iter(SIZES)), "left", "sea", 0.5, 0.5, 0.2, 1)
ROUND = ClipSpec("red", "ball", list(SIZES)[-1], "orbit", "meadow", 0.5, 0.3, 0.2, 1)
"""One that leaves the picture now and then, and one that never does."""


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), text_len=64)


@pytest.fixture(scope="module")
def known(scorer: Scorer) -> dict[str, Any]:
    """What the benchmark says of its own scorer."""
    return painted.measure_scorer(SimpleNamespace(scorer=scorer, size=(SIDE, SIDE), report=str), count=24)


def frames(spec: ClipSpec, seconds: float, start: int = 0) -> NDArray[np.uint8]:
    return painted.paint(spec, SIDE, round(seconds * FPS), start).permute(0, 2, 3, 1).numpy()


def watched(scorer: Scorer, spec: ClipSpec, *parts: NDArray[np.uint8]) -> drift.Watcher:
    watcher = drift.Watcher(scorer, spec, FPS)
    for part in parts:
        watcher.add(part)
    return watcher


def test_intervals_are_those_of_the_books() -> None:
    ninety = share(9, 10)
    assert (round(ninety["low"], 3), round(ninety["high"], 3)) == (0.596, 0.982)  # Wilson 1927, in every table
    assert share(0, 10)["low"] == 0
    assert share(0, 10)["high"] == pytest.approx(0.2775, abs=1e-3)
    assert share(10, 10)["high"] == pytest.approx(1)
    assert math.isnan(share(0, 0)["share"])
    middle, low, high = paired([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) or (0, 0, 0)
    assert middle == 2
    assert (low, high) == pytest.approx((2 - 2.484, 2 + 2.484), abs=0.01)  # t = 4.303, spread 1, three pairs
    assert paired([1.0], [2.0]) is None


def test_true_films_are_right_and_other_prompts_are_at_chance(known: dict[str, Any]) -> None:
    for name in JUDGED:
        assert known[name]["share"] > 0.95, name  # one of 24; test_scorer asks for 99 % of more
        assert known["shuffled"][name]["share"] == pytest.approx(known["shuffled"][name]["chance"], abs=0.05)


def test_the_speed_of_true_films_is_one(known: dict[str, Any]) -> None:
    assert known["speed"]["median"] == pytest.approx(1, abs=0.05)
    assert known["speed"]["within"]["share"] > 0.9


def test_a_frozen_film_is_called_frozen(known: dict[str, Any], scorer: Scorer) -> None:
    assert known["frozen_called_frozen"]["share"] == 1
    moving, stopped = frames(LEFT, 12), frames(LEFT, 0.2, 192)[:1].repeat(12 * FPS, axis=0)
    assert watched(scorer, LEFT, moving).freezes == 0
    assert watched(scorer, LEFT, moving, stopped).freezes == 1
    assert watched(scorer, LEFT, stopped[: 8 * FPS], moving[: 4 * FPS], stopped).freezes == 2
    assert watched(scorer, LEFT, moving[: 4 * FPS], stopped[: 4 * FPS], moving[: 4 * FPS]).freezes == 0
    assert watched(scorer, replace(LEFT, motion="still"), stopped).freezes == 0  # nor is what was asked for


@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion != "still"])
def test_a_true_film_never_freezes(scorer: Scorer, motion: str) -> None:
    spec = replace(LEFT, motion=motion, size=list(SIZES)[-1])
    watcher = watched(scorer, spec, frames(spec, 12))
    assert [each.frozen for each in watcher.judged] == [False] * 3


def test_a_painted_switch_is_seen_when_it_was_painted(known: dict[str, Any], scorer: Scorer) -> None:
    assert known["switch_error"]["looks"]["p90"] <= 2 / FPS
    assert known["switch_error"]["motion"]["median"] <= 0.5
    second = replace(LEFT, color="blue", scene="snow", motion="down", x=0.5, y=0.3, begin=40)
    film = painted_switch(Switch(LEFT, second, frame=40, fade=0), 100)
    for wait in (0, 8, 24):
        seen = switching.times(scorer, film[40 - wait :], LEFT, second, FPS)
        assert seen["looks"] == pytest.approx(wait / FPS, abs=1 / FPS)
        assert seen["motion"] == pytest.approx(wait / FPS, abs=0.5)
        assert seen["all"] == max(seen["looks"], seen["motion"])
    assert switching.times(scorer, film[:40], LEFT, second, FPS) == dict.fromkeys(("looks", "motion", "all"), math.inf)
    assert switching.times(scorer, film[:40], LEFT, LEFT, FPS) == dict.fromkeys(("looks", "motion", "all"), 0)


def painted_switch(switch: Switch, count: int) -> torch.Tensor:
    return (render_switch([switch], count, size=SIDE)[0] * 255).round().to(torch.uint8)


def test_a_cut_jumps_and_a_film_that_goes_on_does_not() -> None:
    film = painted.paint(LEFT, SIDE, 48)
    other = painted.paint(replace(LEFT, scene="snow"), SIDE, 8)
    assert switching.jump(film[:30], film[30:]) < 2
    assert switching.jump(film[:30], other) > 8


def test_a_true_film_does_not_drift_and_a_fading_one_does(scorer: Scorer) -> None:
    card = {"drift_spreads": (0.0128, 0.0110, 0.0116, 0.0021, 0.228)}
    true = watched(scorer, ROUND, frames(ROUND, 16))
    found = drift.compare([true], 16 / 60, card["drift_spreads"])
    assert found["seconds_compared"] == 8
    assert (found["first"]["right"], found["last"]["right"], found["freezes"]) == (1, 1, 0)
    assert found["change"] < 0.5
    assert [point["right"] for point in found["curve"]] == [1.0] * 4
    bleached = (frames(ROUND, 8, 128).astype(np.float32) * 0.5 + 128).astype(np.uint8)
    faded = drift.compare([watched(scorer, ROUND, frames(ROUND, 8), bleached)], 16 / 60, card["drift_spreads"])
    assert faded["change"] > 3
    assert faded["changes"]["luma_mean"] > 3
    other = replace(ROUND, color="green")
    turned = drift.compare([watched(scorer, ROUND, frames(ROUND, 8), frames(other, 8, 128))], 16 / 60, None)
    assert turned["last"]["color"]["share"] == 0
    assert turned["last"]["right"] == 0.75


def test_the_psnr_is_that_of_the_error(monkeypatch: pytest.MonkeyPatch, scorer: Scorer) -> None:
    from models.taehv import AutoencoderTAEHV

    autoencoder = AutoencoderTAEHV(latent_channels=4, encoder_widths=(8,) * 4, decoder_widths=(8,) * 4)
    monkeypatch.setattr(AutoencoderTAEHV, "encode", lambda self, pixels, pad: pixels)
    monkeypatch.setattr(AutoencoderTAEHV, "decode", lambda self, latents: latents + 0.01)
    loaded = SimpleNamespace(components=SimpleNamespace(autoencoder=autoencoder))
    studio = SimpleNamespace(loaded=loaded, scorer=scorer, size=(SIDE, SIDE), report=str)
    found = painted.measure_autoencoder(studio, count=3)
    assert found["psnr_db"] == pytest.approx(40, abs=1e-3)
    assert found["color"]["right"] == found["color"]["of"] == 3
    loaded.components.autoencoder = object()
    with pytest.raises(UsageMistake, match="autoencoder"):
        painted.measure_autoencoder(studio, count=3)


def seen(spec: ClipSpec, **confidences: float) -> Verdict:
    """What a scorer without a fault would say of a film of `spec`."""
    looks = {name: getattr(spec, name) for name in (*JUDGED, "size", *adherence.EXTRAS)}
    sure = dict.fromkeys(JUDGED, 0.9) | confidences
    return Verdict(**looks, confidences=sure, speed=1.0, track=np.zeros((1, 2)))


def test_tallies_tables_and_the_worst_agree_on_what_is_wrong() -> None:
    star, other = replace(LEFT, shape="star"), replace(LEFT, shape="star", color="blue", scene="snow")
    right, wrong, worst = (Judgement(asked, seen(LEFT)) for asked in (LEFT, star, other))
    assert (right.wrong, wrong.wrong, worst.wrong) == ((), ("shape",), ("color", "shape", "scene"))
    assert right.badness < wrong.badness < worst.badness
    assert wrong.badness > Judgement(star, seen(LEFT, shape=0.5)).badness, "the surer, the worse"
    scores = adherence.tally([right, wrong, worst])
    assert [scores[name]["right"] for name in (*JUDGED, "all")] == [2, 1, 3, 2, 1]
    table = adherence.confusion([right, wrong, worst])
    assert table["shape"]["star"] == {"ball": 2}
    assert table["shape"]["ball"] == {"ball": 1}
    assert table["motion"]["left"] == {"left": 3}
    assert set(table["motion"]) == set(MOTIONS)


def test_what_else_a_clip_has_is_told_apart() -> None:
    rng = np.random.default_rng(1)
    table = adherence.conditions([Judgement(sample_spec(rng), seen(LEFT)) for _ in range(60)])
    assert set(table) == set(adherence.EXTRAS)
    assert not {*JUDGED, "size"} & set(table)
    for name, kinds in table.items():
        assert sum(kind["own"]["of"] for kind in kinds.values()) == 60
        shown = getattr(LEFT, name) or "none"
        assert {kind: found["own"]["share"] for kind, found in kinds.items()} == {kind: kind == shown for kind in kinds}


def test_the_picture_of_the_worst_knows_what_it_was_drawn_from(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "worst.png"
    found = run(tiny, "adherence", sheet=file)["parts"]["adherence"]
    assert 0 < len(found["worst"]) <= adherence.WORST
    assert drawn_from(file) == digest(found["worst"])
    with Image.open(file) as sheet:
        assert sheet.width == adherence.MOMENTS * 132 - 4
    assert all(failure["asked"] != failure["seen"] for failure in found["worst"])


AMOUNT = quality.Counts(prompts=2, pairs=1, steps_prompts=1, clips=3, seconds=2.0, after=2.5, films=1, minutes=0.15)


def run(tiny: Path, *parts: str, **more: Any) -> dict[str, Any]:
    request = EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu", threads=1)
    return quality.measure(request, AMOUNT, parts=parts, report=str, **more)


def test_parts_are_kept_one_by_one_and_put_to_what_is_known(tiny: Path) -> None:
    kept: list[list[str]] = []
    first = run(tiny, "switch", "size", keep=lambda result: kept.append(list(result["parts"])))
    assert kept == [["size"], ["size", "switch"]]
    second = run(tiny, "drift", "steps", known=lambda: json.loads(json.dumps(first)))
    assert list(second["parts"]) == ["size", "switch", "steps", "drift"]
    assert second["parts"]["switch"] == json.loads(json.dumps(first))["parts"]["switch"]
    again = run(tiny, "drift")["parts"]["drift"]["sink"]
    known = second["parts"]["drift"]["sink"]
    assert repr({**again, "fps": 0}) == repr({**known, "fps": 0}), "the same seeds give the same films"
    assert [row["steps"] for row in second["parts"]["steps"]["rows"]] == sorted(
        {1, 2, 4, 8, 32, second["parts"]["steps"]["own"]}
    )
    assert set(second["parts"]["drift"]) >= {"sink", "no sink"}
    assert all(kind in second["parts"]["switch"] for kind in switching.KINDS)
    names = [line.name for line in targets.figures(second["parts"])]
    assert len(names) == len(set(names))
    assert quality.table(second).row_count == len(names)


def test_two_runs_at_once_keep_the_parts_of_both(tiny: Path) -> None:
    file: dict[str, Any] = {}

    def keep(result: dict[str, Any]) -> None:
        file.update(json.loads(json.dumps(result)))

    def other(result: dict[str, Any]) -> None:
        """Is done while this one still measures its first part."""
        if len(result["parts"]) == 1 and "scorer" in result["parts"]:
            run(tiny, "size", known=lambda: file, keep=keep)

    last = run(tiny, "scorer", "reconstruction", known=lambda: file, keep=other)
    assert set(last["parts"]) == {"size", "scorer", "reconstruction"}
    assert last["parts"]["size"] == file["parts"]["size"]


def test_a_part_that_an_older_benchmark_wrote_is_left_out_and_named(tiny: Path) -> None:
    known = {"parts": {"size": {"bytes": 7}, "steps": {"rows": []}, "memory": 3, "gone": {}}}
    request, said = EngineRequest(PRESETS["embedded"], model=str(tiny), device="cpu", threads=1), list[str]()
    result = quality.measure(request, AMOUNT, parts=("size",), known=lambda: known, report=said.append)
    assert set(result["parts"]) == {"size", "steps"}
    assert [line.split(":")[0] for line in said if "anew" in line] == ["memory"]


def test_every_noise_plan_is_asked_once_and_says_what_the_card_does_not_list(tiny: Path) -> None:
    rows = run(tiny, "plans")["parts"]["plans"]["rows"]
    assert {row["plan"] for row in rows} == {preset.plan for preset in PRESETS.values()}
    assert [row["chunk"] for row in rows if row["plan"] == "serial-clean"] == [3, 1]
    strange = {row["name"]: row["not_trained_for"] for row in rows}
    assert strange["embedded"] == []
    assert "plan rolling-window" in strange["rolling-forcing"]
    assert all(0 <= row["all"]["share"] <= 1 and row["all"]["of"] == AMOUNT.steps_prompts for row in rows)


def test_films_are_made_over_from_each_of_the_later_levels(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float | None] = []
    usual = video_to_video.play

    def play(*given: Any, camera: Any) -> torch.Tensor:
        start = camera and camera(range(1, 4))
        began.append(start and start.scale)
        assert start is None or (start.latents.shape[1] == 3 and start.level == 1000 * start.scale)
        return usual(*given, camera=camera)

    monkeypatch.setattr(video_to_video, "play", play)
    rows = run(tiny, "video")["parts"]["video"]["rows"]
    assert began == [None, 0.9, 0.75, 0.5]
    assert [row["noise"] for row in rows] == pytest.approx([1.0, 0.9, 0.75, 0.5])
    spec = sample_spec(np.random.default_rng(3), simple=True)
    other = video_to_video.other_looks(spec, 5)
    assert (other.color, other.scene) != (spec.color, spec.scene)
    assert replace(other, color=spec.color, scene=spec.scene) == spec
    way = positions(spec, 40)
    assert video_to_video.distance(way, spec) == pytest.approx(0, abs=1e-6)
    assert video_to_video.distance(way + np.array([0.05, 0.0]), spec) == pytest.approx(0.05, abs=1e-6)
    assert video_to_video.distance(np.full_like(way, np.nan), spec) == 1.0
    late = video_to_video.begin_late(PRESETS["embedded"], 2).schedule.denoising_step_list
    assert late == (1000, 250)


def test_every_part_there_is_has_lines_and_a_missing_one_says_so() -> None:
    lines = targets.figures({})
    assert {line.part for line in lines} == set(quality.PARTS)
    assert all(line.value == "not measured" and line.passed is None for line in lines)


def test_a_target_is_reached_or_missed() -> None:
    speed = {"width": 1, "height": 1, "threads": 2, "fps_end_to_end": 24.0, "first_frame_s": 0.5, "load_s": 3.6}
    assert [line.passed for line in targets.figures({"speed": speed}) if line.part == "speed"] == [True, True, False]
    right, wrong = share(9, 10), share(8, 10)
    found: dict[str, Any] = {"color": right, "shape": wrong, "motion": right, "scene": right, "all": wrong}
    found["rich"] = {"all": wrong}
    found["speed"] = {"median": 0.79, "within": share(1, 2)}
    lines = {line.name: line.passed for line in targets.figures({"adherence": found}) if line.part == "adherence"}
    assert (lines["colour"], lines["shape"], lines["all four"]) == (True, False, None)
    assert [passed for name, passed in lines.items() if name.startswith("speed")] == [False]
    found["speed"] = {"median": None, "within": share(0, 0)}
    assert targets.figures({"adherence": found})


def test_parts_and_counts_are_what_was_asked_for() -> None:
    assert quality.chosen_parts(None, quality.PARTS) == quality.PARTS
    assert quality.chosen_parts("drift, size", quality.PARTS) == ("size", "drift")
    for wrong in ("drift,quallity", ","):
        with pytest.raises(UsageMistake, match=r"[Cc]hoose from speed"):
            quality.chosen_parts(wrong, quality.PARTS)
    few = quality.counts(quick=False, prompts=20, seconds=3, minutes=1)
    assert (few.prompts, few.pairs, few.films, few.seconds, few.minutes) == (20, 6, 1, 3, 1)
    whole = quality.counts(quick=False, prompts=None, seconds=None, minutes=None)
    assert whole == quality.Counts()
    assert quality.counts(quick=True, prompts=None, seconds=None, minutes=None) == quality.QUICK


def test_the_command_keeps_parts_where_it_was_told_to(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "quality.json"
    command = ["bench", "quality", "--model", str(tiny), "--json", str(file)]
    assert main([*command, "--only", "size"]) == 0
    assert main([*command, "--only", "memory", "--quick", "--threads", "1"]) in (0, 1)
    parts = json.loads(file.read_text())["parts"]
    assert [(name, part["quick"]) for name, part in parts.items()] == [("memory", True), ("size", False)]
    assert parts["memory"]["latent_frames"] >= quality.QUICK.latent_frames
    assert main([*command, "--only", "sise"]) == 2
    assert "choose from" in capsys.readouterr().err
    file.write_text("{")
    assert main([*command, "--only", "size"]) == 2
    assert "not JSON" in capsys.readouterr().err
    monkeypatch.setattr(numbers, "CHECKOUT", tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert main(["bench", "quality", "--model", str(tiny), "--only", "size", "--quick"]) == 0
    assert list((tmp_path / "benchmarks" / "results").iterdir()) == []


def test_progress_tells_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0, 20.0, 300.0, 600.0))
    monkeypatch.setattr("benchmarks.quality.studio.perf_counter", lambda: next(clock))
    told: list[str] = []
    progress = Progress(told.append, "films", 40)
    for amount in (1, 9, 20, 10):
        progress.add(amount)
    assert told == ["films: 10 of 40 films, about 60 s left", "films: 30 of 40 films, about 2 min left"]
