"""`image:` and `extend:` of shot lists: where they may stand, whose folder they count from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import UsageMistake
from app.jobs.job import VideoRequest, new_job
from app.script.importers import load_script, parse_script
from app.script.script import Script
from app.script.shot_list import export_native, parse_native

WRITTEN = {
    "film.yaml": "image: cat.png\nshots:\n- prompt: a ball\n- prompt: a star\n",
    "shot.yaml": "shots:\n- prompt: a ball\n  image: cat.png\n- prompt: a star\n",
    "film.toml": 'image = "cat.png"\n[[shots]]\nprompt = "a ball"\n[[shots]]\nprompt = "a star"\n',
    "film.json": '{"image": "cat.png", "shots": [{"prompt": "a ball"}, {"prompt": "a star"}]}',
    "list.json": '[{"start": 0, "prompt": "a ball", "image": "cat.png"}, {"start": 4, "prompt": "a star"}]',
    "table.csv": "start,prompt,image\n0,a ball,cat.png\n4,a star,\n",
    "table.tsv": "prompt\tImage path\na ball\tcat.png\na star\t\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_notation_of_shots_names_the_picture_of_its_own_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / name).write_text(WRITTEN[name])
    (script,) = load_script(folder / name)
    assert script.pictures is not None
    assert (script.pictures.kind, script.pictures.file) == ("image", str(folder / "cat.png"))
    assert [str(shot.prompt) for shot in script.shots] == ["a ball", "a star"]
    (clip,) = parse_script(WRITTEN[name].replace("Image path", "image").replace("image", "extend"), name)
    assert clip.pictures is not None
    assert (clip.pictures.kind, clip.pictures.file) == ("extend", "cat.png")


def test_a_file_elsewhere_is_named_from_the_root_and_films_of_a_table_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extend: /clips/in.mp4\nshots:\n- prompt: a ball\n")
    (script,) = load_script(tmp_path / "a.yaml")
    assert script.pictures is not None
    assert script.pictures.file == "/clips/in.mp4"
    films = parse_script(
        "prompt,image,extend\na ball,cat.png,\na star,,in.mp4\na moon,,\n", "films.csv", as_videos=True
    )
    named = [None if film.pictures is None else (film.pictures.kind, film.pictures.file) for film in films]
    assert named == [("image", "cat.png"), ("extend", "in.mp4"), None]


def test_a_shot_list_with_a_picture_is_written_and_read_back() -> None:
    (script,) = parse_script('image: "a \\"cat\\".png"\nshots:\n- prompt: a ball\n', "a.yaml")
    again = parse_native(export_native(script), "b.yaml")
    assert (again, again.pictures) == (script, script.pictures)
    assert isinstance(again, Script)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "a.yaml",
            "shots:\n- prompt: a ball\n- prompt: a star\n  image: cat.png\n",
            "a.yaml, line 4, shots[1].image: only a film's beginning can be a picture. Move image to the first shot",
        ),
        (
            "a.yaml",
            "image: cat.png\nshots:\n- prompt: a ball\n  extend: in.mp4\n",
            "a.yaml, line 4, shots[0].extend: a film begins with one picture or clip, and a.yaml, line 1, image names",
        ),
        ("a.yaml", "image: [1]\nshots:\n- prompt: a ball\n", "a.yaml, line 1, image: this is a list"),
        ("a.yaml", 'image: ""\nshots:\n- prompt: a ball\n', "is empty or no text. Give the name of a file"),
        ("a.csv", "prompt,image\na ball,\na star,cat.png\n", "a.csv, line 3: only a film's beginning can be a picture"),
        ("a.csv", "prompt,image,extend\na ball,cat.png,in.mp4\n", "Keep one of them"),
    ],
)
def test_what_has_no_meaning_is_refused_in_its_place(name: str, text: str, told: str) -> None:
    with pytest.raises(UsageMistake) as refused:
        parse_script(text, name)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "text", ["image: /etc/passwd\nshots:\n- prompt: a ball\n", "shots:\n- prompt: a ball\n  extend: ../../in.mp4\n"]
)
def test_a_job_opens_no_file_of_the_server(text: str) -> None:
    with pytest.raises(UsageMistake, match=r"script.yaml, line \d.*: a job opens no file of this machine"):
        new_job("video_1", VideoRequest(script=text), models=("embedded",))
