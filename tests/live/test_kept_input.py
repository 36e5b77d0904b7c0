"""Recorded input: a live film of a camera or a picture is made again bit for bit, where somebody asked for it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from app.errors import UsageMistake
from app.live.messages import Do, Problem
from app.live.picture_header import Upload
from app.live.quota import NoRoom
from app.live.session import Session
from app.live.source_messages import BeginningSet, BeginningState, PictureTaken, SourceSet, SourceState
from app.record.kept_input import KEPT, InputWriter, KeptInput, KeptPicture
from app.record.provenance import provenance_of_log
from app.render import replay_log as replaying
from tests.live.test_sources import Page, page, picture  # noqa: F401  # a fixture
from tests.live_tiny import Stage, Watcher, say, watched


def replayed(stage: Stage, film: Session, output: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> str:
    """What `rivulet replay --check` says of a film that has played, made again by the same networks."""
    stage.settle()
    monkeypatch.setattr(replaying, "_request", lambda *given: None)
    console = Console(file=io.StringIO(), width=400)
    stage.model.chunk_seconds = 0.0
    code = replaying.replay_log(
        film.folder / "session.jsonl",
        output,
        check=True,
        overwrite=True,
        console=console,
        opener=stage.model,
        **more,  # type: ignore[arg-type]
    )
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert code == (0 if "The same film" in told else 1), told
    return told


def test_a_film_of_a_camera_that_was_recorded_is_made_again_bit_for_bit(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page.show(strength=0.4, record=True)
    page.play(2)
    page.film.submit(say("p", "a blue wolf", "soft", 2), page.watcher)
    page.play(1.5)
    page.show("screen", strength=0.9, hold=0.3, record=True)
    page.play(2)
    page.show("none")
    page.stage.play(2)
    page.show("file", record=True, fit="pad")
    page.play(1)
    page.film.submit(Do(action="rewind", seconds=2), page.watcher)
    page.play(2)
    assert page.watcher.of(SourceState)[-1].record
    told = replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    assert "Settings: proven" in told
    assert (page.film.folder / KEPT).stat().st_mode & 0o077 == 0, "nobody else reads what a camera saw"
    kept = page.film.folder / KEPT
    whole = kept.read_bytes()
    kept.rename(tmp_path / "moved")
    with pytest.raises(UsageMistake, match=r"pictures that are not here \(input.pictures\). Give that file"):
        replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    assert "The same film" in replayed(
        page.stage, page.film, tmp_path / "out.mp4", monkeypatch, pictures=str(tmp_path / "moved")
    )
    for damaged in (whole[: len(whole) // 2], whole[:200] + b"x" + whole[201:], whole[:6]):
        kept.write_bytes(damaged)
        with pytest.raises(UsageMistake, match=r"does not hold the pictures that chunk \d+"):
            replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    kept.write_bytes(b"no pictures")
    with pytest.raises(UsageMistake, match="holds no recorded input"):
        replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)


def test_a_recorded_film_that_was_parked_goes_on_and_is_made_again(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page.show(record=True)
    page.play(1)
    page.film.detach(page.watcher)
    page.stage.play(8)
    assert page.film.over
    page.stage.settle()
    watcher, film = watched(page.stage, page.film.id)
    again = Page(page.stage, watcher, film)
    page.stage.play(1)
    again.number = page.number
    again.show(record=True)
    again.play(1)
    assert "The same film" in replayed(page.stage, film, tmp_path / "out.mp4", monkeypatch)


def test_nothing_is_recorded_unless_somebody_asks_for_it(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page.show()
    page.play(2)
    page.film.film.video.choose(SourceSet(kind="camera", number=page.number, record=True), page.watcher)
    page.play(1)
    with pytest.raises(UsageMistake, match="was made of a camera, whose pictures nobody kept"):
        replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    events = [json.loads(line) for line in (page.film.folder / "session.jsonl").read_bytes().splitlines()]
    made = [event["kept"] for event in events if event["event"] == "chunk" and event["source"]]
    assert made == sorted(made)
    assert {*made} == {False, True}, "what came before is not"


def test_a_plain_film_keeps_no_pictures(page: Page) -> None:  # noqa: F811
    page.show()
    page.play(2)
    page.stage.settle()
    assert not (page.film.folder / KEPT).exists()
    log = replaying.read_log(page.film.folder / "session.jsonl")
    assert "It was made of a camera, too; it is filmed from its words alone." in provenance_of_log(log, "log").notes


@pytest.mark.parametrize("why", ["quota", "disk"])
def test_a_disk_without_room_ends_the_recording_and_not_the_film(
    page: Page,  # noqa: F811
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page.show(record=True)
    page.play(1)
    with monkeypatch.context() as full:

        def refuse(size: int) -> None:
            raise NoRoom("The films that are open hold all.") if why == "quota" else OSError(28, "No space left")

        full.setattr(page.film.film.video._kept, "_room", refuse)
        page.play(2)
    (problem,) = page.watcher.of(Problem)
    assert problem.code == "recording"
    assert problem.message.startswith("The input is not recorded any more: ")
    assert not page.watcher.of(SourceState)[-1].record
    assert page.watcher.frames[-1].source is not None, "the camera goes on"
    page.film.film.video.choose(SourceSet(kind="camera", number=page.number, record=True), page.watcher)
    page.play(1)
    page.stage.settle()
    log = (page.film.folder / "session.jsonl").read_bytes().splitlines()
    assert json.loads(next(line for line in reversed(log) if b'"chunk"' in line and b"sha256" in line))["kept"]


# ------------------------------------------------------------------ a beginning


def begin(page: Page, levels: list[int], **more: object) -> None:  # noqa: F811
    """What a page does with a picture or a clip that was dropped on it."""
    page.number += 1
    asked = BeginningSet(number=page.number, count=len(levels), **more)  # type: ignore[arg-type]
    page.film.film.video.gather(asked, page.watcher)
    gathering = page.film.film.video._gathering
    assert gathering is not None
    for level in levels:
        page.seq += 1
        page.film.film.video.offer(Upload(page.number, page.seq, 0.0, 0, picture(level)), page.watcher)
        assert gathering[1]._worker.idle(20)


@pytest.mark.parametrize(("kind", "levels", "chunks"), [("image", [200], 1), ("clip", [*range(20, 220, 5)], 4)])
def test_a_film_begins_anew_with_what_is_dropped_and_is_made_again(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    levels: list[int],
    chunks: int,
) -> None:
    before = page.film.epoch
    begin(page, levels, kind=kind, name="cat.png")
    assert [taken.seq for taken in page.watcher.of(PictureTaken)] == [*range(1, len(levels) + 1)]
    page.stage.play(5)
    assert page.watcher.of(BeginningState) == [BeginningState(number=1, name="cat.png", begun=True)]
    assert page.film.epoch == before + 1
    assert len(page.film.film.branches.told(16)) == 1, "the film before can be gone back to"
    page.show("camera", record=True)
    page.play(1.5)
    told = replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    assert "The same film" in told
    log = replaying.read_log(page.film.folder / "session.jsonl")
    name = {"image": "picture", "clip": "clip"}[kind]
    assert [chunk.source for chunk in log.chunks[: chunks + 1]] == [name] * chunks + [None]


def test_a_rewind_to_the_first_chunk_begins_with_the_picture_again(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(page, [200], kind="image")
    page.stage.play(3)
    page.film.submit(Do(action="rewind", seconds=30), page.watcher)
    page.stage.play(2)
    assert len(page.watcher.of(BeginningState)) == 2
    assert "The same film" in replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
    page.film.submit(Do(action="reset", seed=3), page.watcher)
    page.stage.play(2)
    log = replaying.read_log(page.film.folder / "session.jsonl")
    assert {chunk.source for chunk in log.chunks} == {None}, "a reset begins with words"


def test_the_way_back_to_a_film_of_a_picture_knows_the_picture(page: Page) -> None:  # noqa: F811
    begin(page, [200], kind="image")
    page.stage.play(0.3)
    left = page.film.film.branch
    page.film.submit(Do(action="reset", seed=3), page.watcher)
    page.stage.play(2)
    assert page.film.film.video.beginning is None
    page.film.submit(Do(action="return", branch=left), page.watcher)
    page.stage.play(2)
    begun = page.film.film.video.beginning
    assert begun is not None
    assert begun.asked.kind == "image"


def test_a_beginning_that_cannot_be_leaves_the_film_as_it_was(page: Page) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="begins with 1 pictures at most"):
        begin(page, [1, 2], kind="image")
    with pytest.raises(ValueError, match=r"begins with 45 pictures at most\. Send the last 45 of the clip"):
        begin(page, [1] * 46, kind="clip")
    page.number += 1
    page.film.film.video.gather(BeginningSet(number=page.number, kind="image", name="x.png"), page.watcher)
    gathering = page.film.film.video._gathering
    assert gathering is not None
    page.film.film.video.offer(Upload(page.number, 1, 0.0, 0, b"no picture"), page.watcher)
    assert gathering[1]._worker.idle(20)
    refused = page.watcher.of(BeginningState)[-1]
    assert not refused.begun
    assert (
        refused.message == "A picture is no JPEG that can be read (UnidentifiedImageError). The film goes on as it was."
    )
    page.number += 1
    page.film.film.video.gather(BeginningSet(number=page.number, kind="image"), page.watcher)
    page.stage.play(12)
    assert page.watcher.of(BeginningState)[-1].message == "No picture has come for 10 s. The film goes on as it was."
    assert page.film.epoch == 0
    assert page.film.film.video._gathering is None
    numbered = [frame.frame for frame in page.watcher.frames]
    assert numbered == list(range(numbered[0], numbered[0] + len(numbered)))


def test_who_leaves_takes_a_half_sent_beginning_along(stage: Stage) -> None:
    watcher, film = watched(stage)
    stage.play(1)
    film.film.video.gather(BeginningSet(number=1, kind="clip", count=9), watcher)
    film.film.video.gather(BeginningSet(number=2, kind="clip", count=9), watcher)
    other = Watcher(stage.clock, driver=False)
    film.attach(other)
    film.detach(watcher)
    assert film.film.video._gathering is None


# ------------------------------------------------------------------ the file


def test_a_kept_picture_has_the_name_of_its_bytes_and_comes_back_as_it_was(tmp_path: Path) -> None:
    one = KeptPicture(0, "pad", 0.5, picture(90))
    assert one.name != replace(one, hold=0.4).name != replace(one, fit="crop").name
    assert len(one.name) == 32
    writer = InputWriter(tmp_path / KEPT, lambda job: job(), lambda size: None)
    assert writer.keep(one) == writer.keep(one) == one.name
    again = InputWriter(tmp_path / KEPT, lambda job: job(), lambda size: None)
    other = KeptPicture(0, "crop", 1.0, picture(10))
    assert again.keep(other) == other.name
    kept = KeptInput(tmp_path / KEPT)
    assert (kept.picture(one.name), kept.picture(other.name)) == (one, other)
    assert one.pixels(32, 48).shape == (32, 48, 3)
    with (tmp_path / KEPT).open("ab") as file:
        file.write(b"cut by a kill")
    assert one.name in KeptInput(tmp_path / KEPT)


def test_a_log_that_says_what_cannot_be_is_refused(
    page: Page,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page.show(record=True)
    page.play(2)
    page.show("none")
    page.stage.play(1)
    page.stage.settle()
    path = page.film.folder / "session.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    inputs = [index for index, line in enumerate(lines) if line["event"] == "input"]
    for change in (
        lambda line: line | {"action": "begin", "parts": [3]},
        lambda line: line | {"action": "leave"},
        lambda line: line | {"pictures": []},
        lambda line: line | {"pictures": line["pictures"] * 2},
    ):
        changed = list(lines)
        changed[inputs[1]] = change(lines[inputs[1]])
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        with pytest.raises(UsageMistake, match=r"What entered chunk \d+ is damaged"):
            replayed(page.stage, page.film, tmp_path / "out.mp4", monkeypatch)
