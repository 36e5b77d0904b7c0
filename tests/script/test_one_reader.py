"""What people bring from elsewhere, through every door: the command line, its dry run and export, jobs, and Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app.loading.model
import app.render.batch
import app.render.estimate
from app.cli.main import main
from app.config.lengths import Rhythm
from app.errors import UsageMistake
from app.jobs.job import ScriptKind, VideoRequest
from app.jobs.queue import Jobs
from app.render.filming import film_script
from app.render.render import render
from app.script.importers import load_script
from app.script.shot_list import parse_native
from app.script.timeline import resolve
from app.server.access import Access
from app.server.desk import Desk
from app.server.desk_work import plan
from app.server.restore import Takes
from pipelines import Controls, film, open_stream
from tests.app_doubles import Opener, save_tiny_model
from weights.catalog import MODELS
from weights.find import get_model

RED, BLUE, YELLOW = "a red ball bounces over the sea", "a blue star over the snow", "a yellow heart at night"
TRAVEL = f"0: {RED}\n30: {BLUE}\n75: {YELLOW}\n"
SRT = f"1\n00:00:00,000 --> 00:00:04,000\n{RED}\n\n2\n00:00:04,000 --> 00:00:08,000\n{BLUE}\n"
CASES: dict[str, tuple[str, list[tuple[int, str]], int]] = {
    # name -> (text, where each shot is asked to begin in frames, and the frames of the film, at 16 a second)
    "night shots.yaml": (
        "\ufeffversion: 1\r\nshots:\r\n"
        f"  - at: 0s\r\n    prompt: {RED}\r\n  - at: 4s\r\n    prompt: {BLUE}\r\nend: 8s\r\n",
        [(0, RED), (64, BLUE)],
        128,
    ),
    "comments.txt": (f"# my storm film, take 2\n{RED}\n# then\n{BLUE}\n", [(0, RED), (160, BLUE)], 320),
    "travel2.txt": (TRAVEL, [(0, RED), (30, BLUE), (75, YELLOW)], 320),
    "comfy_travel.txt": (f"0:'{RED}',\n16:'{BLUE}'\n", [(0, RED), (16, BLUE)], 320),
    "deforum.json": (
        json.dumps({"0": RED, "30": BLUE, "75": YELLOW}, indent=2),
        [(0, RED), (30, BLUE), (75, YELLOW)],
        320,
    ),
    "subs.srt": (SRT, [(0, RED), (64, BLUE)], 128),
    "prompts.csv": (
        f'time,prompt\n0,"a red ball, over the sea"\n8,"{BLUE}"\n',
        [(0, RED[:10] + ", over the sea"), (128, BLUE)],
        320,
    ),
    "film": (
        f"WEBVTT\n\n00:00.000 --> 00:04.000\n{RED}\n\n00:04.000 --> 00:06.000\n{BLUE}\n",
        [(0, RED), (64, BLUE)],
        96,
    ),
}
REFUSED: dict[str, tuple[str, str]] = {
    "macros.txt": ('! {S}="cat"\n{S} runs\n', "line 1: "),
    "wild.txt": ("a ball\na {red|blue} star\n", "line 2: "),
    "half.txt": ("0: a ball\nover the sea\n30: a star\n", "line 2: this line has no time"),
    "late.srt": (SRT.replace("00:00:00,000", "00:00:01,000"), "line 2: the first shot begins at 1s"),
    "sums.json": ('{"0": "a",\n"max_f-1": "b"}', "line 2: "),
    "wide.csv": ("time,prompt\n0,a,b\n", "line 2: 3 columns"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all these files in it, and a stream that paints in place of the model."""
    monkeypatch.chdir(tmp_path)
    for name, (text, *_) in {**CASES, **REFUSED}.items():
        Path(name).write_text(text, encoding="utf-8", newline="")
    opener = Opener()
    monkeypatch.setattr(app.render.estimate, "open_stream", opener)
    monkeypatch.setattr(
        app.render.batch, "render", lambda request, console: render(request, console=console, opener=opener)
    )
    return tmp_path


TAKES = Takes(Path("nowhere"), Access(b"0" * 32))
"""Of no live film: the requests of this file name none."""


def request_for(name: str, text: str) -> VideoRequest:
    kind = Path(name).suffix[1:]
    known = ScriptKind.__args__  # type: ignore[attr-defined]
    return VideoRequest.model_validate({"script": text, "script_kind": kind if kind in known else "txt"})


def body_of(name: str, text: str) -> bytes:
    return request_for(name, text).model_dump_json(include={"script", "script_kind"}).encode()


def planned(data: dict[str, Any]) -> tuple[list[tuple[int, str]], int]:
    return [(shot["requested"]["frame"], shot["prompt"]) for shot in data["shots"]], data["totals"]["frames"]


@pytest.mark.parametrize("name", CASES)
def test_every_door_reads_the_same_shots(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, shots, frames = CASES[name]
    (script,) = load_script(Path(name))
    timeline = resolve(script, length=None, fps=16, rhythm=Rhythm(3, 3))
    assert [(shot.requested.frame, shot.prompt) for shot in timeline.shots] == shots
    assert timeline.frames == frames
    assert main(["render", name, "--dry_run", "--json"]) == 0
    assert planned(json.loads(capsys.readouterr().out.splitlines()[-1])) == (shots, frames)
    assert main(["render", name, "--export", "exported.yaml"]) == 0
    assert parse_native(Path("exported.yaml").read_text(), "exported.yaml") == script
    jobs = Jobs(here / "jobs")
    assert planned(plan(TAKES, body_of(name, text))) == (shots, frames)
    job = jobs.create(request_for(name, text))
    assert (job.shots, job.frames) == (len(shots), frames)
    jobs.close()


def test_scripts_of_every_kind_are_ordered_over_http(here: Path) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from app.server.jobs_api import jobs_router

    jobs = Jobs(here / "jobs")
    server = FastAPI()
    desk = Desk(TAKES.folder, TAKES.access)
    server.include_router(jobs_router(jobs, desk))
    with TestClient(server) as client:
        for name, (text, shots, frames) in CASES.items():
            body = request_for(name, text).model_dump(include={"script", "script_kind"})
            assert planned(client.post("/v1/videos/plan", json=body).json()) == (shots, frames)
            made = client.post("/v1/videos", json=body)
            assert (made.status_code, made.json()["frames"]) == (201, frames)
        for name, (text, _) in REFUSED.items():
            body = request_for(name, text).model_dump(include={"script", "script_kind"})
            for route in ("", "/plan", "/check"):
                answer = client.post(f"/v1/videos{route}", json=body)
                assert answer.status_code == 400
                assert answer.json()["error"]["message"].startswith(f"script.{body['script_kind']}, line ")
    desk.close()
    jobs.close()


@pytest.mark.parametrize("name", REFUSED)
def test_every_door_refuses_with_the_same_sentence(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, said = REFUSED[name]
    with pytest.raises(UsageMistake) as caught:
        load_script(Path(name))
    sentence = str(caught.value)
    assert sentence.startswith(f"{name}, {said}")
    for more in ([], ["--dry_run"], ["--export", "exported.yaml"]):
        assert main(["render", name, *more]) == 2
        assert capsys.readouterr().err == f"rivulet: {sentence}\n"
    with pytest.raises(UsageMistake) as caught:
        film_script(name)
    assert str(caught.value) == sentence
    jobs = Jobs(here / "jobs")
    for ask in (lambda: plan(TAKES, body_of(name, text)), lambda: jobs.create(request_for(name, text))):
        with pytest.raises(UsageMistake) as caught:
            ask()
        assert str(caught.value).split(", ", 1)[1] == sentence.split(", ", 1)[1]
    jobs.close()
    assert not list(here.glob("out*"))


@pytest.mark.parametrize(
    "words",
    [
        ["nothing.srt"],
        ["my nothing.csv"],
        ["subs.srt", "comments.txt"],
        ["night shots.yaml", "a red ball"],
        ["a red ball", "night shots.yaml"],
        ["subs.srt", "--prompt", "a red ball"],
        ["subs.srt", "--script", "comments.txt"],
        ["subs.srt", "--prompts", "comments.txt"],
        ["--script", "nothing"],
        ["jobs"],
        ["."],
    ],
)
def test_no_name_of_a_file_is_ever_filmed(words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "jobs").mkdir()
    assert main(["render", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rivulet: ")
    assert told.count("\n") == 1
    assert not list(here.glob("out*"))


def test_words_that_look_like_files_are_said_with_prompt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--prompt", "shots.yaml", "--prompt", "subs.srt", "--dry_run", "--json"]) == 0
    shots, _ = planned(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [prompt for _, prompt in shots] == ["shots.yaml", "subs.srt"]


def test_notes_of_a_script_are_told_by_every_door(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "0-16: a ball --neg rain\n20-40: a star\n"
    Path("notes.txt").write_text(text)
    assert main(["render", "notes.txt", "--dry_run", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out.splitlines()[-1])["notes"]
    assert len(notes) == 2
    assert main(["render", "notes.txt", "--dry_run"]) == 0
    assert all(note in capsys.readouterr().out for note in notes[:1])
    jobs = Jobs(here / "jobs")
    jobs.close()
    body = json.dumps({"script": text, "script_kind": "txt"}).encode()
    assert plan(TAKES, body)["notes"] == notes


# ------------------------------------------------------------------ too long for the model


TOO_LONG = " ".join(["a very big red ball"] * 4)
LONG_SHOTS = (
    f"shots:\n  - prompt: a red ball\n  - at: 2s\n    prompt: {TOO_LONG}\n  - at: 4s\n    prompt: a star\nend: 6s\n"
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real model that reads 16 words, under the embedded model's name."""
    monkeypatch.chdir(tmp_path)
    model = get_model(str(save_tiny_model(tmp_path / "model")))
    monkeypatch.setitem(MODELS, "embedded", model)


@pytest.mark.usefixtures("tiny")
def test_a_prompt_that_is_too_long_is_told_with_file_line_and_shot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("long.yaml").write_text(LONG_SHOTS)
    said = "in shot 2 the prompt has 20 words, the model reads at most 16; shorten it."
    for more in ([], ["--dry_run"]):
        assert main(["render", "long.yaml", "--threads", "1", *more]) == 2
        assert capsys.readouterr().err == f"rivulet: long.yaml, line 3, shots[1]: {said}\n"
    assert main(["render", "a red ball", TOO_LONG, "--threads", "1"]) == 2
    assert capsys.readouterr().err == f"rivulet: Shot 2: {said.removeprefix('in shot 2 ')}\n"
    with pytest.raises(UsageMistake, match=r"long\.yaml, line 3, shots\[1\]: in shot 2 the prompt has 20 words"):
        film_script("long.yaml")
    Path("batch.txt").write_text(f"a red ball\na blue star\n# the third\n{TOO_LONG}\n")
    assert main(["render", "--prompts", "batch.txt", "--threads", "1", "--duration", "9f"]) == 2
    assert capsys.readouterr().err == f"rivulet: batch.txt, line 4: {said.replace('shot 2', 'shot 1')}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.txt", "long.yaml", "model"]


@pytest.mark.usefixtures("tiny")
def test_a_style_counts_to_the_length_of_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    Path("styled.yaml").write_text(f"defaults: {{style: {TOO_LONG[:60]}}}\nshots:\n  - prompt: a red ball at sea\n")
    assert main(["render", "styled.yaml", "--threads", "1"]) == 2
    assert "shorten it, its style included.\n" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_a_batch_loads_its_model_once_and_films_as_single_renders_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[object] = []
    load = app.loading.model.load_model
    monkeypatch.setattr(app.loading.model, "load_model", lambda request: loads.append(request) or load(request))
    Path("batch.txt").write_text("a red ball\na blue star\n")
    films = ["--duration", "9f", "--threads", "1", "--scale", "1"]
    assert main(["render", "--prompts", "batch.txt", "--seed", "5", *films]) == 0
    assert len(loads) == 1
    assert main(["render", "a blue star", "--seed", "6", "-o", "one.mp4", *films]) == 0
    hashes = [json.loads(Path(name).read_text())["film"]["sha256"] for name in ("out/001.json", "one.json")]
    assert hashes[0] == hashes[1]


# ------------------------------------------------------------------ Python


@pytest.mark.usefixtures("tiny")
def test_a_script_is_filmed_in_python_as_its_shots_are_placed() -> None:
    Path("travel.txt").write_text("0: a red ball\n9: a blue star\n")
    frames = film_script("travel.txt", seconds=21 / 16, seed=7)
    stream = open_stream(seed=7)
    chunks = [stream.next_chunk(Controls(prompt)).pixels for prompt in ("a red ball", "a blue star")]
    np.testing.assert_array_equal(frames, np.concatenate([chunk for chunk in chunks if chunk is not None]))


def test_a_script_is_no_prompt_in_python_either() -> None:
    for name in ("night shots.yaml", "travel.txt", "subs.SRT", Path("film.csv")):
        with pytest.raises(ValueError, match=r"names a script: give it to film_script of app\.render\.filming"):
            film(name)  # type: ignore[arg-type]


def test_a_file_of_several_films_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompts": ["a"]}\n{"prompts": ["b"]}\n')
    with pytest.raises(UsageMistake, match="holds 2 films"):
        film_script(tmp_path / "a.jsonl")
