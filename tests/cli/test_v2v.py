"""`rivulet v2v` as a person meets it, with a real model of a few kilobytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from app.cli.main import main
from app.record import sidecar
from tests.app_doubles import save_tiny_model
from tests.media.clips import write_clip
from tests.media.test_video import decode


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.mp4", 20, rate=Fraction(30_000, 1001))
    return tmp_path


def test_a_video_becomes_a_film_that_is_replayed_from_its_own_file(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "v2v",
        "in.mp4",
        "a red ball",
        "-o",
        "out.mp4",
        "--model",
        str(tiny),
        "--strength",
        "0.5",
        "--fit",
        "pad",
    ]
    assert main([*command, "--side-by-side", "both.mp4", "segment_chunks=1"]) == 0, capsys.readouterr().err
    record = sidecar.read(here / "out.json")
    assert record.config.video is not None
    assert (record.config.video.strength, record.config.video.fit, record.film.frames) == (0.5, "pad", 20)
    assert decode(here / "both.mp4").shape[1:] == (32 * record.film.scale, 64 * record.film.scale, 3)
    with av.open("out.mp4") as film:
        assert film.streams.video[0].average_rate == Fraction(30_000, 1001)
    assert main(["replay", "out.mp4", "--check", "--model", str(tiny), "-o", "again.mp4"]) == 0, capsys.readouterr().err
    assert "bit for bit those recorded" in capsys.readouterr().out
    (here / "in.mp4").unlink()
    assert main(["replay", "out.mp4", "--model", str(tiny), "-o", "b.mp4"]) == 2
    assert "a video that is not here" in capsys.readouterr().err
    assert main(["replay", "again.mp4", "--input", "in.mp4", "--model", str(tiny), "-o", "b.mp4"]) == 2
    assert not (here / "b.mp4").exists()


def test_a_config_file_says_what_flags_say_and_a_replay_knows_it(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", "in.mp4", "--strength", "0.5", "--fit", "stretch", "--rotate", "180", "--no_sound"]
    assert main(["v2v", "a red ball", *flags, "-o", "flags.mp4", "--model", str(tiny)]) == 0
    (here / "a.yaml").write_text(
        f"model: {tiny}\nvideo: {{input: in.mp4, strength: 0.5, fit: stretch, rotate: 180, sound: no}}\n"
    )
    for words, name in ((["a red ball"], "file.mp4"), (["in.mp4", "a red ball", "strength=0.8"], "word.mp4")):
        assert main(["v2v", *words, "--config", "a.yaml", "-o", name]) == 0, capsys.readouterr().err
    flagged, filed, worded = (sidecar.read(here / f"{name}.json") for name in ("flags", "file", "word"))
    assert filed.config.video == flagged.config.video
    assert filed.film.sha256 == flagged.film.sha256
    assert worded.config.video is not None
    assert (worded.config.video.strength, worded.config.video.turn) == (0.8, 180)
    assert main(["replay", "word.mp4", "strength=0.5", "--model", str(tiny), "-o", "r.mp4"]) == 0
    assert sidecar.read(here / "r.json").film.sha256 == flagged.film.sha256
    capsys.readouterr()
    for command, told in (
        (["render", "a red ball", "--config", "a.yaml"], "fit (file a.yaml line 2) is for films made of a video"),
        (["replay", "word.mp4", "latency=1s"], "latency (override) is no setting of a replay"),
        (["replay", "word.mp4", "input=in.mp4"], "Say --input and the file"),
        (["v2v", "a red ball", "--config", "b.yaml"], "b.yaml, line 1: strength 3 is out of range"),
    ):
        (here / "b.yaml").write_text("strength: 3\n")
        assert main([*command, "-o", "no.mp4", "--model", str(tiny)]) == 2
        assert told in capsys.readouterr().err
    assert not list(here.glob("no.*"))


def test_strength_decides_how_much_is_left_of_the_video(here: Path, tiny: Path) -> None:
    films = {}
    for strength in ("0.2", "0.9", "1"):
        name = f"{strength}.mp4"
        assert main(["v2v", "in.mp4", "a red ball", "-o", name, "--model", str(tiny), "--strength", strength]) == 0
        films[strength] = sidecar.read(here / f"{strength}.json").film.sha256
    assert len(set(films.values())) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "There is no video"),
        (["a red ball", "in.mp4"], "It comes first"),
        (["missing.mp4", "a red ball"], "cannot be found"),
        (["in.mp4"], "There is no prompt"),
        (["in.mp4", "a red ball", "--strength", "0"], "--strength 0.0 is out of range"),
        (["in.mp4", "a red ball", "--strength", "2"], "--strength 2.0 is out of range"),
        (["in.mp4", "a red ball", "--fit", "cover"], "choose from crop, pad, stretch"),
        (["in.mp4", "a red ball", "--rotate", "45"], "no quarter turn"),
        (["in.mp4", "a red ball", "-o", "in.mp4", "--overwrite"], "would be replaced"),
        (["screen:x", "a red ball"], "names no source"),
        (["in.mp4", "a red ball", "--preset", "rolling-forcing", "--untrained"], "takes no video"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    before = sorted(here.iterdir())
    assert main(["v2v", *words, "--model", str(tiny)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert sorted(here.iterdir()) == before
