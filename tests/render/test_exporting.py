"""Scripts as files again: what the command line writes reads back as what it would have filmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli.main import main
from app.config.lengths import Length, Rhythm
from app.errors import UsageMistake
from app.render.batch import RunFlags, film_requests
from app.render.exporting import export
from app.script.importers import load_script
from app.script.timeline import resolve
from tests.render.test_films import here, requests  # pyright: ignore[reportUnusedImport]  # a fixture
from tests.script.test_shot_list import FULL

__all__ = ["here"]


def test_a_shot_list_comes_back_with_the_length_of_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("shots.yaml").write_text(FULL)
    assert main(["render", "shots.yaml", "--duration", "40s", "--export", "again.yaml"]) == 0
    assert capsys.readouterr().out == "again.yaml: a shot list of 3 shots.\n"
    (before,), (after,) = load_script(Path("shots.yaml")), load_script(Path("again.yaml"))
    assert (after.shots, after.style, after.transition) == (before.shots, before.style, before.transition)
    assert after.end == Length(40, "s") != before.end
    assert sorted(file.name for file in here.iterdir()) == ["again.yaml", "shots.yaml"], "something was filmed"


def test_longlives_lines_carry_their_switches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "a ball", "a star", "a ring", "--duration", "81l", "--export", "a.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert "a.jsonl: 1 film for LongLive." in printed
    line = json.loads(Path("a.jsonl").read_text())
    assert line["prompts"] == ["a ball", "a star", "a ring"]
    switches = ", ".join(str(index) for index in line["switch_frame_indices"])
    assert f"switch_frame_indices: {switches} and num_output_frames: 81." in printed
    (script,) = load_script(Path("a.jsonl"))
    rhythm, length = Rhythm(3, 3), Length(81, "l")
    again = resolve(script, length=length, fps=16, rhythm=rhythm)
    first = resolve(requests(prompt=line["prompts"])[0].script, length=length, fps=16, rhythm=rhythm)
    assert [shot.actual for shot in again.shots] == [shot.actual for shot in first.shots]
    assert [shot.actual.latent for shot in again.shots[1:]] == line["switch_frame_indices"]


def test_a_batch_is_a_line_a_film(here: Path) -> None:
    Path("lines.txt").write_text("a ball\na star\n")
    batch = requests(prompts="lines.txt")
    assert "2 films" in export(batch, Path("a.jsonl"), fps=16, overwrite=False)
    assert [script.prompts for script in load_script(Path("a.jsonl"))] == [("a ball",), ("a star",)]
    with pytest.raises(UsageMistake, match=r"holds one film, not 2. Give a\.jsonl"):
        export(batch, Path("a.yaml"), fps=16, overwrite=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a ball", "--export", "a.txt"], "a.txt is no name for an exported script. Give a.yaml, or a.jsonl"),
        (["a ball", "--export", "there.yaml"], "there.yaml exists already. Add --overwrite"),
        (["a ball", "--export", "no/a.yaml"], "There is no folder no. Create it"),
        (["a", "b", "--transition", "cut", "--export", "a.jsonl"], "cannot carry its cut transition. Export"),
        (["--resume", "--export", "a.yaml"], "there is no prompt. Say"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.yaml").write_text("precious")
    assert main(["render", *words]) == 2
    told = capsys.readouterr().err
    assert said.lower() in told.lower()
    assert told.count("\n") == 1
    assert [file.name for file in here.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "precious"


def test_an_export_may_go_with_a_dry_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import app.render.batch

    dry: list[Path] = []
    monkeypatch.setattr(app.render.batch, "dry_run", lambda request, **_: dry.append(request.output) or 0)
    assert main(["render", "a ball", "--export", "a.yaml", "--dry_run"]) == 0
    assert Path("a.yaml").is_file()
    assert dry == [Path("out.mp4")]


def test_an_output_with_a_slash_is_a_folder_of_pictures(here: Path) -> None:
    assert requests(prompt=["a ball"], output="pictures/")[0].output == Path("pictures/frame_%06d.png")
    Path("lines.txt").write_text("a ball\n")
    assert requests(prompts="lines.txt", output="films/")[0].output == Path("films/000.mp4")
    assert film_requests is not None
    assert RunFlags().export is None
