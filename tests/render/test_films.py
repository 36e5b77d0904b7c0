"""From settings to requests: one a film, its seed and its place, and what a batch does when a film fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import app.render.batch
from app.config.lengths import Length
from app.config.settings import given_by_flags, resolve
from app.errors import RenderFailure, UsageMistake
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened
from app.render.batch import RunFlags, film, film_requests, read_scripts, render_batch
from app.render.render import RenderRequest, StreamOpener
from pipelines.types import Transition
from tests.app_doubles import Opener


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def requests(flags: RunFlags | None = None, **given: Any) -> list[RenderRequest]:
    return film_requests(resolve([given_by_flags(given)]), flags or RunFlags())


def lines(count: int) -> str:
    Path("lines.txt").write_text("".join(f"a ball number {index}\n" for index in range(count)))
    return "lines.txt"


def test_a_film_is_asked_for_as_the_settings_say(here: Path) -> None:
    given = {"prompt": ["a ball", "a star"], "seed": 3, "fps": "23.976", "num_output_frames": 32, "sink_size": 2}
    given |= {"crf": 20, "scale": 2, "audio": "song.wav", "report": "r.html", "output": "film.mp4", "model": "embedded"}
    given |= {"transition": "soft", "models_dir": "weights", "offline": True, "threads": 1, "height": 32}
    flags = RunFlags(resume=True, json_progress=True, accept_licence=("longlive-lora",))
    (request,) = requests(flags, **given)
    assert [shot.prompt for shot in request.script.shots] == ["a ball", "a star"]
    assert [shot.at for shot in request.script.shots] == [None, None]
    assert request.script.transition == Transition("soft", 4)
    assert request.length == Length(32, "l")
    assert (request.seed, request.fps, request.crf, request.scale) == (3, Fraction(24000, 1001), 20, 2)
    assert (request.output, request.report, request.audio) == (Path("film.mp4"), Path("r.html"), Path("song.wav"))
    assert (request.resume, request.overwrite, request.json_progress) == (True, False, True)
    engine = request.engine
    assert engine.preset.cache.sink == 2  # type: ignore[attr-defined]  # a SinkWindow
    assert (engine.model, engine.threads, engine.models_dir, engine.offline) == ("embedded", 1, Path("weights"), True)
    assert (engine.height, engine.width) == (32, 192)
    assert engine.accepted_licences == {"longlive-lora"}


def test_what_nobody_gave_is_left_to_the_model_and_the_script(here: Path) -> None:
    (request,) = requests(prompt=["a ball"])
    assert (request.length, request.fps, request.engine.model, request.engine.height) == (None, None, None, None)
    assert (request.output, request.seed) == (Path("out.mp4"), 42)
    assert request.script.transition == Transition("recache")


def test_a_transition_that_was_given_replaces_the_default_of_a_script(here: Path) -> None:
    Path("shots.yaml").write_text("shots:\n  - prompt: a ball\ndefaults: {transition: cut}\n")
    assert read_scripts(resolve([given_by_flags({"script": "shots.yaml"})]))[0].transition == Transition("cut")
    given = given_by_flags({"script": "shots.yaml", "transition": "keep"})
    assert read_scripts(resolve([given]))[0].transition == Transition("keep")


def test_switch_frame_indices_place_prompts_and_the_lines_of_a_file(here: Path) -> None:
    (script,) = read_scripts(resolve([given_by_flags({"prompt": ["a", "b"], "switch_frame_indices": "40"})]))
    assert [shot.at for shot in script.shots] == [Length(0, "l"), Length(40, "l")]
    Path("a.jsonl").write_text('{"prompts": ["a", "b"]}\n{"prompts": ["c", "d"]}\n')
    batch = requests(script="a.jsonl", switch_frame_indices="30")
    assert [[shot.at for shot in request.script.shots][1] for request in batch] == [Length(30, "l")] * 2
    assert [request.output for request in batch] == [Path("out/000.mp4"), Path("out/001.mp4")]


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("mode", "seed", "seeds"),
    [("increment", 7, [7, 8, 9]), ("fixed", 7, [7, 7, 7]), ("random", 7, [-1, -1, -1])],
)
def test_the_films_of_a_batch_have_the_seeds_of_its_mode(here: Path, mode: str, seed: int, seeds: list[int]) -> None:
    batch = requests(prompts=lines(3), seed=seed, seed_mode=mode, output="films", report="r.html")
    assert [request.seed for request in batch] == seeds
    assert [request.output for request in batch] == [Path(f"films/00{index}.mp4") for index in range(3)]
    assert [request.report for request in batch] == [Path(f"films/00{index}.html") for index in range(3)]
    assert [request.script.shots[0].prompt for request in batch] == [f"a ball number {index}" for index in range(3)]


def test_a_drawn_seed_is_the_first_of_its_batch(here: Path) -> None:
    first, second = (request.seed for request in requests(prompts=lines(2), seed=-1))
    assert first >= 0
    assert second == first + 1
    with pytest.raises(UsageMistake, match="--seed -1 would draw other seeds"):
        requests(RunFlags(resume=True), prompts="lines.txt", seed=-1)


def test_a_file_of_one_prompt_fills_a_folder_too(here: Path) -> None:
    assert requests(prompts=lines(1))[0].output == Path("out/000.mp4")


@pytest.mark.parametrize(
    ("given", "flags", "said"),
    [
        ({}, RunFlags(), "There is no prompt. Say what to show"),
        ({"prompt": ["a", " "]}, RunFlags(), "A prompt is empty. Say"),
        ({"script": "no.yaml"}, RunFlags(), "There is no file no.yaml. Check"),
        ({"prompts": "lines.txt", "output": "a.mp4"}, RunFlags(), "makes a folder of films, and a.mp4 is a file name"),
        ({"prompt": ["a"]}, RunFlags(resume=True, overwrite=True), "Give one of them"),
        ({"prompt": ["a"]}, RunFlags(accept_licence=("longlive",)), "no model 'longlive'. Choose from"),
    ],
)
def test_what_goes_not_together_is_refused(given: dict[str, Any], flags: RunFlags, said: str, here: Path) -> None:
    lines(2)
    with pytest.raises(UsageMistake) as refusal:
        requests(flags, **given)
    assert said in str(refusal.value)
    assert [path.name for path in here.iterdir()] == ["lines.txt"]


def rendered(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], int]) -> list[str]:
    """Stand in for render: `act` gets the number of the film; returns the names that were asked for."""
    asked: list[str] = []

    def render(request: RenderRequest, *, console: Console, opener: StreamOpener) -> int:
        asked.append(request.output.name)
        return act(len(asked) - 1)

    monkeypatch.setattr(app.render.batch, "render", render)
    return asked


def fail_on(*bad: int, error: Exception) -> Callable[[int], int]:
    def act(index: int) -> int:
        if index in bad:
            raise error
        return 0

    return act


def test_a_batch_goes_on_after_a_film_that_failed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, fail_on(1, 2, error=UsageMistake("This prompt is too long. Shorten it.")))
    with pytest.raises(RenderFailure, match=r"2 of 4 films in out are not there \(001.mp4, 002.mp4\).*--resume"):
        render_batch(requests(prompts=lines(4)), console=Console(quiet=True), opener=Opener())
    assert asked == ["000.mp4", "001.mp4", "002.mp4", "003.mp4"]
    assert (here / "out").is_dir()


def test_what_is_wrong_with_the_first_film_stops_the_batch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, fail_on(0, error=ValueError("no such size")))
    with pytest.raises(ValueError, match="no such size"):
        render_batch(requests(prompts=lines(4)), console=Console(quiet=True), opener=Opener())
    assert asked == ["000.mp4"]


class Short(Opener):
    """A model that reads no more than so many words; it counts how often it was opened."""

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        def read(prompt: str) -> dict[str, tuple[str, ...]]:
            if len(prompt.split()) > 5:
                raise ValueError(f"The prompt has {len(prompt.split())} words, the model reads at most 5; shorten it.")
            return {}

        return replace(super().__call__(request, seed), read_prompt=read)


def test_a_batch_is_checked_whole_before_its_first_film(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    Path("night.txt").write_text("# a batch\na ball\na star\na ball over the wide and stormy sea\n")
    opener = Short()
    with pytest.raises(UsageMistake) as refused:
        render_batch(requests(prompts="night.txt"), console=Console(quiet=True), opener=opener)
    assert str(refused.value) == (
        "night.txt, line 4: in shot 1 the prompt has 8 words, the model reads at most 5; shorten it."
    )
    assert (asked, len(opener.streams)) == ([], 1)
    assert not (here / "out").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        ('{"prompts": ["a", "b", "c d e f g h"]}', "a.jsonl", "a.jsonl, line 2, prompts[2]: in shot 3 the prompt has"),
        (
            '{"prompts": ["a", "b"], "switch_frame_indices": [4000]}',
            "a.jsonl",
            "line 2, prompts[1]: this shot begins at",
        ),
    ],
)
def test_every_film_of_a_batch_is_placed_and_read(
    line: str, name: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    Path(name).write_text(f'{{"prompts": ["a"]}}\n{line}\n')
    with pytest.raises(UsageMistake) as refused:
        render_batch(requests(script=name), console=Console(quiet=True), opener=Short())
    assert said in str(refused.value)
    assert asked == []


def test_the_names_of_a_batch_are_checked_before_its_first_film(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    Path("out").mkdir()
    Path("out/002.mp4").write_bytes(b"a film of yesterday")
    with pytest.raises(UsageMistake, match=r"out/002\.mp4 exists already\. Add --overwrite"):
        render_batch(requests(prompts=lines(4)), console=Console(quiet=True), opener=Opener())
    assert asked == []
    assert [path.name for path in Path("out").iterdir()] == ["002.mp4"]


def test_a_dry_run_of_several_films_reads_all_of_them_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.render.batch, "OneModel", Short)
    dry: list[Path] = []
    monkeypatch.setattr(app.render.batch, "dry_run", lambda request, **_: dry.append(request.output) or 0)
    Path("night.txt").write_text("a ball\na ball over the wide and stormy sea\n")
    with pytest.raises(UsageMistake, match=r"night\.txt, line 2: in shot 1 the prompt has 8 words"):
        film(resolve([given_by_flags({"prompts": "night.txt"})]), RunFlags(dry_run=True))
    assert dry == []


@pytest.mark.parametrize("code", [130, 143])
def test_ctrl_c_ends_the_whole_batch(code: int, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, lambda index: code if index == 1 else 0)
    assert render_batch(requests(prompts=lines(4)), console=Console(quiet=True), opener=Opener()) == code
    assert asked == ["000.mp4", "001.mp4"]


def test_a_folder_that_cannot_be_is_a_mistake(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    with pytest.raises(UsageMistake, match="cannot be a folder for films"):
        render_batch(requests(prompts=lines(2), output="no/such"), console=Console(quiet=True), opener=Opener())
    assert asked == []


def test_a_dry_run_prints_where_settings_come_from_and_films_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    dry: list[Path] = []
    monkeypatch.setattr(app.render.batch, "dry_run", lambda request, **_: dry.append(request.output) or 0)
    resolved = resolve([given_by_flags({"prompt": ["a ball"], "sink_size": 2})])
    assert film(resolved, RunFlags(dry_run=True)) == 0
    printed = capsys.readouterr().out
    assert "sink_size = 2  (flag)" in printed
    assert "local_attn_size = 12  (preset embedded)" in printed
    assert "height = 192  (model card)" in printed
    assert film(resolved, RunFlags(dry_run=True, as_json=True)) == 0
    assert capsys.readouterr().out == ""
    assert (asked, dry) == ([], [Path("out.mp4")] * 2)


def test_one_film_is_rendered_and_several_are_a_batch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[Path] = []
    together: list[list[Path]] = []

    def one(request: RenderRequest, **_: Any) -> int:
        alone.append(request.output)
        return 3

    def several(requests: list[RenderRequest], **_: Any) -> int:
        together.append([request.output for request in requests])
        return 4

    monkeypatch.setattr(app.render.batch, "render", one)
    monkeypatch.setattr(app.render.batch, "render_batch", several)
    assert film(resolve([given_by_flags({"prompt": ["a ball", "a star"]})]), RunFlags()) == 3
    assert film(resolve([given_by_flags({"prompts": lines(2)})]), RunFlags()) == 4
    assert (alone, together) == ([Path("out.mp4")], [[Path("out/000.mp4"), Path("out/001.mp4")]])


def test_a_dry_run_of_several_films_ends_as_its_worst_one_and_shows_no_defaults(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app.render.batch, "OneModel", Opener)
    monkeypatch.setattr(app.render.batch, "dry_run", lambda request, **_: int(request.output.name == "001.mp4"))
    assert film(resolve([given_by_flags({"prompts": lines(3)})]), RunFlags(dry_run=True)) == 1
    printed = capsys.readouterr().out
    assert "prompts = lines.txt  (flag)" in printed
    assert "(default)" not in printed


def test_an_export_is_told_to_people_and_films_nothing_but_a_dry_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = rendered(monkeypatch, lambda index: 0)
    dry: list[Path] = []
    exported: list[tuple[Path, float | None, bool]] = []

    def export(requests: list[RenderRequest], path: Path, *, fps: float | None, overwrite: bool) -> str:
        exported.append((path, fps, overwrite))
        return f"{len(requests)} film in {path}"

    monkeypatch.setattr(app.render.batch, "export", export)
    monkeypatch.setattr(app.render.batch, "dry_run", lambda request, **_: dry.append(request.output) or 0)
    plain, quick = (resolve([given_by_flags({"prompt": ["a ball"], **more})]) for more in ({}, {"fps": "24"}))
    to = Path("shots.yaml")
    assert film(plain, RunFlags(export=to)) == 0
    assert capsys.readouterr().out == "1 film in shots.yaml\n"
    assert film(quick, RunFlags(export=to, as_json=True, overwrite=True)) == 0
    assert capsys.readouterr().out == ""
    assert (exported, asked, dry) == ([(to, 16.0, False), (to, 24.0, True)], [], [])
    assert film(plain, RunFlags(export=to, dry_run=True)) == 0
    assert (len(exported), asked, dry) == (3, [], [Path("out.mp4")])
