"""Whose file is whose, and what a film is not to tell."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import UsageMistake
from app.media.join import read_metadata
from app.media.stills import sink_kind
from app.media.subtitles import numbered
from app.record import sidecar
from tests.media.test_joining import tone
from tests.record.killed import alone, as_before
from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH

NAMES = (
    "film.mp4",
    "film.MP4",
    "film.gif",
    "film.webp",
    "film.gif.mp4",
    "film.mp4.mp4",
    "film_%06d.png",
    "film_%d.png",
)
NAMES += ("film%d.mp4", "film%06d.mp4", "film #1.mp4", "film.png.mp4", "film/frame_%06d.png", "%d.mp4", "film.mp4.gif")


def test_no_two_films_share_a_file() -> None:
    taken: dict[Path, str] = {}
    for name in NAMES:
        request = replace(film_request(Path("x")), output=Path("x") / name)
        beside = [sidecar.beside(request.output, ending) for ending in (".json", ".vtt")]
        for path in {request.output, request.part, request.folder, *beside}:
            assert path not in taken, f"{path} is of {name} and of {taken[path]}"
            taken[path] = name


def test_films_with_signs_in_their_names_live_side_by_side(tmp_path: Path) -> None:
    names = ["sale 100.mp4", "sale 100%d.mp4", "sale 100%06d.mp4", "sale #1 100%.mp4", "%d.mp4", "sale 100.gif"]
    for seed, name in enumerate(names):
        assert run(replace(film_request(tmp_path, seed=seed), output=tmp_path / name))[0] == 0
    for seed, name in enumerate(names):
        record = sidecar.read(sidecar.sidecar_path(tmp_path / name))
        assert (record.seed, record.film.file) == (seed, name)
        if sink_kind(tmp_path / name) == "mp4":
            assert read_metadata(tmp_path / name)["comment"].endswith(f"seed {seed}")
    assert len(list(tmp_path.iterdir())) == 3 * len(names)


def test_what_the_version_before_left_under_a_shared_name_goes_on(folder: Path, expected: bytes) -> None:
    as_before(folder)
    request = replace(alone(folder), output=folder / "out%d.mp4")
    code, printed = run(request)
    assert code == 0
    assert "Taking over" in printed
    assert (folder / "out%d.mp4").read_bytes() == expected
    assert sorted(file.name for file in folder.iterdir()) == ["out%d.json", "out%d.mp4", "out%d.vtt"]


def test_what_this_version_left_is_only_its_own_films(folder: Path, expected: bytes) -> None:
    with pytest.raises(UsageMistake, match=r"nothing to resume beside .*out%d\.mp4"):
        run(replace(alone(folder), output=folder / "out%d.mp4"))
    assert run(alone(folder))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": Path("out.part.mp4")}, r"is what out\.mp4 is called while it grows"),
        ({"output": Path("out.PART.mp4")}, "while it grows"),
        ({"report": Path("out.json")}, r"out\.json is a file of the film itself.*--report"),
        ({"report": Path("out.mp4")}, "is a file of the film itself"),
        ({"report": Path("out.part.mp4")}, "is a file of the film itself"),
    ],
)
def test_a_film_does_not_overwrite_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageMistake, match=said):
        run(replace(film_request(Path(), overwrite=True), **change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [True, False])
def test_the_sound_and_the_report_are_remembered(tmp_path: Path, asked: bool) -> None:
    song, page = tone(tmp_path / "song.wav", 12), tmp_path / "page.html"
    films: list[bytes] = []
    for name in ("whole", "film"):
        folder = tmp_path / name
        folder.mkdir()
        request = replace(film_request(folder, duration=LENGTH), audio=song, report=page, overwrite=True)
        left = tmp_path / "left"
        run(request, at(10, lambda: shutil.copytree(folder, left, dirs_exist_ok=True)))  # noqa: B023  # called at once
        films.append((folder / "out.mp4").read_bytes())
    assert films[0] == films[1]
    page.unlink()
    changed = song.read_bytes()
    song.write_bytes(changed + b"\0\0")
    again = film_request(left, duration=LENGTH, resume=True) if asked else alone(left)
    with pytest.raises(UsageMistake, match=r"song\.wav, the sound .* has changed\. Put it back, or give"):
        run(again)
    song.write_bytes(changed)
    assert run(again)[0] == 0
    assert (left / "out.mp4").read_bytes() == films[0]
    assert page.is_file()


def told_by(path: Path, words: tuple[bytes, ...] = (b"red ball", b"blue star", b"31415")) -> list[bytes]:
    data = path.read_bytes()
    return [word for word in words if word in data or word.decode().encode("utf-16-be") in data]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_film_without_metadata_tells_nothing(tmp_path: Path, resumed: bool) -> None:
    request = replace(film_request(tmp_path, duration=LENGTH, seed=31415), left_out=("metadata", "subtitles"))
    if resumed:
        run(request, at(10, lambda: signal.raise_signal(signal.SIGINT)))
        assert told_by(tmp_path / "out.mp4") == []
        assert run(alone(tmp_path))[0] == 0  # nobody has to ask twice
    else:
        assert run(request)[0] == 0
    assert told_by(tmp_path / "out.mp4") == []
    assert read_metadata(tmp_path / "out.mp4").keys() <= {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
    }
    assert not (tmp_path / "out.vtt").exists()
    assert told_by(tmp_path / "out.json") == [b"red ball", b"blue star", b"31415"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.json", "out.mp4"]


def test_asked_for_nothing_there_is_a_film_and_nothing_else(tmp_path: Path) -> None:
    run(film_request(tmp_path, seed=1))  # of an earlier film: its subtitles would be wrong
    request = replace(film_request(tmp_path, overwrite=True), left_out=("metadata", "subtitles", "sidecar"))
    code, printed = run(request)
    assert code == 0
    assert ".json" not in printed
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_film_tells_what_it_shows_unless_it_is_asked_not_to(tmp_path: Path) -> None:
    run(film_request(tmp_path, seed=31415))
    assert told_by(tmp_path / "out.mp4") == [b"red ball", b"blue star", b"31415"]
    assert [chapter.title for chapter in numbered(())] == []
